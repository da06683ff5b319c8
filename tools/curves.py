"""Points lost against FLOPs saved, from the records of `tools/row.py`: seeds of one task and backbone are one curve.

Points are measured, never interpolated. Of several seeds the mean counts, with the sample standard deviation in brackets.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable

from tools.records import Row

SAVINGS = (2.0, 2.5, 3.5)  # times fewer FLOPs than the unpadded dense model, of which tables have columns
LIMIT = 1.0  # points that may be lost
_NEAR = 1.25  # a point stands for a saving that is at most this many times more or less; the first one also for smaller savings
TASKS = {
    "glue/cola": "CoLA", "glue/mnli": "MNLI", "glue/mrpc": "MRPC", "glue/qnli": "QNLI", "glue/qqp": "QQP", "glue/rte": "RTE",
    "glue/sst2": "SST-2", "glue/stsb": "STS-B", "glue/wnli": "WNLI", "imdb_reviews": "IMDB", "questions": "reader", "tags": "tagger",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Point:
    """Points lost at one budget, by seed; savings are means over seeds."""

    budget: float | None
    lost: tuple[float, ...]
    flops_vs_unpadded: float
    flops_vs_padded: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.lost)

    @property
    def deviation(self) -> float:
        """The sample standard deviation over seeds; 0 of one."""
        return statistics.stdev(self.lost) if len(self.lost) > 1 else 0.0

    def __str__(self) -> str:
        return f"{spread(self.lost)} at {self.flops_vs_unpadded:.2f}x"


@dataclasses.dataclass(frozen=True)
class Curve:
    """The records of one task, backbone and label, one a seed, at the budgets that all of them have."""

    records: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> list["Curve"]:
        """In the order of tasks, backbones and labels. Raises `ValueError` where seeds have no budget in common."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault((row.task, row.backbone, row.kind, row.label), []).append(row)
        curves = [cls(tuple(sorted(groups[key], key=lambda row: row.seed))) for key in sorted(groups)]
        for curve in curves:
            if not curve.points:
                seeds = " ".join(str(row.seed) for row in curve.records)
                raise ValueError(f"{curve.name}, {curve.first.backbone}: seeds {seeds} have no budget in common; give one a --label")
        return curves

    @property
    def first(self) -> Row:
        return self.records[0]

    @property
    def name(self) -> str:
        """The task, and the variant if it is one."""
        task = TASKS.get(self.first.task, self.first.task)
        return f"{task}, {self.first.label}" if self.first.label else task

    @property
    def skims(self) -> bool:
        return self.first.kind == "skimming"

    @property
    def is_main(self) -> bool:
        """Whether this is the task's own curve: no variant and no static student."""
        return self.skims and not self.first.label

    @property
    def points(self) -> list[Point]:
        """From the largest budget to the smallest."""
        points = []
        for budget in set.intersection(*({point.budget for point in row.curve} for row in self.records)):
            measured = [next(point for point in row.curve if point.budget == budget) for row in self.records]
            lost = tuple(100 * (row.dense_value - point.value) for row, point in zip(self.records, measured, strict=True))
            unpadded, padded = zip(*((point.flops_vs_unpadded, point.flops_vs_padded) for point in measured), strict=True)
            points.append(Point(budget, lost, statistics.mean(unpadded), statistics.mean(padded)))
        return sorted(points, key=lambda point: point.flops_vs_unpadded)

    def nearest(self, times: float) -> Point:
        """The point whose saving is nearest to so many times fewer FLOPs."""
        return min(self.points, key=lambda point: abs(math.log(point.flops_vs_unpadded / times)))

    def at(self, times: float) -> Point | None:
        """The nearest point, if it is near, or if even the smallest saving is larger."""
        point = self.nearest(times)
        more = point.flops_vs_unpadded / times
        return point if 1 / _NEAR <= more <= _NEAR or (more > 1 and point == self.points[0]) else None

    @property
    def largest_saving(self) -> Point | None:
        """The point that saves most among those that lose less than `LIMIT` on average."""
        return max((point for point in self.points if point.mean < LIMIT), key=lambda point: point.flops_vs_unpadded, default=None)

    def clocked(self, precision: str, attribute: str, point: Point | None = None) -> list[float]:
        """An attribute of ONNX Runtime's clock at a point, by timed record; of the dense model without one."""
        clocks = [row.clock[f"onnxruntime {precision}"] for row in self.records if f"onnxruntime {precision}" in row.clock]
        if point is None:
            return [getattr(clock.dense, attribute) for clock in clocks]
        return [getattr(entry, attribute) for clock in clocks for entry in clock.curve if entry.budget == point.budget]

    @property
    def changed_by_int8(self) -> float:
        """Points by which int8 moves the metric at most; 0 where it was not timed."""
        pairs = [
            pair
            for point in self.points
            for pair in zip(*(self.clocked(precision, "value", point) for precision in ("int8", "float32")), strict=True)
        ]
        return max((100 * abs(one - other) for one, other in pairs), default=0.0)


def static_students(curve: Curve, curves: Iterable[Curve]) -> list[Curve]:
    """Those of the same task and backbone."""
    same = (curve.first.task, curve.first.backbone)
    return [other for other in curves if not other.skims and (other.first.task, other.first.backbone) == same]


def spread(values: Iterable[float]) -> str:
    """Mean, and of several the sample standard deviation in brackets."""
    values = list(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.1f})"


def _times(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}x" if values else ""


def _last(curve: Curve) -> Point:
    return curve.nearest(SAVINGS[-1])


def _under_one_point(curve: Curve) -> str:
    return "none" if curve.largest_saving is None else f"{curve.largest_saving.flops_vs_unpadded:.2f}x"


def _static(curve: Curve, curves: list[Curve]) -> str:
    """The static student nearest to the largest of `SAVINGS`, and the point of the curve nearest to it."""
    points = [student.points[0] for student in static_students(curve, curves)]
    if not points:
        return ""
    student = min(points, key=lambda point: abs(math.log(point.flops_vs_unpadded / SAVINGS[-1])))
    return f"{student}; {curve.nearest(student.flops_vs_unpadded)}"


def _speeds(curve: Curve) -> str:
    speeds = [curve.clocked("int8", "texts_per_second", point) for point in (_last(curve), None)]
    return "{:,.0f}, dense {:,.0f}".format(*map(statistics.mean, speeds)) if speeds[0] else ""


# A column's heading, and its cell for a curve among all curves.
_COLUMNS: dict[str, Callable[[Curve, list[Curve]], str]] = {
    "task": lambda curve, _: curve.name,
    "backbone": lambda curve, _: curve.first.backbone,
    "metric": lambda curve, _: f"{curve.first.metric.replace('_', ' ')}, {curve.first.split}",
    "dense": lambda curve, _: spread(100 * row.dense_value for row in curve.records),
    **{f"lost at {times:g}x": lambda curve, _, times=times: str(curve.at(times) or "") for times in SAVINGS},
    "under one point": lambda curve, _: _under_one_point(curve),
    "vs padded": lambda curve, _: f"{_last(curve).flops_vs_padded:.1f}x",
    "static student; skimming nearby": _static,
    "clock, float32": lambda curve, _: _times(curve.clocked("float32", "times_dense", _last(curve))),
    "int8": lambda curve, _: _times(curve.clocked("int8", "times_dense", _last(curve))),
    "texts a second, int8": lambda curve, _: _speeds(curve),
    "seeds": lambda curve, _: " ".join(str(row.seed) for row in curve.records),
}
_NOT_IN_FULL = ("texts a second, int8",)
_HEADLINE = ("task", "metric", "dense", *(f"lost at {times:g}x" for times in SAVINGS), "clock, float32", "int8", "texts a second, int8")


def full(rows: list[Row]) -> list[list[str]]:
    """The table of docs/results.md, its head first: a line a task and backbone, and one for each variant."""
    curves = Curve.of(rows)
    shown = [curve for curve in curves if curve.skims]
    return _table([name for name in _COLUMNS if name not in _NOT_IN_FULL], shown, curves)


def headline(rows: list[Row]) -> list[list[str]]:
    """The same in short, without variants. The clock is at the largest of `SAVINGS`."""
    curves = Curve.of(rows)
    return _table(_HEADLINE, [curve for curve in curves if curve.is_main], curves)


def _table(columns: Iterable[str], shown: list[Curve], curves: list[Curve]) -> list[list[str]]:
    return [list(columns), *([_COLUMNS[name](curve, curves) for name in columns] for curve in shown)]


def foot(rows: list[Row]) -> str:
    """Examples, machines and the change by int8, of all curves of a table."""
    here = [curve for curve in Curve.of(rows) if curve.skims]
    examples = ", ".join(dict.fromkeys(f"{TASKS.get(curve.first.task, curve.first.task)} {curve.first.examples:,}" for curve in here))
    machines: dict[str, dict[str, None]] = {}
    for curve in here:
        for row in curve.records:
            if row.clock:
                told = f"{row.cores} cores, {row.cpu}, batches of {row.batch_size}"
                machines.setdefault(told, {})[f"{curve.name} of {row.backbone}"] = None
    clocks = "".join(f" Clock of {', '.join(curves)}: {machine}." for machine, curves in sorted(machines.items()))
    return f"Examples: {examples}.{clocks} int8 moves the metric by {max(curve.changed_by_int8 for curve in here):.1f} points at most."


def average(rows: list[Row]) -> str:
    """The convention of papers, a paragraph a backbone: FLOPs against the padded dense model, averaged over tasks of GLUE, at less than one
    point lost on average, and the share of padding in it."""
    curves = [curve for curve in Curve.of(rows) if curve.is_main and curve.first.task.startswith("glue/")]
    lines = []
    for backbone in sorted({curve.first.backbone for curve in curves}):
        here = [curve for curve in curves if curve.first.backbone == backbone]
        if len(here) == 1:
            continue  # of one task there is no average
        best = [(curve, curve.largest_saving or _dense(curve)) for curve in here]
        dense = ", ".join(curve.name for curve, point in best if point.budget == 1.0)
        lines += [f"{backbone}, {len(here)} tasks ({', '.join(curve.name for curve in here)}):", ""]
        lines.append(
            f"- each at its largest saving under one point: {_averages([point for _, point in best])}."
            + (f" Dense counts for {dense}." if dense else "")
        )
        for budget in sorted(set.intersection(*({point.budget for point in curve.points} for curve in here))):
            shared = [next(point for point in curve.points if point.budget == budget) for curve in here]
            if statistics.mean(point.mean for point in shared) < LIMIT:
                lines.append(f"- all at one budget, {budget:.1%} of the FLOPs: {_averages(shared)}.")
                break
        lines.append("")
    return "\n".join(lines)


def _dense(curve: Curve) -> Point:
    return Point(1.0, (0.0,), 1.0, curve.points[0].flops_vs_padded / curve.points[0].flops_vs_unpadded)


def _averages(points: list[Point]) -> str:
    padded = statistics.mean(point.flops_vs_padded for point in points)
    padding = statistics.mean(point.flops_vs_padded / point.flops_vs_unpadded for point in points)
    unpadded = statistics.mean(point.flops_vs_unpadded for point in points)
    return (
        f"{padded:.2f}x fewer FLOPs than padded dense, of which padding alone is {padding:.2f}x and the student {unpadded:.2f}x; "
        f"{statistics.mean(point.mean for point in points):.2f} points lost"
    )


def commands(rows: list[Row]) -> list[str]:
    """The commands behind the records: of several seeds the first one's."""
    first = [curve.first for curve in Curve.of(rows)]
    return list(dict.fromkeys(command for row in first for command in (row.dense_command, row.command, row.row_command)))
