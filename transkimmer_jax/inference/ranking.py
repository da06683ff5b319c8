"""Documents by their scores, as sentence-transformers' cross-encoders give them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.errors import ConfigError, InferenceError
from transkimmer_jax.inference.inputs import shown
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models.architecture import Architecture


def score_column(arch: Architecture, label_names: Sequence[str], label: str | None) -> int:
    """The column of the logits that holds the score: that of a label, or the only one.

    Raises:
      InferenceError: a multi-label classifier, or several labels and none chosen. ConfigError: a label that the model has not.
    """
    if arch.multi_label:
        known = "rank is of cross-encoders and of classifiers with one label a text"
        raise InferenceError(f"{known}, and this one has any number: call predict")
    if label is None and arch.num_labels != 1:
        raise InferenceError(f"rank needs one score, and this model has the labels {', '.join(label_names)}: say by which label")
    if label is not None and label not in label_names:
        raise ConfigError(f"label={shown(label)} is none of the model's: {', '.join(label_names)}")
    return 0 if label is None else label_names.index(label)


def saved_raw_scores(settings: Settings) -> bool:
    """Whether a folder asks sentence-transformers for logits. Raises `InferenceError` where it asks for neither these nor sigmoids."""
    if settings.raw_scores is None:
        asked = shown(settings.activation)
        raise InferenceError(f"rank gives sigmoids or logits, and the model's folder asks for {asked}: give raw_scores=True for logits")
    return settings.raw_scores


def ranked(predictions: Predictions, column: int, raw_scores: bool, most: int, texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """The best `most` documents by the score in a column, best first, as sentence-transformers' cross-encoders give them.

    raw_scores: logits in place of probabilities. texts: of the documents, for the field `text`; None: without.
    """
    raw, odds = predictions.logits[:, column], predictions.odds(column)
    scores = raw if raw_scores else scipy.special.expit(odds)
    order = np.argsort(-(raw if raw_scores else odds), kind="stable")[:most].tolist()
    entries: list[dict[str, Any]] = [{"corpus_id": number, "score": float(scores[number])} for number in order]
    return entries if texts is None else [entry | {"text": texts[entry["corpus_id"]]} for entry in entries]
