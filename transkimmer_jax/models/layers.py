"""The pieces every backbone is made of: products summed in float32, LayerNorm, GELU, rotation by position, vectors of length 1, dropout by
key."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.models.architecture import Architecture

LEAST_NORM = 1e-12  # of a vector that is divided by its length


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    """[..., O] of [..., I] and [I, O] of one dtype, summed in float32 and returned in that dtype, and so are both gradients.

    precision: of factors in float32, which accelerators round unless told otherwise; None: as `jax_default_matmul_precision` says.

    XLA's code for CPUs multiplies bfloat16 in hardware (AMX) only where it is asked for float32 sums, and where both factors are bfloat16:
    the gradient that autodiff makes of such a product has one factor in float32.
    """
    return _summed_in_float32(x, kernel, (x.ndim - 1,), (0,), precision).astype(x.dtype)


def _product_forward(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None):
    return product(x, kernel, precision), (x, kernel)


def _product_backward(precision: jax.lax.Precision | None, factors, gradient: jax.Array):
    x, kernel = factors
    last, leading = (x.ndim - 1,), tuple(range(x.ndim - 1))
    of_x = _summed_in_float32(gradient, kernel, last, (1,), precision).astype(x.dtype)
    return of_x, _summed_in_float32(x, gradient, leading, leading, precision).astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _summed_in_float32(
    left: jax.Array,
    right: jax.Array,
    left_axes: tuple[int, ...],
    right_axes: tuple[int, ...],
    precision: jax.lax.Precision | None,
) -> jax.Array:
    axes = ((left_axes, right_axes), ((), ()))
    return jax.lax.dot_general(left, right, axes, precision=precision, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A vector [O] at every row of `shape` [..., O]. Its gradient is summed in float32: XLA's CPU code is faster at that."""
    return jnp.broadcast_to(vector, shape)


def _spread_forward(vector: jax.Array, shape: tuple[int, ...]):
    return spread(vector, shape), None


def _spread_backward(shape: tuple[int, ...], _, gradient: jax.Array):
    return (jnp.sum(gradient, axis=tuple(range(len(shape) - 1)), dtype=jnp.float32).astype(gradient.dtype),)


spread.defvjp(_spread_forward, _spread_backward)


class Linear(nnx.Linear):
    """Linear map of [..., I] to [..., O] by `product`."""

    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        """[..., O] of [..., I], in the map's dtype."""
        return self._mapped(inputs, self.kernel[...], None if self.bias is None else self.bias[...])

    def part(self, inputs: jax.Array, count: int) -> jax.Array:
        """The first `count` of the outputs, [..., count]."""
        return self._mapped(inputs, self.kernel[:, :count], None if self.bias is None else self.bias[:count])

    def _mapped(self, inputs: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        outputs = product(inputs.astype(self.dtype), kernel.astype(self.dtype), self.precision)
        return outputs if bias is None else outputs + spread(bias.astype(self.dtype), outputs.shape)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm computed in float32, returned in the dtype of its input.

    The variance is the mean of squares less the square of the mean: one way through the memory less than of differences from the mean,
    and as exact where the mean is not many times the standard deviation. In the inputs of real encoders' norms it is half of that at most.
    """

    def __init__(self, size: int, *, epsilon: float, rngs: nnx.Rngs, use_bias: bool = True):
        super().__init__(size, epsilon=epsilon, dtype=jnp.float32, use_bias=use_bias, rngs=rngs)

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        return super().__call__(x, mask=mask).astype(x.dtype)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """GELU with the exact error function, as BERT's checkpoints were trained with; computed in float32, returned in the dtype of `x`.

    Not `jax.nn.gelu`, whose complement of the error function takes a CPU two and a half times as long. That is more exact only where the
    result is within a float32's rounding of 0. The derivative is written out, so that training keeps one array for it.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_below(wide)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    below = _normal_below(wide)
    slope = below + wide * jnp.exp(-0.5 * jnp.square(wide)) * (1 / math.sqrt(2 * math.pi))
    return (wide * below).astype(x.dtype), tangent * slope.astype(x.dtype)


def norm(arch: Architecture, rngs: nnx.Rngs, size: int | None = None) -> LayerNorm:
    """A fresh norm of vectors of this size; None: of states."""
    return LayerNorm(size or arch.hidden_size, epsilon=arch.layer_norm_eps, use_bias=arch.norm_bias, rngs=rngs)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., H] at length 1; a vector of zeros stays one."""
    # The root of what is not 0: its gradient at 0 is infinite.
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(square, LEAST_NORM**2))


def _normal_below(x: jax.Array) -> jax.Array:
    """The share of a standard normal distribution that lies below x."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """A function by its name: 'tanh', 'relu' or 'gelu'."""
    functions: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": gelu}
    return functions[name]


def rotated(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Queries or keys turned by their positions (rotary embedding; Su et al., 2021), so that their products tell distances.

    Args:
      x: [..., heads, head_dim]; element i and element i + head_dim / 2 are turned together.
      positions: [...] int, or [1, S] for all alike.
      theta: base of the angles.

    Returns:
      The same shape and dtype; computed in float32.
    """
    angles = jnp.multiply.outer(positions.astype(jnp.float32), rotary_frequencies(x.shape[-1], theta))
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def rotary_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """By what angle a pair of elements turns from one position to the next, [head_dim / 2] float32 in radians."""
    return (1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)


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
