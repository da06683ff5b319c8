"""Metrics and costs of a split: sums over all examples, never averages of batches' averages."""

import dataclasses
from typing import Any

import numpy as np

from transkimmer_jax.data.tasks import Task
from transkimmer_jax.evaluation.metrics import compute_metrics
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class SplitEvaluation:
    """Metrics and costs of one split.

    metrics: the task's metrics. kept_per_layer: share of the real tokens that each layer computed. kept_tokens: its mean.
    flops_vs_padded, flops_vs_unpadded: how many times fewer FLOPs than the dense model on every example padded to the
    task's length, or not padded at all; predictors counted (docs/design.md, section 2.2).
    flops_share: 1 / flops_vs_unpadded. predictions: what all this was computed from.
    """

    metrics: dict[str, float]
    kept_tokens: float
    kept_per_layer: list[float]
    flops_vs_padded: float
    flops_vs_unpadded: float
    predictions: Predictions = dataclasses.field(repr=False, compare=False)

    @property
    def flops_share(self) -> float:
        return 1.0 / self.flops_vs_unpadded


def summarize(predictions: Predictions, labels: Any, task: Task, arch: Architecture) -> SplitEvaluation:
    """The sums over a split that its predictions make. labels: see `metrics.compute_metrics`."""
    per_layer, (used, _) = predictions.kept_per_layer(), predictions.costs(arch)
    padded = flops.dense(arch, np.full(len(used), float(task.max_length))).sum()
    return SplitEvaluation(
        metrics=compute_metrics(task, predictions, labels),
        kept_tokens=float(per_layer.mean()),
        kept_per_layer=[float(share) for share in per_layer],
        flops_vs_padded=float(padded / used.sum()),
        flops_vs_unpadded=predictions.flops_vs_unpadded(arch),
        predictions=predictions,
    )


def describe(task: Task, evaluations: dict[str, SplitEvaluation], counts: dict[str, int]) -> dict[str, Any]:
    """The part of `result.json` that an evaluation gives; the first split's numbers stand at the top. counts: texts of each split, of which
    one may be read in several windows."""
    first = next(iter(evaluations.values()))
    costs = {
        name: {
            "kept_tokens": split.kept_tokens,
            "kept_per_layer": split.kept_per_layer,
            "flops_vs_padded": split.flops_vs_padded,
            "flops_vs_unpadded": split.flops_vs_unpadded,
        }
        for name, split in evaluations.items()
    }
    return {
        "metric": task.primary_metric,
        "value": first.metrics[task.primary_metric],
        "metrics": {name: split.metrics for name, split in evaluations.items()},
        "examples": counts,
        **next(iter(costs.values())),
        "costs": costs,
    }
