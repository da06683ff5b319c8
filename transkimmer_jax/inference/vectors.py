"""What is done with an embedder's vectors."""

import numpy as np

from transkimmer_jax.inference.hardware import SIMILARITY_ROWS
from transkimmer_jax.models.layers import LEAST_NORM


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, H] at length 1; a vector of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), LEAST_NORM)


def nearest(vectors: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` most similar of `others` [M, H] for each of `vectors` [N, H], best first: [N, count], or [N, M] of fewer.
    Both of length 1. Exact."""
    count = min(count, len(others))
    best = np.zeros((len(vectors), count), np.int64)
    for start in range(0, len(vectors), SIMILARITY_ROWS):
        scores = vectors[start : start + SIMILARITY_ROWS] @ others.T
        places = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
        best[start : start + SIMILARITY_ROWS] = np.take_along_axis(places, order, axis=1)
    return best


def neighbours(vectors: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` most similar others for each of `vectors` [N, H] of length 1, best first: [N, count], or [N, N - 1]."""
    best = nearest(vectors, vectors, count + 1)
    is_other = best != np.arange(len(best))[:, None]
    # Among many copies of it a vector may not be its own nearest: then the last one goes.
    is_other[:, -1] &= ~is_other.all(axis=1)
    return best[is_other].reshape(len(best), -1)
