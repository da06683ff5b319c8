"""Finding a checkpoint: folders, packaged assets and the hub."""

import atexit
import functools
import pathlib
import tempfile

from etils import epath

from transkimmer_jax.checkpoints import packaged
from transkimmer_jax.checkpoints.files import copy_folder, is_remote
from transkimmer_jax.checkpoints.folders import SUMS_FILE
from transkimmer_jax.checkpoints.sentence_transformers import is_embedder
from transkimmer_jax.errors import CheckpointError, first_line

_HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*.codes", "*.safetensors", SUMS_FILE]  # '*.codes': merges of BERTweet and PhoBERT
_PYTORCH_WEIGHTS = "pytorch_model.bin"  # where a hub has no safetensors
_MODULE_CONFIGS = "[0-9]_*/config.json"  # of sentence-transformers
# What nobody calls a model on a hub, and people do call their own folders and files.
_LOCAL_STARTS = ("/", "\\", ".", "~")
_LOCAL_PARENTS = ("runs", "models", "checkpoints", "output", "outputs", "results", "tmp", "data")
_FILE_ENDINGS = (".safetensors", ".bin", ".json", ".pt", ".pth", ".ckpt", ".h5", ".npz", ".onnx", ".zip", ".tar", ".gz", ".txt")


def resolve(name: str) -> pathlib.Path:
    """The local folder of a checkpoint: a folder, 'packaged:<asset>', a hub id (downloaded, cached by huggingface_hub), or a folder in a
    bucket ('gs://...': downloaded, until the process ends).

    Raises:
      CheckpointError: it is none of these, or cannot be fetched.
    """
    if name.startswith("packaged:"):
        return packaged.checkpoint_folder(name.removeprefix("packaged:"))
    if is_remote(name):
        return _fetched(name)
    try:
        folder = pathlib.Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        local = _looks_local(name)
    except (OSError, RuntimeError):  # longer than a path may be, or the home of nobody
        local = True
    if local:
        raise CheckpointError(f"no checkpoint folder {name!r}")
    import huggingface_hub

    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_PATTERNS, ignore_patterns=["*/*"]))
        if not any(folder.glob("*.safetensors")):
            huggingface_hub.snapshot_download(name, allow_patterns=[_PYTORCH_WEIGHTS])
        if is_embedder(folder):
            huggingface_hub.snapshot_download(name, allow_patterns=[_MODULE_CONFIGS])
        return folder
    except Exception as error:  # the library's own, and those of the HTTP client beneath it
        raise CheckpointError(f"{name!r} is neither a folder nor a model that can be fetched from the hub: {first_line(error)}") from error


def is_hub_id(name: str) -> bool:
    """Whether `resolve` would ask a hub for this."""
    return not name.startswith("packaged:") and not is_remote(name) and not _looks_local(name)


@functools.cache
def _fetched(name: str) -> pathlib.Path:
    source = epath.Path(name)
    if not source.is_dir():
        raise CheckpointError(f"no checkpoint folder {name!r}")
    folder = tempfile.TemporaryDirectory(prefix="transkimmer_jax.")
    atexit.register(folder.cleanup)
    copy_folder(source, epath.Path(folder.name))
    return pathlib.Path(folder.name)


def _looks_local(name: str) -> bool:
    """Whether somebody who writes this means a path, so that no hub need be asked, which takes time and tells it the name."""
    path = pathlib.Path(name)
    parent = name.partition("/")[0] if "/" in name else None
    return (
        not name
        or path.exists()
        or name.startswith(_LOCAL_STARTS)
        or name.count("/") > 1
        or "\\" in name
        or name.endswith(("/", *_FILE_ENDINGS))
        or (parent is not None and (parent in _LOCAL_PARENTS or pathlib.Path(parent).exists()))
    )
