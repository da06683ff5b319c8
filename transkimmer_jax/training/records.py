"""What a run writes down as it goes: `metrics.jsonl` and TensorBoard events."""

import json
import pathlib

from tensorboardX import SummaryWriter

from transkimmer_jax import files


class Records:
    """Scalars by step. A context manager.

    Opening at step n drops what an interrupted run wrote after it, so that a resumed run's records equal those of one
    that was never interrupted.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        path = workdir / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            files.write_text(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add one line, and one event a scalar."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut short, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
