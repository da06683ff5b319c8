"""One checkpoint, many budgets: what thresholds cost and give, and which to take."""

import csv
import dataclasses
import io
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from transkimmer_jax import files
from transkimmer_jax.evaluation.summary import SplitEvaluation


@dataclasses.dataclass(frozen=True)
class Point:
    """A model at one threshold."""

    threshold: float
    evaluation: SplitEvaluation

    def value(self, metric: str) -> float:
        return self.evaluation.metrics[metric]

    def describe(self) -> dict[str, Any]:
        """As one flat record."""
        each = self.evaluation
        return {
            "threshold": self.threshold if math.isfinite(self.threshold) else str(self.threshold),  # JSON has no infinities
            **each.metrics,
            "flops_vs_unpadded": each.flops_vs_unpadded,
            "flops_vs_padded": each.flops_vs_padded,
            "kept_tokens": each.kept_tokens,
            "kept_per_layer": each.kept_per_layer,
        }


def sweep(evaluate: Callable[[float], SplitEvaluation], start: float, count: int) -> list[Point]:
    """About `count` thresholds, spread evenly over the share of FLOPs that they spend, with their evaluations; the least skimming first.

    The first three are -inf (nothing is skimmed), `start` and inf (position 0 alone is kept); each further one halves the widest
    gap between two neighbours' shares.
    """
    points = [Point(threshold, evaluate(threshold)) for threshold in (-math.inf, start, math.inf)]
    while len(points) < count:
        gaps = [
            (before.evaluation.flops_share - after.evaluation.flops_share, index)
            for index, (before, after) in enumerate(itertools.pairwise(points))
            if _between(before.threshold, after.threshold, start) is not None
        ]
        if not gaps or max(gaps)[0] < 1e-3:
            break
        _, index = max(gaps)
        threshold = _between(points[index].threshold, points[index + 1].threshold, start)
        assert threshold is not None
        points.insert(index + 1, Point(threshold, evaluate(threshold)))
    return points


def _between(low: float, high: float, start: float) -> float | None:
    """A threshold between two; further and further out where one is infinite, and None where nothing new lies there."""
    if math.isinf(low):
        return high - max(1.0, start - high) if start - high < 64 else None
    if math.isinf(high):
        return low + max(1.0, low - start) if low - start < 64 else None
    return (low + high) / 2 if high - low > 1e-4 else None


def pareto(points: Sequence[Point], metric: str) -> list[Point]:
    """Those of which no other is as good and cheaper, or better and as cheap; the dearest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.evaluation.flops_share, -each.value(metric))):
        if not found or point.value(metric) > found[-1].value(metric):
            found.append(point)
    return found[::-1]


def best_within(points: Sequence[Point], metric: str, share: float) -> Point | None:
    """The best that spends at most `share` of the unpadded dense FLOPs; None where none does."""
    affordable = [point for point in points if point.evaluation.flops_share <= share]
    return max(affordable, key=lambda each: (each.value(metric), -each.evaluation.flops_share), default=None)


def cheapest_above(points: Sequence[Point], metric: str, least: float) -> Point | None:
    """The cheapest whose metric is at least `least`; None where none's is."""
    # A `least` that is a difference is rounded: 0.8 - 0.1 is more than 0.7.
    good = [point for point in points if point.value(metric) >= least - 1e-9]
    return min(good, key=lambda each: each.evaluation.flops_share, default=None)


def write_csv(path: str | os.PathLike, points: Sequence[Point]) -> None:
    """One line a point; the layers' shares in columns of their own."""
    rows = []
    for point in points:
        row = point.describe()
        shares = row.pop("kept_per_layer")
        rows.append(row | {f"kept_layer_{layer}": share for layer, share in enumerate(shares)})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def plot(path: str | os.PathLike, points: Sequence[Point], metric: str, dense: float, chosen: Point | None, title: str) -> None:
    """The metric against how many times fewer FLOPs than unpadded dense, with the dense model and the choice, as PNG or SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    front = pareto(points, metric)
    axes.plot([each.evaluation.flops_vs_unpadded for each in points], [each.value(metric) for each in points], ".", color="0.6")
    axes.plot([each.evaluation.flops_vs_unpadded for each in front], [each.value(metric) for each in front], "o-", label="best at its cost")
    axes.plot([1.0], [dense], "k*", markersize=11, label="dense")
    axes.axhline(dense, color="0.7", linestyle=":", linewidth=1)
    if chosen is not None:
        axes.plot([chosen.evaluation.flops_vs_unpadded], [chosen.value(metric)], "rD", label=f"threshold {chosen.threshold:.3g}")
    axes.set(xlabel="times fewer FLOPs than the unpadded dense model", ylabel=metric, title=title)
    axes.legend()
    with files.explained(path):
        figure.savefig(path, dpi=150)
    pyplot.close(figure)
