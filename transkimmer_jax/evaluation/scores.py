"""Scores of values, labels and tags, by SciPy, scikit-learn and seqeval.

Multi-label arrays are [N, labels], 0 or False where a text does not have a label.
"""

import numpy as np
import scipy.stats

from transkimmer_jax import extras
from transkimmer_jax.data.batches import NO_LABEL
from transkimmer_jax.data.prepared import TagLabels
from transkimmer_jax.data.tasks import are_entities

with extras.needed("train", "scoring"):
    import sklearn.metrics

# Of a single word, and of the last of several: seqeval knows them by the names of IOBES.
_BILOU = {"U-": "S-", "L-": "E-"}


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    return 0.0 if is_constant(labels) or is_constant(predictions) else scipy.stats.pearsonr(predictions, labels).statistic


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Spearman's correlation; 0 where one of the two is constant."""
    return pearson(scipy.stats.rankdata(labels), scipy.stats.rankdata(predictions))


def is_constant(values: np.ndarray) -> bool:
    """Whether a correlation with `values` is undefined. Written so that a NaN among them counts as well."""
    return not np.ptp(values) > 1e-12 * np.abs(values).max()


def micro_f1(labels: np.ndarray, predictions: np.ndarray, undefined: float = 0.0) -> float:
    """F1 over all labels of all texts; `undefined` where neither side has a label."""
    return float(sklearn.metrics.f1_score(labels.astype(bool).ravel(), predictions.astype(bool).ravel(), zero_division=undefined))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean of the labels' F1; 0 for a label that neither side has."""
    return float(scores_by_label(labels, predictions)["f1"].mean())


def scores_by_label(labels: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each label, 0 where undefined, and its support, the number of texts that have it; [labels] each."""
    # scikit-learn takes a single column for two classes: beside a second one, which no text has, it is a label.
    wanted, given = (np.pad(values.astype(bool), ((0, 0), (0, 1))) for values in (labels, predictions))
    scores = sklearn.metrics.precision_recall_fscore_support(wanted, given, average=None, zero_division=0.0)
    return {name: values[:-1] for name, values in zip(("precision", "recall", "f1", "support"), scores, strict=True)}


def require_seqeval() -> None:
    """Raises `ConfigError` where entities cannot be scored."""
    with extras.needed("evaluation", "scoring entities"):
        import seqeval  # noqa: F401


def tag_metrics(logits: np.ndarray, labels: TagLabels, tag_names: tuple[str, ...]) -> dict[str, float]:
    """Accuracy over the words that were read, and for entities precision, recall and F1: kind and both ends must be right.

    logits: [tokens, tags].
    """
    wanted, given = [], []
    for start, end in zip(labels.offsets, labels.offsets[1:], strict=False):
        rows = start + np.flatnonzero(labels.labels[start:end] != NO_LABEL)
        wanted.append([tag_names[tag] for tag in labels.labels[rows]])
        given.append([tag_names[tag] for tag in logits[rows].argmax(axis=1)] if len(rows) else [])
    pairs = [(a, b) for one, other in zip(wanted, given, strict=True) for a, b in zip(one, other, strict=True)]
    accuracy = float(np.mean([a == b for a, b in pairs])) if pairs else 0.0
    if not are_entities(tag_names):
        return {"accuracy": accuracy}
    require_seqeval()
    from seqeval.metrics import f1_score, precision_score, recall_score

    wanted, given = ([[_BILOU.get(tag[:2], tag[:2]) + tag[2:] for tag in tags] for tags in texts] for texts in (wanted, given))
    scored = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(score(wanted, given, zero_division=0)) for name, score in scored.items()} | {"accuracy": accuracy}
