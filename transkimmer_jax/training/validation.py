"""How a run judges its checkpoints: at which threshold, by which numbers, and which checkpoint is the best."""

import dataclasses
from typing import Any

from flax import nnx

from transkimmer_jax.config import Config, SkimConfig
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed import processes
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.masked import EvaluationStep
from transkimmer_jax.evaluation.summary import SplitEvaluation, summarize
from transkimmer_jax.evaluation.thresholds import find_threshold
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.skim import with_levels_at
from transkimmer_jax.training.inputs import RunInputs, Split

# A checkpoint counts as within the budget up to this much above it, relative: the resolution of a validation set.
_BUDGET_TOLERANCE = 1.05


@dataclasses.dataclass(frozen=True)
class CheckpointEvaluation:
    """A checkpoint on every validation split, and of the best one on every test split behind them, at one threshold."""

    threshold: float
    splits: dict[str, SplitEvaluation]

    @property
    def first(self) -> SplitEvaluation:
        """Of the split that counts."""
        return next(iter(self.splits.values()))

    def scalars(self) -> dict[str, float]:
        """All numbers under flat names, for the records."""
        scalars = {"threshold": self.threshold}
        for name, split in self.splits.items():
            scalars |= {f"{name}/{metric}": value for metric, value in split.metrics.items()}
            scalars |= {f"{name}/kept_tokens": split.kept_tokens, f"{name}/flops_vs_unpadded": split.flops_vs_unpadded}
            scalars |= {f"{name}/kept_layer_{layer}": share for layer, share in enumerate(split.kept_per_layer)}
        return scalars


@dataclasses.dataclass(frozen=True)
class Validation:
    """The evaluations of one run. step: what `masked.evaluation_step` returned for the run's model."""

    config: Config
    task: Task
    arch: Architecture
    step: EvaluationStep
    inputs: RunInputs
    total_steps: int

    def evaluate(self, params: nnx.State, step: int) -> CheckpointEvaluation:
        """Evaluate the parameters that the run had after `step` steps."""
        threshold = self._threshold(params, step)
        return CheckpointEvaluation(threshold, self._evaluate_splits(self.inputs.validation, params, threshold))

    def with_tests(self, params: nnx.State, evaluated: CheckpointEvaluation) -> CheckpointEvaluation:
        """What `evaluate` said of the best checkpoint, and the test splits at the same threshold."""
        tests = self._evaluate_splits(self.inputs.test, params, evaluated.threshold)
        return dataclasses.replace(evaluated, splits=evaluated.splits | tests)

    def _evaluate_splits(self, splits: dict[str, Split], params: nnx.State, threshold: float) -> dict[str, SplitEvaluation]:
        bars = {name: f"evaluating {name}" if processes.is_first() else None for name in splits}
        return {name: self._evaluate(params, split, threshold, bars[name]) for name, split in splits.items()}

    def with_exact_levels(self, params: nnx.State, evaluated: CheckpointEvaluation) -> tuple[nnx.State, CheckpointEvaluation]:
        """The parameters with levels at which the texts of the threshold spend just what the levels say, and what `evaluate` then says of
        them. A model for one budget is as it is."""
        skim = self.config.skim
        if not skim.trained_levels:
            return params, evaluated
        thresholds = [self._threshold_of(params, target) for target in skim.targets]
        params = with_levels_at(params, [1.0 - target for target in skim.targets], thresholds)
        return params, CheckpointEvaluation(
            skim.initial_threshold, self._evaluate_splits(self.inputs.validation, params, skim.initial_threshold)
        )

    def curve(self, params: nnx.State, evaluated: CheckpointEvaluation) -> list[dict[str, Any]]:
        """What the model is worth at each of its budgets: on the test texts, or else on those of the validation. [] for a single budget.

        evaluated: what `with_tests` said of it at its own budget.
        """
        points = []
        splits = self.inputs.test or self.inputs.validation
        name, split = next(iter(splits.items()))
        for target in self.config.skim.trained_levels:
            if target == self.config.skim.target:
                seen = evaluated.splits[name]
            else:
                bar = f"evaluating {name} at {target}" if processes.is_first() else None
                seen = self._evaluate(params, split, 1.0 - target, bar)
            value = seen.metrics[self.task.primary_metric]
            spent = {"flops_vs_unpadded": seen.flops_vs_unpadded, "kept_tokens": seen.kept_tokens}
            points.append({"split": name, "budget": target, **spent, "value": value})
        return points

    def _threshold(self, params: nnx.State, step: int) -> float:
        """Where evaluation decides: once the target is reached, where it is met exactly, so that checkpoints are compared at one price."""
        skim = self.config.skim
        if not skim.has_budget or step < (skim.warmup + skim.anneal) * self.total_steps:
            return skim.initial_threshold
        return self._threshold_of(params, skim.target)

    def _threshold_of(self, params: nnx.State, target: float) -> float:
        """The threshold at which the texts of the threshold spend `target`."""
        skim, split = self.config.skim, self.inputs.threshold_split

        def share(threshold: float) -> float:
            predictions = masked.predict(self.step, params, split.batches, split.batches.examples, threshold)
            return 1.0 / predictions.flops_vs_unpadded(self.arch)

        return find_threshold(share, target, start=1.0 - target if skim.trained_levels else 0.0)

    def _evaluate(self, params: nnx.State, split: Split, threshold: float, progress: str | None = None) -> SplitEvaluation:
        predictions = masked.predict(self.step, params, split.batches, split.batches.examples, threshold, progress)
        return summarize(predictions, split.labels, self.task, self.arch)


def rank(skim: SkimConfig, task: Task, evaluated: CheckpointEvaluation, settled: bool = True, least: float = 0.0) -> float:
    """The primary metric; below every metric for a checkpoint whose decisions still moved, and the lower the costlier below those for one
    over its budget.

    settled: whether the run had come as far as decisions stand for, or never freezes them (`budget.settles_at`). Before, a checkpoint's
    metric at one threshold says little of its other budgets. least: what is spent where all is skimmed that can be (`budget.least`), so
    that the metric decides of a budget below it too.
    """
    if skim.has_budget:
        share = evaluated.first.flops_share
        if share > max(skim.target, least) * _BUDGET_TOLERANCE:
            return -1000.0 * (1.0 + share)
    return evaluated.first.metrics[task.primary_metric] - (0.0 if settled else 1000.0)
