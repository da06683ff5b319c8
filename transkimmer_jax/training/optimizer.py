"""AdamW with linear warm-up and decay; weight decay and learning rate by the parameter's role."""

import jax
import optax

from transkimmer_jax.config import OptimizerConfig
from transkimmer_jax.models.skim import path_keys

# Parameters that weight decay acts on, by the last name of their path. Biases and LayerNorm's scale and bias, the
# predictors' included, are left alone.
_DECAYED = ("kernel", "embedding")


def create_optimizer(config: OptimizerConfig, total_steps: int, predictors_until: float | None = None) -> optax.GradientTransformation:
    """Clipping by norm, then AdamW: predictors with their own norm and learning rate, everything else with the base rate.

    predictors_until: share of the steps at which the predictors' learning rate has fallen to 0; None: 1, as all others'.

    The predictors' gradient is the larger by far, and noisy: under a norm in common it would scale down everything else by another
    factor each step.
    """

    def adamw(peak: float, until: float = 1.0) -> optax.GradientTransformation:
        update = optax.adamw(
            linear_warmup_decay(peak, round(config.warmup * total_steps), round(until * total_steps)),
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), update) if config.clip_norm > 0 else update

    predictor_rate = config.learning_rate if config.predictor_learning_rate is None else config.predictor_learning_rate
    predictors = adamw(predictor_rate, 1.0 if predictors_until is None else predictors_until)
    return optax.partition({"base": adamw(config.learning_rate), "predictor": predictors}, roles)


def linear_warmup_decay(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """0 to `peak` over the first steps, then linearly to 0 at `total_steps`, where it stays."""
    if total_steps == 0:
        return optax.constant_schedule(0.0)
    warmup_steps = min(warmup_steps, total_steps - 1)  # so that the rate is 0 at the end of a warm-up that takes all steps
    decay = optax.linear_schedule(peak, 0.0, total_steps - warmup_steps)
    if warmup_steps == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def decay_mask(params):
    """True where weight decay acts, as a tree like `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_keys(path)[-1] in _DECAYED, params)


def roles(params):
    """'predictor' for the parameters of skim predictors and levels, 'base' for all others, as a tree like `params`."""

    def role(path, _) -> str:
        return "predictor" if {"predictors", "levels"} & set(path_keys(path)) else "base"

    return jax.tree_util.tree_map_with_path(role, params)
