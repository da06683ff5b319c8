"""What a run shows while it trains."""

import contextlib
import datetime
import time
from collections.abc import Iterator

from transkimmer_jax.progress import tqdm

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class TrainingBar:
    """A progress bar of steps that have ended, with the time that the others will take. A context manager.

    The time left is the number of steps left times the mean of the steps so far. The run shuffles batches of all lengths, so
    the mean of all steps is what the rest will take; the mean of the last few would follow their lengths. Evaluations are not
    counted, as they have bars of their own, nor is the first step of a shape, which compiles.
    """

    def __init__(self, step: int, total_steps: int, visible: bool):
        self._step, self._total_steps = step, total_steps
        self._bar = tqdm(total=total_steps, initial=step, desc="training", unit="step", bar_format=_FORMAT, disable=not visible)
        self._shown: dict[str, str] = {}
        self._shapes: set[tuple[int, ...]] = set()
        self._timed_steps = 0
        self._started = time.monotonic()
        self._untimed_seconds = 0.0

    def __enter__(self) -> "TrainingBar":
        self._bar.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.__exit__(*exception)

    def show(self, **values: str) -> None:
        """Show these beside the bar from its next movement on."""
        self._shown |= values

    def advance(self, steps: int) -> None:
        """So many more steps have ended."""
        if steps == 0:
            return
        self._step += steps
        self._timed_steps += steps
        left = str(datetime.timedelta(seconds=round(self.seconds_left)))
        self._bar.set_postfix({"left": left, **self._shown}, refresh=False)
        self._bar.update(steps)

    @property
    def seconds_left(self) -> float:
        """Of all steps that have not ended; 0 where none has yet."""
        seconds = time.monotonic() - self._started - self._untimed_seconds
        return (self._total_steps - self._step) * seconds / max(1, self._timed_steps)

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """The block is not counted as a part of the steps."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._untimed_seconds += time.monotonic() - started

    def dispatching(self, shape: tuple[int, ...]) -> contextlib.AbstractContextManager[None]:
        """Around the dispatch of a batch of this shape."""
        compiles = shape not in self._shapes
        self._shapes.add(shape)
        return self.untimed() if compiles else contextlib.nullcontext()
