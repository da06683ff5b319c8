"""The curve of budgets: metric and FLOPs of one checkpoint at many thresholds."""

import csv
import dataclasses
import io
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.checkpoints import files
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
        return {
            "threshold": self.threshold if math.isfinite(self.threshold) else str(self.threshold),  # JSON has no infinities
            **self.evaluation.metrics,
            "flops_vs_unpadded": self.evaluation.flops_vs_unpadded,
            "flops_vs_padded": self.evaluation.flops_vs_padded,
            "kept_tokens": self.evaluation.kept_tokens,
            "kept_per_layer": self.evaluation.kept_per_layer,
        }


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What points are compared with. name: for people. flops_vs_unpadded: times fewer than the unpadded dense model, 1 of that one."""

    name: str
    value: float
    flops_vs_unpadded: float


# Of the distance between two points of an even spread: as near as this a point must come to its place.
_NEAR = 0.25
_TRIES = 8  # evaluations for one point at most


def sweep(evaluate: Callable[[float], SplitEvaluation], start: float, count: int) -> list[Point]:
    """`count` thresholds whose FLOPs lie evenly between keeping everything and the least that is possible, the least skimming first.

    The ends are -inf (nothing is skimmed) and inf (position 0 alone is kept). For every share of FLOPs between them a threshold is
    sought, by interpolation between those seen, until it spends that share within a quarter of the distance to the next; about two
    evaluations a point. `start` takes the place that is nearest to what it spends. Between the ends no two points spend the same: where
    no threshold comes near a share, as with few texts, there are fewer points.

    Args:
      evaluate: the model at a threshold.
      start: a threshold near those that are of use, the model's own.
      count: points, the ends among them; at least 3.
    """
    seen: dict[float, SplitEvaluation] = {}

    def share_at(threshold: float) -> float:
        if threshold not in seen:
            seen[threshold] = evaluate(threshold)
        return seen[threshold].flops_share

    most, least = share_at(-math.inf), share_at(math.inf)
    near = _NEAR * abs(most - least) / (count - 1)
    # Between the ends, so that there is something to serve even of three points.
    targets = np.linspace(most, least, count)[1:-1].tolist()
    own = min(range(len(targets)), key=lambda number: abs(targets[number] - share_at(start)))
    if min(abs(share_at(start) - end) for end in (most, least)) > near:
        targets[own] = share_at(start)
    chosen = [-math.inf]
    for target in targets:
        threshold = _threshold_of(share_at, seen, target, start, near)
        if all(abs(share_at(threshold) - seen[other].flops_share) > near for other in (*chosen, math.inf)):
            chosen.append(threshold)
    return [Point(threshold, seen[threshold]) for threshold in [*sorted(chosen), math.inf]]


def _threshold_of(
    share_at: Callable[[float], float], seen: dict[float, SplitEvaluation], target: float, start: float, near: float
) -> float:
    """The threshold, of those in `seen` and some more, that spends nearest to `target`; `share_at` falls with it, but for noise."""
    for attempt in range(_TRIES):
        if any(abs(evaluation.flops_share - target) <= near for evaluation in seen.values()):
            break
        low = max((threshold for threshold, evaluation in seen.items() if evaluation.flops_share >= target), default=-math.inf)
        high = min((threshold for threshold in seen if threshold > low), default=math.inf)
        threshold = _between(low, high, start)
        if threshold is None:
            break
        if math.isfinite(low) and math.isfinite(high) and attempt % 2 == 0:
            # Where a line through both would spend it; not too near to one of them, and in every other attempt in the middle.
            part = (share_at(low) - target) / (share_at(low) - share_at(high))
            threshold = low + min(max(part, 0.1), 0.9) * (high - low)
        share_at(threshold)
    return min(seen, key=lambda threshold: (abs(seen[threshold].flops_share - target), threshold))


def _between(low: float, high: float, start: float) -> float | None:
    """A threshold between two; further and further out where one is infinite, and None where nothing new lies there."""
    if math.isinf(low) and math.isinf(high):
        return start
    if math.isinf(low):
        return high - max(1.0, start - high) if start - high < 64 else None
    if math.isinf(high):
        return low + max(1.0, low - start) if low - start < 64 else None
    return (low + high) / 2 if high - low > 1e-4 else None


def pareto(points: Sequence[Point], metric: str) -> list[Point]:
    """Those of which no other is as good and cheaper, or better and as cheap; the dearest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.evaluation.flops_share, -point.value(metric))):
        if not front or point.value(metric) > front[-1].value(metric):
            front.append(point)
    return front[::-1]


def best_within(points: Sequence[Point], metric: str, share: float) -> Point | None:
    """The best that spends at most `share` of the unpadded dense FLOPs; None where none does."""
    return best([point for point in points if point.evaluation.flops_share <= share], metric)


def cheapest_above(points: Sequence[Point], metric: str, least: float) -> Point | None:
    """The cheapest whose metric is at least `least`; None where none's is."""
    # A `least` that is a difference is rounded: 0.8 - 0.1 is more than 0.7.
    good = [point for point in points if point.value(metric) >= least - 1e-9]
    return min(good, key=lambda point: point.evaluation.flops_share, default=None)


def best(points: Sequence[Point], metric: str) -> Point | None:
    """The best, and the cheapest of several; None of no points."""
    return max(points, key=lambda point: (point.value(metric), -point.evaluation.flops_share), default=None)


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


def plot(path: str | os.PathLike, points: Sequence[Point], metric: str, baseline: Baseline, chosen: Point | None, title: str) -> None:
    """The metric against how many times fewer FLOPs than unpadded dense, with the baseline and the choice, as PNG or SVG."""
    with extras.needed("train", "a plot"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    front = pareto(points, metric)
    axes.plot([point.evaluation.flops_vs_unpadded for point in points], [point.value(metric) for point in points], ".", color="0.6")
    axes.plot(
        [point.evaluation.flops_vs_unpadded for point in front], [point.value(metric) for point in front], "o-", label="best at its cost"
    )
    axes.plot([baseline.flops_vs_unpadded], [baseline.value], "k*", markersize=11, label=baseline.name)
    axes.axhline(baseline.value, color="0.7", linestyle=":", linewidth=1)
    if chosen is not None:
        axes.plot([chosen.evaluation.flops_vs_unpadded], [chosen.value(metric)], "rD", label=f"threshold {chosen.threshold:.3g}")
    axes.set(xlabel="times fewer FLOPs than the unpadded dense model", ylabel=metric, title=title)
    axes.legend()
    with files.explained(path):
        figure.savefig(path, dpi=150)
    pyplot.close(figure)
