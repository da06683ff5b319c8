"""Draw the charts of the documents from the committed records.

    python -m tools.charts

writes docs/results.svg, points lost against FLOPs saved, from results/rows/ where there are curves, docs/performance.svg, texts a
second by batch size, and docs/serving.svg, waiting times by the rate of requests. All have no background of their own, and colours that
can be read on a light page and on a dark one.
"""

import hashlib
import itertools
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import lines

from tools import curves, records
from tools.records import ROOT, Row

# Every pair is apart to the colour-blind, and each has a contrast of 3 with white and with a dark page.
COLOURS = ("#E67300", "#00806A", "#AA00FF", "#BF4026", "#21A663", "#BF7CB4", "#A147B2", "#CC66FF")
_MARKERS = ("o", "s", "^", "D", "v", "P", "*", "h")  # none is the cross of static students
INK = "#767676"  # of text and axes
_ORDER = tuple(curves.TASKS)
# Of contenders: a colour for what computes and in which precision, a line for the way.
_COMPUTES = ("onnxruntime:int8", "onnxruntime:float32", "openvino:bfloat16", "openvino:float32", "openvino:int8", "torch:float32")
_LINES = {"compacted": "-", "dense": ":"}
_CHARTED = "avx512"  # the folder of the processors that docs/performance.svg is of
_LOOK = {
    "svg.fonttype": "none", "svg.hashsalt": "transkimmer_jax",  # the same records give the same file
    "font.family": "sans-serif", "font.size": 11, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip


def performance(workloads: list[list[dict]], path: pathlib.Path) -> None:
    """The chart of docs/performance.md: a panel a workload, of the records of its batch sizes."""
    with plt.rc_context(_LOOK):
        figure, panels = plt.subplots(1, len(workloads), figsize=(4 * len(workloads) + 3, 4.5), squeeze=False, layout="constrained")
        labels = {}
        for axes, workload in zip(panels[0], workloads, strict=True):
            settings = sorted(workload, key=lambda record: record["batch_size"])
            sizes = [record["batch_size"] for record in settings]
            for (way, line), (computed_by, colour) in itertools.product(_LINES.items(), zip(_COMPUTES, COLOURS, strict=False)):
                name = f"{way}:{computed_by}"
                if all(name in record["contenders"] for record in settings):
                    speeds = [record["contenders"][name]["examples_per_second"] for record in settings]
                    face = colour if way == "compacted" else "none"
                    (labels[name],) = axes.plot(sizes, speeds, line, color=colour, marker="o", markersize=4, markerfacecolor=face)
            axes.set(title=f"{settings[0]['workload']}, {settings[0]['length']} tokens at most", xlabel="texts a batch", xscale="log")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks([], minor=True)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.25, color=INK)
        panels[0][0].set_ylabel("texts a second")
        figure.legend(labels.values(), labels.keys(), loc="outside right center", frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def serving(record: dict, path: pathlib.Path) -> None:
    """The chart of docs/serving.md: how long clients wait, by how many requests come in a second, of which each has a text."""
    with plt.rc_context(_LOOK):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for (name, loops), colour, marker in zip(record["rates"]["loops"].items(), COLOURS, _MARKERS, strict=False):
            rates = [loop["rate"] for loop in loops]
            for quantile, line in (("p95", "-"), ("p50", ":")):
                waits = [loop["milliseconds"][quantile] for loop in loops]
                axes.plot(rates, waits, line, color=colour, marker=marker, markersize=5, label=f"{name}, {quantile}")
        axes.set(xlabel="requests a second", ylabel="milliseconds until the answer", yscale="log", xlim=(0, None))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(alpha=0.25, color=INK)
        axes.legend(frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def digest(main: list[curves.Curve], static: list[curves.Curve]) -> str:
    """Of what the chart shows, so that a chart of other records is noticed."""
    points = [
        [curve.first.task, curve.first.backbone, point.budget, *(round(value, 6) for value in (*point.lost, point.flops_vs_unpadded))]
        for curve in [*main, *static]
        for point in curve.points
    ]
    return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def shown(rows: list[Row]) -> tuple[list[curves.Curve], list[curves.Curve]]:
    """The curves of tasks, and static students of the same tasks and backbones."""
    every = curves.Curve.of(rows)
    main = sorted((curve for curve in every if curve.is_main), key=lambda curve: _place(curve.first.task))
    return main, [student for curve in main for student in curves.static_students(curve, every)]


def _place(task: str) -> tuple[int, str]:
    return (_ORDER.index(task) if task in _ORDER else len(_ORDER)), task


def results(rows: list[Row], path: pathlib.Path) -> None:
    """The chart of docs/results.md: a panel a backbone, a line a task from the dense model on, with whiskers of one standard deviation over
    seeds; crosses are static students. Lost points rise downwards, so what lies higher is better."""
    main, static = shown(rows)
    backbones = sorted({curve.first.backbone for curve in main})
    tasks = list(dict.fromkeys(curve.first.task for curve in main))
    style = {
        task: {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]} for number, task in enumerate(tasks)
    }
    with plt.rc_context(_LOOK):
        width = 5.5 * len(backbones) + 1.5
        figure, panels = plt.subplots(1, len(backbones), figsize=(width, 4.5), squeeze=False, sharey=True, layout="constrained")
        labels = {}
        for axes, backbone in zip(panels[0], backbones, strict=True):
            for curve in main:
                if curve.first.backbone == backbone:
                    points = [curves.Point(1.0, (0.0,), 1.0, 1.0), *curve.points]
                    xs, ys, errors = zip(*((point.flops_vs_unpadded, point.mean, point.deviation) for point in points), strict=True)
                    look = style[curve.first.task]
                    labels[curve.name] = axes.errorbar(xs, ys, errors, **look, linewidth=1.8, elinewidth=0.8, capsize=2)
            for student in static:
                if student.first.backbone == backbone:
                    colour = style[student.first.task]["color"]
                    crosses = [(point.flops_vs_unpadded, point.mean) for point in student.points]
                    axes.scatter(*zip(*crosses, strict=True), color=colour, marker="x", s=40, zorder=3)
            axes.axhline(curves.LIMIT, color=INK, linewidth=1, linestyle="--")
            axes.set(title=backbone, xlabel="times fewer FLOPs than the unpadded dense model", xlim=(1, None))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
            axes.grid(alpha=0.25, color=INK)
        panels[0][0].set_ylabel("points lost, the lower the line the worse")
        panels[0][0].invert_yaxis()
        if static:
            labels["static students"] = lines.Line2D([], [], color=INK, marker="x", linestyle="")
        figure.legend(labels.values(), labels.keys(), loc="outside right center", frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Description": digest(main, static)})
        plt.close(figure)


def main(arguments: list[str]) -> None:
    records.parser(__doc__).parse_args(arguments)
    measured = [records.read([f"performance/{_CHARTED}/{name}.json"]) for name in ("imdb256", "imdb512", "qnli", "sst2")]
    # A line needs two batch sizes.
    performance([workload for workload in measured if len(workload) > 1], ROOT / "docs" / "performance.svg")
    serving(records.read(["serving/qnli.json"])[0], ROOT / "docs" / "serving.svg")
    results(records.read_rows(["rows/*.json"]), ROOT / "docs" / "results.svg")


if __name__ == "__main__":
    records.start(main)
