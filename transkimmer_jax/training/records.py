"""What a run writes down as it goes: `metrics.jsonl` and TensorBoard events."""

import hashlib
import json
import logging
import math
import os
import pathlib
import socket
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from transkimmer_jax import extras
from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import TrainingError

with extras.needed("train", "training"):
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c
    from tensorboardX.summary import scalar

logger = logging.getLogger("transkimmer_jax")


# What a step returns, by name: arrays on the devices, or numbers of a window that a checkpoint kept.
Scalars = Mapping[str, Any]


def fetch(window: Sequence[Scalars], step: int) -> list[dict[str, float]]:
    """The scalars of the steps since the last line of `metrics.jsonl`, up to `step`, in numbers that JSON keeps exactly.

    Waits for the devices. A window that a checkpoint does not end is saved with it, so a resumed run writes the same lines.

    Raises:
      TrainingError: a loss or a gradient is not finite.
    """
    values = [{name: float(value) for name, value in scalars.items()} for scalars in jax.device_get(list(window))]
    for scalars in values:
        if not (math.isfinite(scalars["loss"]) and math.isfinite(scalars["grad_norm"])):
            raise TrainingError(
                f"the loss or its gradient is not finite at or before step {step} (loss {scalars['loss']}, gradient norm "
                f"{scalars['grad_norm']}): lower optimizer.learning_rate or optimizer.predictor_learning_rate"
            )
    return values


def means(window: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each scalar over a window, in float32."""
    return {name: float(np.mean(np.array([scalars[name] for scalars in window], np.float32))) for name in window[0]}


class Records:
    """Scalars by step. A context manager.

    Opening at step n drops what an interrupted run wrote after it, so that a resumed run's records equal those of one
    that was never interrupted. Files in a bucket cannot grow: there they are written beside, and copied by `publish`.

    expected: `digest` when step n was saved. Where `metrics.jsonl` has another one it is damaged, which is said, and kept beside.
    """

    def __init__(self, workdir: os.PathLike, step: int, expected: str | None = None):
        self._workdir = epath.Path(workdir)
        self._beside = tempfile.TemporaryDirectory() if files.is_remote(workdir) else None
        folder = pathlib.Path(self._workdir if self._beside is None else self._beside.name)
        path = folder / "metrics.jsonl"
        published = self._workdir / "metrics.jsonl"
        self._lines = hashlib.sha256()
        content = published.read_bytes() if published.exists() else b""
        lines = [line for line in content.decode("utf-8", errors="replace").splitlines() if _step_of(line) <= step]
        kept = "".join(line + "\n" for line in lines)
        self._lines.update(kept.encode())
        if content:
            if expected is not None and self.digest != expected:
                aside = self._workdir / "metrics.jsonl.damaged"
                aside.write_bytes(content)
                logger.warning("%s is damaged: what can be read of it is kept, and all of it in %s", published, aside)
            files.write_text(path, kept)
        elif expected is not None and self.digest != expected:
            logger.warning("%s is lost up to step %d", published, step)
        self._events = _EventFile(folder / "tensorboard", step)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception) -> None:
        self._events.close()
        self._file.close()
        self.publish()
        if self._beside is not None:
            self._beside.cleanup()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add one line, and one event a scalar."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        self._file.write(line)
        self._file.flush()
        self._lines.update(line.encode())
        for name, value in scalars.items():
            self._events.write(Event(step=step, summary=scalar(name, value)))

    @property
    def digest(self) -> str:
        """The SHA-256 of `metrics.jsonl` so far, in hexadecimal."""
        return self._lines.hexdigest()

    def publish(self) -> None:
        """Bring the files to where they belong, if that is not where they are written."""
        if self._beside is not None:
            files.copy_folder(pathlib.Path(self._beside.name), self._workdir)


class _EventFile:
    """A TensorBoard event file of its own for each start of a run.

    Written at once and in this thread: the writer that tensorboardX offers has a thread and an exit handler, which
    print tracebacks of their own where the disk is full.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}").open("wb", buffering=0)
        self.write(Event(file_version="brain.Event:2"))
        # TensorBoard drops what earlier files say of this step and later ones.
        self.write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        rest = memoryview(length + _checksum(length) + data + _checksum(data))
        while rest:
            # A disk with less room takes a part; asked again, it says that it is full.
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that cannot be read, so that it is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
