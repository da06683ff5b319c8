"""A model folder's `config.json`: its meaning, and writing it.

Names and meanings are those of transformers' configs. `backbone`, `skim`, `pooling`, `task`, `dense_layers` and `dense_intermediate`
are ours. The schemas are in `config_schema.py` and `config_backbones.py`.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from transkimmer_jax.checkpoints import folders, sentence_transformers
from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.checkpoints.config_backbones import SCHEMAS
from transkimmer_jax.checkpoints.config_schema import ANY_LABELS, HEADS, ONE_LABEL, REGRESSION, BackboneConfig, SavedTask, validated
from transkimmer_jax.checkpoints.json_files import read_object
from transkimmer_jax.errors import CheckpointError, first_names
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.validation import shown

logger = logging.getLogger("transkimmer_jax")

CONFIG_FILE = "config.json"
# transformers refuses it, where it would load 'bert' as a model that keeps every token.
SKIMMING_MODEL_TYPE = "transkimmer"
_MOST_BYTES = 16 * 2**20  # names of ten thousands of labels are a megabyte


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """What `config.json` says.

    label_names: in the order of the logits, 'LABEL_0', 'LABEL_1', ... where the file has none; None for regression.
    value_names: the one name that the file gives the value of a regression; None where it gives none.
    names_head: whether the file says which head there is; 'sequence_classification' stands for none.
    values: the file's content.
    """

    architecture: Architecture
    label_names: tuple[str, ...] | None
    value_names: tuple[str, ...] | None
    task: SavedTask
    names_head: bool
    values: Mapping[str, Any]


def default_label_names(count: int) -> tuple[str, ...]:
    """What transformers, too, calls labels that nobody has named."""
    return tuple(f"LABEL_{index}" for index in range(count))


def label_fields(names: tuple[str, ...]) -> dict[str, Any]:
    """The entries of `config.json` that name the labels."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def value_fields(saved: SavedConfig) -> dict[str, Any]:
    """What `config.json` says of a model's one output: its name, and whether it is a value. Else transformers takes its sigmoid."""
    names = label_fields(saved.value_names) if saved.value_names else {}
    return names | {"problem_type": saved.values.get("problem_type")}


def same_labels(names: tuple[str, ...] | None, others: tuple[str, ...] | None) -> bool:
    """Whether two models' labels mean the same, as far as their names tell: default names do not, and case does not count."""
    if names is None or others is None:
        return names is others
    unnamed = default_label_names(len(names))
    alike = [name.casefold() for name in names] == [name.casefold() for name in others]
    return alike or (len(names) == len(others) and unnamed in (names, others))


def in_order_of(others: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` in the order of `others` where both are the same labels but for case; else as they are."""
    by_name = {name.casefold(): name for name in names}
    theirs = [name.casefold() for name in others or ()]
    same = len(by_name) == len(names) and sorted(theirs) == sorted(by_name)
    return tuple(by_name[name] for name in theirs) if same else names


def require_same_kind_of_labels(model: str, is_multi: bool, other: str, other_is_multi: bool) -> None:
    """Raises `CheckpointError` where one of two classifiers gives a text any number of labels and the other gives it one: their logits mean
    different things. model, other: whose labels these are."""
    if is_multi != other_is_multi:
        several, single = (model, other) if is_multi else (other, model)
        raise CheckpointError(
            f"{several} gives a text any number of labels, {single} gives it one value or class: problem_type in config.json, and lists of "
            "labels in a file, say which"
        )


def warn_of_assumed_order(model: str, names: tuple[str, ...] | None, other: str, others: tuple[str, ...] | None) -> None:
    """Say which labels are taken for the same where default names on one side alone do not tell. model, other: whose labels these are."""
    if not names or not others or names == others or default_label_names(len(names)) not in (names, others):
        return
    pairs = [f"{name} -> {known}" for name, known in zip(names, others, strict=True)]
    logger.warning(
        "%s and %s are taken to have their labels in one order, since one of them has default names: %s; if that is wrong, name the labels "
        "in id2label of its config.json",
        model, other, first_names(pairs),
    )  # fmt: skip


def read(folder: pathlib.Path) -> SavedConfig:
    """The `config.json` of a model folder.

    Raises:
      CheckpointError: none there, not the file that its digest says, not JSON, or a field that cannot be meant.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG_FILE}, so this is not a checkpoint folder")
    folders.verify(path)
    saved = parse(read_object(path, _MOST_BYTES), str(path))
    if saved.names_head or not sentence_transformers.is_embedder(folder):
        return saved
    arch = dataclasses.replace(saved.architecture, head="sentence_embedding", multi_label=False)
    return dataclasses.replace(saved, architecture=arch)


def read_length(folder: pathlib.Path, saved: SavedConfig) -> int:
    """Tokens that a folder has its model read of a text: all positions where it does not say, and never more than these."""
    positions = saved.architecture.max_position_embeddings
    return min(saved.task.max_length or sentence_transformers.read_max_length(folder) or positions, positions)


def parse(values: Mapping[str, Any], where: str) -> SavedConfig:
    """What the parsed `config.json` of a checkpoint says.

    Raises:
      CheckpointError: another model type, a missing field, a field of the wrong type or out of range, or a feature that this encoder
        does not compute, in one line that begins with `where`.
    """
    fields = validated(SCHEMAS[backbone := _backbone(values, where)], {**values, "backbone": backbone}, f"{where}: ")
    arch = fields.architecture()
    value_names = tuple(fields.id2label.values()) if arch.is_regression and fields.id2label else None
    return SavedConfig(arch, _label_names(fields, arch), value_names, fields.task, fields.named_head is not None, values)


def _backbone(values: Mapping[str, Any], where: str) -> str:
    """The backbone that `model_type` or, in a skimming model's file, `backbone` names."""
    name = "model_type"
    if values.get(name) == SKIMMING_MODEL_TYPE:
        name = "backbone"
        if values.get("skim") is None:
            raise CheckpointError(f"{where}: model_type is {SKIMMING_MODEL_TYPE!r}, but there is no skim section")
    backbone = "bert" if values.get(name) is None else values[name]
    if not isinstance(backbone, str) or backbone not in SCHEMAS:
        known = [*SCHEMAS, *([SKIMMING_MODEL_TYPE] if name == "model_type" else [])]
        raise CheckpointError(f"{where}: {name}={shown(backbone)} is not supported, only {' or '.join(map(repr, known))}")
    return backbone


def _label_names(fields: BackboneConfig, arch: Architecture) -> tuple[str, ...] | None:
    """Names of the labels; None for regression."""
    if arch.is_regression:
        return None
    named, count = fields.id2label, fields.label_count
    return default_label_names(count) if named is None else tuple(named[str(index)] for index in range(count))


def skim_values(skim: SkimArchitecture) -> dict[str, Any]:
    """The section of an architecture. Without `layers` where all decide, as packages that do not know the field read it."""
    return {name: value for name, value in dataclasses.asdict(skim).items() if name != "layers" or value is not None}


def to_values(arch: Architecture, label_names: tuple[str, ...] | None, pad_token_id: int | None) -> dict[str, Any]:
    """The inverse of `parse`, as the content of `config.json`.

    label_names: None for regression. pad_token_id: the tokenizer's; None: the backbone's usual one.
    """
    ending = next(ending for ending, head in HEADS.items() if head == arch.head)
    if arch.head == "sentence_embedding":
        # To transformers an embedder is a bare encoder.
        of_head: dict[str, Any] = {"pooling": dataclasses.asdict(arch.pooling)}
        ending = ending if arch.skim else "Model"
    elif arch.head == "question_answering":
        of_head = {}
    else:
        of_head = label_fields(label_names or default_label_names(1))
    if arch.head == "sequence_classification":
        of_head["problem_type"] = ANY_LABELS if arch.multi_label else REGRESSION if label_names is None else ONE_LABEL
    form = FORMATS[arch.backbone]
    if form.pads_first:
        pad_token_id = arch.position_offset - 1  # it says where positions start
    if pad_token_id is None and form.pad_token_id < arch.vocab_size:
        pad_token_id = form.pad_token_id
    return {
        "architectures": [("Transkimmer" if arch.skim else form.class_prefix) + ending],
        **({"model_type": SKIMMING_MODEL_TYPE, "backbone": arch.backbone} if arch.skim else {"model_type": arch.backbone}),
        **SCHEMAS[arch.backbone].write(arch),
        "pad_token_id": pad_token_id,  # None, which transformers takes, of a vocabulary without the usual one
        **of_head,
        **({"dense_layers": arch.dense_layers} if arch.dense_layers else {}),
        **({"dense_intermediate": arch.dense_intermediate} if arch.dense_intermediate else {}),
        **({"skim": skim_values(arch.skim)} if arch.skim else {}),
    }
