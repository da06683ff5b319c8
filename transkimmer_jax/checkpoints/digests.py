"""Digests of a model folder's files (`checksums.py`), each checked when the file is read.

A file without a line is taken as it is, so whoever edits a file on purpose deletes its line.
"""

import hashlib
import os
import pathlib
from collections.abc import Collection

from etils import epath

from transkimmer_jax.checkpoints import checksums, files
from transkimmer_jax.checkpoints.checksums import SUMS_FILE
from transkimmer_jax.errors import CheckpointError

_MOST_BYTES = 2**20
_CARD = "README.md"  # for readers, who edit it


def write(folder: pathlib.Path) -> None:
    """List the files of a local folder that is being written."""
    checksums.write(epath.Path(folder), leave_out=(_CARD,))


def verify(path: pathlib.Path) -> None:
    """Compare a file with its digest, where its folder lists one.

    Raises:
      CheckpointError: it is another file than was written, some listed file is missing, or the digests cannot be read.
    """
    listed, where = _listed(epath.Path(path.parent)), path.parent / SUMS_FILE
    missing = next((name for name in listed if not (path.parent / name).is_file()), None)
    if missing is not None:
        raise CheckpointError(f"{path.parent / missing} is missing, and {where} lists it: restore it, or delete its line there")
    try:
        changed = path.name in listed and checksums.digest(path) != listed[path.name]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if changed:
        raise CheckpointError(
            f"{path} is not the file that was written (its sha256 differs from that in {where}): restore it, or delete its line there if "
            "you changed it on purpose"
        )


def listed_names(folder: pathlib.Path | epath.Path) -> tuple[str, ...]:
    """Files that a folder's digests list, if it has any. Raises `CheckpointError` where they cannot be read."""
    return tuple(_listed(epath.Path(folder)))


def require_replaceable(folder: epath.Path, leave_out: Collection[str] = ()) -> None:
    """Raise `CheckpointError` where a folder, local or remote, holds a file that is not as this package wrote it: it would be lost.

    leave_out: names, relative to the folder, of files that may be lost.
    """
    try:
        other = checksums.first_other(folder, leave_out)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be replaced: {error}; choose a new folder") from error
    if other is not None:
        raise CheckpointError(f"{folder / other} is not as this package wrote it, and would be deleted: move it, or choose a new folder")


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file into a model folder, local or remote, atomically, and its new digest where the folder has digests.

    In between the file has no line, so a run that is killed there leaves a folder that can be read.

    Raises:
      CheckpointError: the folder's digests cannot be read.
      TrainingError: the disk is full or not writable.
    """
    folder, name = epath.Path(path).parent, epath.Path(path).name
    if not (folder / SUMS_FILE).exists():
        files.write_text(path, text)
        return
    sums = _listed(folder)
    if sums.pop(name, None) is not None:
        checksums.save(folder, sums)
    files.write_text(path, text)
    checksums.save(folder, sums | {name: hashlib.sha256(text.encode("utf-8")).hexdigest()})


def _listed(folder: epath.Path) -> dict[str, str]:
    """Digests by name; none where the folder has none. Raises `CheckpointError` where the file is none of digests."""
    path = folder / SUMS_FILE
    if not path.exists():
        return {}
    try:
        if path.stat().length > _MOST_BYTES:
            raise ValueError("it is too large")
        return checksums.read(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a list of digests as sha256sum writes it: restore it, or delete it") from error
