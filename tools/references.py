"""Padded computation by JAX in fixed shapes: dense, or skimming by masks. What answers are compared with."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification


def without_predictors(model: TranskimmerForSequenceClassification) -> TranskimmerForSequenceClassification:
    """The same weights without predictors."""
    graph, shapes = nnx.split(TranskimmerForSequenceClassification.abstract(dataclasses.replace(model.arch, skim=None)))
    weights = dict(jax.tree_util.tree_leaves_with_path(nnx.split(model)[1]))
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(lambda path, _: weights[path], shapes))


def batched(
    model: TranskimmerForSequenceClassification, batches: EvaluationBatches, threshold: float, count: int
) -> Callable[[], np.ndarray]:
    """A function that computes the logits [count, labels] of padded batches through one jitted program a shape."""
    graph, params = nnx.split(model)
    collated = [(batch["index"], [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]) for batch in batches]

    @jax.jit
    def forward(params, threshold, ids, mask, types):
        return nnx.merge(graph, params)(ids, mask, types, threshold=threshold, only_logits=True).logits

    def run() -> np.ndarray:
        started = [forward(params, np.float32(threshold), *arrays) for _, arrays in collated]
        logits = np.zeros((count, model.arch.num_labels), np.float32)
        for (rows, _), values in zip(collated, jax.device_get(started), strict=True):
            logits[rows[rows >= 0]] = values[rows >= 0]
        return logits

    return run
