"""Models in and out of Hugging Face checkpoint folders."""

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

import jax
import numpy as np
from etils import epath
from flax import nnx
from safetensors.numpy import save_file

from transkimmer_jax.checkpoints import config_file, folders, names, sentence_transformers, tokenizer_files
from transkimmer_jax.checkpoints.config_schema import PoolingSection, SkimSection, validated
from transkimmer_jax.checkpoints.fit import require_fit, require_predictor_size
from transkimmer_jax.checkpoints.folders import CARD_FILE
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.checkpoints.model_card import Provenance, model_card
from transkimmer_jax.checkpoints.tensors import WEIGHTS_FILE, StoredTensor, opened
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models import architecture
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.skim import path_keys
from transkimmer_jax.validation import shown

logger = logging.getLogger("transkimmer_jax")

_ORIGINAL_NORM_EPS = 1e-5  # of the original's predictors, whose norms are PyTorch's as it makes them, whatever the encoder's have


class PretrainedModel(Protocol):
    """What can be read from a checkpoint, and written: a module that is made from an architecture, and remembers it."""

    head: ClassVar[str]
    arch: Architecture

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs) -> None:
        """Fresh weights."""

    @classmethod
    def abstract(cls, arch: Architecture) -> Self:
        """Shapes alone."""


Model = TypeVar("Model", bound=PretrainedModel)


def load(
    model_class: type[Model],
    checkpoint: str | os.PathLike,
    *,
    dense: bool | None = False,
    skim_overrides: dict[str, Any] | None = None,
    pooling_overrides: dict[str, Any] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    complete: bool = False,
    **overrides: Any,
) -> Model:
    """A model with the weights of a checkpoint.

    A head or skim predictor that the file lacks is made fresh from `seed` and named in the log. A model that is to answer or teach must be
    `complete`: a fresh predictor keeps every token, but a fresh head says what is random.

    Args:
      model_class: what to make, e.g. `TranskimmerForSequenceClassification`.
      checkpoint: a folder, a hub id, or 'packaged:<asset>'.
      dense: True leaves skimming out, whatever the checkpoint holds; None does where it holds no predictors.
      skim_overrides: fields of `SkimArchitecture` to set; what is not named is the checkpoint's, or the default.
      pooling_overrides: of an embedder, fields of `PoolingArchitecture` to set; what is not named is what `config.json` or
        sentence-transformers' files say, or the default.
      complete: refuse a checkpoint that lacks a part of the head.
      layers: which of the checkpoint's layers the model has, from 0, in their order; None: all. FLOPs are still compared with those of
        all of them.
      **overrides: fields of `Architecture` to set, e.g. num_labels, compute_dtype, remat; None leaves a field alone. num_hidden_layers
        is another way to say which `layers`: the first so many.

    Raises:
      CheckpointError: a folder that cannot be read, or one error that lists everything missing, unexpected or of the wrong shape. Shapes
        are compared before anything of their size is allocated.
    """
    folder = resolve(str(checkpoint))
    saved = config_file.read(folder)
    if model_class.head == "sentence_embedding":
        overrides["pooling"] = _pooling(folder, saved, pooling_overrides or {})
    with opened(folder) as stored:
        tensors = _normalized(stored, folder, saved.architecture.backbone)
        chosen = _chosen_layers(saved.architecture, layers, overrides.pop("num_hidden_layers", None))
        arch = _configured(saved.architecture, chosen, tensors, dense, skim_overrides or {}, overrides | {"head": model_class.head})
        if saved.names_head:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in names.of_other_meaning(arch, saved.architecture)}
        if len(chosen) < saved.architecture.num_hidden_layers:
            renamed = {name: names.with_layers(name, arch.backbone, chosen) for name in tensors}
            tensors = {new: tensors[name] for name, new in renamed.items() if new is not None}
        # Of the original, whose config.json has no skim section, all layers have a predictor.
        every = range(saved.architecture.num_hidden_layers)
        decided = {chosen.index(layer) for layer in saved.architecture.predictor_layers or every if layer in chosen}
        tensors = _without_other_skimming(tensors, arch, saved.architecture, decided, folder)
        require_predictor_size((skim_overrides or {}).get("predictor_size"), tensors)
        fresh = require_fit(arch, tensors, folder, _trained_parts(arch, saved.architecture, decided))
        untrained = sorted(fresh & {row.module for row in names.head_table(arch)})
        if untrained and complete:
            raise CheckpointError(
                f"{folder} has no trained {' and '.join(untrained)}, and can neither answer nor teach: train it first; a bare encoder"
                " becomes an embedder by `transkimmer convert --pooling mean`, or in Python by pooling='mean'"
            )
        if fresh:
            logger.info("%s: freshly initialised (seed %d): %s", folder, seed, ", ".join(sorted(fresh)))
        return _built(model_class, arch, tensors, seed if fresh else None)


def shapes(
    checkpoint: str | os.PathLike,
    head: str = "sequence_classification",
    *,
    dense: bool = False,
    skim_overrides: dict[str, Any] | None = None,
    pooling: str | None = None,
    layers: Sequence[int] | None = None,
    **overrides: Any,
) -> Architecture:
    """The architecture that `load` would give a model, from `config.json` and files of its kind alone; BERT's base and large sizes need no
    file at all.

    head: of the model, one of `heads.HEADS`. pooling: of an embedder; None takes what the folder says. layers and overrides: see `load`.

    Raises:
      CheckpointError: no such checkpoint, or one of another kind.
    """
    pooling_overrides: dict[str, Any] = {} if pooling is None else {"mode": pooling}
    arch = architecture.WELL_KNOWN.get(str(checkpoint))
    if arch is None:
        folder = resolve(str(checkpoint))
        saved = config_file.read(folder)
        arch = saved.architecture
        if head == "sentence_embedding":
            overrides["pooling"] = _pooling(folder, saved, pooling_overrides)
    elif head == "sentence_embedding":
        overrides["pooling"] = dataclasses.replace(arch.pooling, **pooling_overrides)
    chosen = _chosen_layers(arch, layers, overrides.pop("num_hidden_layers", None))
    return _configured(arch, chosen, {}, dense, skim_overrides or {}, overrides | {"head": head})


def is_bare(checkpoint: str | os.PathLike) -> bool:
    """Whether a checkpoint is an encoder that names neither a head nor how its vectors are made.

    Raises: as `shapes`.
    """
    folder = resolve(os.fspath(checkpoint))
    return not config_file.read(folder).names_head and not sentence_transformers.is_embedder(folder)


def _pooling(folder: pathlib.Path, saved: config_file.SavedConfig, overrides: dict[str, Any]) -> PoolingArchitecture:
    pooling = saved.architecture.pooling
    if "pooling" not in saved.values and sentence_transformers.is_embedder(folder):
        if "mode" in overrides:
            pooling = dataclasses.replace(pooling, normalize=sentence_transformers.read_normalize(folder))
        else:
            pooling = sentence_transformers.read_pooling(folder)
    return dataclasses.replace(pooling, **validated(PoolingSection, overrides, "pooling.").model_dump(include=set(overrides)))


def _chosen_layers(arch: Architecture, layers: Sequence[int] | None, count: int | None) -> tuple[int, ...]:
    """Which of a checkpoint's layers a model has. layers: as a user gave them; None: the first `count`, or all."""
    there = arch.num_hidden_layers
    if count is not None and not 1 <= count <= there:
        raise CheckpointError(f"num_hidden_layers={count} of a checkpoint with {there} layers: take 1 to {there}")
    if layers is None:
        return tuple(range(there if count is None else count))
    said = f"layers={','.join(map(str, layers))}"
    if count is not None:
        raise CheckpointError(f"{said} and num_hidden_layers={count} both say which layers to take: give one of them")
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < there:
        raise CheckpointError(f"{said} of a checkpoint with {there} layers: name some of 0 to {there - 1}, rising")
    if arch.kind.pre_norm and layers[0] != 0:
        raise CheckpointError(f"{said}: the first layer of a {arch.backbone} checkpoint is of another kind than the others; take layer 0")
    return tuple(layers)


def _configured(
    arch: Architecture,
    layers: tuple[int, ...],
    tensors: Mapping[str, StoredTensor],
    dense: bool | None,
    skim_overrides: dict[str, Any],
    overrides: dict[str, Any],
) -> Architecture:
    """A checkpoint's architecture with a user's options. layers: see `_chosen_layers`."""
    arch = dataclasses.replace(arch, **{name: value for name, value in overrides.items() if value is not None})
    if arch.head != "sequence_classification":
        arch = dataclasses.replace(arch, multi_label=False)  # of a classifier whose encoder gets another head
    if dense is None:
        dense = arch.skim is None and not any(name.startswith(names.SKIM_PREFIX) for name in tensors)
    if len(layers) < arch.num_hidden_layers:
        arch = dataclasses.replace(
            arch,
            num_hidden_layers=len(layers),
            dense_layers=arch.dense_layers or arch.num_hidden_layers,
            local_layers=tuple(number for number, layer in enumerate(layers) if layer in arch.local_layers),
        )
        if arch.skim is not None and arch.skim.layers is not None:
            deciding = tuple(number for number, layer in enumerate(layers) if layer in arch.skim.layers)
            if not deciding and not dense and skim_overrides.get("layers") is None:
                gone = ",".join(map(str, arch.skim.layers))
                raise CheckpointError(f"no predictor is left, as the checkpoint's stand before layers {gone}: name others by skim.layers")
            arch = dataclasses.replace(arch, skim=dataclasses.replace(arch.skim, layers=deciding or None))
    skim = None if dense else _skim_architecture(arch, tensors, skim_overrides)
    if skim is not None and skim.layers is not None and skim.layers[-1] >= arch.num_hidden_layers:
        last = arch.num_hidden_layers - 1
        raise CheckpointError(f"skim.layers={','.join(map(str, skim.layers))} of a model whose layers are 0 to {last}: name some of these")
    return dataclasses.replace(arch, skim=skim)


def save(
    model: PretrainedModel,
    folder: str | os.PathLike,
    *,
    tokenizer=None,
    label_names: tuple[str, ...] | None = None,
    extra_config: dict[str, Any] | None = None,
    extra_files: Mapping[str, str] | None = None,
    settings: sentence_transformers.Settings | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write config.json (with its `skim` section), model.safetensors, the tokenizer's files, a model card and digests of them; of an
    embedder, or a cross-encoder with prompts, also what makes it a folder of sentence-transformers. Whole or not at all.

    label_names: None for regression, or for 'LABEL_0', 'LABEL_1', ... where the model has several labels, or any number of them a text.
    extra_config: further entries of config.json. extra_files: further text files, by name. settings: for sentence-transformers.
    provenance: what the card says beyond the model.

    An older checkpoint of ours in `folder` is replaced, with its card and graphs. Raises `CheckpointError` where `folder` holds anything
    else, since that would be lost, or where `label_names` do not fit the model, and `TrainingError` where the disk is full.
    """
    place = epath.Path(folder)
    if label_names is None and (model.arch.num_labels > 1 or model.arch.multi_label):
        label_names = config_file.default_label_names(model.arch.num_labels)
    if label_names is not None and len(label_names) != model.arch.num_labels:
        raise CheckpointError(f"{len(label_names)} label names for a model with {model.arch.num_labels} labels")
    require_replaceable(place)
    settings = settings or sentence_transformers.Settings()
    config = config_file.to_values(model.arch, label_names, None if tokenizer is None else tokenizer.pad_token_id)
    if model.arch.head == "sequence_classification":
        config |= settings.config_fields()
    config |= extra_config or {}
    # What could not be loaded again is not written.
    task = config_file.parse(config, f"cannot save {folder}").task
    length = task.max_length or model.arch.max_position_embeddings
    texts = sentence_transformers.files_of(model.arch, length, settings) | {
        config_file.CONFIG_FILE: json.dumps(config, indent=2) + "\n",
        CARD_FILE: model_card(model.arch, label_names, provenance or Provenance(), bool(task.pairs)),
        **(extra_files or {}),
    }
    with folders.write_folder(folder) as temporary:
        save_file(tensors(model), temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        (temporary / WEIGHTS_FILE).chmod(0o644)  # safetensors' 0600 would keep colleagues from reading it
        if tokenizer is not None:
            tokenizer_files.save(tokenizer, temporary, model_max_length=length)  # so that other clients read no more than the engine
        for name, text in texts.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")


def require_replaceable(folder: epath.Path) -> None:
    """Raise `CheckpointError` where a folder holds anything but a checkpoint as this package wrote it, whole or, in a bucket, in part."""
    if folder.is_dir() and any(folder.iterdir()):
        if not {config_file.CONFIG_FILE, WEIGHTS_FILE} <= set(folders.listed_names(folder)):
            raise CheckpointError(f"{folder} holds files and no checkpoint of this package to replace: choose a new folder")
        folders.require_replaceable(folder, leave_out=(CARD_FILE,))


def tensors(model: PretrainedModel) -> dict[str, np.ndarray]:
    """The weights under the names, and in the layout, that a Hugging Face checkpoint has them."""
    parameters = {path_keys(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))}
    return {
        names.checkpoint_name(name, model.arch): tensor
        for row in names.parameter_table(model.arch)
        for name, tensor in row.to_checkpoint([parameters[path] for path in row.paths]).items()
    }


def _normalized(stored: list[StoredTensor], folder: pathlib.Path, backbone: str) -> dict[str, StoredTensor]:
    """By the table's names; without what belongs to other tasks' heads."""
    normalized: dict[str, StoredTensor] = {}
    ignored = []
    for tensor in stored:
        name = names.normalize(tensor.name, backbone)
        if names.is_ignored(name, backbone):
            ignored.append(tensor.name)
        elif name in normalized:
            raise CheckpointError(f"{folder}: {shown(name)[1:-1]} is there twice, with and without a prefix or under its old name")
        else:
            normalized[name] = tensor
    if ignored:
        logger.info("%s: left out %s", folder, ", ".join(sorted(ignored)))
    return normalized


def _skim_architecture(arch: Architecture, tensors: Mapping[str, StoredTensor], overrides: dict[str, Any]) -> SkimArchitecture:
    overrides = validated(SkimSection, overrides, "skim.").model_dump(include=set(overrides))
    if arch.skim is not None:
        return dataclasses.replace(arch.skim, **overrides)
    # The original's config.json has no skim section; the file itself tells the predictors' width. Other files without one hold none.
    first = tensors.get(f"{names.SKIM_PREFIX}0.predictor.1.weight")
    if first is None or len(first.shape) != 2:
        return dataclasses.replace(SkimArchitecture(architecture.fresh_predictor_size(arch.hidden_size)), **overrides)
    return dataclasses.replace(SkimArchitecture(first.shape[0], norm_eps=_ORIGINAL_NORM_EPS), **overrides)


def _without_other_skimming(
    tensors: dict[str, StoredTensor], arch: Architecture, saved: Architecture, decided: set[int], folder: pathlib.Path
) -> dict[str, StoredTensor]:
    """Without predictors of layers that are to have none, levels of other budgets than the architecture's, and maps for a head that has
    none: the other predictors are of use to it. Without any where a layer is to have one that had none: they decide as a whole.

    decided: the layers that have a predictor in the file.
    """
    if arch.skim is None:
        return tensors
    others = {} if saved.skim is None else {"levels": saved.skim.levels != arch.skim.levels, "forwarding": not arch.maps_forwarded}
    useless = decided - set(arch.predictor_layers) if _has_predictors(arch, decided) else decided
    left_out = sorted(
        name for name in tensors if names.predicted_layer(name) in useless or others.get(names.beside_predictor(name) or "", False)
    )
    if left_out:
        logger.info("%s: left out %s", folder, ", ".join(left_out))
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}


def _has_predictors(arch: Architecture, decided: set[int]) -> bool:
    """Whether all layers that are to have a predictor are among those."""
    return set(arch.predictor_layers) <= decided


def _trained_parts(arch: Architecture, saved: Architecture, decided: set[int]) -> set[names.Path]:
    """Parts that config.json says are there, so that none of them is made fresh."""
    if saved.skim is None or not _has_predictors(arch, decided):
        return set()
    parts = {names.PREDICTORS}
    if arch.skim is not None and saved.skim.levels == arch.skim.levels:
        parts.add(names.LEVELS)
    return parts | ({names.FORWARDING} if saved.maps_forwarded else set())


def _built(model_class: type[Model], arch: Architecture, tensors: Mapping[str, StoredTensor], seed: int | None) -> Model:
    """A model of tensors that fit; what is missing is made from the seed, None where nothing is."""
    graph, state = nnx.split(model_class.abstract(arch) if seed is None else model_class(arch, rngs=nnx.Rngs(seed)))
    loaded = {
        path: parameter
        for row in names.parameter_table(arch)
        if row.names[0] in tensors
        for path, parameter in row.from_checkpoint([tensors[name].read() for name in row.names]).items()
    }
    # Not jnp.asarray, which compiles a copy for each shape.
    filled = jax.tree_util.tree_map_with_path(lambda path, leaf: jax.device_put(loaded.get(path_keys(path), leaf)), state)
    return nnx.merge(graph, filled)
