"""Feed-forward blocks of fewer neurons, before anything is trained: of a fine-tuned encoder's, half can be told from the others.

Kept are the neurons that add most to a block's output: by the root mean square of their values, times the length of their outgoing weights.
These weights then become the least squares of the whole block's output, so that what is left out is told from what is there (He et al.,
2017, prune channels so). Training texts decide, and no labels.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.distributed.placement import Placement, gathered
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.models.skim import ThresholdGate, path_keys
from transkimmer_jax.training import moments

Model = TypeVar("Model", bound=TranskimmerPreTrainedModel)


@dataclasses.dataclass(frozen=True)
class _Block:
    """Kernels and biases of a feed-forward block: up [H, I], or [H, 2 I] of a gated one, and down [I, H]; biases where it has some."""

    up: np.ndarray
    down: np.ndarray
    up_bias: np.ndarray | None
    down_bias: np.ndarray | None

    def narrowed(self, sums: np.ndarray, size: int) -> "_Block":
        """The block of `size` neurons. sums: [I + 1, I + 1], over tokens of x x', where x is the neurons' values and 1."""
        neurons = len(self.down)
        ridge = moments.RIDGE * float(np.mean(np.diagonal(sums)[:neurons]))
        # A block without a bias can tell neurons from the others by their values alone.
        known = neurons + 1 if self.down_bias is not None else neurons
        square = sums[:known, :known] + ridge * np.eye(known)
        added = np.sqrt(np.diagonal(sums)[:neurons]) * np.linalg.norm(self.down.astype(np.float64), axis=1)
        kept = np.sort(np.argsort(-added, kind="stable")[:size])
        features = np.append(kept, np.arange(neurons, known))
        weights = np.zeros((known, self.down.shape[1]))
        weights[:neurons] = self.down
        # The ridge draws each weight to what it was.
        solution = np.linalg.solve(square[np.ix_(features, features)], square[features] @ weights)
        of_gates = kept if self.up.shape[1] == neurons else np.append(kept, neurons + kept)
        return _Block(
            self.up[:, of_gates],
            solution[:size].astype(self.down.dtype),
            None if self.up_bias is None else self.up_bias[of_gates],
            None if self.down_bias is None else (self.down_bias + solution[size]).astype(self.down_bias.dtype),
        )


def narrowed_shapes(arch: Architecture, size: float | None) -> Architecture:
    """The architecture with feed-forward blocks of `size` neurons, whose FLOPs are compared with those of all; None: as it is.

    size: below 1 it is a share of the neurons, rounded to a whole number of them.

    Raises:
      ConfigError: more neurons than there are.
    """
    there = arch.intermediate_size
    if size is None or size == there:
        return arch
    if size > there:
        raise ConfigError(
            f"model.intermediate_size={size:g} of a checkpoint with {there} neurons in a feed-forward block: take 1 to {there}, or a share"
        )
    neurons = max(1, round(size * there)) if size < 1 else int(size)
    return dataclasses.replace(arch, intermediate_size=neurons, dense_intermediate=arch.dense_intermediate or there)


def narrowed(model: Model, size: float | None, batches: Iterable[dict[str, jax.Array]], placement: Placement) -> Model:
    """`model` with feed-forward blocks of `size` neurons, see `narrowed_shapes`; None: as it is.

    batches: of training texts, over all devices; see `moments.summed`.

    Raises: as `narrowed_shapes`.
    """
    arch = narrowed_shapes(model.arch, size)
    if arch == model.arch:
        return model
    graph, state = nnx.split(model)
    blocks = [_block(model, number) for number in range(model.arch.num_hidden_layers)]
    summed = moments.summed(functools.partial(_moments, graph), placement.put(state), batches, placement, "choosing neurons")
    changed: dict[tuple, np.ndarray] = {}
    for number, (block, sums) in enumerate(zip(blocks, summed, strict=True)):
        small, at = block.narrowed(sums, arch.intermediate_size), ("encoder", "layers", number)
        parts = {"up": (small.up, small.up_bias), "down": (small.down, small.down_bias)}
        for name, (kernel, bias) in parts.items():
            changed |= {(*at, name, "kernel"): kernel} | ({} if bias is None else {(*at, name, "bias"): bias})
    old = {path_keys(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    new_graph, shapes = nnx.split(type(model).abstract(arch))
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jax.device_put(changed.get(path_keys(path), old[path_keys(path)])), shapes)
    return nnx.merge(new_graph, filled)


def _block(model: TranskimmerPreTrainedModel, number: int) -> _Block:
    layer = model.encoder.layers[number]

    def values(parameter: Any) -> np.ndarray | None:
        return None if parameter is None else np.asarray(parameter[...])

    up, down = values(layer.up.kernel), values(layer.down.kernel)
    assert up is not None and down is not None
    return _Block(up, down, values(layer.up.bias), values(layer.down.bias))


def _moments(graph: nnx.GraphDef, params: nnx.State, batch: dict[str, jax.Array]) -> list[jax.Array]:
    """Of each layer the sum over the real tokens of x x' [I + 1, I + 1]: x is the values of its neurons, and 1."""
    model = nnx.merge(graph, gathered(params))
    model.encoder.remat = False  # values seen within a layer may then leave it
    real = batch["attention_mask"].astype(jnp.float32)[..., None]
    seen: list[jax.Array] = []
    for layer in model.encoder.layers:
        layer.down = _watched(layer.down, real, seen)
    model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], gate=ThresholdGate(-jnp.inf))
    return seen


def _watched(down: Any, real: jax.Array, seen: list[jax.Array]) -> Any:
    """The map `down`, which adds the moments of what it is given to `seen`."""

    def watched(inner: jax.Array) -> jax.Array:
        values = real * jnp.concatenate([inner.astype(jnp.float32), jnp.ones_like(inner[..., :1], jnp.float32)], axis=-1)
        seen.append(moments.products(values, values))
        return down(inner)

    return watched
