"""Finding a checkpoint and reading its tensors."""

import json
import pathlib
import pickle
from typing import Any

import numpy as np
import safetensors

from transkimmer_jax.assets import packaged
from transkimmer_jax.errors import CheckpointError

_HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"]


def resolve(name: str) -> pathlib.Path:
    """The local folder of a checkpoint: a folder, 'packaged:<asset>', or a hub id (downloaded, cached by huggingface_hub).

    Raises:
      CheckpointError: it is none of these, or cannot be fetched.
    """
    if name.startswith("packaged:"):
        return packaged.checkpoint_folder(name.removeprefix("packaged:"))
    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no checkpoint folder {name!r}")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Where both forms are offered, safetensors is what is read.
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_PATTERNS, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{name!r} is neither a folder nor a model that can be fetched from the hub: {first_line}") from error


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The parsed `config.json`. Raises `CheckpointError` where it is missing or not JSON."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json, so this is not a checkpoint folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not the fields of a config")
    return values


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint as float32, by the names in the file.

    Reads `model.safetensors`, or its shards by `model.safetensors.index.json`, or `pytorch_model.bin` through torch.

    Raises:
      CheckpointError: no weights, a shard missing, a truncated or foreign file, or torch needed and not installed.
    """
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of shards") from error
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise CheckpointError(f"{index} names shards that are not there: {', '.join(missing)}")
        return {name: tensor for shard in shards for name, tensor in _read_safetensors(folder / shard).items()}
    if (folder / "pytorch_model.bin").is_file():
        return _read_torch(folder / "pytorch_model.bin")
    raise CheckpointError(f"{folder}: no weights (model.safetensors, model.safetensors.index.json or pytorch_model.bin)")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "np") as file:
            return {name: _to_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be truncated: {error}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{path} needs torch to be read: pip install torch, or convert it to model.safetensors") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read, it may be truncated: {first_line}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} holds something else than tensors by name")
    return {name: _to_float32(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()) for name, tensor in state.items()}


def _to_float32(tensor: np.ndarray) -> np.ndarray:
    return tensor if np.issubdtype(tensor.dtype, np.integer) else tensor.astype(np.float32)
