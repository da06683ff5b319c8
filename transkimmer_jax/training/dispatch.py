"""How far the host runs ahead of the devices."""

from collections import deque
from typing import Any

import jax

# Enough to keep a device busy while the host prepares the next step, and few enough that what the host says is true.
STEPS_AHEAD = 2


class StepsInFlight:
    """The steps that were dispatched and may not have ended yet; at most `STEPS_AHEAD`.

    Without a bound the host dispatches dozens of steps, and a progress bar, a time left or a SIGTERM then speak of steps that
    the devices begin minutes later.
    """

    def __init__(self) -> None:
        self._outputs: deque[Any] = deque()

    def add(self, output: Any) -> None:
        """A step was dispatched; `output` is there when the step has ended."""
        self._outputs.append(output)

    def wait_for_room(self) -> int:
        """Wait until one more step may be dispatched. How many steps have ended since the last call."""
        return self._wait(STEPS_AHEAD - 1)

    def wait_for_all(self) -> int:
        """Wait until every step has ended. How many have since the last call."""
        return self._wait(0)

    def _wait(self, most: int) -> int:
        ended = 0
        while len(self._outputs) > most:
            jax.block_until_ready(self._outputs.popleft())
            ended += 1
        return ended
