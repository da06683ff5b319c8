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


def dropout(x: jax.Array, rate: float, key: jax.Array | None, start: jax.Array | int = 0) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed and the rest scaled up; `x` itself without a key (evaluation).

    start: index of the first element, where `x` is a part of a larger array; the parts then lose what the whole would.

    Which elements go is a hash of their index and of two words drawn from `key`, so it does not depend on how the array is
    laid out over devices. A hash is a dozen integer operations that fuse with what is around them, and the backward pass
    computes it again instead of storing a mask; on the CPU, threefry runs as a loop over arrays held in memory.
    """
    if key is None or rate == 0.0:
        return x
    keep = _hashed_bits(key, x.shape, start) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), jnp.zeros_like(x))


def _hashed_bits(key: jax.Array, shape: tuple[int, ...], start: jax.Array | int) -> jax.Array:
    """32 bits for each element of `shape`, uint32: its index, mixed twice with a word of the key in between.

    The mixing function is Wellons' lowbias32, a bijection of 32 bits with near-ideal avalanche.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    index, stride = jnp.full(shape, start, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return _mix(_mix(index + first) + second)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
