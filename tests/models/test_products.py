"""Linear maps and the sums of their gradients, against autodiff and in what dtype they are computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.embeddings import Embeddings
from transkimmer_jax.models.layers import Linear, product, spread
from transkimmer_jax.models.skim import Forwarding


def _loss(map_of, x, kernel, bias):
    return jnp.sum(jnp.sin(map_of(x, kernel, bias)))


def _plain(x, kernel, bias):
    outputs = jnp.matmul(x, kernel)
    return outputs + jnp.broadcast_to(bias, outputs.shape)


def _ours(x, kernel, bias):
    outputs = product(x, kernel)
    return outputs + spread(bias, outputs.shape)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_values_and_gradients_are_those_of_autodiff(shape):
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, (5, 6), (6,)))
    with jax.default_matmul_precision("highest"):
        expected, wanted = jax.value_and_grad(_loss, argnums=(1, 2, 3))(_plain, x, kernel, bias)
        value, gradients = jax.jit(jax.value_and_grad(_loss, argnums=(1, 2, 3)), static_argnums=0)(_ours, x, kernel, bias)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for gradient, right in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5)


def test_every_product_of_bfloat16_has_two_factors_of_it_and_float32_sums():
    """What XLA needs to see for a CPU's matrix units, forward and backward."""
    layer = Linear(32, 48, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x).astype(jnp.float32) ** 2)

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, jnp.ones((4, 8, 32), jnp.bfloat16)).as_text()
    products = re.findall(r"stablehlo\.dot_general.*: \((.*?), (.*?)\) -> (.*)", text)
    assert len(products) == 3  # forward, and the gradients of inputs and kernel
    for *factors, result in products:
        assert all(factor.endswith("xbf16>") for factor in factors) and result.endswith("xf32>"), (factors, result)


def test_a_gradient_of_bfloat16_is_near_that_of_float32():
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 64, 96), (96, 32), (32,)))
    exact = jax.grad(_loss, argnums=(1, 2, 3))(_plain, x / 10, kernel / 10, bias)
    half = [array.astype(jnp.bfloat16) for array in (x / 10, kernel / 10, bias)]
    rough = jax.grad(lambda *arrays: jnp.sum(jnp.sin(_ours(*arrays).astype(jnp.float32))), argnums=(0, 1, 2))(*half)
    for gradient, right in zip(rough, exact, strict=True):
        assert gradient.dtype == jnp.bfloat16
        assert np.linalg.norm(gradient.astype(jnp.float32) - right) < 0.02 * np.linalg.norm(right)


def test_spread_of_many_rows_sums_exactly():
    """More rows than a bfloat16 can count: sums are of float32."""
    gradient = jax.jit(jax.grad(lambda vector: jnp.sum(spread(vector, (1000, 3)).astype(jnp.float32))))(jnp.ones(3, jnp.bfloat16))
    np.testing.assert_array_equal(gradient.astype(jnp.float32), 1000.0)


def _gradients(module, given):
    """Of the sum of what a module makes of bfloat16, by name."""
    graph, params = nnx.split(module)
    gradients = jax.grad(lambda params: jnp.sum(given(nnx.merge(graph, params)).astype(jnp.float32)))(params)
    return {path[-2].key: np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}


def test_a_bias_of_forwarded_tokens_learns_from_all_of_them():
    states = jnp.ones((1000, 3), jnp.bfloat16)
    gradients = _gradients(Forwarding(3, nnx.Rngs(0)), lambda forwarding: forwarding(states))
    np.testing.assert_array_equal(gradients["bias"], 1000.0)
    np.testing.assert_array_equal(gradients["kernel"], 1000.0)


def test_rows_of_token_types_learn_from_all_tokens():
    arch = Architecture(vocab_size=4, hidden_size=2, num_attention_heads=1, type_vocab_size=2, skim=None)
    types = jnp.asarray(np.arange(2000) % 2, jnp.int32)
    embeddings = Embeddings(arch, jnp.bfloat16, nnx.Rngs(0))
    graph, params = nnx.split(embeddings)

    def loss(params):
        module = nnx.merge(graph, params)
        return jnp.sum(module._of_two(module.token_type, types).astype(jnp.float32))

    np.testing.assert_array_equal(jax.grad(loss)(params)["token_type"]["embedding"][...], 1000.0)


def test_a_map_without_bias_has_none():
    layer = Linear(4, 3, use_bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(jnp.zeros((2, 4))), 0.0)
