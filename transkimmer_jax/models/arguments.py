"""What a model is called or exported with, checked before it answers for what it does not read."""

import os
from typing import Any

import jax
import numpy as np

from transkimmer_jax.errors import ConfigError, DataError
from transkimmer_jax.models.architecture import Architecture


def require_gates(arch: Architecture, model: str | os.PathLike, threshold: float | None) -> None:
    """Raises `ConfigError` for a threshold of a dense model, which would not look at it. model: what it is called."""
    if arch.skim is None and threshold is not None:
        raise ConfigError(f"threshold={threshold} is of skimming models, and {os.fspath(model)} is a dense one: leave it out")


def require_token_arrays(arch: Architecture, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> None:
    """Check what `TranskimmerForSequenceClassification` is called with; ids only outside of `jax.jit`, which does not know them.

    Raises:
      DataError: no integer array [B, S], arrays of other shapes beside it, more positions than the model has embeddings for, or ids
        outside of the vocabulary.
    """
    for name, array in (("input_ids", input_ids), ("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if array is None and name != "input_ids":
            continue
        if not isinstance(array, np.ndarray | jax.Array):
            raise DataError(f"{name} must be an array [B, S], not a {type(array).__name__}: give a tokenizer return_tensors='np'")
        if array.shape != input_ids.shape or len(array.shape) != 2 or 0 in array.shape:
            wanted = "[B, S], neither of them 0" if name == "input_ids" else f"that of input_ids, {list(input_ids.shape)}"
            raise DataError(f"{name} has the shape {list(array.shape)}, and must have {wanted}")
        if name != "attention_mask" and not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"{name} must hold integers, not {array.dtype}")
    if input_ids.shape[1] > arch.max_position_embeddings:
        raise DataError(f"{input_ids.shape[1]} positions, but the checkpoint has {arch.max_position_embeddings}: truncate the input")
    # One token type, or none, says nothing, whatever the tokenizer writes: its row is added to every token.
    types = token_type_ids if arch.type_vocab_size > 1 else None
    for name, ids, size in (("input_ids", input_ids, arch.vocab_size), ("token_type_ids", types, arch.type_vocab_size)):
        if ids is not None and not isinstance(ids, jax.core.Tracer):
            require_in_vocabulary(np.asarray(ids), size, name)


def require_in_vocabulary(ids: np.ndarray, size: int, argument: str) -> None:
    """Raises `DataError` for ids that an embedding table of `size` rows has no row for: it would answer with another's."""
    if not ids.size:
        return
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= size:
        wrong = least if least < 0 else most
        raise DataError(f"{argument} holds {wrong}, outside of the model's 0 to {size - 1}: take the model's own tokenizer")
