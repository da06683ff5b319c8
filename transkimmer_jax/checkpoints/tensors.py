"""The tensors of a checkpoint: shapes by their headers first, values when they are asked for.

Reads `model.safetensors`, its shards by `model.safetensors.index.json`, or `pytorch_model.bin` through torch.
"""

import contextlib
import dataclasses
import functools
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors

from transkimmer_jax import extras
from transkimmer_jax.checkpoints import folders
from transkimmer_jax.checkpoints.json_files import parse, read_object, require_plain_name
from transkimmer_jax.errors import CheckpointError, first_line
from transkimmer_jax.validation import shown

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
# Of a safetensors header, and of an index of shards: both have some hundred bytes for a tensor.
_MOST_HEADER_BYTES = 16 * 2**20
# What is converted to float32; a quantised weight means nothing without its scale.
_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read: its name in the file, its shape, and the name of its dtype there."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: pathlib.Path
    load: Callable[[], np.ndarray]

    @property
    def is_float(self) -> bool:
        """Whether its values are numbers that can be converted to float32."""
        return self.dtype in _FLOATS

    def read(self) -> np.ndarray:
        """Its values as float32.

        Raises:
          CheckpointError: they cannot be read, or some are not finite.
        """
        try:
            with np.errstate(over="ignore"):
                values = self.load().astype(np.float32, copy=False)
        except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.path} cannot be read, it may be truncated: {first_line(error)}") from error
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: {self.name} holds values that are not finite numbers: the weights are damaged")
        return values


@contextlib.contextmanager
def opened(folder: pathlib.Path) -> Iterator[list[StoredTensor]]:
    """All tensors of a checkpoint folder, to be read inside of the block.

    Raises:
      CheckpointError: no weights, a shard missing or outside of the folder, a truncated, changed or foreign file, or torch needed and
        not installed.
    """
    with contextlib.ExitStack() as stack:
        if (folder / WEIGHTS_FILE).is_file():
            yield _safetensors(folder / WEIGHTS_FILE, stack)
        elif (folder / INDEX_FILE).is_file():
            yield [tensor for shard in _shards(folder) for tensor in _safetensors(shard, stack)]
        elif (folder / TORCH_FILE).is_file():
            yield _torch(folder / TORCH_FILE)
        else:
            raise CheckpointError(f"{folder}: no weights ({WEIGHTS_FILE}, {INDEX_FILE} or {TORCH_FILE})")


def _shards(folder: pathlib.Path) -> list[pathlib.Path]:
    index = folder / INDEX_FILE
    folders.verify(index)
    try:
        weight_map = read_object(index, _MOST_HEADER_BYTES)["weight_map"]
        names = sorted(set(weight_map.values()))
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards") from error
    for name in names:
        require_plain_name(name, index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names shards that are not there: {', '.join(missing)}")
    return [folder / name for name in names]


def _safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> list[StoredTensor]:
    folders.verify(path)
    try:
        _require_plain_header(path)
        opened_file = stack.enter_context(safetensors.safe_open(path, "np"))
        slices = {name: opened_file.get_slice(name) for name in opened_file.keys()}  # noqa: SIM118 - not a dict
        return [
            StoredTensor(name, tuple(tensor.get_shape()), str(tensor.get_dtype()), path, functools.partial(opened_file.get_tensor, name))
            for name, tensor in slices.items()
        ]
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be truncated: {first_line(error)}") from error


def _require_plain_header(path: pathlib.Path) -> None:
    """Raises `ValueError` for what the library does not mind: a header that takes long to parse, and one that names a tensor twice."""
    with path.open("rb") as file:
        start = file.read(8)
        size = int.from_bytes(start, "little")
        if len(start) < 8 or size > _MOST_HEADER_BYTES:
            raise ValueError(f"it has {len(start)} bytes" if len(start) < 8 else f"its header has {size:,} bytes")
        parse(file.read(size))


def _torch(path: pathlib.Path) -> list[StoredTensor]:
    folders.verify(path)
    with extras.needed("torch", f"{path} (unlike {WEIGHTS_FILE})", CheckpointError):
        import torch
    try:
        # Files of before 2020 are not archives, and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # torch would have it unpickled all the same
        raise CheckpointError(f"{path} cannot be read: it is no file of tensors, or runs code when it is read") from error
    except Exception as error:  # whatever the unpickler makes of foreign bytes
        raise CheckpointError(f"{path} cannot be read, it may be truncated: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} holds something else than tensors by name")
    wrong = next((name for name in state if not isinstance(name, str)), None)
    if wrong is not None:
        raise CheckpointError(f"{path} names a tensor {shown(wrong)}, which is not a text")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {shown(name)} is a sparse, quantised or nested tensor, or has no values: save it dense")
    return [
        StoredTensor(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), path, functools.partial(_values, tensor))
        for name, tensor in state.items()
    ]


def _values(tensor: Any) -> np.ndarray:
    """Of a torch tensor, no longer in the file that it maps; NumPy has no bfloat16."""
    return np.array(tensor.detach().float().numpy())
