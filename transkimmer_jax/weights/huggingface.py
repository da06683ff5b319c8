"""Models in and out of Hugging Face checkpoint folders."""

import dataclasses
import json
import logging
import os
import pathlib
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from safetensors.numpy import save_file

from transkimmer_jax import files
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models import architecture
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.skim import path_keys
from transkimmer_jax.weights import names
from transkimmer_jax.weights.files import read_config, read_tensors, resolve

logger = logging.getLogger("transkimmer_jax")


class PretrainedModel(Protocol):
    """What can be read from a checkpoint, and written: a module that is made from an architecture, and remembers it."""

    arch: Architecture

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs) -> None:
        """Fresh weights."""


Model = TypeVar("Model", bound=PretrainedModel)


def load(
    model_class: type[Model],
    checkpoint: str | os.PathLike,
    *,
    dense: bool | None = False,
    skim_overrides: dict[str, Any] | None = None,
    seed: int = 0,
    **overrides: Any,
) -> Model:
    """A model with the weights of a checkpoint.

    A pooler, classifier or skim predictor that the file lacks is made fresh from `seed` and named in the log.

    Args:
      model_class: what to make, e.g. `TranskimmerForSequenceClassification`.
      checkpoint: a folder, a hub id, or 'packaged:<asset>'.
      dense: True leaves skimming out, whatever the checkpoint holds; None does where it holds no predictors.
      skim_overrides: fields of `SkimArchitecture` to set; what is not named is the checkpoint's, or the default.
      **overrides: fields of `Architecture` to set, e.g. num_labels, compute_dtype, remat; None leaves a field alone. With fewer
        num_hidden_layers than the checkpoint has, its last layers are left out; FLOPs are still compared with those of all of them.

    Raises:
      CheckpointError: one error that lists everything missing, unexpected or of the wrong shape.
    """
    folder = resolve(str(checkpoint))
    arch = architecture.from_hugging_face(read_config(folder), str(folder))
    tensors = _normalized(read_tensors(folder), folder)
    configured = _configured(arch, tensors, dense, skim_overrides or {}, overrides)
    if configured.num_hidden_layers < arch.num_hidden_layers:
        tensors = {name: tensor for name, tensor in tensors.items() if names.layer_of(name) < configured.num_hidden_layers}
    return _build(model_class, configured, tensors, folder, seed)


def shapes(
    checkpoint: str | os.PathLike, *, dense: bool = False, skim_overrides: dict[str, Any] | None = None, **overrides: Any
) -> Architecture:
    """The architecture that `load` would give a model, from `config.json` alone; BERT's base and large sizes need no file at all.

    Raises:
      CheckpointError: no such checkpoint, or one of another kind.
    """
    arch = architecture.WELL_KNOWN.get(str(checkpoint))
    if arch is None:
        folder = resolve(str(checkpoint))
        arch = architecture.from_hugging_face(read_config(folder), str(folder))
    return _configured(arch, {}, dense, skim_overrides or {}, overrides)


def _configured(
    arch: Architecture, tensors: dict[str, np.ndarray], dense: bool | None, skim_overrides: dict[str, Any], overrides: dict[str, Any]
) -> Architecture:
    """A checkpoint's architecture with a user's options."""
    there = arch.num_hidden_layers
    arch = dataclasses.replace(arch, **{name: value for name, value in overrides.items() if value is not None})
    if not 1 <= arch.num_hidden_layers <= there:
        raise CheckpointError(f"num_hidden_layers={arch.num_hidden_layers} of a checkpoint with {there} layers: take 1 to {there}")
    if dense is None:
        dense = arch.skim is None and not any(name.startswith("encoder.skim_predictors.") for name in tensors)
    if arch.num_hidden_layers < there:
        arch = dataclasses.replace(arch, dense_layers=arch.dense_layers or there)
    return dataclasses.replace(arch, skim=None if dense else _skim_architecture(arch, tensors, skim_overrides))


def save(
    model: PretrainedModel,
    folder: str | os.PathLike,
    *,
    tokenizer=None,
    label_names: tuple[str, ...] | None = None,
    extra_config: dict[str, Any] | None = None,
) -> None:
    """Write config.json (with its `skim` section), model.safetensors and the tokenizer's files; whole or not at all.

    label_names: None for regression, or for 'LABEL_0', 'LABEL_1', ... where the model has several labels.
    extra_config: further entries of config.json.

    An older checkpoint in `folder` is replaced. Raises `CheckpointError` where `folder` holds anything else, since
    that would be lost, or where `label_names` do not fit the model, and `TrainingError` where the disk is full.
    """
    place = epath.Path(folder)
    if label_names is None and model.arch.num_labels > 1:
        label_names = tuple(f"LABEL_{index}" for index in range(model.arch.num_labels))
    if label_names is not None and len(label_names) != model.arch.num_labels:
        raise CheckpointError(f"{len(label_names)} label names for a model with {model.arch.num_labels} labels")
    is_checkpoint = all((place / name).is_file() for name in ("config.json", "model.safetensors"))
    if place.is_dir() and any(place.iterdir()) and not is_checkpoint:
        raise CheckpointError(f"{folder} holds files and is no checkpoint to replace; choose a new folder")
    pad_token_id = 0 if tokenizer is None or tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = architecture.to_hugging_face(model.arch, label_names, pad_token_id) | (extra_config or {})
    with files.replaced_folder(folder) as temporary:
        save_file(tensors(model), temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "model.safetensors").chmod(0o644)  # safetensors' 0600 would keep colleagues from reading it
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def tensors(model: PretrainedModel) -> dict[str, np.ndarray]:
    """The weights under the names, and in the layout, that a Hugging Face checkpoint has them."""
    parameters = {path_keys(path): np.asarray(leaf) for path, leaf in _leaves(nnx.state(model, nnx.Param))}
    return {
        names.checkpoint_name(name): tensor
        for row in names.bert_table(model.arch)
        for name, tensor in row.to_checkpoint(parameters[row.path]).items()
    }


def _normalized(tensors: dict[str, np.ndarray], folder: pathlib.Path) -> dict[str, np.ndarray]:
    normalized: dict[str, np.ndarray] = {}
    ignored = []
    for name, tensor in tensors.items():
        short = names.normalize(name)
        if short.startswith(names.IGNORED):
            ignored.append(name)
        elif short in normalized:
            raise CheckpointError(f"{folder}: {short} is there twice, with and without the 'bert.' prefix or under its old name")
        else:
            normalized[short] = tensor
    if ignored:
        logger.info("%s: left out %s", folder, ", ".join(sorted(ignored)))
    return normalized


def _skim_architecture(arch: Architecture, tensors: dict[str, np.ndarray], overrides: dict[str, Any]) -> SkimArchitecture:
    skim = arch.skim
    if skim is None:
        # The original's config.json has no skim section; the file itself tells the predictors' width. Other files hold none.
        first = tensors.get("encoder.skim_predictors.0.predictor.1.weight")
        if first is not None and first.ndim == 2:
            skim = SkimArchitecture(predictor_size=int(first.shape[0]))
        else:
            skim = SkimArchitecture(predictor_size=architecture.fresh_predictor_size(arch.hidden_size))
    skim = dataclasses.replace(skim, **overrides)
    if skim.attention_masking not in ("renormalized", "post_softmax"):
        raise CheckpointError(f"attention_masking must be 'renormalized' or 'post_softmax', not {skim.attention_masking!r}")
    return skim


def _build(model_class: type[Model], arch: Architecture, tensors: dict[str, np.ndarray], folder: pathlib.Path, seed: int) -> Model:
    """Fill a model from tensors in the table's names, after checking all of them."""
    model = model_class(arch, rngs=nnx.Rngs(seed))
    graph, state = nnx.split(model)
    parameters = {path_keys(path): leaf for path, leaf in _leaves(state)}
    unexpected = set(tensors)
    problems, loaded, fresh = [], {}, set()
    for row in names.bert_table(arch):
        wanted = row.checkpoint_shape(parameters[row.path].shape)
        absent = [name for name in row.names if name not in tensors]
        unexpected -= set(row.names)
        part = next((part for part in names.FRESH_PARTS if row.label.startswith(part)), None)
        if absent and part is not None and _part_is_absent(row, arch, tensors):
            fresh.add("/".join(map(str, _module(row))))
        elif absent:
            problems += [f"missing {name}" for name in absent]
        else:
            wrong = [name for name in row.names if tensors[name].shape != wanted]
            problems += [f"{name} has shape {tensors[name].shape}, expected {wanted}" for name in wrong]
            if not wrong:
                loaded[row.path] = row.from_checkpoint([tensors[name] for name in row.names])
    if arch.skim is None:
        dropped = {name for name in unexpected if name.startswith("encoder.skim_predictors.")}
        if dropped:
            logger.info("%s: left out the skim predictors, the model is dense", folder)
        unexpected -= dropped
    problems += [f"unexpected {name}" for name in sorted(unexpected)]
    if problems:
        raise CheckpointError(f"{folder} does not fit its config.json: {'; '.join(problems)}")
    if fresh:
        logger.info("%s: freshly initialised (seed %d): %s", folder, seed, ", ".join(sorted(fresh)))
    filled = jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(loaded.get(path_keys(path), leaf)), state)
    return nnx.merge(graph, filled)


def _part_is_absent(row: names.Row, arch: Architecture, tensors: dict[str, np.ndarray]) -> bool:
    """Whether the whole module of `row` (a head, one predictor) is absent; half of one is damage, not a fresh start."""
    module = _module(row)
    return not any(name in tensors for other in names.bert_table(arch) if other.path[: len(module)] == module for name in other.names)


def _module(row: names.Row) -> tuple[str | int, ...]:
    """The path of the head or predictor that `row` is a parameter of."""
    return row.path[:3] if row.path[1] == "predictors" else row.path[:1]


def _leaves(state):
    return jax.tree_util.tree_leaves_with_path(state)
