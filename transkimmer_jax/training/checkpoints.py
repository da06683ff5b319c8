"""Checkpoints of a run: the training state and the data iterator, saved together by Orbax, asynchronously, by all processes.

Kept are the latest ones and the best. What is best is decided by a rank that is saved with each evaluated checkpoint. A checkpoint
that cannot be read any more is put aside when a run starts, and the one before it is used.
"""

import dataclasses
import json
import logging
from typing import Any

import grain
import jax
import tensorstore
from etils import epath
from orbax.checkpoint import v1 as ocp

from transkimmer_jax.data import pipeline
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.parallel import processes
from transkimmer_jax.training.step import TrainState

logger = logging.getLogger("transkimmer_jax")

_policies = ocp.training.preservation_policies


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows beside its state and its place in the data.

    seconds: trained so far. open_window: the scalars of the steps since the last line of `metrics.jsonl`, see `MetricsWindow`.
    """

    seconds: float = 0.0
    open_window: list[dict[str, float]] = dataclasses.field(default_factory=list)


class Checkpoints:
    """The checkpoints below `<workdir>/checkpoints`, a local folder or a bucket. A context manager: leaving it waits for what is
    being written.

    timeout: seconds in which all processes must have written one. Where one of them cannot, the others wait so long for it.
    """

    def __init__(self, workdir: epath.Path, keep_latest: int, timeout: int):
        folder = epath.Path(workdir) / "checkpoints"
        folder = folder if "://" in str(folder) else epath.Path(folder.absolute())
        if processes.is_first():
            _put_damaged_aside(folder)
        processes.wait_for_all("damaged checkpoints put aside")
        best = _policies.BestN(get_metric_fn=lambda metrics: metrics["rank"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            folder,
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(keep_latest), best]),
            cleanup_tmp_directories=True,
            context=ocp.Context(async_options=ocp.options.AsyncOptions(timeout_secs=timeout)),
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

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator, progress: Progress, rank: float | None) -> None:
        """Start saving; the state may be donated as soon as this returns. rank: higher is better; None where not evaluated."""
        self._checkpointer.save_checkpointables_async(
            step,
            {"state": state, "data": data},
            force=True,  # else one is left out, without a word, while the last is still being written
            metrics=None if rank is None else {"rank": rank},
            custom_metadata=dataclasses.asdict(progress) | {"processes": jax.process_count()},
        )

    def wait(self) -> None:
        """Return when everything is on the disk."""
        self._checkpointer.wait()

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
            # It can be read (see below), so it is of code that trains another state.
            raise TrainingError(
                f"{self._checkpointer.directory / str(latest.step)} does not hold the state that this version of transkimmer_jax trains: "
                "finish the run with the version that began it, or choose another --workdir"
            ) from error
        if "data" not in wanted:
            pipeline.move(data, int(restored.step))
        return restored, Progress(float(metadata["seconds"]), list(metadata.get("open_window", ())))

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


def _put_damaged_aside(folder: epath.Path) -> None:
    """Move checkpoints that cannot be read to `<folder>_damaged`, and say so: a run would fail on them half-way through loading, in
    some of its processes and not in others."""
    if not folder.exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.isdigit():
            continue
        reason = _damage(path)
        if reason is not None:
            aside = folder.parent / "checkpoints_damaged" / path.name
            logger.warning("checkpoint %s is damaged (%s): moved to %s, an older one is used", path, reason, aside)
            aside.parent.mkdir(parents=True, exist_ok=True)
            if aside.exists():
                aside.rmtree()
            path.rename(aside)


def _damage(path: epath.Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte of it can be read."""
    try:
        for file in (path / "_CHECKPOINT_METADATA", path / "state" / "_METADATA", *(path / "data").glob("process_*.json")):
            json.loads(file.read_text())
        base = str(path / "state")
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base if "://" in base else f"file://{base}"}).result()
        keys = store.list().result()
        if not keys:
            return "no array in it"
        for key in keys:
            store.read(key).result()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return None
