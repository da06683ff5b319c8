"""Devices that are not here: the chips of a TPU slice, as the compiler in the libtpu package knows them."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies

from tools.roofline import CHIPS, Chip
from transkimmer_jax import extras
from transkimmer_jax.errors import ConfigError, first_line


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice that programs can be compiled for. name: 'v5e:4x4'. shape: chips along each axis. devices: of all its hosts."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: list[jax.Device]


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the shape that a name like 'v5e:4x4' stands for. Raises `ConfigError` for anything else."""
    version, _, sizes = name.partition(":")
    if version not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise ConfigError(f"no topology {name!r}: expected a chip ({', '.join(CHIPS)}) and a shape, like v5e:4x4 or v5p:2x2x4")
    chip, shape = CHIPS[version], tuple(int(size) for size in sizes.split("x"))
    if len(shape) != chip.axes:
        raise ConfigError(f"no topology {name!r}: the shape of a {chip.name} slice has {chip.axes} axes")
    return chip, shape


def topology(name: str) -> Topology:
    """The slice of a name like 'v5e:4x4'. Needs no TPU, and leaves one that is there alone: this process computes on the CPU.

    Raises:
      ConfigError: a name that is none, a shape that is not made, or no libtpu.
    """
    chip, shape = parse(name)
    with extras.needed("aot", "compiling for TPUs"):
        import libtpu  # noqa: F401
    jax.config.update("jax_platforms", "cpu")
    # The compiler must not look for a TPU, nor wait for another process that has one; the type of accelerator, which is not that of
    # the slice, keeps it from warning that it found none.
    for variable, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }.items():
        os.environ.setdefault(variable, value)
    try:
        devices = list(topologies.get_topology_desc(topology_name=name, platform="tpu").devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"libtpu knows no topology {name!r}: {first_line(error)}") from error
    if len(devices) != math.prod(shape):
        raise ConfigError(f"{name} has {len(devices)} devices, not one a chip")
    return Topology(name, chip, shape, devices)
