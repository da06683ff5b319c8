"""Digests of all files below a folder, in the format of `sha256sum`: `sha256sum -c SHA256SUMS`, typed in the folder, checks them too."""

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Collection, Mapping

from etils import epath

from transkimmer_jax.checkpoints import files
from transkimmer_jax.processors import available_processors

SUMS_FILE = "SHA256SUMS"
_CHUNK = 2**20
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>[^\\\n]+)")


def digest(path: os.PathLike) -> str:
    """The SHA-256 of a file, local or remote, in hexadecimal; one chunk of it is in memory at a time."""
    total = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def write(folder: epath.Path, leave_out: Collection[str] = ()) -> None:
    """Write the digests of what lies below a folder into it.

    leave_out: names, relative to the folder, of files that may change or come later.
    """
    save(folder, _digests(folder, _names(folder, leave_out)))


def write_of(folder: epath.Path, names: Collection[str]) -> None:
    """Write the digests of these files, which lie below a folder, into it, in place of those that are there."""
    save(folder, _digests(folder, names))


def save(folder: epath.Path, sums: Mapping[str, str]) -> None:
    """Write these digests, by the names of files, into a folder, atomically."""
    files.write_text(folder / SUMS_FILE, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def add(folder: epath.Path, name: str) -> None:
    """Add the digest of one more file to those of a folder, atomically. Raises `ValueError` as `read` does."""
    save(folder, read(folder) | {name: digest(folder / name)})


def read(folder: epath.Path) -> dict[str, str]:
    """The digests of a folder, by the names of its files.

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
    """The first file below a folder that is not what `sums` say, and what is wrong with it; None where all are as they should be.

    Raises:
      OSError: a file that cannot be read.
    """
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


def first_other(folder: epath.Path, leave_out: Collection[str] = ()) -> str | None:
    """The first file below a folder that its digests, or those of a folder in it, do not list as it is; None where there is none.

    leave_out: names, relative to the folder, of files that are not looked at.

    Raises:
      OSError: a file that cannot be read.
      ValueError: a list of digests that holds anything else.
    """
    names = _names(folder, leave_out=())
    inner = [name.removesuffix(SUMS_FILE) for name in names if name.endswith(f"/{SUMS_FILE}")]
    sums = read(folder) if (folder / SUMS_FILE).exists() else {}
    sums |= {below + name: value for below in inner for name, value in read(folder / below).items()}
    others = [name for name in names if name not in leave_out and not name.endswith(f"/{SUMS_FILE}")]
    unlisted = next((name for name in others if name not in sums), None)
    return unlisted or next((name for name, value in _digests(folder, others).items() if value != sums[name]), None)


def _names(folder: epath.Path, leave_out: Collection[str]) -> list[str]:
    return [name for name in files.names_below(folder) if name != SUMS_FILE and name not in leave_out]


def _digests(folder: epath.Path, names: Collection[str]) -> dict[str, str]:
    """Several files at a time: hashing and reading release the interpreter."""
    with concurrent.futures.ThreadPoolExecutor(min(8, available_processors())) as pool:
        return dict(zip(names, pool.map(lambda name: digest(folder / name), names), strict=True))
