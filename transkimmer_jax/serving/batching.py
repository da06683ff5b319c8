"""Who is computed next: what waits when the engine becomes free is the next batch, longest-waiting first, cut by tokens.

Nobody waits for a batch to fill: under load it fills while the one before is computed, and without load there is nothing to wait for.
"""

import dataclasses
import threading
from collections import deque

import numpy as np

from transkimmer_jax.serving.jobs import Job


@dataclasses.dataclass(frozen=True)
class Part:
    """Texts `start` to `stop` of a job."""

    job: Job
    start: int
    stop: int


class WaitingTexts:
    """Texts that are read and wait for the engine; for many threads that add and one that takes.

    max_tokens: of a batch; a longer text is a batch of its own.
    """

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def add(self, jobs: list[Job]) -> None:
        """Let them wait, behind all others."""
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """No more will come: `take` gives what is left, then None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def __len__(self) -> int:
        """Texts that wait."""
        with self._changed:
            return sum(len(job.examples) - job.taken for job in self._jobs)

    def take(self) -> list[Part] | None:
        """The next batch, once there is one; None after `close`.

        The job that has waited longest says whose batch it is: texts for the same model at the same threshold, in the order in which they
        came, as many as fit. Of a job whose texts do not all fit the others go first in the next batch. A job that nobody waits for any
        longer is dropped.
        """
        with self._changed:
            while True:
                batch = self._cut()
                if batch or (self._is_closed and not self._jobs):
                    return batch or None
                if not self._jobs:
                    self._changed.wait()

    def _cut(self) -> list[Part]:
        batch: list[Part] = []
        left: deque[Job] = deque()
        room, key = self._max_tokens, None
        while self._jobs:
            job = self._jobs.popleft()
            if job.is_abandoned:
                continue
            if key is None:
                key = job.key
            if job.key != key:
                left.append(job)
                continue
            ends = job.examples.offsets[job.taken + 1 :] - job.examples.offsets[job.taken]
            fitting = int(np.searchsorted(ends, room, side="right"))
            if not batch:
                fitting = max(1, fitting)
            if fitting:
                batch.append(Part(job, job.taken, job.taken + fitting))
                room -= int(ends[fitting - 1])
                job.taken += fitting
            if job.taken < len(job.examples):
                left.append(job)
                break
        self._jobs = left + self._jobs
        return batch
