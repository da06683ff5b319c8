"""The attention core of compacted inference: sequences whose tokens form a prefix of a padded view.

What is fast differs by machine, so each platform has its form; all compute the same.
"""

import jax
import jax.numpy as jnp

# Scores of so many (head, query, key) at a time on a CPU: 16 MiB of them stay in its caches, and larger temporaries cost page
# faults on top of the memory traffic.
_CPU_CHUNK = 4 * 2**20


def attend(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array) -> jax.Array:
    """Softmax attention of every query over the first `lengths` keys of its sequence.

    Args:
      query: [B, Q, heads, head_dim]. key, value: [B, W, heads, head_dim].
      lengths: [B] int32, keys that count.

    Returns:
      [B, Q, heads, head_dim] in the dtype of `value`; finite whatever lies behind the last key, if that is finite.
    """
    return jax.lax.platform_dependent(query, key, value, lengths, cpu=_chunked, cuda=_fused, default=_plain)


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array) -> jax.Array:
    # Heads first, so that both products are plain batched ones; the mask added and the division done last, so that the
    # exponentials are written and read once.
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    query, key, value = (array.transpose(0, 2, 1, 3) for array in (query, key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    real = jnp.arange(key.shape[2])[None, :] < lengths[:, None]
    scores = scores + jnp.where(real, 0.0, -1e30)[:, None, None, :]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1)
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / total[..., None]).astype(value.dtype).transpose(0, 2, 1, 3)


def _chunked(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array) -> jax.Array:
    """`_plain`, a few sequences at a time, and none behind the last that has a token. Not differentiable."""
    batch, queries, heads, _ = query.shape
    scores = heads * queries * key.shape[1]
    if batch * scores <= _CPU_CHUNK // 4:
        return _plain(query, key, value, lengths)
    count = max(1, min(_CPU_CHUNK // scores, -(-batch // 8)))

    def one(index, attended):
        start = jnp.minimum(index * count, batch - count)
        rows = [jax.lax.dynamic_slice_in_dim(array, start, count) for array in (query, key, value, lengths)]
        return jax.lax.dynamic_update_slice_in_dim(attended, _plain(*rows), start, 0)

    used = jnp.max(jnp.where(lengths > 0, jnp.arange(1, batch + 1), 0))
    return jax.lax.fori_loop(0, (used + count - 1) // count, one, jnp.zeros(query.shape, value.dtype))


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array) -> jax.Array:
    """cuDNN's kernel where it takes the dtype and more than one query."""
    # All platforms' branches are traced everywhere, and tracing this one asks for cuDNN.
    if jax.default_backend() != "gpu" or query.dtype not in (jnp.bfloat16, jnp.float16) or query.shape[1] == 1:
        return _plain(query, key, value, lengths)
    count = jnp.full(lengths.shape, query.shape[1], jnp.int32)
    return jax.nn.dot_product_attention(
        query, key, value, query_seq_lengths=count, key_value_seq_lengths=jnp.maximum(lengths, 1), implementation="cudnn"
    )
