"""What the records of tools/row.py say: points lost against FLOPs saved, of all seeds of a task and backbone together.

Points are measured ones: nothing is interpolated. Of several seeds the means count, with sample standard deviations between brackets.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import Any

SAVINGS = (2.0, 2.5, 3.5)  # times fewer FLOPs than the unpadded dense model, of which tables have columns
LIMIT = 1.0  # points that may be lost
_NEAR = 1.25  # a point stands for a saving that is so many times more or less at most; the first one also for smaller savings
# What tasks are called, and what they ask.
TASKS = {
    "glue/cola": ("CoLA", "is the sentence grammatical?"),
    "glue/mnli": ("MNLI", "does the first text imply the second, or contradict it?"),
    "glue/mrpc": ("MRPC", "do both sentences say the same?"),
    "glue/qnli": ("QNLI", "does the sentence answer the question?"),
    "glue/qqp": ("QQP", "do both questions ask the same?"),
    "glue/rte": ("RTE", "does the first text imply the second?"),
    "glue/sst2": ("SST-2", "does the sentence of a review praise the film?"),
    "glue/stsb": ("STS-B", "how similar are both sentences?"),
    "glue/wnli": ("WNLI", "whom does the pronoun mean?"),
    "imdb_reviews": ("IMDB", "does the review praise the film?"),
    "questions": ("reader", "where does the context answer the question?"),
    "tags": ("tagger", "which words name people and places?"),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """What is lost at one budget, in points of the metric by seed; savings are means over seeds."""

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
    """The records of one task, backbone and label that differ by their seeds, and the budgets that all of them have."""

    records: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> list["Curve"]:
        """The curves of records that have one, in the order of tasks, backbones and labels.

        Raises:
          ValueError: seeds of one curve have no budget in common.
        """
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for record in records:
            if "curve" in record:
                groups.setdefault(tuple(record[name] for name in ("task", "backbone", "kind", "label")), []).append(record)
        curves = [cls(tuple(sorted(groups[key], key=lambda record: record["seed"]))) for key in sorted(groups)]
        for curve in curves:
            if not curve.points:
                seeds = " ".join(str(record["seed"]) for record in curve.records)
                raise ValueError(f"{curve.name}, {curve.first['backbone']}: seeds {seeds} have no budget in common; give one a --label")
        return curves

    @property
    def first(self) -> dict[str, Any]:
        return self.records[0]

    @property
    def name(self) -> str:
        """Of the task, and of a variant."""
        task = task_name(self.first)
        return f"{task}, {self.first['label']}" if self.first["label"] else task

    @property
    def skims(self) -> bool:
        return self.first["kind"] == "skimming"

    @property
    def is_main(self) -> bool:
        """Whether this is the task's own, and neither a variant nor a static student."""
        return self.skims and not self.first["label"]

    @property
    def points(self) -> list[Point]:
        """From the largest budget to the smallest."""
        shared = set.intersection(*({point["budget"] for point in record["curve"]} for record in self.records))
        points = []
        for budget in shared:
            measured = [next(point for point in record["curve"] if point["budget"] == budget) for record in self.records]
            lost = tuple(100 * (record["dense_value"] - point["value"]) for record, point in zip(self.records, measured, strict=True))
            savings = [statistics.mean(point[name] for point in measured) for name in ("flops_vs_unpadded", "flops_vs_padded")]
            points.append(Point(budget, lost, *savings))
        return sorted(points, key=lambda point: point.flops_vs_unpadded)

    def nearest(self, times: float) -> Point:
        """The point whose saving is nearest to so many times fewer FLOPs."""
        return min(self.points, key=lambda point: abs(math.log(point.flops_vs_unpadded / times)))

    def at(self, times: float) -> Point | None:
        """The same where it is near, or where even that which saves least saves more."""
        point = self.nearest(times)
        more = point.flops_vs_unpadded / times
        return point if 1 / _NEAR <= more <= _NEAR or (more > 1 and point == self.points[0]) else None

    @property
    def largest_saving(self) -> Point | None:
        """Of the points that lose less than LIMIT on average, the one that saves most."""
        return max((point for point in self.points if point.mean < LIMIT), key=lambda point: point.flops_vs_unpadded, default=None)

    def timed(self, precision: str, point: Point, what: str) -> list[float]:
        """'times_dense' or 'texts_per_second' of a point in ONNX Runtime, by record that was timed; or of 'dense' its texts a second."""
        clocks = [record["clock"].get(f"onnxruntime {precision}") for record in self.records if "clock" in record]
        if what == "dense":
            return [clock["dense"]["texts_per_second"] for clock in clocks if clock]
        return [timed[what] for clock in clocks if clock for timed in clock["curve"] if timed["budget"] == point.budget]

    @property
    def changed_by_int8(self) -> float:
        """Points by which int8 moves the metric at any budget at most; nan where it was not timed."""
        changes = [
            100 * abs(one["value"] - other["value"])
            for record in self.records
            if {"onnxruntime int8", "onnxruntime float32"} <= set(record.get("clock", ()))
            for one, other in zip(*(record["clock"][f"onnxruntime {name}"]["curve"] for name in ("int8", "float32")), strict=True)
        ]
        return max(changes, default=math.nan)


def spread(values: Iterable[float]) -> str:
    """Mean, and of several the sample standard deviation between brackets."""
    values = list(values)
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.1f})"


def times(values: list[float]) -> str:
    """The mean as so many times, or nothing where there is none."""
    return f"{statistics.mean(values):.2f}x" if values else ""


def task_name(record: dict[str, Any]) -> str:
    return TASKS.get(record["task"], (record["task"],))[0]


def metric(record: dict[str, Any]) -> str:
    return f"{record['metric'].replace('_', ' ')}, {record['split']}"


def static_students(curve: Curve, curves: Iterable[Curve]) -> list[Curve]:
    """Those of the same task and backbone."""
    task, backbone = curve.first["task"], curve.first["backbone"]
    return [other for other in curves if not other.skims and (other.first["task"], other.first["backbone"]) == (task, backbone)]


def table(records: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of the table of docs/results.md, its head first: a line a task and backbone, and one for each of its variants."""
    curves = Curve.of(records)
    saved = [f"lost at {times_fewer:g}x" for times_fewer in SAVINGS]
    rows = [
        [
            "task",
            "backbone",
            "metric",
            "dense",
            *saved,
            "under one point",
            "vs padded",
            "static student; skimming nearby",
            "clock, float32",
            "int8",
            "seeds",
        ]
    ]
    for curve in curves:
        if not curve.skims:
            continue
        cheapest, near = curve.largest_saving, curve.nearest(SAVINGS[-1])
        rows.append([
            curve.name, curve.first["backbone"], metric(curve.first), spread(100 * record["dense_value"] for record in curve.records),
            *(str(curve.at(saving) or "") for saving in SAVINGS),
            "none" if cheapest is None else f"{cheapest.flops_vs_unpadded:.2f}x",
            f"{near.flops_vs_padded:.1f}x",
            _static(curve, curves),
            times(curve.timed("float32", near, "times_dense")), times(curve.timed("int8", near, "times_dense")),
            " ".join(str(record["seed"]) for record in curve.records),
        ])  # fmt: skip
    return rows


def told(records: list[dict[str, Any]]) -> str:
    """How the rows of the table were made, in a few sentences."""
    here = [curve for curve in Curve.of(records) if curve.skims]
    if not here:
        return "No row has been made yet."
    timed: dict[str, dict[tuple[str, str], None]] = {}  # by machine: curves and their backbones
    for curve in here:
        for record in curve.records:
            if "clock" in record:
                timed.setdefault(f"{record['cores']} cores, {record['cpu']}", {})[curve.name, curve.first["backbone"]] = None
    machines = [
        machine if len(timed) == 1 else f"{machine} ({', '.join(_whose(rows, timed.values()))})" for machine, rows in sorted(timed.items())
    ]
    changes = [curve.changed_by_int8 for curve in here if not math.isnan(curve.changed_by_int8)]
    int8 = f" int8 moves the metric by {max(changes):.1f} points at most." if changes else ""
    clock = f" The clock is of batches of {_batch(here)} on {'; '.join(machines)}.{int8}" if machines else ""
    examples = ", ".join(dict.fromkeys(f"{task_name(curve.first)} {curve.first['examples']:,}" for curve in here))
    return f"Examples: {examples}.{clock}"


def _whose(rows: Iterable[tuple[str, str]], of_machines: Iterable[Iterable[tuple[str, str]]]) -> list[str]:
    """Rows, tasks and their backbones, in the shortest words that mean no row of another machine: backbones, or else tasks."""
    others = [row for theirs in of_machines if theirs is not rows for row in theirs]
    if {backbone for _, backbone in rows}.isdisjoint(backbone for _, backbone in others):
        return list(dict.fromkeys(backbone for _, backbone in rows))
    elsewhere = {task for task, _ in others}
    return list(dict.fromkeys(f"{task} of {backbone}" if task in elsewhere else task for task, backbone in rows))


def _batch(here: list[Curve]) -> str:
    return " or ".join(sorted({str(record["batch_size"]) for curve in here for record in curve.records if "clock" in record}))


def _static(curve: Curve, curves: list[Curve]) -> str:
    nearest = _nearest_static(curve, curves)
    return f"{nearest[0]}; {nearest[1]}" if nearest else ""


def _nearest_static(curve: Curve, curves: list[Curve]) -> tuple[Point, Point] | None:
    """Of static students the one that is nearest to the largest of `SAVINGS`, and the point of the curve that is nearest to it."""
    points = [student.points[0] for student in static_students(curve, curves)]
    if not points:
        return None
    student = min(points, key=lambda point: abs(math.log(point.flops_vs_unpadded / SAVINGS[-1])))
    return student, curve.nearest(student.flops_vs_unpadded)


def in_words(records: list[dict[str, Any]]) -> str:
    """A line a task and backbone: what it asks, how far it can be skimmed, and what more costs."""
    curves = Curve.of(records)
    lines = []
    for curve in curves:
        if not curve.is_main:
            continue
        cheapest, last = curve.largest_saving, curve.points[-1]
        asks = TASKS.get(curve.first["task"], ("", curve.first["task"]))[1]
        within = (
            "no budget stays under one point"
            if cheapest is None
            else f"under one point at {cheapest.flops_vs_unpadded:.1f} times fewer FLOPs"
        )
        more = "" if cheapest == last else f"; {_points(last.mean)} are lost at {last.flops_vs_unpadded:.1f} times"
        line = f"- **{curve.name}** ({asks}), {curve.first['backbone']}: {within}{more}."
        nearest = _nearest_static(curve, curves)
        if nearest:
            student, point = nearest
            line += (
                f" A static student {_loses(student.mean)} at {student.flops_vs_unpadded:.1f} times,"
                f" skimming {_loses(point.mean)} at {point.flops_vs_unpadded:.1f}."
            )
        lines.append(line)
    return "\n".join([*lines, ""])


def _loses(points: float) -> str:
    return f"{'gains' if points < 0 else 'loses'} {_points(abs(points))}"


def _points(value: float) -> str:
    return f"{value:.1f} points"


def average(records: list[dict[str, Any]]) -> str:
    """The convention of papers, a paragraph a backbone: FLOPs against the padded dense model, averaged over tasks of GLUE, at less than one
    point lost on average, and which part of it padding is."""
    curves = [curve for curve in Curve.of(records) if curve.is_main and curve.first["task"].startswith("glue/")]
    lines = []
    for backbone in sorted({curve.first["backbone"] for curve in curves}):
        here = [curve for curve in curves if curve.first["backbone"] == backbone]
        if len(here) == 1:
            continue  # of one task there is no average
        tasks = ", ".join(curve.name for curve in here)
        lines.append(f"{backbone}, {len(here)} tasks ({tasks}):\n")
        best = [(curve, curve.largest_saving or _dense(curve)) for curve in here]
        lost_more = [curve.name for curve, point in best if point.budget == 1.0]
        dense = f" Dense counts for {', '.join(lost_more)}." if lost_more else ""
        lines.append(f"- each at its largest saving under one point: {_averages([point for _, point in best])}.{dense}")
        for budget in sorted(set.intersection(*({point.budget for point in curve.points} for curve in here))):
            shared = [next(point for point in curve.points if point.budget == budget) for curve in here]
            if statistics.mean(point.mean for point in shared) < LIMIT:
                lines.append(f"- all at one budget, {budget:.1%} of the FLOPs: {_averages(shared)}.")
                break
        lines.append("")
    return "\n".join(lines)


def _dense(curve: Curve) -> Point:
    padding = curve.points[0].flops_vs_padded / curve.points[0].flops_vs_unpadded
    return Point(1.0, (0.0,), 1.0, padding)


def _averages(points: list[Point]) -> str:
    padded, padding, unpadded, lost = (
        statistics.mean(values)
        for values in (
            [point.flops_vs_padded for point in points],
            [point.flops_vs_padded / point.flops_vs_unpadded for point in points],
            [point.flops_vs_unpadded for point in points],
            [point.mean for point in points],
        )
    )
    return (
        f"{padded:.2f}x fewer FLOPs than padded dense, of which padding alone is {padding:.2f}x and the student {unpadded:.2f}x; "
        f"{lost:.2f} points lost"
    )


def commands(records: list[dict[str, Any]]) -> list[str]:
    """How the records were made: of several seeds the first one's, as the others differ by --config.train.seed."""
    of_first = [curve.first for curve in Curve.of(records)]
    return list(dict.fromkeys(record[name] for record in of_first for name in ("dense_command", "command", "row_command")))


def superseded(records: dict[Any, dict[str, Any]]) -> list[Any]:
    """The keys of records without a curve, of before, whose task and backbone have a row with one."""
    have = {(curve.first["task"], curve.first["backbone"]) for curve in Curve.of(records.values()) if curve.is_main}
    return [key for key, record in records.items() if "curve" not in record and (record["task"], record["backbone"]) in have]
