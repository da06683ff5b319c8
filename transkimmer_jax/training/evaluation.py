"""Masked evaluation over whole splits: sums over all examples, never averages of batches' averages."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from flax import nnx

from transkimmer_jax.analysis import flops
from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.data.tasks import Task, compute_metrics
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.parallel.placement import Placement, gathered
from transkimmer_jax.progress import tqdm

# (params, batch, threshold) -> logits [B, num_labels], kept [layers, B], lengths [B]
EvaluationStep = Callable[[Any, dict[str, Any], Any], dict[str, jax.Array]]


def jitted(graph: nnx.GraphDef, placement: Placement | None = None) -> Any:
    """The step of the models with this graph: deterministic gates, the threshold a run-time value.

    placement: the mesh that computes it, of arrays of its own; the answers are whole everywhere. None: the default device.
    """

    def step(params, batch, threshold):
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        out = nnx.merge(graph, gathered(params))(*inputs, threshold=threshold, only_logits=True)
        lengths = jnp.sum(batch["attention_mask"].astype(jnp.float32), axis=-1)
        return {"logits": out.logits, "kept": jnp.sum(out.keep, axis=-1), "lengths": lengths}

    return jax.jit(step) if placement is None else jax.jit(step, out_shardings=placement.replicated)


def evaluation_step(graph: nnx.GraphDef, placement: Placement | None = None) -> EvaluationStep:
    """`jitted`, for batches in the host's memory.

    placement: the mesh that computes it; each process then gives whole batches, and gets all answers. None: the default device.
    """
    step = jitted(graph, placement)
    if placement is None:
        return step

    def placed(params, batch, threshold):
        size = len(batch["input_ids"])
        return step(params, placement.global_batch(batch, np.arange(size), size), threshold)

    return placed


@dataclasses.dataclass(frozen=True)
class SplitEvaluation:
    """What a model did on one split.

    metrics: the task's metrics. kept_per_layer: share of the real tokens that each layer computed. kept_tokens: its mean.
    flops_vs_padded, flops_vs_unpadded: how many times fewer FLOPs than the dense model on every example padded to the
    task's length, or not padded at all; predictors counted (DESIGN section 2).
    flops_share: 1 / flops_vs_unpadded. predictions: what all this was computed from.
    """

    metrics: dict[str, float]
    examples: int
    kept_tokens: float
    kept_per_layer: list[float]
    flops_vs_padded: float
    flops_vs_unpadded: float
    predictions: Predictions = dataclasses.field(repr=False, compare=False)

    @property
    def flops_share(self) -> float:
        return 1.0 / self.flops_vs_unpadded


def predict(
    step: EvaluationStep, params: Any, batches: EvaluationBatches, total: int, threshold: float, progress: str | None = None
) -> Predictions:
    """Run `step` over `batches` and put the answers into the order of the split; padding rows are dropped.

    progress: the progress bar's label; None for no bar.
    """
    rows: dict[str, np.ndarray] = {}
    for batch in tqdm(batches, desc=progress, disable=progress is None, leave=False, unit="batch"):
        index = batch["index"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        out = jax.device_get(step(params, inputs, np.float32(threshold)))
        real = index >= 0
        out["kept"] = out["kept"].T
        for name, values in out.items():
            if name not in rows:
                rows[name] = np.zeros((total, *values.shape[1:]), values.dtype)
            rows[name][index[real]] = values[real]
    return Predictions(rows["logits"], rows["kept"].T, rows["lengths"])


def evaluate(
    step: EvaluationStep,
    params: Any,
    batches: EvaluationBatches,
    labels: np.ndarray,
    task: Task,
    arch: Architecture,
    threshold: float,
    progress: str | None = None,
) -> SplitEvaluation:
    """Metrics, tokens kept and FLOPs of a model on one split; `labels` [N] in the order of the split."""
    return summarize(predict(step, params, batches, len(labels), threshold, progress), labels, task, arch)


def summarize(predictions: Predictions, labels: np.ndarray, task: Task, arch: Architecture) -> SplitEvaluation:
    """The sums over a split that its predictions make."""
    kept = predictions.kept.astype(np.float64)
    lengths = predictions.lengths.astype(np.float64)
    per_layer = kept.sum(axis=1) / lengths.sum()
    used = flops.skimmed(arch, kept, lengths).sum()
    padded = flops.dense(arch, np.full_like(lengths, task.max_length)).sum()
    return SplitEvaluation(
        metrics=compute_metrics(task, predictions.logits, labels),
        examples=len(labels),
        kept_tokens=float(per_layer.mean()),
        kept_per_layer=[float(share) for share in per_layer],
        flops_vs_padded=float(padded / used),
        flops_vs_unpadded=float(flops.dense(arch, lengths).sum() / used),
        predictions=predictions,
    )


def find_threshold(share_at: Callable[[float], float], target: float) -> float:
    """The threshold at which `share_at(threshold)`, which falls with it, is `target` within 1 %, or the nearest seen in 16 calls."""
    found: dict[float, float] = {}

    def excess(threshold: float) -> float:
        if threshold not in found:
            found[threshold] = share_at(threshold) - target
        return 0.0 if abs(found[threshold]) <= 0.01 * target else found[threshold]

    # Outwards until the target lies between two thresholds, then Brent's method.
    low, high, step = 0.0, 0.0, math.copysign(0.25, excess(0.0))
    while abs(high) < 64 and excess(high) * step > 0:
        low, high = high, 4 * high or step
    if excess(low) * excess(high) < 0:
        scipy.optimize.brentq(excess, low, high, maxiter=10, disp=False)
    return min(found, key=lambda threshold: abs(found[threshold]))


def describe(task: Task, evaluations: dict[str, SplitEvaluation]) -> dict[str, Any]:
    """The part of `result.json` that an evaluation gives; the first split's numbers stand at the top."""
    first = next(iter(evaluations.values()))
    return {
        "metric": task.primary_metric,
        "value": first.metrics[task.primary_metric],
        "metrics": {name: split.metrics for name, split in evaluations.items()},
        "examples": {name: split.examples for name, split in evaluations.items()},
        "kept_tokens": first.kept_tokens,
        "kept_per_layer": first.kept_per_layer,
        "flops_vs_padded": first.flops_vs_padded,
        "flops_vs_unpadded": first.flops_vs_unpadded,
    }
