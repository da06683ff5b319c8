"""Texts with labels, as every source gives them."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Examples:
    """Texts with labels: int32 class indices or float32 values, [N]."""

    texts: list[str]
    pairs: list[str] | None  # the second text of each example
    labels: np.ndarray
    labelled: np.ndarray | None = None  # [N] bool: whose label means something; None: all

    def __len__(self) -> int:
        return len(self.texts)


def subsample(examples: Examples, n: int | None, seed: int) -> Examples:
    """`n` examples drawn by `seed`, in their old order; all of them where `n` is None or no smaller than the set.

    With one seed a smaller draw is part of every larger one.
    """
    if n is None or n >= len(examples):
        return examples
    rows = np.sort(np.random.default_rng(seed).permutation(len(examples))[:n])
    pairs, labelled = examples.pairs, examples.labelled
    return Examples(
        [examples.texts[i] for i in rows],
        None if pairs is None else [pairs[i] for i in rows],
        examples.labels[rows],
        None if labelled is None else labelled[rows],
    )
