"""How many tokens a model keeps of typical texts: what capacities are made for, and a file in a model folder."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.checkpoints.json_files import read_object
from transkimmer_jax.checkpoints.thresholds import is_finite_number
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.hardware import CALIBRATION_TEXTS, TEXTS_OF_A_BUCKET
from transkimmer_jax.validation import shown

CALIBRATION_FILE = "skim_calibration.json"
# What a file may hold at most: bytes, texts, and tokens of a text.
_MOST_BYTES, _MOST_TEXTS, _LONGEST = 2**24, 2**16, 2**20


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many tokens a model kept of a sample of texts.

    lengths: [N] tokens of each. kept: [layers, N] tokens that each layer computed. threshold: of the gates.
    """

    lengths: np.ndarray
    kept: np.ndarray
    threshold: float

    @classmethod
    def of(cls, lengths: np.ndarray, kept: np.ndarray, threshold: float) -> "Calibration":
        """From the numbers of many texts, of which about a thousand are drawn."""
        rows = np.sort(np.random.default_rng(0).permutation(len(lengths))[:CALIBRATION_TEXTS])
        return cls(np.asarray(lengths)[rows].astype(int), np.asarray(kept)[:, rows].astype(int), float(threshold))

    @classmethod
    def of_shares(cls, shares: list[float], length: int, threshold: float) -> "Calibration":
        """Texts of so many tokens, of which each layer keeps a stated share."""
        kept = np.maximum(1, np.round(np.array(shares) * length)).astype(int)
        return cls(np.full(TEXTS_OF_A_BUCKET, length), np.tile(kept[:, None], TEXTS_OF_A_BUCKET), threshold)

    def to_json(self) -> str:
        """As `load` reads it. Raises `CheckpointError` for a threshold that is not finite: nobody serves a model with it."""
        if not is_finite_number(self.threshold):
            raise CheckpointError(
                f"a calibration for the threshold {self.threshold} is not saved: it keeps every token, or one of each text"
            )
        return json.dumps({"threshold": self.threshold, "lengths": self.lengths.tolist(), "kept": self.kept.tolist()}) + "\n"

    def save(self, folder: str | pathlib.Path) -> None:
        """Write it beside a model's config.json, where an engine finds it.

        Raises:
          CheckpointError: a threshold that is not finite, or digests of the folder that cannot be read.
          TrainingError: the disk is full.
        """
        folders.replace_text(os.path.join(folder, CALIBRATION_FILE), self.to_json())

    @classmethod
    def load(cls, folder: str | pathlib.Path, layers: int) -> "Calibration | None":
        """A model folder's calibration; None where it has none.

        Raises:
          CheckpointError: a changed file, or one of no model of so many layers.
        """
        path = pathlib.Path(folder) / CALIBRATION_FILE
        folders.verify(path)
        if not path.exists():
            return None
        try:
            values = read_object(path, _MOST_BYTES)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, so this is not a calibration; delete it, or calibrate again") from error
        try:
            return cls(*_parsed(values, layers))
        except ValueError as error:
            raise CheckpointError(f"{path} is not of this model of {layers} layers: {error}; delete it, or calibrate again") from error

    def expected(self, narrower: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """What texts of more than `narrower` and up to `width` tokens keep: the share of their tokens, and the most of one text.

        Of so few such texts that they tell little, all texts tell the shares.

        Returns:
          shares [layers] float, widths [layers] float, at most `width`.
        """
        at_home = (self.lengths > narrower) & (self.lengths <= width)
        if np.count_nonzero(at_home) < TEXTS_OF_A_BUCKET:
            at_home = np.ones(len(self.lengths), bool)
        lengths, kept = self.lengths[at_home], self.kept[:, at_home]
        widest = (kept * np.minimum(1, width / lengths)).max(axis=1)
        return kept.sum(axis=1) / lengths.sum(), widest


def _parsed(values: Mapping[str, Any], layers: int) -> tuple[np.ndarray, np.ndarray, float]:
    """What the file's fields say. Raises `ValueError`, in words, for what no model of so many layers keeps of any texts."""
    lengths, kept, threshold = (values.get(name) for name in ("lengths", "kept", "threshold"))
    if not is_finite_number(threshold):
        raise ValueError(f"threshold must be a finite number, not {shown(threshold)}")
    if not isinstance(kept, list) or len(kept) != layers:
        raise ValueError(f"kept must be a list for each of {layers} layers")
    rows: list[Any] = [lengths, *kept]
    if not all(isinstance(row, list) and all(type(number) is int for number in row) for row in rows):
        raise ValueError("lengths, and each layer of kept, must be lists of whole numbers")
    if not 1 <= len(rows[0]) <= _MOST_TEXTS or len(set(map(len, rows))) > 1:
        raise ValueError(f"lengths, and each layer of kept, must be of the same 1 to {_MOST_TEXTS} examples")
    if max(rows[0]) > _LONGEST or any(min(row) < 1 for row in rows):
        raise ValueError(f"lengths and kept must be from 1 to {_LONGEST}")
    if any(behind > before for above, below in itertools.pairwise(rows) for before, behind in zip(above, below, strict=True)):
        raise ValueError("a layer keeps more tokens than the one before it, or than a text has")
    return np.array(rows[0]), np.array(rows[1:]), float(threshold)  # type: ignore[arg-type]
