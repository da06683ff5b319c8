"""Where arrays live on a mesh of devices: batches split over all of them, parameters over one axis (docs/design.md, section 5.3)."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from transkimmer_jax.config import MeshConfig
from transkimmer_jax.errors import ConfigError

_BATCH = ("data", "fsdp")  # both axes split the batch; 'fsdp' splits the parameters too


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh of `data` x `fsdp` devices, and which part of an array each of them holds."""

    mesh: jax.sharding.Mesh

    @classmethod
    def create(cls, config: MeshConfig, devices: list[jax.Device] | None = None) -> "Placement":
        """The mesh that a config asks for.

        devices: None takes those of all processes.

        Raises:
          ConfigError: axes that the devices at hand do not fill.
        """
        every = jax.devices() if devices is None else devices
        data = config.data or max(1, len(every) // config.fsdp)
        wanted = data * config.fsdp
        # A single process may use some of its devices, unless they form a torus; of many processes each needs a part.
        whole = jax.process_count() > 1 or every[0].platform == "tpu"
        if wanted > len(every) or (whole and wanted != len(every)):
            raise ConfigError(
                f"mesh.data={data} x mesh.fsdp={config.fsdp} are {wanted} devices, and there are {len(every)}: their product must be that"
            )
        axes = (jax.sharding.AxisType.Auto,) * 2
        return cls(jax.make_mesh((data, config.fsdp), ("data", "fsdp"), axis_types=axes, devices=every[:wanted]))

    @property
    def device_count(self) -> int:
        """Devices of the mesh, of all processes."""
        return self.mesh.size

    @property
    def replicated(self) -> jax.NamedSharding:
        """All of an array on every device."""
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def batch(self) -> jax.NamedSharding:
        """The first axis split over all devices."""
        return jax.NamedSharding(self.mesh, jax.P(_BATCH))

    def parameter(self, shape: tuple[int, ...]) -> jax.NamedSharding:
        """Of a parameter, and of what the optimiser keeps of it."""
        return jax.NamedSharding(self.mesh, _parameter_spec(shape, self.mesh.shape["fsdp"]))

    def parameters(self, tree: Any) -> Any:
        """The shardings of a tree of arrays, or of their shapes."""
        return jax.tree.map(lambda leaf: self.parameter(leaf.shape), tree)

    def put(self, tree: Any) -> Any:
        """Parameters [...] that every process has, as arrays of the mesh: each device gets its part alone."""

        def put(leaf):
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self.parameter(whole.shape), lambda index: whole[index])

        return jax.tree.map(put, tree)

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch this process's devices compute, rising.

        Raises:
          ConfigError: a batch that the devices cannot share equally.
        """
        if batch_size % self.device_count:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared equally by {self.device_count} devices: make data.batch_size a multiple of that"
            )
        parts = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts if part is not None]))

    def global_batch(self, local: dict[str, np.ndarray], rows: np.ndarray, batch_size: int) -> dict[str, jax.Array]:
        """The batch, of which this process has collated the examples at `rows` alone."""

        def place(values: np.ndarray) -> jax.Array:
            def part(index):
                wanted = np.arange(batch_size)[index[0]]
                return values[np.searchsorted(rows, wanted)]

            return jax.make_array_from_callback((batch_size, *values.shape[1:]), self.batch, part)

        return jax.tree.map(place, local)


def gathered(params: Any) -> Any:
    """Parameters as a computation reads them: whole on every device of the mesh in use, their gradients split again as they are.

    Left to itself the partitioner may follow the weights instead: split the activations along their features and move those
    between devices, which are many times as large. Without a mesh, or where its 'fsdp' axis has
    one device, nothing changes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty else mesh.shape.get("fsdp", 1)
    if size == 1:
        return params

    def gather(leaf):
        spec = _parameter_spec(leaf.shape, size)
        return leaf if spec == jax.P() else _whole(leaf, spec)

    return jax.tree.map(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(leaf: jax.Array, spec: jax.P) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, jax.P())


_whole.defvjp(lambda leaf, spec: (_whole(leaf, spec), None), lambda spec, _, gradient: (jax.lax.with_sharding_constraint(gradient, spec),))


def _parameter_spec(shape: tuple[int, ...], size: int) -> jax.P:
    """A matrix is split over the `size` devices of 'fsdp' along its longest axis that divides; vectors, a few thousandths of the
    whole, are not."""
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if len(shape) < 2 or not divisible or size == 1:
        return jax.P()
    longest = max(divisible, key=lambda axis: shape[axis])
    return jax.P(*("fsdp" if axis == longest else None for axis in range(longest + 1)))


def bytes_per_device(tree: Any) -> int:
    """What the arrays of a tree take up on one device; arrays, or shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
