"""Gains of single changes to the recipe, from pairs of records below results/ablations/ of runs with and without the change.

A comparison is `{"what": ..., "pairs": [[WITH, WITHOUT], ...]}`, of names of files; several pairs are of several seeds or settings.
"""

import math
import statistics
from typing import Any

from tabulate import tabulate

from tools import records

_BEYOND = 2.0  # standard errors
_VERDICTS = {1: "helped", 0: "chance", -1: "harmed"}
_COLUMNS = {"value": "points", "agreement": "unseen texts"}  # the task's metric; the share of unseen texts with the dense model's label


def effects(comparisons: list[dict[str, Any]]) -> str:
    """A table of all comparisons, those that helped first, the surest of each verdict first."""
    judged = []
    for comparison in comparisons:
        pairs = [tuple(records.read([f"ablations/{name}.json" for name in pair])) for pair in comparison["pairs"]]
        gains = {measure: gain(measured, measure) for measure in _COLUMNS if (measured := _measured(pairs, measure))}
        sure = significance(gains)
        verdict = 0 if abs(sure) < _BEYOND else int(math.copysign(1, sure))
        cells = [_cell(*gains[measure]) if measure in gains else "" for measure in _COLUMNS]
        task = pairs[0][0]["task"].rpartition("/")[2]
        judged.append((-verdict, -abs(sure), [comparison["what"], task, *cells, str(len(pairs)), _VERDICTS[verdict]]))
    rows = [row for *_, row in sorted(judged, key=lambda entry: entry[:2])]
    return tabulate(rows, ["change", "task", *_COLUMNS.values(), "runs", "verdict"], tablefmt="github", disable_numparse=True) + "\n"


def _measured(pairs: list[tuple[dict[str, Any], ...]], measure: str) -> list[tuple[dict[str, Any], ...]]:
    """The pairs whose records both have a measure: older ones lack the unseen texts."""
    return [pair for pair in pairs if all(measure in record for record in pair)]


def gain(pairs: list[tuple[dict[str, Any], ...]], measure: str) -> tuple[float, float]:
    """The mean gain in points and its standard error, nan where nothing tells it: the error over pairs, and at least that of the drawn
    texts (an upper bound, as both models err on much the same ones)."""
    differences = [100 * (one[measure] - other[measure]) for one, other in pairs]
    first = pairs[0]
    texts = first[0].get("unseen_texts") if measure == "agreement" else None
    if measure == "value" and first[0]["metric"] == "accuracy":
        texts = next(iter(first[0]["examples"].values()))
    by_texts = math.nan if texts is None else 100 * math.sqrt(sum(one[measure] * (1 - one[measure]) for one in first) / texts)
    if len(differences) == 1:
        return differences[0], by_texts
    by_pairs = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), by_pairs if math.isnan(by_texts) else max(by_pairs, by_texts)


def significance(gains: dict[str, tuple[float, float]]) -> float:
    """In standard errors, of the measure that tells most; 0 where none tells."""
    return max((value / error for value, error in gains.values() if error > 0), key=abs, default=0.0)


def _cell(value: float, error: float) -> str:
    return f"{value:+.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}")
