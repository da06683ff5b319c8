"""Digests of a model folder's files, in the format of `sha256sum`: `sha256sum -c SHA256SUMS` checks them too.

A file is checked when it is read. One without a line is taken as it is, so whoever edits a file on purpose deletes its line.
"""

import hashlib
import os
import pathlib
import re

from etils import epath

from transkimmer_jax import files
from transkimmer_jax.errors import CheckpointError

DIGESTS_FILE = "SHA256SUMS"
_MOST_BYTES = 2**20
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[^/\\]+)")
_NOT_LISTED = (DIGESTS_FILE, "README.md")  # a model card is for readers, who edit it


def write(folder: pathlib.Path) -> None:
    """List all files of a local folder that is being written."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in _NOT_LISTED)
    (folder / DIGESTS_FILE).write_text(_text({name: _digest(folder / name) for name in names}), encoding="utf-8")


def verify(path: pathlib.Path) -> None:
    """Compare a file with its digest, where its folder lists one.

    Raises:
      CheckpointError: it is another file than was written, some listed file is missing, or the digests cannot be read.
    """
    listed, where = _listed(epath.Path(path.parent)), path.parent / DIGESTS_FILE
    missing = next((name for name in listed if not (path.parent / name).is_file()), None)
    if missing is not None:
        raise CheckpointError(f"{path.parent / missing} is missing, and {where} lists it: restore it, or delete its line there")
    if path.name in listed and _digest(path) != listed[path.name]:
        raise CheckpointError(
            f"{path} is not the file that was written (its sha256 differs from that in {where}): restore it, or delete its line there if "
            "you changed it on purpose"
        )


def listed_names(folder: pathlib.Path) -> tuple[str, ...]:
    """Files that a folder's digests list, if it has any. Raises `CheckpointError` where they cannot be read."""
    return tuple(_listed(epath.Path(folder)))


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file into a model folder, local or remote, atomically, and its new digest where the folder has digests.

    In between the file has no line, so a run that is killed there leaves a folder that can be read.

    Raises:
      CheckpointError: the folder's digests cannot be read.
      TrainingError: the disk is full or not writable.
    """
    folder, name = epath.Path(path).parent, epath.Path(path).name
    if not (folder / DIGESTS_FILE).exists():
        files.write_text(path, text)
        return
    digests = _listed(folder)
    if digests.pop(name, None) is not None:
        files.write_text(folder / DIGESTS_FILE, _text(digests))
    files.write_text(path, text)
    files.write_text(folder / DIGESTS_FILE, _text(digests | {name: hashlib.sha256(text.encode("utf-8")).hexdigest()}))


def _listed(folder: epath.Path) -> dict[str, str]:
    """Digests by name. Raises `CheckpointError` where the file is none of digests, or lists a file twice."""
    path = folder / DIGESTS_FILE
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
        lines = [_LINE.fullmatch(line) for line in content.decode("utf-8").splitlines()]
        digests = {line["name"]: line["digest"] for line in lines if line is not None}
        if len(digests) < len(lines):
            raise ValueError("a line is no digest, or a file is listed twice")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a list of digests as sha256sum writes it: restore it, or delete it") from error
    return digests


def _text(digests: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
