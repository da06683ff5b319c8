"""GELU against float64, its derivative, and what training keeps for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from transkimmer_jax.models.layers import gelu

X = np.concatenate([np.linspace(-12, 12, 20001), [-100.0, 0.0, 100.0, 1e-30]])
EXACT = X * ndtr(X)
SLOPE = ndtr(X) + X * np.exp(-X * X / 2) / np.sqrt(2 * np.pi)


def test_values_and_slopes():
    """To float32's rounding of the larger of 1 and x, so that what is all but 0 may come out as 0."""
    scale = np.maximum(1, np.abs(X))
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(gelu)))(jnp.float32(X))
    assert (np.abs(values - EXACT) <= 3e-7 * scale).all() and (np.abs(slopes - SLOPE) <= 3e-7 * scale).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    """Computed in float32: where 1 + erf(x) would be rounded to the dtype, negative x would lose most of their value."""
    x = jnp.asarray(X[(X > -4) & (X < 12)], dtype)
    exact = np.float64(x) * ndtr(np.float64(x))
    found = gelu(x)
    assert found.dtype == x.dtype and jax.grad(lambda x: gelu(x).sum())(x).dtype == x.dtype
    step = float(jnp.finfo(dtype).eps)
    assert (np.abs(np.float64(found) - exact) <= 0.51 * step * np.abs(exact) + 1e-6).all()


def test_one_array_is_kept_for_the_gradient():
    x = jnp.ones((4, 8), jnp.bfloat16)
    _, pullback = jax.vjp(gelu, x)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape == x.shape]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]
