"""Correlation of an embedder's cosines with scores of pairs of texts."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.evaluation.scores import pearson, spearman
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.vectors import unit


@dataclasses.dataclass(frozen=True)
class Vectors:
    """An embedder's vectors [N, H] of texts, and what they cost.

    kept_tokens: share of the tokens that the layers computed. flops, dense_flops: of all texts, and of the dense model without padding.
    """

    values: np.ndarray
    kept_tokens: float
    flops: float
    dense_flops: float


def embed(engine: SkimEngine, texts: Sequence[str], prompt: str | None = None, threshold: float | None = None) -> Vectors:
    """The vectors of texts, cut as the folder says, at length 1. prompt: what stands before each text; None: the engine's default.

    Raises: as `SkimEngine.encode`.
    """
    before = engine.default_prompt if prompt is None else prompt
    predictions, _ = engine.predict_texts([before + text for text in texts], threshold=threshold, progress=True)
    spent, dense = predictions.costs(engine.arch)
    vectors = unit(engine.vectors(predictions))
    return Vectors(vectors, float(predictions.kept_per_layer().mean()), float(spent.sum()), float(dense.sum()))


def correlations(firsts: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's correlation of the pairs' cosines with their scores [N]; vectors [N, H] of length 1."""
    cosines = np.sum(firsts * seconds, axis=1)
    return {"spearman": float(spearman(scores, cosines)), "pearson": float(pearson(scores, cosines))}
