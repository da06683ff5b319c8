"""Results appear whole or not at all: written beside their place, then renamed into it. In a bucket (gs://...) a file appears when
all of it is there, and a folder's files one after the other. Those that only an older folder had are deleted then.

What is being written has a name of its own, `.<name>.<eight letters>`, and a lock, which ends with its process: what has no lock any
more was left by a process that was killed, and is deleted when the same file is written again, or `remove_leftovers` is called.
"""

import contextlib
import errno
import glob
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from etils import epath

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

from transkimmer_jax.errors import TrainingError

_RANDOM = 8 * "[a-z0-9_]"  # how `tempfile` ends its names


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Write `values` as indented JSON, atomically. Raises `TrainingError` where the disk is full or not writable."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically. Raises `TrainingError` where the disk is full or not writable."""
    with replaced_file(path) as file:
        file.write(text)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket: 'gs://...'."""
    return "://" in os.fspath(path)


def copy_folder(source: pathlib.Path | epath.Path, target: epath.Path) -> None:
    """Copy the files below a folder to another folder, each local or remote."""
    for name in names_below(epath.Path(source)):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((epath.Path(source) / name).read_bytes())


def names_below(folder: epath.Path) -> list[str]:
    """The files below a folder, local or remote, by their paths relative to it, sorted."""
    # Not rglob, which buckets refuse, nor walk, which gives paths without gs:// there.
    return sorted(_names_below(folder, ""))


def _names_below(folder: epath.Path, prefix: str) -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _names_below(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Keep other processes out of a folder, which is made, until the block ends, or this process does.

    Raises `TrainingError` where another one is in such a block. Buckets, and file systems without locks, let everyone in.
    """
    if is_remote(folder) or fcntl is None:
        yield
        return
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another run is writing to {folder}: wait until it has ended, or choose another folder") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike, names: Iterable[str]) -> list[pathlib.Path]:
    """Delete what killed processes have left unfinished of these files and folders, which lie in a local `folder`.

    Returns what stays since a living process is writing it. On a file system without locks all of it stays: nobody knows.
    """
    alive = []
    for name in names:
        target = pathlib.Path(folder).resolve() / name
        for leftover in target.parent.glob(f".{glob.escape(name)}.{_RANDOM}"):
            with _lock(leftover) as mine:
                if mine is False:
                    alive.append(leftover)
                if not mine:
                    continue
                if leftover.is_dir():
                    if (leftover / "old").exists() and not target.exists():
                        os.replace(leftover / "old", target)  # killed between the two steps of replacing a folder
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
    return alive


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[TextIO]:
    """A temporary text file that becomes `path` when the block ends well, and vanishes when it does not.

    What is neither file nor folder (a pipe, /dev/null) cannot be replaced and is written directly.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            beside = pathlib.Path(folder, "file")
            with beside.open("w", encoding="utf-8") as file:
                yield file
            epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
            epath.Path(path).write_bytes(beside.read_bytes())
        return
    target = pathlib.Path(path)
    with explained(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as special:
                yield special
            return
        target = target.resolve()  # a link keeps pointing at a file that may live on another disk
        with _scratch(target, _make_file) as temporary:
            try:
                with temporary.open("w", encoding="utf-8") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep colleagues from reading a result
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
            copy_folder(pathlib.Path(folder), epath.Path(path))
            # Last, so that whoever reads the older folder meanwhile finds its files.
            for name in set(names_below(epath.Path(path))) - set(names_below(epath.Path(folder))):
                (epath.Path(path) / name).unlink()
        return
    path = pathlib.Path(path).resolve()  # '.' and links have a parent and a name only then
    with explained(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        with _scratch(path, tempfile.mkdtemp) as scratch:
            temporary, old = scratch / "new", scratch / "old"
            try:
                temporary.mkdir()
                yield temporary
                os.chmod(temporary, 0o755)
                if path.exists():
                    os.replace(path, old)
                try:
                    os.replace(temporary, path)
                except BaseException:
                    if old.exists():
                        os.replace(old, path)
                    raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _scratch(target: pathlib.Path, make: Callable[..., str]) -> Iterator[pathlib.Path]:
    """A new file or folder beside `target`, locked while the block lasts, so that `remove_leftovers` knows that it is in use."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, [target.name])
    while True:
        path = pathlib.Path(make(dir=target.parent, prefix=f".{target.name}."))
        with _lock(path):
            if path.exists():  # else another process took it for a leftover, between the two lines above
                yield path
                return


def _make_file(**options: Any) -> str:
    descriptor, path = tempfile.mkstemp(**options)
    os.close(descriptor)
    return path


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[bool | None]:
    """Lock a file or folder until the block ends, or its process does: True; False where another has it, None where there are no locks
    or no such file."""
    descriptor, mine = None, None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = True
            except BlockingIOError:
                mine = False
    try:
        yield mine
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into one-line `TrainingError`s."""
    try:
        yield
    except Exception as error:
        reason = _write_failure(error)
        if reason is None:
            raise
        raise TrainingError(f"cannot write {path}: {reason}") from error


def _write_failure(error: BaseException) -> str | None:
    """Why a write failed, where `error` says so by number or, as libraries in other languages do, by words."""
    reasons = {
        errno.ENOSPC: "no space left on the disk; free some or write elsewhere",
        errno.EDQUOT: "the disk quota is used up; free some or write elsewhere",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the file system is read-only",
        errno.ENOTDIR: "there is a file where a folder is needed",
        errno.EEXIST: "there is a file where a folder is needed",
        errno.EISDIR: "there is a folder where a file is needed",
    }
    if isinstance(error, OSError) and error.errno in reasons:
        return reasons[error.errno]
    words = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in words or ("RESOURCE_EXHAUSTED" in words and "disk" in words.lower()):
            return reasons[number]
    return None
