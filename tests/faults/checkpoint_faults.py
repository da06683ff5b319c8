"""Damage to a checkpoint of a run, from a seed: bits, bytes, whole files, and what hands and other programs do.

A fault is a function of (checkpoint folder, generator) that damages one file and returns its name. The same functions serve the fast
tests.
"""

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

Fault = Callable[[pathlib.Path, np.random.Generator], str]


def _largest(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


# Every kind of file that a checkpoint has, and which one is meant. What is left out, Orbax's commit_success.txt, nobody reads.
FILES: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
    "largest array file": lambda folder: _largest(folder / "state", "ocdbt.process_*/d/*"),
    "array tree": lambda folder: _largest(folder / "state", "d/*"),
    "manifest.ocdbt": lambda folder: folder / "state" / "manifest.ocdbt",
    "manifest.ocdbt of a process": lambda folder: folder / "state" / "ocdbt.process_0" / "manifest.ocdbt",
    "_METADATA": lambda folder: folder / "state" / "_METADATA",
    "_sharding": lambda folder: folder / "state" / "_sharding",
    "array_metadatas": lambda folder: folder / "state" / "array_metadatas" / "process_0",
    "_CHECKPOINT_METADATA": lambda folder: folder / "_CHECKPOINT_METADATA",
    "data iterator": lambda folder: next((folder / "data").glob("process_*.json")),
    "metrics": lambda folder: folder / "metrics" / "metrics",
    "SHA256SUMS": lambda folder: folder / "SHA256SUMS",
}


def flip_bit(path: pathlib.Path, rng: np.random.Generator) -> None:
    """One bit, anywhere in the file."""
    flip_bits(path, rng, count=1)


def flip_bits(path: pathlib.Path, rng: np.random.Generator, count: int | None = None) -> None:
    """One bit each of 3 to 40 bytes, or of `count`."""
    content = bytearray(path.read_bytes())
    count = min(len(content), int(rng.integers(3, 41)) if count is None else count)
    for place in rng.choice(len(content), count, replace=False):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def truncate(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Cut off somewhere behind the first byte."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(rng.integers(1, size)))


def empty(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def delete(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.unlink()


def junk(path: pathlib.Path, rng: np.random.Generator) -> None:
    """As many bytes, of noise."""
    path.write_bytes(rng.bytes(path.stat().st_size))


def swap(path: pathlib.Path, rng: np.random.Generator) -> None:
    """The content of another file of the checkpoint."""
    root = next(folder for folder in path.parents if folder.name.isdigit())
    others = [other for other in sorted(root.rglob("*")) if other.is_file() and other.read_bytes() != path.read_bytes()]
    shutil.copyfile(others[int(rng.integers(len(others)))], path)


MUTATIONS = {
    "one bit flipped": flip_bit,
    "3 to 40 bits flipped": flip_bits,
    "truncated": truncate,
    "empty": empty,
    "deleted": delete,
    "noise": junk,
    "another file's content": swap,
}


def mutation(kind: str, file: str) -> Fault:
    """`MUTATIONS[kind]` of `FILES[file]`."""

    def damage(checkpoint: pathlib.Path, rng: np.random.Generator) -> str:
        path = FILES[file](checkpoint)
        MUTATIONS[kind](path, rng)
        return path.relative_to(checkpoint).as_posix()

    return damage


def _replaced(file: str, content: bytes) -> Fault:
    def damage(checkpoint: pathlib.Path, rng: np.random.Generator) -> str:
        path = FILES[file](checkpoint)
        path.write_bytes(content)
        return path.relative_to(checkpoint).as_posix()

    return damage


def _folder_deleted(name: str) -> Fault:
    def damage(checkpoint: pathlib.Path, rng: np.random.Generator) -> str:
        shutil.rmtree(checkpoint / name)
        return f"{name}/"

    return damage


def _file_for_a_folder(checkpoint: pathlib.Path, rng: np.random.Generator) -> str:
    shutil.rmtree(checkpoint)
    checkpoint.write_bytes(rng.bytes(100))
    return "folder"


# What is no accident of bits, each under its name.
NAMED: dict[str, Fault] = {
    "data iterator: {}": _replaced("data iterator", b"{}"),
    "data iterator: []": _replaced("data iterator", b"[]"),
    "data iterator: negative": _replaced("data iterator", json.dumps({"next_index": -3}).encode()),
    "data iterator: another step": _replaced("data iterator", json.dumps({"next_index": 1}).encode()),
    "_METADATA: {}": _replaced("_METADATA", b"{}"),
    "_CHECKPOINT_METADATA: {}": _replaced("_CHECKPOINT_METADATA", b"{}"),
    "_CHECKPOINT_METADATA: nested": _replaced("_CHECKPOINT_METADATA", b"[" * 100_000),
    "metrics: {}": _replaced("metrics", b"{}"),
    "metrics: no Unicode": _replaced("metrics", b'{"rank": "\xff\xfe"}'),
    "metrics: another rank": _replaced("metrics", b'{"rank": 1000.0}'),
    "folder of arrays deleted": _folder_deleted("state"),
    "folder of the data iterator deleted": _folder_deleted("data"),
    "a file in the folder's place": _file_for_a_folder,
}
