"""The file in a model folder that says how many tokens the model kept of a sample of texts, and what such a file may hold."""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.weights import digests
from transkimmer_jax.weights.json_files import read_object
from transkimmer_jax.weights.schema import is_finite_number, shown

CALIBRATION_FILE = "skim_calibration.json"
_MOST_BYTES = 2**24
_MOST_EXAMPLES = 2**16
_LONGEST = 2**20  # tokens of an example


def to_json(lengths: np.ndarray, kept: np.ndarray, threshold: float) -> str:
    """The file's text: lengths [N] of examples, tokens kept of them [layers, N], and the threshold that kept them.

    Raises `CheckpointError` for a threshold that is not finite: nobody serves a model with it.
    """
    if not is_finite_number(threshold):
        raise CheckpointError(f"a calibration for the threshold {threshold} is not saved: it keeps every token, or one of each text")
    return json.dumps({"threshold": threshold, "lengths": lengths.tolist(), "kept": kept.tolist()}) + "\n"


def read(folder: pathlib.Path, layers: int) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Lengths [N], kept tokens [layers, N] and threshold of a model folder's calibration; None where it has none.

    Raises:
      CheckpointError: a changed file, or one of no model of so many layers.
    """
    path = folder / CALIBRATION_FILE
    digests.verify(path)
    if not path.exists():
        return None
    try:
        values = read_object(path, _MOST_BYTES)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, so this is not a calibration; delete it, or calibrate again") from error
    try:
        return parse(values, layers)
    except ValueError as error:
        raise CheckpointError(f"{path} is not of this model of {layers} layers: {error}; delete it, or calibrate again") from error


def parse(values: Mapping[str, Any], layers: int) -> tuple[np.ndarray, np.ndarray, float]:
    """What the file's fields say. Raises `ValueError`, in words, for what no model of so many layers keeps of any texts."""
    lengths, kept, threshold = (values.get(name) for name in ("lengths", "kept", "threshold"))
    if not is_finite_number(threshold):
        raise ValueError(f"threshold must be a finite number, not {shown(threshold)}")
    if not isinstance(kept, list) or len(kept) != layers:
        raise ValueError(f"kept must be a list for each of {layers} layers")
    rows: list[Any] = [lengths, *kept]
    if not all(isinstance(row, list) and all(type(number) is int for number in row) for row in rows):
        raise ValueError("lengths, and each layer of kept, must be lists of whole numbers")
    if not 1 <= len(rows[0]) <= _MOST_EXAMPLES or len(set(map(len, rows))) > 1:
        raise ValueError(f"lengths, and each layer of kept, must be of the same 1 to {_MOST_EXAMPLES} examples")
    if max(rows[0]) > _LONGEST or any(min(row) < 1 for row in rows):
        raise ValueError(f"lengths and kept must be from 1 to {_LONGEST}")
    if any(behind > before for above, below in itertools.pairwise(rows) for before, behind in zip(above, below, strict=True)):
        raise ValueError("a layer keeps more tokens than the one before it, or than a text has")
    return np.array(rows[0]), np.array(rows[1:]), float(threshold)  # type: ignore[arg-type]
