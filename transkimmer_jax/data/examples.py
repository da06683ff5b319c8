"""Texts with labels: the common form of all sources."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to a question: texts, and the character of the context at which each starts. Empty: the context does not answer."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclasses.dataclass
class Examples:
    """Texts with labels [N]: int32 class indices or float32 values; tuples of the words' tags, or `Answers`; of multi-label tasks
    [N, labels] float32 of 0 and 1."""

    texts: list[Any]  # of strings, or of lists of words
    pairs: list[str] | None  # the second text of each example
    labels: np.ndarray
    labelled: np.ndarray | None = None  # [N] bool: which labels count; None: all

    @classmethod
    def without_labels(cls, texts: list[str], pairs: list[str] | None = None) -> "Examples":
        """Examples without labels."""
        return cls(texts, pairs, np.zeros(len(texts), np.int32), np.zeros(len(texts), bool))

    def __len__(self) -> int:
        return len(self.texts)

    def behind(self, prompt: str) -> "Examples":
        """The examples with a prompt before each text, or before the first of a pair; '' for none."""
        return dataclasses.replace(self, texts=[prompt + text for text in self.texts]) if prompt else self

    def take(self, rows: np.ndarray) -> "Examples":
        """Those at `rows`, in that order."""
        return Examples(
            [self.texts[row] for row in rows],
            None if self.pairs is None else [self.pairs[row] for row in rows],
            self.labels[rows],
            None if self.labelled is None else self.labelled[rows],
        )


def objects(values: Iterable[Any]) -> np.ndarray:
    """Values that are no numbers as an array [N] of objects."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def subsample(examples: Examples, n: int | None, seed: int) -> Examples:
    """`n` examples drawn by `seed`, in their old order; all of them where `n` is None or no smaller than the set.

    With one seed a smaller draw is part of every larger one.
    """
    if n is None or n >= len(examples):
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).permutation(len(examples))[:n]))


def hold_out(examples: Examples, seed: int, one_in: int = 10) -> tuple[Examples, Examples]:
    """One in `one_in` of the different examples is held out: (the others, those), both in their old order.

    Drawn by `seed` from the words alone: copies of a text fall on the same side, wherever they stand in the set. What is held out is there
    once, or a text that is a tenth of all would be all that is judged.
    """
    pairs = examples.pairs or [""] * len(examples)
    texts = [text if isinstance(text, str) else " ".join(text) for text in examples.texts]
    keys = np.array([drawn(f"{text}\t{pair}", seed) for text, pair in zip(texts, pairs, strict=True)], np.uint64)
    different, first = np.unique(keys, return_index=True)
    limit = different[max(1, len(different) // one_in) - 1]
    return examples.take(np.flatnonzero(keys > limit)), examples.take(np.sort(first[different <= limit]))


def drawn(text: str, seed: int) -> int:
    """A property of the words alone: copies of a text fall on the same side of a split, in every version of Python."""
    words = " ".join(text.casefold().split())
    return int.from_bytes(
        hashlib.blake2b(words.encode(errors="surrogatepass"), digest_size=8, salt=seed.to_bytes(8, "big")).digest(), "big"
    )
