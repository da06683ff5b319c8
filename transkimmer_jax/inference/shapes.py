"""Which shapes compacted programs have: buckets of batches, and ladders of schedules (docs/design.md, section 4.1).

A program is compiled for one schedule. Each bucket of batches has a ladder of four: the rows that each layer is expected to keep,
a little more, much more, and all. Texts that a schedule has no room for run again one rung up, so answers are exact.
"""

import dataclasses
import itertools
import math

import numpy as np

from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import FORGETTING, RUNGS, WIDTH_MULTIPLE, Hardware
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture

# Pairs of buckets and thresholds whose losses are known, the oldest going first: a server's clients choose thresholds freely.
_REMEMBERED = 1024


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The shape of a batch before anything is skimmed.

    sequences: slots B. tokens: rows T for all of them together. width: the most tokens of one. narrower: width of the next
    narrower bucket, from which on texts are at home here; 0 for the narrowest.
    """

    sequences: int
    tokens: int
    width: int
    narrower: int = 0

    def holds(self, count: int, tokens: int) -> bool:
        """Whether a batch of `count` sequences of `tokens` tokens together fits, if none is wider than the bucket."""
        return count <= self.sequences and tokens <= self.tokens


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The bucket of a program's batches and the (rows, width) of each layer: all the shapes of one program."""

    bucket: Bucket
    layers: tuple[tuple[int, int], ...]

    @classmethod
    def full(cls, bucket: Bucket, layers: int) -> "Schedule":
        """The one that every batch of the bucket fits in, for a network of so many layers."""
        return cls(bucket, ((bucket.tokens, bucket.width),) * layers)

    def flops(self, arch: Architecture) -> float:
        """Operations of the program; its time is near proportional to them."""
        sequences, entering = self.bucket.sequences, self.bucket.tokens
        total = sequences * flops.head(arch) + self.bucket.tokens * (flops.embedding_per_token(arch) + flops.head_per_token(arch))
        for layer, (rows, width) in enumerate(self.layers):
            if layer in arch.predictor_layers:
                total += flops.per_predicted_token(arch) * entering
            if layer < len(self.layers) - 1 or arch.reads_every_token:
                # Attention's view is computed as a whole.
                pair = flops.per_token_pair(arch) * width + flops.per_token_distance(arch, self.bucket.width)
                total += flops.per_token(arch) * rows + pair * sequences * width
            else:
                pair = flops.per_token_pair(arch) + flops.per_key_distance(arch)
                total += flops.per_key(arch) * rows + (flops.per_query(arch) + pair * width) * sequences
            entering = rows
        return total


def buckets(
    hardware: Hardware, max_length: int, batch_tokens: int | None, batch_size: int | None, scores_per_pair: int
) -> list[tuple[Bucket, Bucket]]:
    """The buckets in use, narrowest first, each with that of its small batches. Where texts are long, scores limit a batch.

    Args:
      max_length: the widest bucket's width.
      batch_tokens: tokens of a batch; None: what suits the hardware.
      batch_size: instead, a batch has as many tokens as this number of texts of the bucket's width.
      scores_per_pair: see `Architecture`.
    """
    widths = (0, *(width for width in hardware.widths if width < max_length), max_length)

    def bucket(narrower: int, width: int, share: float) -> Bucket:
        if batch_size is not None:
            texts = max(1, math.ceil(batch_size * share))
            tokens = texts * width
        else:
            texts = 1
            tokens = max(width, math.ceil((batch_tokens or hardware.batch_tokens) * share))
        # As many slots as texts of the mean length between the two widths have room in the rows.
        slots = 1 if batch_size == 1 else max(texts, math.ceil(2 * tokens / (narrower + 1 + width)))
        slots = min(slots, max(1, hardware.scores // (scores_per_pair * width**2)))
        return Bucket(slots, min(tokens, slots * width), width, narrower)

    return [(bucket(*pair, 1.0), bucket(*pair, hardware.small_batch)) for pair in itertools.pairwise(widths)]


def ladder(bucket: Bucket, arch: Architecture, calibration: Calibration | None, row_multiple: int) -> tuple[Schedule, ...]:
    """Schedules of a bucket, one for each of `RUNGS`, cheapest first; the last holds every batch. Where nothing is known of what is
    kept, and of a dense model, all are that."""
    full = Schedule.full(bucket, arch.num_hidden_layers)
    if arch.skim is None or calibration is None:
        return (full,) * len(RUNGS)
    shares, widths = calibration.expected(bucket.narrower, bucket.width)

    def rung(times: float) -> Schedule:
        layers, rows, width = [], bucket.tokens, bucket.width
        for number, (share, widest) in enumerate(zip(shares.tolist(), widths.tolist(), strict=True)):
            if number in arch.predictor_layers:
                # Never above what there is, never rising with depth.
                rows = min(rows, round_up(times * share * bucket.tokens, row_multiple))
                width = min(width, round_up(times * widest, WIDTH_MULTIPLE))
            layers.append((rows, width))
        return Schedule(bucket, tuple(layers))

    return (*map(rung, RUNGS[:-1]), full)


class Ladders:
    """The ladders of all buckets for one calibration, and what batches lost on their rungs of late.

    calibration: None: nothing is known of what is kept, so every batch has room for all.
    """

    def __init__(self, arch: Architecture, hardware: Hardware, calibration: Calibration | None):
        self.calibration = calibration
        self._arch, self._hardware = arch, hardware
        self._schedules: dict[Bucket, tuple[Schedule, ...]] = {}
        # By bucket and threshold, of each rung: batches that ran, those that lost texts, and the sum of the shares lost. [rungs, 3]
        self._seen: dict[tuple[Bucket, float], np.ndarray] = {}

    def schedules(self, bucket: Bucket) -> tuple[Schedule, ...]:
        """One for each of `RUNGS`, cheapest first."""
        if bucket not in self._schedules:
            self._schedules[bucket] = ladder(bucket, self._arch, self.calibration, self._hardware.row_multiple)
        return self._schedules[bucket]

    def choose(self, bucket: Bucket, threshold: float, lowest: int, batches: int) -> int:
        """The rung, from `lowest` on, with the least expected cost; what has not been tried is taken to lose nothing.

        A lost text costs its share of a batch with room for all, and the first one of a call of so many `batches` a small batch.
        """
        seen = self._seen.get((bucket, threshold), np.zeros((len(RUNGS), 3)))
        often, shares = (seen[:, 1:] / (1 + seen[:, :1])).T
        costs = np.array([schedule.flops(self._arch) for schedule in self.schedules(bucket)])
        expected = costs + np.minimum(1, shares + self._hardware.small_batch * often / batches) * costs[-1]
        return lowest + int(expected[lowest:].argmin())

    def remember(self, bucket: Bucket, threshold: float, rung: int, lost: np.ndarray) -> None:
        """What a batch has lost on a rung, [b] bool."""
        if len(self._seen) == _REMEMBERED and (bucket, threshold) not in self._seen:
            del self._seen[next(iter(self._seen))]
        seen = self._seen.setdefault((bucket, threshold), np.zeros((len(RUNGS), 3)))
        seen *= FORGETTING
        seen[rung] += (1, lost.any(), lost.mean())


def round_up(count: float, multiple: int) -> int:
    """The next multiple of `multiple`, at least one."""
    return max(1, math.ceil(count / multiple)) * multiple
