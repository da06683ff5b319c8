"""The forms of the attention core compute the same: whole or in chunks, values, gradients and dropped weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.quick import quick_jit

from transkimmer_jax.models import attention

BATCH, LENGTH, HEADS, SIZE = 6, 10, 2, 4


def make_disentangled():
    """Of distances of which those beyond two share a row."""
    rng = np.random.default_rng(7)
    keys, queries = (jnp.asarray(rng.standard_normal((5, HEADS, SIZE)), jnp.float32) for _ in range(2))
    rows = jnp.asarray(2 - np.clip(np.arange(1 - LENGTH, LENGTH), -2, 2), jnp.int32)
    return attention.Distances(disentangled=attention.Disentangled(keys, queries, rows))


def make_inputs(seed=0):
    rng = np.random.default_rng(seed)
    query, key, value = (rng.standard_normal((BATCH, LENGTH, HEADS, SIZE)).astype(np.float32) for _ in range(3))
    counted = rng.integers(0, 2, (BATCH, LENGTH)).astype(np.float32)
    counted[:, 0] = 1
    counted[3] = 0  # an example without a token
    return query, key, value, counted


@pytest.mark.parametrize(
    ("rate", "post_softmax", "distances"), [(0.0, False, None), (0.0, True, None), (0.4, False, make_disentangled()), (0.4, True, None)]
)
def test_chunks_change_nothing(monkeypatch, rate, post_softmax, distances):
    *arrays, counted = make_inputs()
    mask, kept = (np.ones_like(counted), counted) if post_softmax else (counted, None)
    key = jax.random.key(3)

    positions = (jnp.arange(LENGTH)[None],) * 2

    def loss(query, key_, value, counted, kept, distances):
        return jnp.sum(jnp.sin(attention.masked(query, key_, value, counted, kept, rate, key, positions, distances)))

    def value_and_gradients():
        jax.clear_caches()
        numbers = (0, 1, 2, 4 if post_softmax else 3, 5)
        gradient = jax.value_and_grad(loss, numbers, allow_int=True)
        text = str(jax.make_jaxpr(gradient)(*arrays, mask, kept, distances))
        value, gradients = quick_jit(gradient)(*arrays, mask, kept, distances)
        return [value, *(leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype == jnp.float32)], "scan" in text

    whole, scanned = value_and_gradients()
    assert not scanned
    monkeypatch.setattr(attention, "_CPU_CHUNK", HEADS * LENGTH * LENGTH)
    chunked, scanned = value_and_gradients()
    assert scanned, "else one is compared with itself"
    for a, b in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("used", [0, 1, 4, 6])
def test_prefixes_in_chunks(monkeypatch, used):
    """Empty slots behind the last sequence are not computed; what is, is what softmax over the prefix gives."""
    query, key, value, _ = make_inputs(1)
    lengths = np.array([3, 10, 1, 7, 2, 5], np.int32) * (np.arange(BATCH) < used)
    plain = attention._plain(*map(jnp.asarray, (query, key, value)), lengths)
    monkeypatch.setattr(attention, "_CPU_CHUNK", 2 * HEADS * LENGTH * LENGTH)
    chunked = attention.attend(query, key, value, lengths)
    np.testing.assert_allclose(chunked[:used], plain[:used], atol=1e-6)
    assert np.isfinite(chunked).all() and not np.asarray(chunked[used:]).any()
    for row in range(used):
        scores = np.einsum("qhd,khd->hqk", query[row], key[row, : lengths[row]]) / np.sqrt(SIZE)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(chunked[row], np.einsum("hqk,khd->qhd", weights, value[row, : lengths[row]]), atol=1e-5)


def test_dropout_of_parts_is_that_of_the_whole():
    from transkimmer_jax.models.layers import dropout

    whole = dropout(jnp.ones((6, 5, 3)), 0.5, jax.random.key(1))
    part = dropout(jnp.ones((2, 5, 3)), 0.5, jax.random.key(1), 2 * 15)
    np.testing.assert_array_equal(part, whole[2:4])
    assert 0 < (np.asarray(whole) == 0).mean() < 1


def test_heads_that_the_fused_kernel_refuses(monkeypatch):
    """cuDNN's takes sizes that are multiples of 8, up to 128 on every GPU; others are computed without it."""
    asked = []

    def kernel(query, key, value, **options):
        asked.append(query.shape[-1])
        return query

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    lengths = jnp.array([3, 5], jnp.int32)
    for size in (4, 8, 12, 128, 136):
        array = jnp.asarray(np.random.default_rng(size).normal(size=(2, 5, 2, size)), jnp.bfloat16)
        attended = attention._fused(array, array, array, lengths, None, None)
        if size not in asked:
            np.testing.assert_array_equal(attended, attention._plain(array, array, array, lengths))
    assert asked == [8, 128]
