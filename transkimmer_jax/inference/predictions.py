"""What a network says of examples, however it was computed."""

import dataclasses
import threading
from collections.abc import Iterable, Mapping

import numpy as np
import scipy.special

from transkimmer_jax.errors import InferenceError
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.outputs import HeadOutput


def probabilities(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Of a classifier's labels, in the shape [..., num_labels] and dtype of the logits: the softmax, or each label's own sigmoid."""
    return scipy.special.expit(logits) if multi_label else scipy.special.softmax(logits, axis=-1)


def decisions(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """What logits [..., num_labels] say: the class with the highest one, [...] int; or whether each label's probability is at least a half,
    [..., num_labels] bool."""
    return logits >= 0 if multi_label else logits.argmax(axis=-1)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Every example in the caller's order.

    outputs: the head's by name, float32: [N, ...] of texts, or [tokens, ...] of the tokens of all texts, one text after the other.
    kept: [layers, N], tokens that each layer computed. lengths: [N], tokens of each example.
    depths: where asked for, how many layers computed each token, one [length] array an example; else None.
    """

    outputs: Mapping[str, np.ndarray]
    kept: np.ndarray
    lengths: np.ndarray
    depths: list[np.ndarray] | None = None

    @classmethod
    def empty(cls, outputs: Iterable[HeadOutput], layers: int, lengths: np.ndarray, depths: bool) -> "Predictions":
        """Zeros, to be filled."""
        count, tokens = len(lengths), int(lengths.sum())
        return cls(
            {output.name: np.zeros((tokens if output.per_token else count, *output.shape), np.float32) for output in outputs},
            np.zeros((layers, count), np.int32),
            lengths,
            [np.zeros(0, np.int32)] * count if depths else None,
        )

    @property
    def logits(self) -> np.ndarray:
        """A classifier's answers, [N, num_labels]; a tagger's, [tokens, num_labels]."""
        return self.outputs["logits"]

    def probabilities(self, multi_label: bool = False) -> np.ndarray:
        """Of the labels, in the shape of `logits`: see the function of that name."""
        return probabilities(self.logits, multi_label)

    def odds(self, column: int) -> np.ndarray:
        """The logarithm of a label's odds, [N]: its probability is the sigmoid, which is 1 for all large ones."""
        own, others = self.logits[:, column], np.delete(self.logits, column, axis=1)
        return own - scipy.special.logsumexp(others, axis=1) if others.shape[1] else own

    def costs(self, arch: Architecture) -> tuple[np.ndarray, np.ndarray]:
        """FLOPs of each example [N], and those of the dense model without padding; float64."""
        kept, lengths = self.kept.astype(np.float64), self.lengths.astype(np.float64)
        return flops.skimmed(arch, kept, lengths), flops.dense(arch, lengths)

    def flops_vs_unpadded(self, arch: Architecture) -> float:
        """How many times fewer FLOPs all examples take than the dense model without padding."""
        spent, dense = self.costs(arch)
        return float(np.sum(dense) / np.sum(spent))

    def kept_per_layer(self) -> np.ndarray:
        """The share of all tokens that each layer computed, [layers] float64."""
        return self.kept.astype(np.float64).sum(axis=1) / self.lengths.astype(np.float64).sum()

    def shares_kept(self) -> np.ndarray:
        """The share of each example's tokens that the layers computed, averaged over layers: [N] float64."""
        return self.kept.mean(axis=0) / self.lengths

    def by_text(self, name: str) -> list[np.ndarray]:
        """An output of tokens, text by text: [length, ...] each."""
        return np.split(self.outputs[name], np.cumsum(self.lengths))[:-1]

    def not_finite(self) -> np.ndarray:
        """The examples of which an output holds anything else than finite numbers, [n] int64."""
        wrong = np.zeros(len(self.lengths), bool)
        for rows in self.outputs.values():
            is_wrong = ~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
            if len(rows) != len(wrong):  # rows of tokens
                is_wrong = np.logical_or.reduceat(is_wrong, np.cumsum(self.lengths) - self.lengths)
            wrong |= is_wrong
        return np.flatnonzero(wrong)

    def require_finite(self) -> None:
        """Raises `InferenceError` where an output is not a finite number."""
        wrong = self.not_finite()
        if len(wrong):
            others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            named = " and ".join(name.replace("_", " ") for name in self.outputs)
            raise InferenceError(f"the {named} of example {wrong[0]}{others} are not finite: the weights are damaged")


@dataclasses.dataclass
class Statistics:
    """What an engine has done so far, in all threads that use it: texts answered and cut, their tokens, FLOPs spent, and those of the dense
    model without padding; batches run; of the runtime with programs of fixed shapes, batches that lost texts, texts run again, and
    programs compiled."""

    examples: int = 0
    truncated: int = 0
    tokens: int = 0
    flops: float = 0.0
    dense_flops: float = 0.0
    batches: int = 0
    overflows: int = 0
    again: int = 0
    programs: int = 0
    compile_seconds: float = 0.0

    _adding = threading.Lock()  # of all of them, and no field: these are copied

    def add(self, **counts: float) -> None:
        """Add to some of them. Any thread may."""
        with self._adding:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


COUNTED_TOGETHER = 1024  # texts whose FLOPs are computed at once: of one short text alone that takes a fifteenth of its time


class CostCounter:
    """Adds tokens and FLOPs of predictions to statistics, many texts at once. Threads may share one."""

    def __init__(self, arch: Architecture, statistics: Statistics):
        self._arch, self._statistics = arch, statistics
        self._lock = threading.Lock()
        self._waiting: list[Predictions] = []

    def add(self, predictions: Predictions) -> None:
        """Count predictions, at the latest with the next `flush`."""
        with self._lock:
            self._waiting.append(Predictions({}, predictions.kept, predictions.lengths))
            is_enough = sum(len(each.lengths) for each in self._waiting) >= COUNTED_TOGETHER
        if is_enough:
            self.flush()

    def flush(self) -> None:
        """Bring the statistics up to date."""
        with self._lock:
            if not self._waiting:
                return
            kept, lengths = zip(*((each.kept, each.lengths) for each in self._waiting), strict=True)
            self._waiting = []
            joined = Predictions({}, np.concatenate(kept, axis=1), np.concatenate(lengths))
            spent, dense = joined.costs(self._arch)
            self._statistics.add(tokens=int(joined.lengths.sum()), flops=float(spent.sum()), dense_flops=float(dense.sum()))
