"""A model folder as the arguments of an engine."""

import os
from typing import Any

from transkimmer_jax.checkpoints import config_file, sentence_transformers
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.data import pipeline
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.models import heads
from transkimmer_jax.models.arguments import require_gates
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel


def load(
    folder: str | os.PathLike, dense: bool | None, pooling: str | None, threshold: float | None, max_length: int | None
) -> tuple[TranskimmerPreTrainedModel, Any, dict[str, Any]]:
    """The model, its tokenizer, and what the folder says of `SkimEngine`'s other arguments.

    Raises: as `SkimEngine.from_pretrained`.
    """
    path = resolve(os.fspath(folder))
    saved = config_file.read(path)
    model = heads.load(path, dense=dense, pooling=pooling, complete=True)
    require_gates(model.arch, folder, threshold)
    other_head = pooling is not None and model.arch.head != saved.architecture.head
    options = {
        "label_names": saved.label_names or saved.value_names,
        "max_length": config_file.read_length(path, saved) if max_length is None else max_length,
        "settings": sentence_transformers.read_settings(path, model.arch.head, saved.values),
        "doc_stride": saved.task.doc_stride,
        # The task is that of the folder's own head: pooled, a model of pairs reads single texts.
        "pairs": False if model.arch.head == "sentence_embedding" else saved.task.pairs,
        "calibration": Calibration.load(path, model.arch.num_hidden_layers),
        # Its graphs are of the folder's own head, with its predictors.
        "folder": None if dense or other_head else path,
    }
    return model, pipeline.load_tokenizer(path, model.arch.vocab_size), options
