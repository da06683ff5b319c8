"""The pieces every backbone is made of: LayerNorm in float32, GELU, dropout by key."""

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.LayerNorm):
    """LayerNorm computed in float32, returned in the dtype of its input."""

    def __init__(self, size: int, *, epsilon: float, rngs: nnx.Rngs):
        super().__init__(size, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        return super().__call__(x, mask=mask).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """GELU with the exact error function, as BERT's checkpoints were trained with."""
    return jax.nn.gelu(x, approximate=False)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed and the rest scaled up; `x` itself without a key (evaluation)."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
