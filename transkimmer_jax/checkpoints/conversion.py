"""Checkpoints from one folder into another, with a report of what became of every tensor."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from transkimmer_jax.checkpoints import config_file, huggingface, names, sentence_transformers
from transkimmer_jax.checkpoints.tensors import opened
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint's tensors.

    read: our parameters, 'encoder/layers/0/up/kernel', by the tensor's name in the file. left_out: tensors that the model has no use for.
    fresh: our parameters that the file holds nothing for.
    """

    read: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    fresh: tuple[str, ...]


def mapped(folder: pathlib.Path, arch: Architecture) -> Conversion:
    """What becomes of a folder's tensors in a model of this architecture.

    Raises:
      CheckpointError: weights that cannot be read.
    """
    table = names.parameter_table(arch)
    ours = {name: tuple("/".join(map(str, path)) for path in row.paths) for row in table for name in row.names}
    with opened(folder) as stored:
        normalized = {tensor.name: names.normalize(tensor.name, arch.backbone) for tensor in stored}
    read = {name: ours[normal] for name, normal in normalized.items() if normal in ours}
    there = {path for paths in read.values() for path in paths}
    return Conversion(
        read,
        tuple(sorted(name for name in normalized if name not in read)),
        tuple(sorted({path for paths in ours.values() for path in paths} - there)),
    )


def convert(model: Any, source: pathlib.Path, output: str | os.PathLike, tokenizer: Any) -> Conversion:
    """Write a loaded model as a folder of its own, with what the source says of labels, task, prompts and scores, and read it back.

    model: of `heads.load(source)`. Raises `CheckpointError` also where what was written is not, bit for bit, what was read.
    """
    report = mapped(source, model.arch)  # before `output`, which may be the same folder, is written
    saved = config_file.read(source)
    task = dict(saved.values.get("task") or {})
    if model.arch.head != saved.architecture.head:  # the columns are those of the other head's texts and labels
        task = {name: value for name, value in task.items() if name not in ("text_columns", "label_column")}
    task["max_length"] = config_file.read_length(source, saved)
    extra: dict[str, Any] = {"task": task}
    if model.arch.is_regression:
        extra |= config_file.value_fields(saved)
    huggingface.save(
        model,
        output,
        tokenizer=tokenizer,
        label_names=saved.label_names if model.arch.head != "question_answering" else None,
        extra_config=extra,
        settings=sentence_transformers.read_settings(source, model.arch.head, saved.values),
    )
    again = huggingface.tensors(type(model).from_pretrained(output, dense=model.arch.skim is None))
    for name, tensor in huggingface.tensors(model).items():
        if not np.array_equal(again[name], tensor):
            raise CheckpointError(f"{output}: {name} was read back otherwise than it was written")
    return report
