"""Skim predictors, gates and the skim loss (docs/design.md, sections 1.1, 1.2 and 1.6; Guan et al. 2022, section 4)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.models.layers import LayerNorm, Linear, gelu, product, spread

_EXACT = jax.lax.Precision.HIGHEST


class SkimPredictor(nnx.Module):
    """The margin by which each token is to be kept: LayerNorm -> Linear(H, P) -> LayerNorm -> GELU -> Linear(P, 2).

    Its products in float32 are exact on accelerators too, which would round their factors: a rounded margin moves tokens across the
    threshold.
    """

    def __init__(self, hidden_size: int, predictor_size: int, initial_bias: float, epsilon: float, dtype, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.02)

        def skim_and_keep(key, shape, dtype):
            return jnp.array([-initial_bias, initial_bias], dtype)

        self.input_norm = LayerNorm(hidden_size, epsilon=epsilon, rngs=rngs)
        self.dense = Linear(hidden_size, predictor_size, kernel_init=normal, dtype=dtype, precision=_EXACT, rngs=rngs)
        self.norm = LayerNorm(predictor_size, epsilon=epsilon, rngs=rngs)
        # Decided in float32 whatever the compute dtype, for the same reason.
        self.decision = Linear(predictor_size, 2, kernel_init=normal, dtype=jnp.float32, rngs=rngs, bias_init=skim_and_keep)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """hidden [..., H] -> margin [...] in float32, logit of keep minus logit of skim."""
        # One product with the difference of the two columns gives the margin itself.
        kernel, bias = self.decision.kernel[...], self.decision.bias[...]  # type: ignore[index]
        features = gelu(self.norm(self.dense(self.input_norm(hidden)))).astype(jnp.float32)
        return jnp.matmul(features, kernel[:, 1] - kernel[:, 0], precision=_EXACT) + (bias[1] - bias[0])


class Forwarding(Linear):
    """What a head is given of tokens that leave before one layer: state + state @ kernel + bias. Zeros at first, which forward the state.

    The states of different layers lie in different places, and a head has one reading of all of them (docs/design.md, section 1.5).
    """

    def __init__(self, hidden_size: int, rngs: nnx.Rngs):
        super().__init__(hidden_size, hidden_size, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, states: jax.Array, count: jax.Array | None = None) -> jax.Array:  # type: ignore[override]
        """[..., H] of states [..., H]; or the sum of what `count` [...] float32 states give, of their sum."""
        kernel, bias = (parameter[...].astype(states.dtype) for parameter in (self.kernel, self.bias))  # type: ignore[index]
        bias = spread(bias, states.shape)
        return states + product(states, kernel) + (bias if count is None else count[..., None] * bias)


class Levels(nnx.Module):
    """The scale of one predictor's margins, of a model that was trained for several budgets (docs/design.md, section 1.7).

    At each level, a share of the dense model's FLOPs or tokens, a token is kept where the predictor's margin exceeds that level's knot.
    Between and beyond the knots the scale is linear. On it a threshold is the share that is saved: 0.6 for a budget of 0.4.

    levels: shares, at least two, falling.
    """

    def __init__(self, levels: tuple[float, ...]):
        self.saved = tuple(1.0 - level for level in levels)
        self.knots = nnx.Param(jnp.zeros(len(levels), jnp.float32))

    def __call__(self, margin: jax.Array, level: jax.Array | None = None) -> jax.Array:
        """A predictor's margins [...] on the scale of thresholds; or, for margins [B, S], beyond the knot of each sequence's level [B]."""
        if level is not None:
            return margin - jnp.take(self.knots[...], level)[:, None]  # type: ignore[index]
        start, saved, slopes = self.scale()
        # As a sum of ramps: each knot changes the slope by so much. The graph of `onnx/` adds the same in the same order.
        scaled = saved + slopes[0] * (margin - start[0])
        for number in range(1, len(slopes)):
            scaled = scaled + (slopes[number] - slopes[number - 1]) * jnp.maximum(margin - start[number], 0.0)
        return scaled

    def scale(self) -> tuple[jax.Array, float, jax.Array]:
        """The knots but the last, rising [levels - 1]; what is saved at the first; the slopes behind each, [levels - 1]."""
        knots = increasing(self.knots[...])  # type: ignore[index]
        slopes = jnp.diff(jnp.array(self.saved, jnp.float32)) / jnp.diff(knots)
        return knots[:-1], self.saved[0], slopes


_LEAST_STEP = 1e-3  # of margin, from a knot to the next


def increasing(knots: jax.Array) -> jax.Array:
    """Knots [levels] that rise by a least step each, so that who is kept at a small budget is kept at a large one."""
    steps = _LEAST_STEP * jnp.arange(len(knots), dtype=jnp.float32)
    return jax.lax.cummax(knots - steps) + steps


def path_keys(path) -> tuple[str | int, ...]:
    """The names and numbers on the way to a parameter, of a path of `jax.tree_util`: ('encoder', 'layers', 0, 'up', 'kernel'). Its last
    entry, the Param's value, is dropped."""
    return tuple(entry.key for entry in path if hasattr(entry, "key"))


def with_shifted_margins(params: nnx.State, shift: jax.Array) -> nnx.State:
    """`params` of a model whose predictors give every token a margin that is `shift` [levels, predictors] larger; one level where the
    model has no `Levels`."""
    sides = jnp.array([-0.5, 0.5], jnp.float32)
    by_levels = any("levels" in path_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))

    def shifted(path, leaf: jax.Array) -> jax.Array:
        keys = path_keys(path)
        if "levels" in keys:
            return leaf - shift[:, keys[keys.index("levels") + 1]]
        if "predictors" in keys and keys[-2:] == ("decision", "bias") and not by_levels:
            return leaf + shift[0, keys[keys.index("predictors") + 1]] * sides
        return leaf

    return jax.tree_util.tree_map_with_path(shifted, params)


def with_increasing_levels(params: nnx.State) -> nnx.State:
    """`params` whose knots rise as those of `Levels.scale` do: a level is trained at the margin at which it is evaluated."""

    def risen(path, leaf: jax.Array) -> jax.Array:
        return increasing(leaf) if "levels" in path_keys(path) else leaf

    return jax.tree_util.tree_map_with_path(risen, params)


def with_levels_at(params: nnx.State, saved: Sequence[float], thresholds: Sequence[float]) -> nnx.State:
    """`params` of a model whose levels save what `saved` [levels] says at the thresholds where it now takes `thresholds` [levels]."""

    def moved(path, leaf: jax.Array) -> jax.Array:
        return _margins_at(leaf, saved, thresholds) if "levels" in path_keys(path) else leaf

    return jax.tree_util.tree_map_with_path(moved, params)


def _margins_at(knots: jax.Array, saved: Sequence[float], thresholds: Sequence[float]) -> jax.Array:
    """The predictor's margins that are at `thresholds` on the scale of `knots`."""
    margins, at = np.asarray(increasing(knots), np.float64), np.asarray(saved, np.float64)
    wanted = np.asarray(thresholds, np.float64)
    slopes = np.diff(margins) / np.diff(at)
    behind = np.clip(np.searchsorted(at, wanted) - 1, 0, len(slopes) - 1)
    return jnp.asarray(margins[behind] + slopes[behind] * (wanted - at[behind]), jnp.float32)


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

    noise: jax.Array | float = 1.0  # by which the variable is multiplied; 0 decides as `ThresholdGate(0)` does
    gradient: jax.Array | float = 1.0  # by which the relaxation's is multiplied

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array:
        assert key is not None, "GumbelGate draws random numbers: pass a key"
        noisy = margin + self.noise * jax.random.logistic(key, margin.shape, jnp.float32)
        soft = jax.nn.sigmoid(noisy)
        hard = (noisy > 0).astype(jnp.float32)
        # In this order the value is exactly 0 or 1; adding `soft` to `hard` first would round.
        return hard + self.gradient * (soft - jax.lax.stop_gradient(soft))


def skim_loss(keep: jax.Array, attention_mask: jax.Array, denominator: jax.Array | None = None) -> jax.Array:
    """Mean over layers of the share of tokens kept (docs/design.md, section 1.6).

    Args:
      keep: cumulative keep values [layers, B, S], 0 on padding.
      attention_mask: [B, S], 1 on real tokens.
      denominator: the divisor, where the batch is one of several micro-batches; by default this batch's own.
    """
    if denominator is None:
        denominator = skim_denominator(attention_mask)
    return jnp.sum(keep) / (keep.shape[0] * denominator)


def skim_denominator(attention_mask: jax.Array) -> jax.Array:
    """The number of tokens that the skim loss divides by; 1 where there are none, of which nothing is kept."""
    return jnp.maximum(jnp.sum(attention_mask.astype(jnp.float32)), 1.0)
