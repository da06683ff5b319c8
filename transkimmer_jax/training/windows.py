"""The scalars of the steps since the last line of `metrics.jsonl`."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from transkimmer_jax.errors import TrainingError


class MetricsWindow:
    """Collects the scalars that steps return, and gives their means.

    A window belongs to the run, not to the process: what it holds is saved with a checkpoint that does not end it, and `restored`
    by the process that goes on, so that the lines of a resumed run are those of an uninterrupted one.
    """

    def __init__(self, restored: Sequence[dict[str, float]] = ()):
        self._steps: list[Mapping[str, jax.Array | np.ndarray]] = [
            {name: np.asarray(value, np.float32) for name, value in step.items()} for step in restored
        ]

    def add(self, scalars: dict[str, jax.Array]) -> None:
        """One more step."""
        self._steps.append(scalars)

    def values(self, step: int) -> list[dict[str, float]]:
        """What the window holds after `step`, in numbers that JSON keeps exactly. Waits for the devices.

        Raises:
          TrainingError: a loss or a gradient is not finite.
        """
        values = jax.device_get(self._steps)
        _require_finite(values, step)
        return [{name: float(value) for name, value in scalars.items()} for scalars in values]

    def means(self, step: int) -> dict[str, float]:
        """The mean of every scalar over the window, which ends with `step`. Waits for the devices.

        Raises:
          TrainingError: as `values`.
        """
        values = jax.device_get(self._steps)
        _require_finite(values, step)
        return {name: float(np.mean([scalars[name] for scalars in values])) for name in values[0]}


def _require_finite(values: Sequence[Mapping[str, np.ndarray]], step: int) -> None:
    for scalars in values:
        if not (np.isfinite(scalars["loss"]) and np.isfinite(scalars["grad_norm"])):
            raise TrainingError(
                f"the loss or its gradient is not finite at or before step {step} (loss {scalars['loss']}, gradient norm "
                f"{scalars['grad_norm']}): lower optimizer.learning_rate or optimizer.predictor_learning_rate"
            )
