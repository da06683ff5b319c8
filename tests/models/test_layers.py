"""Dropout is unbiased noise: the right share, independent between elements and keys, a function of the key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transkimmer_jax.models.layers import dropout

RATE = 0.1
SHAPE = (64, 128, 64)
SIZE = 64 * 128 * 64


def dropped(seed: int, shape=SHAPE) -> np.ndarray:
    return np.asarray(dropout(jnp.ones(shape), RATE, jax.random.key(seed)) == 0)


def within_four_sigma(count: int, size: int, probability: float) -> bool:
    return abs(count - size * probability) < 4 * np.sqrt(size * probability * (1 - probability))


@pytest.mark.parametrize("seed", range(5))
def test_share_and_scale(seed):
    out = np.asarray(dropout(jnp.ones(SHAPE), RATE, jax.random.key(seed)))
    assert within_four_sigma(int((out == 0).sum()), SIZE, RATE)
    np.testing.assert_array_equal(out[out != 0], np.float32(1 / (1 - RATE)))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("lag", [1, 2, 7, 32])
def test_neighbours_are_independent(axis, lag):
    mask = dropped(3)
    both = np.roll(mask, lag, axis) & mask
    assert within_four_sigma(int(both.sum()), SIZE, RATE**2)


def test_keys_are_independent():
    masks = [dropped(seed) for seed in range(4)]
    for first in range(4):
        for second in range(first):
            assert within_four_sigma(int((masks[first] & masks[second]).sum()), SIZE, RATE**2)


def test_no_row_or_column_is_favoured():
    """Counts along each axis spread as binomials do: the variance over rows is within 25 % of the binomial's."""
    mask = dropped(1, (400, 400))
    for axis in range(2):
        ratio = mask.sum(axis).var() / (400 * RATE * (1 - RATE))
        assert 0.75 < ratio < 1.25


def test_the_same_key_gives_the_same_elements_in_forward_and_backward():
    key, x = jax.random.key(0), jnp.linspace(1.0, 2.0, 1000)
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.5, key)))(x)
    np.testing.assert_array_equal(np.asarray(gradient), np.asarray(dropout(jnp.ones(1000), 0.5, key)))
    np.testing.assert_array_equal(np.asarray(jax.jit(dropout, static_argnums=1)(x, 0.5, key)), np.asarray(dropout(x, 0.5, key)))


def test_without_key_or_rate_it_is_the_identity():
    x = jnp.arange(4.0)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
