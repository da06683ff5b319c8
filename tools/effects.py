"""What single changes to the recipe brought, from pairs of records that tools/record.py has made of a run with and one without.

A comparison is `{"what": ..., "pairs": [[WITH, WITHOUT], ...]}`, of names of files: several pairs are of several seeds or settings.
"""

import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any

_BEYOND = 2.0  # standard errors
_HEADINGS = {1: "What helped", 0: "What chance could have done", -1: "What did harm"}
# The measures, the most sensitive first: the share of unseen texts that get the dense model's label, and the task's metric.
_AGREEMENT, _VALUE = "agreement", "value"


@dataclasses.dataclass(frozen=True)
class Effect:
    """A change's gain in points by measure, with its standard error (nan where nothing tells it), the runs and the task."""

    what: str
    task: str
    runs: int
    gains: dict[str, tuple[float, float]]

    @property
    def significance(self) -> float:
        """In standard errors, of the measure that tells most; 0 where nothing tells."""
        told = [gain / error for gain, error in self.gains.values() if error > 0]
        return max(told, key=abs, default=0.0)

    @property
    def verdict(self) -> int:
        """1 where it helped, -1 where it did harm, 0 where chance could have done it."""
        return 0 if abs(self.significance) < _BEYOND else int(math.copysign(1, self.significance))


def effect(comparison: dict[str, Any], folder: pathlib.Path) -> Effect:
    """The effect of a comparison whose records lie in `folder`."""
    pairs = [tuple(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in pair) for pair in comparison["pairs"]]
    gains = {}
    for measure in (_AGREEMENT, _VALUE):
        measured = [pair for pair in pairs if all(measure in record for record in pair)]
        if measured:
            gains[measure] = _gain([(one[measure], other[measure]) for one, other in measured], _texts(measured[0], measure))
    return Effect(comparison["what"], pairs[0][0]["task"], len(pairs), gains)


def _texts(pair: tuple[dict[str, Any], ...], measure: str) -> int | None:
    """Texts that a share is of; None of a metric that is no share of texts."""
    if measure == _AGREEMENT:
        return pair[0]["unseen_texts"]
    return next(iter(pair[0]["examples"].values())) if pair[0]["metric"] == "accuracy" else None


def _gain(values: list[tuple[float, float]], texts: int | None) -> tuple[float, float]:
    """The mean gain in points and its standard error: over the pairs, and at least as the texts that were drawn leave open (an upper bound
    of that, as both models err on much the same ones)."""
    differences = [100 * (one - other) for one, other in values]
    by_texts = math.nan
    if texts is not None:  # all pairs are scored on the same
        by_texts = 100 * math.sqrt(sum(share * (1 - share) for share in values[0]) / texts)
    if len(values) == 1:
        return differences[0], by_texts
    by_pairs = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), max(by_pairs, 0.0 if math.isnan(by_texts) else by_texts)


def text(comparisons: list[dict[str, Any]], folder: pathlib.Path) -> str:
    """Tables of what helped, of what may be chance and of what did harm, the largest effects first."""
    effects = [effect(comparison, folder) for comparison in comparisons]
    lines: list[str] = []
    for verdict, heading in _HEADINGS.items():
        ranked = sorted((judged for judged in effects if judged.verdict == verdict), key=lambda judged: -abs(judged.significance))
        if not ranked:
            continue
        lines += [f"## {heading}", "", "| change | task | points | unseen texts | runs |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {judged.what} | {judged.task.rpartition('/')[2]} | {_cell(judged, _VALUE)} | {_cell(judged, _AGREEMENT)} | {judged.runs} |"
            for judged in ranked
        ]
        lines.append("")
    return "\n".join(lines)


def _cell(effect: Effect, measure: str) -> str:
    if measure not in effect.gains:
        return ""
    gain, error = effect.gains[measure]
    return f"{gain:+.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}")
