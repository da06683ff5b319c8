"""The official metrics of the tasks."""

from typing import Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.data.prepared import QuestionLabels, TagLabels
from transkimmer_jax.data.tasks import Task, are_entities
from transkimmer_jax.evaluation import agreement
from transkimmer_jax.evaluation.scores import is_constant, macro_f1, micro_f1, pearson, require_seqeval, spearman, tag_metrics
from transkimmer_jax.evaluation.squad import question_metrics
from transkimmer_jax.inference.predictions import Predictions, decisions

with extras.needed("train", "scoring"):
    import sklearn.metrics


def compute_metrics(task: Task, predictions: Predictions, labels: Any) -> dict[str, float]:
    """The task's metrics, as shares between 0 and 1 (correlations between -1 and 1).

    Args:
      task: what is scored.
      predictions: of N examples.
      labels: [N], class indices or values; of multi-label tasks [N, num_labels] of 0 and 1; `TagLabels` or `QuestionLabels`; where the
        judge is a teacher, that teacher's predictions.

    Raises:
      ValueError: shapes that do not fit each other or the task, or no example at all.
    """
    if isinstance(labels, Predictions):
        return agreement.compute_agreement(task, predictions, labels)
    if isinstance(labels, TagLabels):
        return tag_metrics(predictions.logits, labels, task.label_names or ())
    if isinstance(labels, QuestionLabels):
        return question_metrics(predictions, labels)
    return score_logits(task, predictions.logits, labels)


def require_scorer(task: Task) -> None:
    """Raises `ConfigError` where the package that scores a task is not installed: before what is to be scored is computed."""
    if task.head == "token_classification" and task.judge == "labels" and are_entities(task.label_names or ()):
        require_seqeval()


def score_logits(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a classifier's, or regressor's, logits [N, num_labels], as `compute_metrics`."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    shape = (len(labels), task.num_labels)
    if len(labels) == 0 or logits.shape != shape or labels.shape != (shape if task.multi_label else shape[:1]):
        raise ValueError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape} do not fit {task.num_labels} outputs of {task.name}"
        )
    predicted = logits[:, 0] if task.is_regression else decisions(logits, task.multi_label)
    return {name: float(_METRICS[name](labels, predicted)) for name in task.metrics}


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return sklearn.metrics.accuracy_score(labels, predictions)


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return sklearn.metrics.f1_score(labels, predictions, zero_division=0.0)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    if labels.ndim == 2:
        return macro_f1(labels, predictions)
    return sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0.0)


def _matthews_correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
    return 0.0 if is_constant(labels) or is_constant(predictions) else sklearn.metrics.matthews_corrcoef(labels, predictions)


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "micro_f1": micro_f1,
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews_correlation,
    "pearson": pearson,
    "spearman": spearman,
}
