"""Batches of examples and their padding, in NumPy.

The examples of a step are a pure function of lengths, seed and step (`BatchPlan`). So the state of the training iterator is the number of
steps taken, and resuming costs nothing.
"""

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.errors import DataError

Batch = dict[str, Any]  # arrays by name; "answers" are a dict of them

NO_LABEL = -100  # of a token without a label, as in transformers


@dataclasses.dataclass(frozen=True)
class TokenizedExamples:
    """Token ids of N examples without padding; example `i` lies in `[offsets[i], offsets[i + 1])`."""

    input_ids: np.ndarray  # [tokens] int32
    token_type_ids: np.ndarray  # [tokens] int8
    offsets: np.ndarray  # [N + 1] int64
    labels: np.ndarray  # [N] int32 or float32; of questions [N, 2]; of multi-label tasks [N, labels] float32
    truncated: np.ndarray  # [N] bool: the text was longer
    labelled: np.ndarray | None = None  # [N] bool: which labels count; None: all
    token_labels: np.ndarray | None = None  # [tokens] int32, of a tagger; `NO_LABEL` where a token has none
    answers: Mapping[str, np.ndarray] | None = None  # the teacher's outputs by name, [N, ...]; None: the teacher computes them step by step

    def __len__(self) -> int:
        return max(0, len(self.offsets) - 1)  # not of labels, which tokens alone have not

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, [N] int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def first_segments(self) -> np.ndarray:
        """Tokens of type 0 of each example, [N] int64: its first text and that text's special tokens."""
        return np.diff(np.concatenate([[0], np.cumsum(self.token_type_ids == 0)])[self.offsets])

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Indices into `input_ids` of the tokens of the examples at `rows`, one example after the other."""
        counts = self.lengths[rows]
        return np.repeat(self.offsets[rows] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))

    def take(self, rows: np.ndarray) -> "TokenizedExamples":
        """The examples at `rows`, in that order."""
        places = self.places(rows)
        return TokenizedExamples(
            self.input_ids[places],
            self.token_type_ids[places],
            np.concatenate([[0], np.cumsum(self.lengths[rows])]),
            self.labels[rows],
            self.truncated[rows],
            None if self.labelled is None else self.labelled[rows],
            None if self.token_labels is None else self.token_labels[places],
            None if self.answers is None else {name: values[rows] for name, values in self.answers.items()},
        )


def concatenated(examples: Sequence[TokenizedExamples]) -> TokenizedExamples:
    """All examples, one after the other, without labels."""
    if len(examples) == 1:
        return examples[0]
    return TokenizedExamples(
        np.concatenate([part.input_ids for part in examples]),
        np.concatenate([part.token_type_ids for part in examples]),
        np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in examples]))]).astype(np.int64),
        np.zeros(sum(map(len, examples)), np.int32),
        np.concatenate([part.truncated for part in examples]),
    )


def effective_buckets(buckets: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The padded lengths in use, rising: the `buckets` below `max_length`, and `max_length` itself."""
    return (*sorted(bucket for bucket in set(buckets) if bucket < max_length), max_length)


class BatchPlan:
    """The examples of each training step.

    An epoch is a fresh permutation of all examples, cut into windows of `grouping_window` batches. Each window is sorted by
    length and cut into batches, so that a batch wastes little padding, and the batches of the whole epoch are shuffled. The
    remainder that fills no batch is dropped, another one every epoch.

    Args:
      lengths: tokens of each example, [N].
      batch_size: examples a batch.
      buckets: padded lengths, as `data.length_buckets`.
      max_length: the last bucket; no example is longer.
      grouping_window: batches' worth of examples sorted together; 1 turns grouping off.
      seed: of the permutations; not negative.

    Raises:
      DataError: fewer examples than `batch_size`.
      ValueError: an example longer than `max_length`.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, buckets: Sequence[int], max_length: int, grouping_window: int, seed: int):
        if len(lengths) < batch_size:
            raise DataError(f"data.batch_size={batch_size} is more than the {len(lengths)} training examples: lower it")
        self.batch_size = batch_size
        self.buckets = effective_buckets(buckets, max_length)
        self.steps_per_epoch = len(lengths) // batch_size
        self._lengths = np.asarray(lengths)
        if self._lengths.max() > max_length:
            raise ValueError(f"an example has {self._lengths.max()} tokens, more than max_length={max_length}")
        self._grouping_window = grouping_window
        self._seed = seed
        # Prefetching threads ask for both sides of an epoch's end at the same time.
        self._lock = threading.Lock()
        self._planned: dict[int, list[tuple[np.ndarray, int]]] = {}

    def batches(self, epoch: int) -> list[tuple[np.ndarray, int]]:
        """The batches of an epoch in order: (indices of the examples [batch_size] int64, padded length)."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))[: self.steps_per_epoch * self.batch_size]
        if self._grouping_window > 1:
            size = self._grouping_window * self.batch_size
            windows = [order[start : start + size] for start in range(0, len(order), size)]
            order = np.concatenate([window[np.argsort(self._lengths[window], kind="stable")] for window in windows])
        batches = rng.permutation(order.reshape(self.steps_per_epoch, self.batch_size))
        padded = np.asarray(self.buckets)[np.searchsorted(self.buckets, self._lengths[batches].max(axis=1))]
        return list(zip(batches, padded.tolist(), strict=True))

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        """The batch of a global step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._planned:
                self._planned = {kept: plan for kept, plan in self._planned.items() if kept == epoch - 1}
                self._planned[epoch] = self.batches(epoch)
            return self._planned[epoch][position]


class EvaluationBatches:
    """The result of `evaluation_batches`: an iterable of batches with a length. examples: their number."""

    def __init__(self, examples: TokenizedExamples, batch_size: int, buckets: tuple[int, ...], pad_id: int):
        self._examples, self._pad_id, self.examples = examples, pad_id, len(examples)
        order = np.argsort(examples.lengths, kind="stable")
        bucket_of = np.searchsorted(buckets, examples.lengths[order])
        # (indices of at most batch_size examples of one bucket, bucket)
        self._plan: list[tuple[np.ndarray, int]] = []
        for number, bucket in enumerate(buckets):
            rows = order[bucket_of == number]
            self._plan += [(rows[start : start + batch_size], bucket) for start in range(0, len(rows), batch_size)]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for rows, bucket in self._plan:
            padding = self._batch_size - len(rows)
            # A copy of a real example, where a row of padding alone would divide by zero kept tokens.
            filled = np.concatenate([rows, np.repeat(rows[:1], padding)])
            weight = (np.arange(self._batch_size) < len(rows)).astype(np.float32)
            batch = collate(self._examples, filled, bucket, self._pad_id, weight)
            yield batch | {"index": np.where(weight > 0, filled, -1).astype(np.int32)}


def evaluation_batches(
    examples: TokenizedExamples, batch_size: int, buckets: Sequence[int], max_length: int, pad_id: int
) -> EvaluationBatches:
    """Each example exactly once, in batches of few shapes: an iterable with a length, to be walked as often as wanted.

    The examples are sorted by length and batched bucket by bucket, so every shape is (batch_size, bucket). The last batch of a
    bucket is filled up with copies of its first example, with weight 0. Batches are those of `training_iterator` plus `index`
    [batch_size] int32: the position in `examples`, -1 on the copies.

    Raises:
      ValueError: an example longer than `max_length`.
    """
    if len(examples) and examples.lengths.max() > max_length:
        raise ValueError(f"an example has {examples.lengths.max()} tokens, more than max_length={max_length}")
    return EvaluationBatches(examples, batch_size, effective_buckets(buckets, max_length), pad_id)


def collate(examples: TokenizedExamples, rows: np.ndarray, padded_length: int, pad_id: int, weight: np.ndarray) -> Batch:
    """The batch of the examples at `rows`, padded to one length. weight: [rows] float32, passed on."""
    columns = np.arange(padded_length)
    starts, ends = examples.offsets[rows, None], examples.offsets[rows + 1, None]
    mask = columns < ends - starts
    # Where the mask is 0 the position is some other token's, or past the end: read the first token and overwrite it.
    positions = np.where(mask, starts + columns, 0)
    batch = {
        "input_ids": np.where(mask, examples.input_ids[positions], np.int32(pad_id)),
        "attention_mask": mask.astype(np.int32),
        "token_type_ids": np.where(mask, examples.token_type_ids[positions], 0).astype(np.int32),
        "labels": examples.labels[rows],
        "weight": weight,
    }
    if examples.token_labels is not None:
        batch["labels"] = np.where(mask, examples.token_labels[positions], np.int32(NO_LABEL))
    if examples.labelled is not None:
        batch["labelled"] = examples.labelled[rows].astype(np.float32)
    if examples.answers is not None:
        batch["answers"] = {name: values[rows] for name, values in examples.answers.items()}
    return batch
