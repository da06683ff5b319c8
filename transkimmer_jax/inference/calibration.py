"""How many tokens a model keeps of typical texts: what capacities are made for."""

import dataclasses
import os
import pathlib

import numpy as np

from transkimmer_jax.inference import calibration_file
from transkimmer_jax.inference.calibration_file import CALIBRATION_FILE
from transkimmer_jax.weights import digests

_SAMPLE = 1024  # texts of a calibration at most
_TEXTS_AT_HOME = 32  # of a bucket, from which its shares can be told


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many tokens a model kept of a sample of texts.

    lengths: [N] tokens of each. kept: [layers, N] tokens that each layer computed. threshold: of the gates.
    """

    lengths: np.ndarray
    kept: np.ndarray
    threshold: float

    @classmethod
    def of(cls, lengths: np.ndarray, kept: np.ndarray, threshold: float, seed: int = 0) -> "Calibration":
        """From the numbers of many texts, of which about a thousand are drawn."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(lengths))[:_SAMPLE])
        return cls(np.asarray(lengths)[rows].astype(int), np.asarray(kept)[:, rows].astype(int), float(threshold))

    @classmethod
    def of_shares(cls, shares: list[float], length: int, threshold: float) -> "Calibration":
        """Texts of so many tokens, of which each layer keeps a stated share."""
        kept = np.maximum(1, np.round(np.array(shares) * length)).astype(int)
        return cls(np.full(_TEXTS_AT_HOME, length), np.tile(kept[:, None], _TEXTS_AT_HOME), threshold)

    def to_json(self) -> str:
        """As `load` reads it. Raises `CheckpointError` for a threshold that is not finite: nobody serves a model with it."""
        return calibration_file.to_json(self.lengths, self.kept, self.threshold)

    def save(self, folder: str | pathlib.Path) -> None:
        """Write it beside a model's config.json, where an engine finds it.

        Raises:
          CheckpointError: a threshold that is not finite, or digests of the folder that cannot be read.
          TrainingError: the disk is full.
        """
        digests.replace_text(os.path.join(folder, CALIBRATION_FILE), self.to_json())

    @classmethod
    def load(cls, folder: str | pathlib.Path, layers: int) -> "Calibration | None":
        """A model folder's calibration, None where it has none. Raises `CheckpointError` where it does not fit the model."""
        saved = calibration_file.read(pathlib.Path(folder), layers)
        return None if saved is None else cls(*saved)

    def expected(self, narrower: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """What texts of more than `narrower` and up to `width` tokens keep: the share of their tokens, and the most of one text.

        Of so few such texts that they tell little, all texts tell the shares.

        Returns:
          shares [layers] float, widths [layers] float, at most `width`.
        """
        at_home = (self.lengths > narrower) & (self.lengths <= width)
        if np.count_nonzero(at_home) < _TEXTS_AT_HOME:
            at_home = np.ones(len(self.lengths), bool)
        lengths, kept = self.lengths[at_home], self.kept[:, at_home]
        widest = (kept * np.minimum(1, width / lengths)).max(axis=1)
        return kept.sum(axis=1) / lengths.sum(), widest
