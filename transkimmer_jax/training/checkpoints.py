"""Checkpoints of a run: the training state and the data iterator, saved together by Orbax, asynchronously, by all processes.

Kept are the latest ones and the best. What is best is decided by a rank that is saved with each evaluated checkpoint. Each has the
digests of its files; one that is no longer what was written is put aside when a run starts, and the one before it is used.
"""

import contextlib
import dataclasses
import threading
from typing import Any

import jax
from etils import epath

from transkimmer_jax import extras
from transkimmer_jax.data import pipeline
from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import verification
from transkimmer_jax.training.step import TrainState

with extras.needed("train", "training"):
    import grain
    from orbax.checkpoint import v1 as ocp

_policies = ocp.training.preservation_policies


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows beside its state and its place in the data.

    seconds: trained so far. open_window: the scalars of the steps since the last line of `metrics.jsonl`, see `records.fetch`.
    records: digest of the lines of that file, see `Records`; None where an older version saved.
    """

    seconds: float = 0.0
    open_window: list[dict[str, float]] = dataclasses.field(default_factory=list)
    records: str | None = None


class Checkpoints:
    """The checkpoints below `<workdir>/checkpoints`, a local folder or a bucket. A context manager: leaving it waits for what is
    being written.

    timeout: seconds in which all processes must have written one. Where one of them cannot, the others wait so long for it.
    """

    def __init__(self, workdir: epath.Path, keep_latest: int, timeout: int):
        folder = epath.Path(workdir) / "checkpoints"
        self._folder = folder if "://" in str(folder) else epath.Path(folder.absolute())
        # The step whose digests are to be written, until the last of them is.
        self._undigested: int | None = None
        self._digesting = threading.Lock()
        if processes.is_first():
            verification.put_damaged_aside(self._folder, keep_latest)
        processes.wait_for_all("damaged checkpoints put aside")
        best = _policies.BestN(get_metric_fn=lambda metrics: metrics["rank"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep_latest), best]),
            cleanup_tmp_directories=True,
            # A lambda, since Orbax copies its options, and with a method the object.
            context=ocp.Context(
                async_options=ocp.options.AsyncOptions(timeout_secs=timeout, post_finalization_callback=lambda: self._write_digests())
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator, progress: Progress, rank: float | None) -> None:
        """Start saving; the state may be donated as soon as this returns. rank: higher is better; None where not evaluated."""
        self.wait()  # as Orbax would in the next call: one checkpoint is written at a time
        self._undigested = step
        ranked = self._ranked() + ([] if rank is None else [(rank, step)])
        saving = self._checkpointer.save_checkpointables_async(
            step,
            {"state": state, "data": data},
            force=True,  # else one is left out, without a word, while the last is still being written
            metrics=None if rank is None else {"rank": rank},
            custom_metadata=dataclasses.asdict(progress) | {"processes": jax.process_count(), "best": max(ranked)[1] if ranked else None},
        )
        assert saving is not None  # `force`
        saving.on_complete(lambda _: self._committed(step))

    def _write_digests(self) -> None:
        """Called by Orbax, in its thread and in the first process, when all of a checkpoint is written and before it is committed."""
        assert self._undigested is not None
        verification.write_digests(self._folder, self._undigested)

    def _committed(self, step: int) -> None:
        """Called by Orbax, in its thread, when a checkpoint is; where this fails `wait` fails too, in the thread that can say so."""
        with contextlib.suppress(OSError, ValueError, TrainingError):
            self._complete_digests(step)

    def _complete_digests(self, step: int | None) -> None:
        with self._digesting:
            if step is None or step != self._undigested:
                return
            # One whose writing failed, on a full disk for one, is not there.
            if processes.is_first() and step in verification.committed(self._folder):
                verification.complete_digests(self._folder, step)
            self._undigested = None

    def wait(self) -> None:
        """Return when everything is on the disk."""
        self._checkpointer.wait()
        self._complete_digests(self._undigested)

    def _ranked(self) -> list[tuple[float, int]]:
        """(rank, step) of the evaluated ones; of equal ones the longest trained is better, as for Orbax."""
        return [(checkpoint.metrics["rank"], checkpoint.step) for checkpoint in self._checkpointer.checkpoints if checkpoint.metrics]

    def restore(self, state: TrainState, data: grain.DatasetIterator) -> tuple[TrainState, Progress]:
        """The newest checkpoint's state, shaped and placed like `state`, and what the run knew then; moves `data` to its place.

        Raises `TrainingError` where it holds another kind of state.
        """
        latest = self._checkpointer.latest
        assert latest is not None
        metadata = self._checkpointer.checkpointables_metadata(latest.step).custom_metadata
        wanted: dict[str, Any] = {"state": _abstract(state)}
        if metadata.get("processes", 1) == jax.process_count():
            wanted["data"] = data
        try:
            restored = self._checkpointer.load_checkpointables(latest.step, wanted)["state"]
        except (ValueError, KeyError) as error:  # trees that differ, or no handler of Orbax that takes them
            # It is what was written, so it is of code that trains another state.
            raise TrainingError(
                f"{self._folder / str(latest.step)} does not hold the state that this version of transkimmer_jax trains: "
                "finish the run with the version that began it, or choose another folder"
            ) from error
        if "data" not in wanted:
            pipeline.move(data, int(restored.step))
        return restored, Progress(float(metadata["seconds"]), list(metadata.get("open_window", ())), metadata.get("records"))

    def restore_best(self, state: TrainState) -> tuple[TrainState, int]:
        """The state of the highest-ranked checkpoint, and its step.

        Raises `TrainingError` where none was evaluated, or where it was damaged since the run began.
        """
        self.wait()
        ranked = self._ranked()
        if not ranked:
            raise TrainingError(f"no evaluated checkpoint below {self._folder}")
        _, best = max(ranked)
        path = self._folder / str(best)
        reason = verification.fault(path) if processes.is_first() else None
        if reason is not None:
            raise TrainingError(f"checkpoint {path}, the best, is damaged ({reason}): the same command goes on from one before it")
        return self._checkpointer.load_checkpointables(best, {"state": _abstract(state)})["state"], best


def _abstract(state: TrainState) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
