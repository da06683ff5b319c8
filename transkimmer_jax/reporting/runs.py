"""The curves, budgets and results of a training run, for its report."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from etils import epath
from pydantic import AfterValidator, StrictFloat, StrictInt, TypeAdapter, ValidationError

from transkimmer_jax.errors import DataError
from transkimmer_jax.validation import explain

_METRICS, _RESULT, _RECIPE = "metrics.jsonl", "result.json", ("dense", "skimming")
_PATTERN_OF_LAYER = re.compile(r".+/kept_layer_(\d+)")


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve. points: (step, value), a value of None where it was not finite."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves that share their axes.

    unit: of the values. whole: whether the axis goes from nothing to all. ordered: whether the curves are layers, first to last. along:
    what stands in place of the step.
    """

    title: str
    unit: Literal["share", "number", "times"]
    series: list[Series]
    whole: bool = False
    ordered: bool = False
    along: str = "step"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run. name: None where the folder holds no other. facts: names and values for people."""

    name: str | None
    facts: list[tuple[str, str]]
    charts: list[Chart]


@dataclasses.dataclass(frozen=True)
class Runs:
    """The contents of the page: the runs of a workdir."""

    title: str
    runs: list[Run]


def read_runs(workdir: str | os.PathLike, title: str | None = None) -> Runs:
    """The run in `workdir`, or the runs of its recipe: those that have begun. They may still go on.

    Raises:
      DataError: there is none, or what it wrote down cannot be read.
    """
    folder = epath.Path(workdir)
    title = title or f"Training of {folder.name or folder}"
    if (folder / _METRICS).exists():
        return Runs(title, [_read_run(folder, None)])
    begun = [name for name in _RECIPE if (folder / name / _METRICS).exists()]
    if not begun:
        raise DataError(f"{folder} holds no {_METRICS}: give the --workdir of `train`, or the --output of `distil`")
    dense = folder / "dense" / _RESULT
    dense_result = _read_object(dense) if dense.exists() else None
    return Runs(title, [_read_run(folder / name, name, dense_result) for name in begun])


def _read_run(folder: epath.Path, name: str | None, dense_result: dict[str, Any] | None = None) -> Run:
    lines = _read_lines(folder / _METRICS)
    result = _read_object(folder / _RESULT) if (folder / _RESULT).exists() else None
    facts = [("state", f"goes on, or was interrupted, at step {lines[-1]['step']}")] if result is None else _facts(result)
    budgets = [_budgets(result, dense_result)] if result is not None and "curve" in result else []
    return Run(name, facts, [chart for chart in [*budgets, *_charts(lines)] if chart.series])


def _budgets(result: dict[str, Any], dense_result: dict[str, Any] | None) -> Chart:
    """What a model for several budgets is worth at each, beside its dense model on the same texts."""
    metric = result["metric"]
    points = [(point["flops_vs_unpadded"], point["value"]) for point in result["curve"]]
    series = [Series("skimming", points)]
    if dense_result is not None:
        value = dense_result["metrics"][result["curve"][0]["split"]][metric]
        series.append(Series("dense", [(1.0, value), (points[-1][0], value)]))
    title = f"{_words(metric).capitalize()} at each budget"
    return Chart(title, "number" if _correlates(metric) else "share", series, along="times fewer FLOPs")


def _charts(lines: list[dict[str, Any]]) -> list[Chart]:
    """In the order of the page; a chart without a curve is of something that the run has not. Of a dense run nothing is skimmed."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    evaluated = [name for name in names if "/" in name]
    of_layers = [name for name in evaluated if _PATTERN_OF_LAYER.fullmatch(name)]
    first_split = of_layers[0].partition("/")[0] if of_layers else ""  # of several the one that counts
    layers = sorted((name for name in of_layers if name.startswith(f"{first_split}/")), key=lambda name: int(name.rpartition("_")[2]))
    spent = [name for name in evaluated if name.endswith(("/flops_vs_unpadded", "/flops_vs_padded"))]
    metrics = [name for name in evaluated if name not in (*of_layers, *spent) and not name.endswith("/kept_tokens")]
    divergences = [name for name in metrics if name.endswith("divergence")]  # in nats, where metrics are shares
    metrics = [name for name in metrics if name not in divergences]
    correlates = any(map(_correlates, metrics))

    def series(*pairs: tuple[str, str]) -> list[Series]:
        return [Series(shown, _points(lines, name)) for name, shown in pairs if name in names]

    if all(line.get("share", 1.0) == 1.0 for line in lines):
        names = [name for name in names if name not in ("loss", "share", "target", "coefficient", *of_layers, *spent)]
    return [
        Chart("Loss", "number", series(("loss", "with the price of tokens"), ("task_loss", "of the task"))),
        Chart("Share spent in training", "share", series(("share", "measured"), ("target", "goal")), whole=True),
        Chart("Price of a token", "number", series(("coefficient", "coefficient"))),
        Chart("Metrics", "number" if correlates else "share", series(*((name, _words(name)) for name in metrics))),
        Chart("Divergence from the teacher", "number", series(*((name, _words(name)) for name in divergences))),
        Chart("Times fewer FLOPs than dense", "times", series(*((name, _words(name)) for name in spent))),
        Chart(
            "Tokens kept by each layer in evaluation", "share", series(*((name, _layer(name)) for name in layers)), whole=True, ordered=True
        ),
        Chart("Norm of the gradient", "number", series(("grad_norm", "before it is clipped"))),
    ]


def _correlates(metric: str) -> bool:
    """Whether it is a number between -1 and 1, and no share."""
    return metric.endswith(("correlation", "pearson", "spearman", "cosine"))


def _points(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float | None]]:
    values = [(line["step"], line[name]) for line in lines if name in line]
    return [(step, value if math.isfinite(value) else None) for step, value in values]


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    metrics = result.get("metrics", {})
    return [
        *((f"{_words(metric)}, {split}", f"{value:.4f}") for split, values in metrics.items() for metric, value in values.items()),
        *((f"fewer FLOPs than {kind} dense", f"{result[name]:.2f} times") for kind, name in _DENSE.items() if name in result),
        *((_words(name), str(result[name])) for name in ("task", "steps", "best_step", "seconds", "seed", "command") if name in result),
    ]


_DENSE = {"padded": "flops_vs_padded", "unpadded": "flops_vs_unpadded"}


def _words(name: str) -> str:
    """'validation/kept_tokens' for people."""
    return name.replace("/", ", ").replace("flops_vs_", "against ").replace("_", " ")


def _layer(name: str) -> str:
    match = _PATTERN_OF_LAYER.fullmatch(name)
    assert match is not None
    return f"layer {int(match[1]) + 1}"


def _read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The records of all complete lines; a run may just be writing the last one."""
    complete = path.read_bytes().decode("utf-8", errors="replace").rpartition("\n")[0].splitlines()
    lines = []
    for number, text in enumerate(complete, start=1):
        try:
            lines.append(_STEP.validate_json(text))
        except ValidationError as error:
            raise DataError(f"{path}, line {number}: not the numbers of a step") from error
    if not lines:
        raise DataError(f"{path} is empty: the run has not come to its first record yet")
    return lines


def _with_step(line: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(line.get("step"), int):
        raise ValueError("no step")
    return line


_STEP = TypeAdapter(Annotated[dict[str, StrictInt | StrictFloat], AfterValidator(_with_step)])


def _read_object(path: epath.Path) -> dict[str, Any]:
    try:
        return TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is not the result of a run: {explain(error)}") from error
