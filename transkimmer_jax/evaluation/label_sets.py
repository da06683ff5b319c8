"""Labels of which a text has any number, scored by scikit-learn.

Everywhere labels and predictions are [N, labels], 0 or False where a text does not have a label.
"""

import numpy as np

from transkimmer_jax import extras

with extras.needed("train", "scoring"):
    import sklearn.metrics


def micro_f1(labels: np.ndarray, predictions: np.ndarray, undefined: float = 0.0) -> float:
    """F1 over all labels of all texts. undefined: its value where neither side has a label."""
    return float(sklearn.metrics.f1_score(labels.astype(bool).ravel(), predictions.astype(bool).ravel(), zero_division=undefined))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The mean of the labels' F1, 0 of a label that neither side has."""
    return float(scores_by_label(labels, predictions)["f1"].mean())


def scores_by_label(labels: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each label, 0 where undefined, and its support, the number of texts that have it; [labels] each."""
    # scikit-learn takes a single column for two classes: beside a second one, which no text has, it is a label.
    wanted, given = (np.pad(values.astype(bool), ((0, 0), (0, 1))) for values in (labels, predictions))
    scores = sklearn.metrics.precision_recall_fscore_support(wanted, given, average=None, zero_division=0.0)
    return {name: values[:-1] for name, values in zip(("precision", "recall", "f1", "support"), scores, strict=True)}
