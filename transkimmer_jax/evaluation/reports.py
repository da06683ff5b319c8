"""Errors of a model: by class, by pair of classes, by residual, and text by text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.evaluation.scores import scores_by_label
from transkimmer_jax.inference.answers import labels_of
from transkimmer_jax.inference.predictions import Predictions, decisions, probabilities

with extras.needed("train", "scoring"):
    import sklearn.metrics

_QUANTILES = (5, 25, 50, 75, 95)
_WIDEST_MATRIX = 20  # classes; a terminal shows no more
_LARGEST_MATRIX = 200  # classes; of more the counts would be nearly all of a result, and nearly all 0


def report(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores by class and the confusion matrix, or the residuals.

    Args:
      task: what is scored.
      logits: [N, num_labels]; the predicted value itself for regression.
      labels: [N], class indices or values; of a multi-label task [N, num_labels] of 0 and 1.

    Returns:
      Of a classifier `classes`, the precision, recall, f1 and support (number of texts) of each by name, 0 where undefined; and,
      where a text has one of at most 200 labels, `confusion_matrix`, counts [num_labels, num_labels], a row a label and a column a
      prediction. Of a regression `residuals`, predicted less right: mean, standard deviation, quantiles, mean absolute error, root of the
      mean square, and the one farthest from 0.
    """
    if task.label_names is None:
        return {"residuals": _residuals(logits[:, 0], labels)}
    predictions, indices = decisions(logits, task.multi_label), np.arange(task.num_labels)
    if task.multi_label:
        columns = {name: values.tolist() for name, values in scores_by_label(labels, predictions).items()}
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        return {"classes": dict(zip(task.label_names, rows, strict=True))}
    scores = sklearn.metrics.precision_recall_fscore_support(labels, predictions, labels=indices, zero_division=0.0)
    scores = (*scores[:3], scores[3].astype(int))  # scikit-learn counts in floats where no prediction is right
    names = ("precision", "recall", "f1", "support")
    classes = {
        label: dict(zip(names, values, strict=True))
        for label, *values in zip(task.label_names, *(column.tolist() for column in scores), strict=True)
    }
    if task.num_labels > _LARGEST_MATRIX:
        return {"classes": classes}
    return {"classes": classes, "confusion_matrix": sklearn.metrics.confusion_matrix(labels, predictions, labels=indices).tolist()}


def _residuals(values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    residuals = np.asarray(values, np.float64) - np.asarray(labels, np.float64)
    return {
        "mean": float(residuals.mean()),
        "standard_deviation": float(residuals.std()),
        "quantiles": {f"{percent}%": float(np.percentile(residuals, percent)) for percent in _QUANTILES},
        "mean_absolute_error": float(np.abs(residuals).mean()),
        "root_mean_square": float(np.sqrt(np.square(residuals).mean())),
        "farthest": float(residuals[np.argmax(np.abs(residuals))]),
    }


def text(values: dict[str, Any]) -> str:
    """A `report` as lines for a terminal."""
    if "residuals" in values:
        residuals = dict(values["residuals"])
        quantiles = residuals.pop("quantiles")
        numbers = residuals | {f"quantile {name}": value for name, value in quantiles.items()}
        return "\n".join(["residuals (predicted less right)", *(f"  {name.replace('_', ' '):20} {v:10.4f}" for name, v in numbers.items())])
    names = [_shortened(name) for name in values["classes"]]
    width = max(map(len, (*names, "class")))
    lines = [f"{'class':{width}} {'precision':>10} {'recall':>10} {'f1':>10} {'support':>10}"]
    for name, scores in zip(names, values["classes"].values(), strict=True):
        lines.append(f"{name:{width}} {scores['precision']:10.4f} {scores['recall']:10.4f} {scores['f1']:10.4f} {scores['support']:10d}")
    matrix = values.get("confusion_matrix")
    if matrix is None or len(names) > _WIDEST_MATRIX:
        return "\n".join(lines)
    widths = [max(len(name), *(len(str(row[column])) for row in matrix)) for column, name in enumerate(names)]

    def line(first: str, cells: list[Any]) -> str:
        return f"{first:{width}}  " + "  ".join(f"{cell:>{wide}}" for cell, wide in zip(cells, widths, strict=True))

    lines += ["", "confusion matrix: a row a label, a column a prediction", line("", names)]
    return "\n".join([*lines, *(line(name, row) for name, row in zip(names, matrix, strict=True))])


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:21] + "..."


def answers(task: Task, predictions: Predictions, labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """Text by text: the right label, the predicted one, each class's probability, and the share of the tokens that layers computed.

    Of a multi-label task right and predicted labels are lists. For regression both labels are values, and there are no probabilities.
    """
    shares = predictions.shares_kept()
    if task.label_names is None:
        for value, label, share in zip(predictions.logits[:, 0], labels, shares, strict=True):
            yield {"label": float(label), "predicted": float(value), "kept": float(share)}
        return
    names, decided = task.label_names, decisions(predictions.logits, task.multi_label)
    rows = probabilities(predictions.logits.astype(np.float64), task.multi_label)

    def named(label: Any) -> str | list[str]:
        return labels_of(label, names) if task.multi_label else names[label]

    for row, label, predicted, share in zip(rows, labels, decided, shares, strict=True):
        yield {
            "label": named(label),
            "predicted": named(predicted),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
            "kept": float(share),
        }
