"""LayerNorm against float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transkimmer_jax.models.layers import LayerNorm


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 1e-6), (0.5, 1e-6), (10.0, 2e-5)])
def test_it_is_exact_where_the_mean_is_not_many_deviations(mean, tolerance):
    """The mean is in standard deviations, of which real encoders have half of one at most."""
    rng = np.random.default_rng(0)
    norm = LayerNorm(384, epsilon=1e-12, rngs=nnx.Rngs(0))
    scale, bias = rng.normal(1, 0.3, 384), rng.normal(0, 0.3, 384)
    norm.scale[...], norm.bias[...] = jnp.float32(scale), jnp.float32(bias)
    for deviation in (1e-3, 1.0, 1e3):
        x = np.float32(deviation * (mean + rng.normal(size=(200, 384))))
        wide = np.float64(x)
        expected = (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True) * scale + bias
        assert np.abs(norm(jnp.asarray(x)) - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4])
def test_what_does_not_vary_is_finite(value):
    """Where rounding would make the variance negative."""
    norm = LayerNorm(384, epsilon=1e-12, rngs=nnx.Rngs(0))
    assert np.isfinite(norm(jnp.full((3, 384), value))).all()
    assert norm(jnp.ones((3, 384), jnp.bfloat16)).dtype == jnp.bfloat16
