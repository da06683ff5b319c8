"""Which part of an array each of eight devices holds. In a process of its own, since a process's devices are counted once."""

import json
import subprocess
import sys

import numpy as np
import pytest
from distributed import launch

from transkimmer_jax.config import MeshConfig
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.errors import ConfigError

WORKER = """
import json
import jax, numpy as np
from flax import nnx
from transkimmer_jax.config import Config, MeshConfig
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.distributed.placement import Placement, bytes_per_device
from transkimmer_jax.training.step import TrainStep

arch = Architecture(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16,
    skim=SkimArchitecture(),
)
model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0))
params = nnx.split(model)[1]
train_step, found = TrainStep.create(Config(), model, 10), {}
for data, fsdp in ((1, 1), (8, 1), (4, 2), (2, 4), (1, 8)):
    placement = Placement.create(MeshConfig(data=data, fsdp=fsdp))
    state = train_step.place(params, placement)
    same = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params)))
    vectors = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim < 2)
    uneven = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim >= 2 and all(size % fsdp for size in leaf.shape))
    rows = placement.rows(16)
    batch = {"labels": np.arange(16), "ids": np.arange(48).reshape(16, 3)}
    placed = placement.global_batch({name: values[rows] for name, values in batch.items()}, rows, 16)
    whole = all(np.array_equal(placed[name], batch[name]) for name in batch)
    shards = sorted({len(shard.data) for shard in placed["ids"].addressable_shards})
    held = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)]
    found[f"{data}x{fsdp}"] = dict(
        bytes=bytes_per_device(state), held=sum(held), vectors=vectors, uneven=uneven, same=same, whole=whole, shards=shards
    )
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    run = subprocess.run([sys.executable, "-c", WORKER], env=launch.environment(8), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["8x1", "4x2", "2x4", "1x8"])
def test_bytes_drop_as_the_fsdp_axis_says(found, mesh):
    """Parameters and both moments of the optimiser: matrices are split evenly, what stays whole is a small part."""
    fsdp, whole, split = int(mesh.split("x")[1]), found["1x1"], found[mesh]
    replicated = split["vectors"] + split["uneven"]
    assert split["bytes"] == split["held"] == replicated + (whole["bytes"] - replicated) / fsdp
    assert replicated < 0.1 * whole["bytes"]


def test_values_and_batches_are_whole(found):
    for mesh, seen in found.items():
        devices = np.prod([int(size) for size in mesh.split("x")])
        assert seen["same"] and seen["whole"] and seen["shards"] == [16 / devices], mesh


def test_one_device_is_a_mesh_too():
    placement = Placement.create(MeshConfig())
    assert placement.device_count == 1 and placement.rows(3).tolist() == [0, 1, 2]
    assert placement.parameter((4, 8)).is_fully_replicated


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshConfig(data=2), "mesh.data=2 x mesh.fsdp=1 are 2 devices, and there are 1"),
        (MeshConfig(fsdp=3), "mesh.data=1 x mesh.fsdp=3 are 3 devices, and there are 1"),
    ],
)
def test_axes_that_the_devices_do_not_fill(mesh, message):
    with pytest.raises(ConfigError, match=message):
        Placement.create(mesh)
