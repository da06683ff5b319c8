"""What is minimised: the task's loss, distillation, and the price of computing tokens.

The price is `coefficient * share`. In coefficient mode the share is the skim loss (DESIGN section 1.6) and the coefficient is
a constant. In budget mode (section 1.7) a PI controller moves the coefficient so that the measured share follows a goal that falls
from dense to the budget. Either one share is priced for the model as a whole, of the unpadded dense model's FLOPs or tokens, or the
share of the tokens that each layer keeps, at a coefficient of its own.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from transkimmer_jax.analysis import flops
from transkimmer_jax.config import SkimConfig
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.skim import skim_denominator, skim_loss


def task_loss(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over examples of cross-entropy, or of squared error where labels are floats.

    Args:
      logits: [B, num_labels] float32. labels: [B] int or float. weight: [B], 0 for padding examples.
    """
    # Of [B, 1] and [B] a squared error would silently become [B, B].
    chex.assert_rank([logits, labels, weight], [2, 1, 1])
    chex.assert_equal_shape_prefix([logits, labels, weight], 1)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        losses = jnp.square(logits[:, 0] - labels)
    else:
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return jnp.sum(losses * weight)


def distillation_loss(logits: jax.Array, teacher_logits: jax.Array, weight: jax.Array, temperature: float) -> jax.Array:
    """Weighted sum over examples of the divergence from the teacher, or of squared error for regression (one logit).

    Kullback-Leibler at `temperature`, times its square so that the gradient keeps its size (Hinton et al., 2015).
    """
    if logits.shape[-1] == 1:
        return jnp.sum(jnp.square(logits[:, 0] - teacher_logits[:, 0]) * weight)
    student = jax.nn.log_softmax(logits / temperature, axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits / temperature, axis=-1)
    return jnp.sum(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1) * weight) * temperature**2


def state_distillation_loss(states: jax.Array, teacher_states: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over examples of the squared distance between position 0's states and the teacher's, relative to the teacher's
    squared length, averaged over layers.

    Args:
      states, teacher_states: [layers, B, H]. weight: [B], 0 for padding examples.
    """
    states, teacher_states = states.astype(jnp.float32), teacher_states.astype(jnp.float32)
    distance = jnp.sum(jnp.square(states - teacher_states), axis=-1) / jnp.sum(jnp.square(teacher_states), axis=-1)
    return jnp.sum(jnp.mean(distance, axis=0) * weight)


def flops_share(arch: Architecture, keep: jax.Array, attention_mask: jax.Array, denominator: jax.Array) -> jax.Array:
    """FLOPs of the kept tokens, predictors included, over `denominator`, differentiable in `keep` [layers, B, S]."""
    lengths = jnp.sum(attention_mask.astype(jnp.float32), axis=-1)
    return jnp.sum(flops.skimmed(arch, jnp.sum(keep, axis=-1), lengths)) / denominator


def flops_denominator(arch: Architecture, attention_mask: jax.Array) -> jax.Array:
    """FLOPs of the unpadded dense model on the batch."""
    return jnp.sum(flops.dense(arch, jnp.sum(attention_mask.astype(jnp.float32), axis=-1)))


def share_denominator(skim: SkimConfig, arch: Architecture, attention_mask: jax.Array) -> jax.Array:
    """What `priced_share` divides by, for the whole batch of which `keep` may be a part."""
    if skim.objective == "budget" and skim.allocation == "learned" and skim.target_kind == "flops":
        return flops_denominator(arch, attention_mask)
    return skim_denominator(attention_mask, skim.loss_normalization)


def priced_share(skim: SkimConfig, arch: Architecture, keep: jax.Array, attention_mask: jax.Array, denominator: jax.Array) -> jax.Array:
    """The share that the coefficient multiplies: a scalar, or [layers] where each has its own coefficient."""
    if skim.objective == "budget" and skim.allocation == "geometric":
        return jnp.sum(keep, axis=(1, 2)) / denominator
    if skim.objective == "budget" and skim.target_kind == "flops":
        return flops_share(arch, keep, attention_mask, denominator)
    return skim_loss(keep, attention_mask, skim.loss_normalization, denominator)


def goal(skim: SkimConfig, arch: Architecture, mean_length: float) -> np.ndarray:
    """What `priced_share` is to be in the end: the budget itself, or what it leaves to each layer, [layers].

    Of texts of `mean_length` tokens layer l of 1 to N then keeps position 0, and of the other tokens the part p ** (l ** steepness),
    with the p for which the whole costs the budget.
    """
    if skim.allocation == "learned":
        return np.array(skim.target, np.float32)

    def kept(part: float) -> np.ndarray:
        return 1 + (mean_length - 1) * part ** np.arange(1, arch.num_hidden_layers + 1) ** skim.steepness

    def share(part: float) -> float:
        if skim.target_kind == "tokens":
            return float(kept(part).mean() / mean_length)
        length = np.array(mean_length)
        return float(flops.skimmed(arch, kept(part), length) / flops.dense(arch, length))

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < skim.target else (low, middle)
    return (kept(low) / mean_length).astype(np.float32)


def gate_noise(skim: SkimConfig, step: jax.Array, total_steps: int) -> jax.Array:
    """How much of their noise the gates have at `step`: all until the target is reached, then linearly less, none from `noise_end` on.

    Noise explores which tokens can go; without any at the end, what is trained is what is evaluated.
    """
    if skim.objective != "budget" or skim.noise_end is None:
        return jnp.float32(1.0)
    progress = step.astype(jnp.float32) / total_steps
    fall = max(skim.noise_end - skim.warmup - skim.anneal, 1.0 / total_steps)
    return jnp.clip((skim.noise_end - progress) / fall, 0.0, 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controller:
    """State of the budget's controller; part of the checkpoint.

    integral: the coefficient's integral part. measured: moving average of the share, to damp the sampling noise of a batch. Both
    have the shape of `goal`.
    """

    integral: jax.Array
    measured: jax.Array

    @classmethod
    def start(cls, shape: tuple[int, ...] = ()) -> "Controller":
        """Before the first step: nothing is priced, everything is kept."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))

    def coefficient(self, skim: SkimConfig, target: jax.Array) -> jax.Array:
        """The weight of the share in this step's objective; negative where too much is skimmed, 0 while the target is still that of
        the dense model."""
        return jnp.where(target < 1.0, self.integral + skim.controller_damping * (self.measured - target), 0.0)

    def update(self, skim: SkimConfig, target: jax.Array, share: jax.Array) -> "Controller":
        """After a step that kept `share`. The integral does not wind up while the target is still that of the dense model."""
        measured = 0.7 * self.measured + 0.3 * jnp.minimum(share, 1.0)
        integral = self.integral + skim.controller_gain * (measured - target)
        return Controller(jnp.where(target < 1.0, integral, 0.0), measured)


def target_share(skim: SkimConfig, goal: np.ndarray, step: jax.Array, total_steps: int) -> jax.Array:
    """The share wanted at `step`: 1 during the warm-up, then linearly down to the goal, then constant."""
    progress = step.astype(jnp.float32) / total_steps
    fall = jnp.clip((progress - skim.warmup) / max(skim.anneal, 1.0 / total_steps), 0.0, 1.0)
    return 1.0 - (1.0 - jnp.asarray(goal)) * fall
