"""Reading JSON that somebody else may have written, or damaged."""

import collections
import json
import pathlib
from typing import Any

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.validation import shown


def read_object(path: pathlib.Path, most_bytes: int) -> dict[str, Any]:
    """The object in a JSON file. Raises `CheckpointError` as `read_value`, and for any other value."""
    values = read_value(path, most_bytes)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not the fields of a config")
    return values


def read_value(path: pathlib.Path, most_bytes: int) -> Any:
    """The value in a JSON file.

    Raises:
      CheckpointError: not a file of at most `most_bytes`, not UTF-8 without a mark, not JSON, a name that is there twice, or deep nesting.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > most_bytes:
        raise CheckpointError(f"{path} has more than {most_bytes:,} bytes: it is no such file, or damaged")
    try:
        return parse(content)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def parse(content: bytes) -> Any:
    """The value of a JSON text. Raises `ValueError` for what is none, a name that is there twice, and deep nesting."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} is there twice")
    return values


def require_plain_name(name: Any, where: pathlib.Path) -> None:
    """Raises `CheckpointError` for what is not the name of a file beside `where`, in which it stands: a path could lead anywhere."""
    if not isinstance(name, str) or not name or name in (".", "..") or any(character in name for character in "/\\\0:"):
        raise CheckpointError(f"{where} names {shown(name)}, which is not a file beside it")
