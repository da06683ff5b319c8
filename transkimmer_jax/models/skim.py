"""Skim predictors, gates and the skim loss (docs/design.md, sections 1.1, 1.2 and 1.6; Guan et al. 2022, section 4)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.layers import LayerNorm, gelu


class SkimPredictor(nnx.Module):
    """The margin by which each token is to be kept: LayerNorm -> Linear(H, P) -> LayerNorm -> GELU -> Linear(P, 2)."""

    def __init__(self, hidden_size: int, predictor_size: int, initial_bias: float, epsilon: float, dtype, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.02)

        def skim_and_keep(key, shape, dtype):
            return jnp.array([-initial_bias, initial_bias], dtype)

        self.input_norm = LayerNorm(hidden_size, epsilon=epsilon, rngs=rngs)
        self.dense = nnx.Linear(hidden_size, predictor_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(predictor_size, epsilon=epsilon, rngs=rngs)
        # Decided in float32 whatever the compute dtype: a margin rounded to bfloat16 moves tokens across the threshold.
        self.decision = nnx.Linear(predictor_size, 2, kernel_init=normal, dtype=jnp.float32, rngs=rngs, bias_init=skim_and_keep)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """hidden [..., H] -> margin [...] in float32, logit of keep minus logit of skim."""
        # One product with the difference of the two columns gives the margin itself.
        kernel, bias = self.decision.kernel[...], self.decision.bias[...]  # type: ignore[index]
        features = gelu(self.norm(self.dense(self.input_norm(hidden)))).astype(jnp.float32)
        return features @ (kernel[:, 1] - kernel[:, 0]) + (bias[1] - bias[0])


def path_keys(path) -> tuple[str | int, ...]:
    """The names and numbers on the way to a parameter, of a path of `jax.tree_util`: ('encoder', 'layers', 0, 'up', 'kernel'). Its last
    entry, the Param's value, is dropped."""
    return tuple(entry.key for entry in path if hasattr(entry, "key"))


def with_shifted_margins(params: nnx.State, shift: jax.Array) -> nnx.State:
    """`params` of a model whose predictors give every token a margin that is `shift` [layers] larger."""
    sides = jnp.array([-0.5, 0.5], jnp.float32)

    def shifted(path, leaf: jax.Array) -> jax.Array:
        keys = path_keys(path)
        if "predictors" in keys and keys[-2:] == ("decision", "bias"):
            return leaf + shift[keys[keys.index("predictors") + 1]] * sides
        return leaf

    return jax.tree_util.tree_map_with_path(shifted, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ThresholdGate:
    """Evaluation: 1 where margin > threshold, else 0. Deterministic; the threshold is a run-time value."""

    threshold: jax.Array | float = 0.0

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array:
        return (margin > self.threshold).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GumbelGate:
    """Training: a hard sample with the gradient of the Gumbel-softmax relaxation (straight-through).

    The difference of the two classes' Gumbel variables is one logistic variable, so one is drawn per token.
    """

    temperature: jax.Array | float = 1.0
    noise: jax.Array | float = 1.0  # by which the variable is multiplied; 0 decides as `ThresholdGate(0)` does

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array:
        assert key is not None, "GumbelGate draws random numbers: pass a key"
        noisy = margin + self.noise * jax.random.logistic(key, margin.shape, jnp.float32)
        soft = jax.nn.sigmoid(noisy / self.temperature)
        hard = (noisy > 0).astype(jnp.float32)
        # In this order the value is exactly 0 or 1; adding `soft` to `hard` first would round.
        return hard + (soft - jax.lax.stop_gradient(soft))


def skim_loss(keep: jax.Array, attention_mask: jax.Array, normalization: str = "real", denominator: jax.Array | None = None) -> jax.Array:
    """Mean over layers of the share of tokens kept (docs/design.md, section 1.6).

    Args:
      keep: cumulative keep values [layers, B, S], 0 on padding.
      attention_mask: [B, S], 1 on real tokens.
      normalization: 'real' divides by the real tokens, so padding counts nowhere; 'padded' by B * S, as the paper does.
      denominator: the divisor, where the batch is one of several micro-batches; by default this batch's own.
    """
    if denominator is None:
        denominator = skim_denominator(attention_mask, normalization)
    return jnp.sum(keep) / (keep.shape[0] * denominator)


def skim_denominator(attention_mask: jax.Array, normalization: str = "real") -> jax.Array:
    """The number of tokens that the skim loss divides by."""
    if normalization == "padded":
        return jnp.float32(attention_mask.size)
    return jnp.sum(attention_mask.astype(jnp.float32))
