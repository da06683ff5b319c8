"""How well an embedder's cosines follow what people say of pairs of texts."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.analysis import flops
from transkimmer_jax.evaluation.correlation import pearson, spearman
from transkimmer_jax.inference.engine import SkimEngine


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
    """The vectors of texts, at length 1. prompt: what stands before each text; None: the engine's default.

    Raises: as `SkimEngine.encode`.
    """
    before = engine.default_prompt if prompt is None else prompt
    tokens = engine.tokenize([before + text for text in texts])
    predictions = engine.predict_tokenized(tokens, threshold=threshold, progress=True)
    vectors = predictions.outputs["sentence_embedding"]
    kept, lengths = predictions.kept.astype(np.float64), predictions.lengths.astype(np.float64)
    return Vectors(
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12),
        float(kept.mean(axis=0).sum() / lengths.sum()),
        float(flops.skimmed(engine.arch, kept, lengths).sum()),
        float(flops.dense(engine.arch, lengths).sum()),
    )


def correlations(firsts: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's correlation of the pairs' cosines with their scores [N]; vectors [N, H] of length 1."""
    cosines = np.sum(firsts * seconds, axis=1)
    return {"spearman": float(spearman(scores, cosines)), "pearson": float(pearson(scores, cosines))}
