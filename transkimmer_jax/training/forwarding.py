"""Where the maps of skimmed tokens' states start: at the least squares of what these states become when nothing is skimmed.

A model that is yet to learn skimming tells for each token what state it has before every layer, and its final state. The map of a
predictor is the best linear guess at the second from the first (Belrose et al., 2023, call such maps a tuned lens).
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.distributed.placement import Placement, gathered
from transkimmer_jax.models.skim import ThresholdGate, path_keys
from transkimmer_jax.training import moments


def are_fresh(params: nnx.State) -> bool:
    """Whether there are maps, and none has learned anything yet."""
    leaves = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "forwarding" in path_keys(path)]
    return bool(leaves) and not any(bool(jnp.any(leaf != 0)) for leaf in leaves)


def fitted(graph: nnx.GraphDef, params: nnx.State, batches: Iterable[dict[str, jax.Array]], placement: Placement) -> nnx.State:
    """`params` with maps that guess final states, of a model that skims nothing.

    batches: of training texts, over all devices; see `moments.summed`.
    """
    sums = moments.summed(functools.partial(_moments, graph), params, batches, placement, "fitting maps")
    solutions = [_solved(square, product) for square, product in zip(*sums, strict=True)]

    def filled(path, leaf: jax.Array) -> jax.Array:
        keys = path_keys(path)
        if "forwarding" not in keys:
            return leaf
        kernel, bias = solutions[int(keys[keys.index("forwarding") + 1])]
        values = (kernel if keys[-1] == "kernel" else bias).astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return jax.tree_util.tree_map_with_path(filled, params)


def _moments(graph: nnx.GraphDef, params: nnx.State, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Of each predictor the sums over tokens of x x' [predictors, H + 1, H + 1] and x y' [predictors, H + 1, H]: x is the state that it
    reads, and 1; y is by how much the final state differs from that."""
    model = nnx.merge(graph, gathered(params))
    inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    out = model(*inputs, gate=ThresholdGate(-jnp.inf))
    real = batch["attention_mask"].astype(jnp.float32)[..., None]
    final = out.last_hidden_state.astype(jnp.float32)
    squares, products = [], []
    for number in model.arch.predictor_layers:
        state = model.encoder.leaving(number).normalize(out.hidden_states[number]).astype(jnp.float32)
        features = real * jnp.concatenate([state, jnp.ones_like(state[..., :1])], axis=-1)
        squares.append(moments.products(features, features))
        products.append(moments.products(features, real * (final - state)))
    return jnp.stack(squares), jnp.stack(products)


def _solved(square: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernel [H, H] and the bias [H]."""
    ridge = moments.RIDGE * np.trace(square) / len(square)
    solution = np.linalg.solve(square + ridge * np.eye(len(square)), product)
    return solution[:-1], solution[-1]
