"""The attention core of compacted inference: sequences whose tokens form a prefix of a padded view."""

import jax
import jax.numpy as jnp


def attend(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array) -> jax.Array:
    """Softmax attention of every query over the first `lengths` keys of its sequence.

    Args:
      query: [B, Q, heads, head_dim]. key, value: [B, W, heads, head_dim].
      lengths: [B] int32, keys that count.

    Returns:
      [B, Q, heads, head_dim] in the dtype of `value`.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    real = (jnp.arange(key.shape[1])[None, :] < lengths[:, None])[:, None, None, :]
    scores = jnp.where(real, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
