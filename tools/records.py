"""Records of measurements: their schemas, and how they are read and written.

A record says what was measured, by which command, on how many cores and from which commit. It lies below `results/`.
"""

import argparse
import glob
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from transkimmer_jax import console
from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import DataError
from transkimmer_jax.validation import Schema, explain

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Record(Schema, extra="allow"):
    """Any record. Old ones lack the cores or the commit, and a server's has a command for each part."""

    command: str | None = None
    commands: tuple[str, ...] = ()
    cores: Count | None = None
    commit: str | None = None


class Point(Schema, extra="ignore"):
    """A student at one budget: a share of the dense FLOPs, or None of a static student. Savings are times fewer FLOPs than dense."""

    budget: Annotated[float, Field(gt=0, le=1)] | None
    value: float
    flops_vs_unpadded: Positive
    flops_vs_padded: Positive


class ClockedPoint(Schema, extra="ignore"):
    """The metric, texts a second and speed over the dense model at one budget, in one runtime and precision."""

    budget: float | None
    value: float
    texts_per_second: Positive
    times_dense: Positive


class ClockedDense(Schema, extra="ignore"):
    """The dense model in one runtime and precision."""

    value: float
    texts_per_second: Positive


class Clock(Schema):
    """One runtime and precision."""

    dense: ClockedDense
    curve: list[ClockedPoint]


class Row(Record, extra="ignore"):
    """A student of one task and seed at all its budgets, beside its dense model (`python -m tools.row`). Values lie between 0 and 1.

    label: of a variant. clock: by 'RUNTIME PRECISION'.
    """

    task: str
    backbone: str
    seed: int
    kind: Literal["skimming", "static"]
    label: str
    metric: str
    split: str
    examples: Count
    dense_value: float
    curve: Annotated[list[Point], Field(min_length=1)]
    command: str
    dense_command: str
    row_command: str
    clock: dict[str, Clock] = Field(default_factory=dict)
    batch_size: Count | None = None
    cpu: str | None = None

    @model_validator(mode="after")
    def _clock_has_every_budget(self) -> "Row":
        budgets = [point.budget for point in self.curve]
        if any([point.budget for point in clock.curve] != budgets for clock in self.clock.values()):
            raise ValueError("clock and curve have other budgets")
        return self


def read(patterns: Iterable[str], schema: type[Record] = Record, folder: pathlib.Path = RESULTS) -> list[dict[str, Any]]:
    """The records of files below a folder, as dictionaries.

    Raises:
      DataError: a file that is missing or breaks the schema.
    """
    found = []
    for pattern in patterns:
        paths = sorted(folder.glob(pattern)) if glob.has_magic(pattern) else [folder / pattern]
        for path in paths:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                for record in _listed(content):
                    schema.model_validate(record)
                    found.append(record)
            except (OSError, json.JSONDecodeError) as error:
                raise DataError(f"{path}: {error}") from error
            except ValidationError as error:
                raise DataError(f"{path}: {explain(error)}") from error
    return found


def read_rows(patterns: Iterable[str], folder: pathlib.Path = RESULTS) -> list[Row]:
    """Rows with a curve; records of before, of one budget, are left out."""
    with_curve = [record for record in read(patterns, folder=folder) if "curve" in record]
    try:
        return [Row.model_validate(record) for record in with_curve]
    except ValidationError as error:
        raise DataError(f"{', '.join(patterns)}: {explain(error)}") from error


def write(path: pathlib.Path, content: dict[str, Any] | list[dict[str, Any]], schema: type[Record] = Record) -> None:
    """Write one record or a list, with the cores and the commit of here."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
    here = {"cores": len(os.sched_getaffinity(0)), "commit": commit}
    content = content | here if isinstance(content, dict) else [record | here for record in content]
    for record in _listed(content):
        schema.model_validate(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content)


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def processor() -> str:
    """The processor, and which of the instructions that matter it has, where the system says so."""
    try:
        lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    values = {name.strip(): value.strip() for name, value in lines.items()}
    flags = values.get("flags", "").split()
    widest = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if name in flags]
    return " ".join([values.get("model name", platform.machine()), *widest])


def command() -> str:
    """The command of this process, without the folders of this machine."""
    name = pathlib.Path(sys.argv[0]).stem
    return portable(shlex.join(["python", "-m", f"tools.{name}", *sys.argv[1:]]))


def portable(words: str) -> str:
    """A command without the folders of this machine: of an absolute path its last part is left, of a run's model the run's folder too."""
    return shlex.join(re.sub(r"(^|=)/(?:[^/]+/)*?([^/]+(?:/model)?)/?$", r"\1\2", word) for word in shlex.split(words))


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def start(main: Callable[[list[str]], None]) -> None:
    """Run a tool on the arguments of this process; its errors are one line each."""
    console.leave(console.run(main, sys.argv[1:]))
