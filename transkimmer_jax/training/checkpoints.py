"""Checkpoints of a run: the training state and the data iterator, saved together by Orbax, asynchronously.

Kept are the latest ones and the best. What is best is decided by a rank that is saved with each evaluated checkpoint.
"""

import pathlib
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training.step import TrainState

_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints below `<workdir>/checkpoints`. A context manager: leaving it waits for what is being written."""

    def __init__(self, workdir: pathlib.Path, keep_latest: int):
        best = _policies.BestN(get_metric_fn=lambda metrics: metrics["rank"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            (workdir / "checkpoints").absolute(),
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep_latest), best]),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator, seconds: float, rank: float | None) -> None:
        """Start saving; the state may be donated as soon as this returns. rank: higher is better; None where not evaluated."""
        self._checkpointer.save_checkpointables_async(
            step,
            {"state": state, "data": data},
            force=True,  # else one is left out, without a word, while the last is still being written
            metrics=None if rank is None else {"rank": rank},
            custom_metadata={"seconds": seconds},
        )

    def restore(self, state: TrainState, data: grain.DatasetIterator) -> tuple[TrainState, float]:
        """The newest checkpoint's state, shaped like `state`, and the seconds trained before it; moves `data` to its place."""
        latest = self._checkpointer.latest
        assert latest is not None
        restored = self._checkpointer.load_checkpointables(latest.step, {"state": _abstract(state), "data": data})
        metadata = self._checkpointer.checkpointables_metadata(latest.step)
        return restored["state"], float(metadata.custom_metadata["seconds"])

    def restore_best(self, state: TrainState) -> tuple[TrainState, int]:
        """The state of the highest-ranked checkpoint, and its step. Raises `TrainingError` where none was evaluated."""
        self._checkpointer.wait()
        ranked = [checkpoint for checkpoint in self._checkpointer.checkpoints if checkpoint.metrics is not None]
        if not ranked:
            raise TrainingError(f"no evaluated checkpoint below {self._checkpointer.directory}")
        # Of equal ones the longest trained.
        best = max(ranked, key=lambda checkpoint: (checkpoint.metrics["rank"], checkpoint.step))
        return self._checkpointer.load_checkpointables(best.step, {"state": _abstract(state)})["state"], best.step


def _abstract(state: TrainState) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
