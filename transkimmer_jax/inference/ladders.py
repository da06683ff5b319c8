"""Which rung of its bucket's ladder a batch runs."""

import numpy as np

from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import Hardware
from transkimmer_jax.inference.shapes import RUNGS, Bucket, Schedule, ladder
from transkimmer_jax.models.architecture import Architecture

_FORGETTING = 0.99  # weight of a batch over that of the next one of its bucket


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
        seen = self._seen.setdefault((bucket, threshold), np.zeros((len(RUNGS), 3)))
        seen *= _FORGETTING
        seen[rung] += (1, lost.any(), lost.mean())
