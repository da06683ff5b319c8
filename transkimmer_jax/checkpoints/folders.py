"""Folders written whole and verified: each lists the SHA-256 of its files in `SHA256SUMS`, which `sha256sum -c` checks too.

A file without a line in a model folder is read unverified, so whoever edits a file on purpose deletes its line.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping

from etils import epath

from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.processors import available_processors

SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"  # people edit it
_CHUNK = 2**20
_MOST_BYTES = 2**20
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>[^\\\n]+)")


@contextlib.contextmanager
def write_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary folder that gets its digests and becomes `path`, local or remote, when the block ends well; else it vanishes."""
    with files.replaced_folder(path) as folder:
        yield folder
        write_digests(folder, leave_out=[CARD_FILE])


def digest(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, local or remote, in hexadecimal."""
    total = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def write_digests(folder: os.PathLike, names: Collection[str] | None = None, leave_out: Collection[str] = ()) -> None:
    """Write the digests of the files below a folder into it.

    names: the files to list; None: all. leave_out: files that may change or come later.
    """
    folder = epath.Path(folder)
    _save(folder, _digests(folder, _names(folder, leave_out) if names is None else names))


def add_digest(folder: epath.Path, name: str) -> None:
    """Add one more file to the digests of a folder, atomically. Raises as `read_digests`."""
    _save(folder, read_digests(folder) | {name: digest(folder / name)})


def read_digests(folder: epath.Path) -> dict[str, str]:
    """Digests by the names of files.

    Raises:
      OSError: there are none, or they cannot be read.
      ValueError: the file holds anything else.
    """
    text = (folder / SUMS_FILE).read_bytes().decode("utf-8", errors="replace")
    lines = [_LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    sums = {line["name"]: line["digest"] for line in lines if line is not None}
    if not text.endswith("\n") or len(sums) < len(lines):
        raise ValueError(f"{SUMS_FILE} does not hold digests as sha256sum writes them")
    return sums


def fault(folder: epath.Path, sums: Mapping[str, str], leave_out: Collection[str] = ()) -> str | None:
    """The first difference between the files below a folder and their digests, in words; None where there is none. Raises `OSError`."""
    present = set(_names(folder, leave_out))
    for name in sums:
        if name not in present:
            return f"{name} is missing, and {SUMS_FILE} lists it"
    for name in sorted(present - sums.keys()):
        return f"{name} has no digest in {SUMS_FILE}"
    for name, value in _digests(folder, sums).items():
        if value != sums[name]:
            return f"{name} is not what was written: another SHA-256 than in {SUMS_FILE}"
    return None


def verify(path: pathlib.Path) -> None:
    """Compare a file with its digest, where its folder lists one.

    Raises:
      CheckpointError: the file differs, another listed file is missing, or the digests cannot be read.
    """
    listed, where = _listed(epath.Path(path.parent)), path.parent / SUMS_FILE
    missing = next((name for name in listed if not (path.parent / name).is_file()), None)
    if missing is not None:
        raise CheckpointError(f"{path.parent / missing} is missing, and {where} lists it: restore it, or delete its line there")
    try:
        changed = path.name in listed and digest(path) != listed[path.name]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if changed:
        raise CheckpointError(
            f"{path} is not the file that was written (its sha256 differs from that in {where}): restore it, or delete its line there if "
            "you changed it on purpose"
        )


def listed_names(folder: pathlib.Path | epath.Path) -> tuple[str, ...]:
    """The files that a folder's digests list, if it has any. Raises `CheckpointError` where they cannot be read."""
    return tuple(_listed(epath.Path(folder)))


def require_replaceable(folder: epath.Path, leave_out: Collection[str] = ()) -> None:
    """Raise `CheckpointError` where a folder, local or remote, holds a file that this package did not write: it would be lost.

    leave_out: files that may be lost.
    """
    try:
        names = _names(folder, ())
        inner = [name.removesuffix(SUMS_FILE) for name in names if name.endswith(f"/{SUMS_FILE}")]
        sums = read_digests(folder) if (folder / SUMS_FILE).exists() else {}
        sums |= {below + name: value for below in inner for name, value in read_digests(folder / below).items()}
        checked = [name for name in names if name not in leave_out and not name.endswith(f"/{SUMS_FILE}")]
        foreign = next((name for name in checked if name not in sums), None)
        foreign = foreign or next((name for name, value in _digests(folder, checked).items() if value != sums[name]), None)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be replaced: {error}; choose a new folder") from error
    if foreign is not None:
        raise CheckpointError(f"{folder / foreign} is not as this package wrote it, and would be deleted: move it, or choose a new folder")


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file into a model folder, local or remote, atomically, with its new digest where the folder has digests.

    In between the file has no line, so a killed process leaves a readable folder.

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
        _save(folder, sums)
    files.write_text(path, text)
    _save(folder, sums | {name: hashlib.sha256(text.encode("utf-8")).hexdigest()})


def _save(folder: epath.Path, sums: Mapping[str, str]) -> None:
    files.write_text(folder / SUMS_FILE, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def _listed(folder: epath.Path) -> dict[str, str]:
    path = folder / SUMS_FILE
    if not path.exists():
        return {}
    try:
        if path.stat().length > _MOST_BYTES:
            raise ValueError("it is too large")
        return read_digests(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a list of digests as sha256sum writes it: restore it, or delete it") from error


def _names(folder: epath.Path, leave_out: Collection[str]) -> list[str]:
    return [name for name in files.names_below(folder) if name != SUMS_FILE and name not in leave_out]


def _digests(folder: epath.Path, names: Collection[str]) -> dict[str, str]:
    """Several files at a time: hashing and reading release the interpreter."""
    with concurrent.futures.ThreadPoolExecutor(min(8, available_processors())) as pool:
        return dict(zip(names, pool.map(lambda name: digest(folder / name), names), strict=True))
