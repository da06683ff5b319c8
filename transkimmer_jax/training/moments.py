"""Sums over the tokens of training texts, of which least squares are solved before the first step."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transkimmer_jax.distributed import processes
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.progress import tqdm

BATCHES = 48  # of training texts
RIDGE = 1e-3  # of a feature's mean square


def products(values: jax.Array, others: jax.Array) -> jax.Array:
    """Sum over tokens of x y', [i, j], of x [B, S, i] and y [B, S, j]. Accelerators would round the factors."""
    return jnp.einsum("bsi,bsj->ij", values, others, precision=jax.lax.Precision.HIGHEST)


def summed(
    function: Callable[[Any, dict[str, jax.Array]], Any],
    params: Any,
    batches: Iterable[dict[str, jax.Array]],
    placement: Placement,
    label: str,
) -> Any:
    """The sum of what `function(params, batch)` gives, a tree of arrays, over the first `BATCHES` batches, in float64.

    params, batches: over all devices. label: of the progress bar.
    """
    step = jax.jit(function, out_shardings=placement.replicated)
    total: Any = None
    shown = itertools.islice(batches, BATCHES)
    for batch in tqdm(shown, desc=label, total=BATCHES, disable=not processes.is_first(), leave=False):
        part = jax.tree.map(lambda values: np.asarray(values, np.float64), jax.device_get(step(params, batch)))
        total = part if total is None else jax.tree.map(np.add, total, part)
    return total
