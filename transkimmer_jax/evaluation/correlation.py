"""Correlations of predicted values with what they should be."""

import numpy as np
import scipy.stats


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
