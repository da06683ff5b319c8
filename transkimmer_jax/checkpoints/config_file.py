"""A model folder's `config.json`: the fields that are read, what they may hold, and what they mean.

Names and meanings are those of transformers' configs. The table here has BERT's names; what other backbones call the same is in
`backbones.py`, and fields that only some have are in `variants.py`. `backbone`, `skim`, `pooling`, `task`, `dense_layers` and
`dense_intermediate` are ours.
"""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from transkimmer_jax.checkpoints import folders, sentence_transformers
from transkimmer_jax.checkpoints.backbones import FORMATS, CheckpointFormat
from transkimmer_jax.checkpoints.json_files import read_object
from transkimmer_jax.checkpoints.schema import (
    BOOLEAN,
    FLOAT32_MAX,
    SIZE,
    Choice,
    Field,
    Integer,
    Kind,
    Number,
    Section,
    Supported,
    Text,
    Texts,
    filled,
    listed,
    problems,
)
from transkimmer_jax.checkpoints.variants import VARIANTS, Variants
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import CheckpointError, first_names
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.encoder import DISTANCE_BUCKETS

logger = logging.getLogger("transkimmer_jax")

CONFIG_FILE = "config.json"
# transformers refuses it, where it would load 'bert' as a model that keeps every token.
SKIMMING_MODEL_TYPE = "transkimmer"
_MOST_BYTES = 16 * 2**20  # names of ten thousands of labels are a megabyte
_MOST_LABELS = 100_000  # a fresh classifier has a row for each
_REGRESSION, _ONE_LABEL, _ANY_LABELS = "regression", "single_label_classification", "multi_label_classification"


@dataclasses.dataclass(frozen=True)
class _Labels(Kind):
    """Names of labels by number: all of 0 to N - 1, each another text, or a number as some hubs' configs have it."""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, dict) or not 1 <= len(value) <= _MOST_LABELS:
            return False
        if set(value) != set(map(str, range(len(value)))):
            return False
        names = [str(name) if type(name) is int else name for name in value.values()]
        return all(map(Text().accepts, names)) and len(set(names)) == len(names)

    def __str__(self) -> str:
        return 'a different name for each of the labels "0", "1", ...'


_DROPOUT = Number(0, 1, closed=False)
_SMALL = Number(1e-30, 1)


class _Levels(Kind):
    """Budgets of one model."""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not all(type(share) in (int, float) and 0 < share < 1 for share in value):
            return False
        return len(value) != 1 and all(larger > smaller for larger, smaller in itertools.pairwise(value))

    def __str__(self) -> str:
        return "a list of at least two falling shares between 0 and 1"


class _Layers(Kind):
    """Some layers of a model."""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not all(type(layer) is int and layer >= 0 for layer in value):
            return False
        return len(value) > 0 and all(earlier < later for earlier, later in itertools.pairwise(value))

    def __str__(self) -> str:
        return "a list of layers, rising, from 0"


_SKIM = Section(
    {
        "predictor_size": Field(SIZE),
        "layers": Field(_Layers()),
        "initial_bias": Field(Number(-1e6, 1e6), SkimArchitecture.initial_bias),
        "temperature": Field(Number(1e-6, 1e6), SkimArchitecture.temperature),
        "threshold": Field(Number(-FLOAT32_MAX, FLOAT32_MAX), SkimArchitecture.threshold),
        "attention_masking": Field(Choice(("renormalized", "post_softmax")), SkimArchitecture.attention_masking),
        "pinned": Field(Choice(("first_segment",))),
        "levels": Field(_Levels(), []),
        "norm_eps": Field(_SMALL),
        "forwarding": Field(Choice(("identity", "linear")), SkimArchitecture.forwarding),
    },
    closed=True,
)

_POOLING = Section(
    {
        "mode": Field(Choice(("mean", "cls")), PoolingArchitecture.mode),
        "normalize": Field(BOOLEAN, PoolingArchitecture.normalize),
    },
    closed=True,
)

_TASK = Section(
    {
        "name": Field(Text()),
        "max_length": Field(SIZE),
        "text_columns": Field(Texts(2)),
        "label_column": Field(Text()),
        "doc_stride": Field(Integer(0, 2**20), DataConfig.doc_stride),
    }
)

# What the other fields are called: the backbone's `model_type`, or, of a skimming model, ours and the backbone beside it.
_KIND = Section(
    {
        "model_type": Field(Supported((*FORMATS, SKIMMING_MODEL_TYPE)), "bert"),
        "backbone": Field(Supported(tuple(FORMATS))),
    }
)

_CONFIG = Section(
    {
        "vocab_size": Field(Integer(1, 10**8), required=True),
        "hidden_size": Field(SIZE, required=True),
        "num_hidden_layers": Field(Integer(1, 1000), required=True),
        "num_attention_heads": Field(SIZE, required=True),
        "intermediate_size": Field(SIZE, required=True),
        "max_position_embeddings": Field(SIZE, required=True),
        "pad_token_id": Field(Integer(0, 10**8)),
        "type_vocab_size": Field(SIZE, required=True),
        "layer_norm_eps": Field(_SMALL, 1e-12),
        "initializer_range": Field(Number(0, 100), 0.02),
        "hidden_dropout_prob": Field(_DROPOUT, 0.1),
        "attention_probs_dropout_prob": Field(_DROPOUT, 0.1),
        "hidden_act": Field(Supported(("gelu",)), "gelu"),
        "position_embedding_type": Field(Supported(("absolute",)), "absolute"),
        "is_decoder": Field(Supported((False,)), False),
        "relative_attention_num_buckets": Field(Supported((DISTANCE_BUCKETS,)), DISTANCE_BUCKETS),
        "num_labels": Field(Integer(1, _MOST_LABELS)),
        "id2label": Field(_Labels()),
        "problem_type": Field(Supported((_REGRESSION, _ONE_LABEL, _ANY_LABELS))),
        "dense_layers": Field(Integer(1, 1000)),
        "dense_intermediate": Field(SIZE),
        "architectures": Field(Texts(16)),
        "skim": Field(_SKIM),
        "pooling": Field(_POOLING),
        "task": Field(_TASK, {}),
    }
)

# What names of `architectures` end with, behind that of the backbone. A bare encoder is classified with, where nothing says otherwise.
_HEADS = {
    "ForSequenceClassification": "sequence_classification",
    "ForSentenceEmbedding": "sentence_embedding",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}

# Fields of the table that `Architecture` has under the same name, and those that it calls otherwise.
_SHAPES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "type_vocab_size",
)  # fmt: skip
_RATES = {
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


@dataclasses.dataclass(frozen=True)
class SavedTask:
    """The task that a model was trained on, as far as its folder says so.

    max_length: tokens of an example. text_columns: one, or two of pairs. doc_stride: tokens that windows of a context share.
    """

    name: str | None = None
    max_length: int | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str | None = None
    doc_stride: int = DataConfig.doc_stride

    @property
    def pairs(self) -> bool | None:
        """Whether texts come in pairs; None where the folder does not say."""
        return None if self.text_columns is None else len(self.text_columns) == 2


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
      CheckpointError: none there, not the file that its digest says, not JSON, or fields that cannot be meant, all of them in one line.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG_FILE}, so this is not a checkpoint folder")
    folders.verify(path)
    saved = parse(read_object(path, _MOST_BYTES), str(folder))
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
      CheckpointError: another model type, missing fields, fields of the wrong type or out of range, or a feature that this encoder does
        not compute: all of them in one line that begins with `where`.
    """
    # The names of all other fields follow from the kind.
    wrong = problems(values, _KIND)
    if wrong:
        raise CheckpointError(f"{where}: {listed(wrong)}")
    kind = filled(values, _KIND)
    backbone = (kind["backbone"] or "bert") if kind["model_type"] == SKIMMING_MODEL_TYPE else kind["model_type"]
    form = FORMATS[backbone]
    variants = VARIANTS.get(backbone)
    section = _section(form, variants)
    wrong = problems(values, section)
    fields = kind | _by_our_names(filled(values, section), form) if not wrong else {}
    own = filled(values, variants.section) if variants and not wrong else {}
    wrong = wrong or _contradictions(fields, form) + (variants.contradictions(fields | own) if variants else [])
    if wrong:
        raise CheckpointError(f"{where}: {listed(wrong)}")
    names, count = _label_names(fields)
    skim = fields["skim"]
    constants: dict[str, Any] = {name: fields[name] for name in _SHAPES}
    offset = _position_offset(fields, form)
    constants["max_position_embeddings"] -= offset
    constants |= {ours: float(fields[name]) for name, ours in _RATES.items()}
    if variants:
        constants |= variants.read(fields | own, values)
    arch = Architecture(
        **constants,
        backbone=backbone,
        position_offset=offset,
        num_labels=count,
        multi_label=fields["problem_type"] == _ANY_LABELS and _head(fields) == "sequence_classification",
        head=_head(fields),
        pooling=PoolingArchitecture(**fields["pooling"] or {}),
        skim=None if skim is None else _skim_architecture(skim),
        dense_layers=fields["dense_layers"],
        dense_intermediate=fields["dense_intermediate"],
    )
    task = fields["task"]
    columns = task.get("text_columns")
    saved_task = SavedTask(**task | {"text_columns": None if columns is None else tuple(columns)})
    value_names = (str(fields["id2label"]["0"]),) if arch.is_regression and fields["id2label"] else None
    return SavedConfig(arch, names, value_names, saved_task, _named_head(fields) is not None, values)


def require_valid_skim(values: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for fields of a `skim` section, given by name, that cannot be meant."""
    wrong = problems(values, _SKIM, "skim.")
    if wrong:
        raise CheckpointError(listed(wrong))


def require_valid_pooling(values: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for fields of a `pooling` section, given by name, that cannot be meant."""
    wrong = problems(values, _POOLING, "pooling.")
    if wrong:
        raise CheckpointError(listed(wrong))


def _skim_architecture(section: dict[str, Any]) -> SkimArchitecture:
    floats = {name: float(section[name]) for name in ("initial_bias", "temperature", "threshold")}
    layers = None if section["layers"] is None else tuple(section["layers"])
    return SkimArchitecture(**section | floats | {"levels": tuple(map(float, section["levels"])), "layers": layers})


def skim_values(skim: SkimArchitecture) -> dict[str, Any]:
    """The section of an architecture. Without `layers` where all decide, as packages that do not know the field read it."""
    return {name: value for name, value in dataclasses.asdict(skim).items() if name != "layers" or value is not None}


def _section(form: CheckpointFormat, variants: Variants | None) -> Section:
    """The table with the names and defaults that a backbone's configs have, in our order."""
    own = {name: dataclasses.replace(field, default=form.defaults.get(name, field.default)) for name, field in _CONFIG.fields.items()}
    fields = {form.field(name): field for name, field in own.items() if name not in form.fixed}
    return Section(fields | (dict(variants.section.fields) if variants else {}))


def _by_our_names(fields: dict[str, Any], form: CheckpointFormat) -> dict[str, Any]:
    """The content of such a section by the names of `_CONFIG`."""
    return {name: form.fixed[name] if name in form.fixed else fields[form.field(name)] for name in _CONFIG.fields}


def _position_offset(fields: dict[str, Any], form: CheckpointFormat) -> int:
    """Rows of the position table before that of the first token."""
    if not form.pads_first:
        return form.position_offset
    return 1 + (form.pad_token_id if fields["pad_token_id"] is None else fields["pad_token_id"])


def _contradictions(fields: dict[str, Any], form: CheckpointFormat) -> list[str]:
    """Fields that are well by themselves and do not go together."""
    wrong = []
    size, heads = (f"{form.field(name)} {fields[name]}" for name in ("hidden_size", "num_attention_heads"))
    if fields["hidden_size"] % fields["num_attention_heads"]:
        wrong.append(f"{size} is not a multiple of {heads}")
    offset = _position_offset(fields, form)
    if fields["max_position_embeddings"] <= offset:
        wrong.append(f"max_position_embeddings {fields['max_position_embeddings']} leaves no position behind the first {offset}")
    if fields["model_type"] == SKIMMING_MODEL_TYPE and fields["skim"] is None:
        wrong.append(f"model_type is {SKIMMING_MODEL_TYPE!r}, but there is no skim section")
    names, count = fields["id2label"], fields["num_labels"]
    if names is not None and count is not None and len(names) != count:
        wrong.append(f"num_labels is {count}, but id2label names {len(names)}")
    if fields["problem_type"] == _REGRESSION and _label_count(fields) != 1:
        wrong.append(f"regression has one output, not {_label_count(fields)}: see id2label")
    for whole, part in (("dense_layers", "num_hidden_layers"), ("dense_intermediate", "intermediate_size")):
        if fields[whole] is not None and fields[whole] < fields[part]:
            wrong.append(f"{whole} {fields[whole]} is less than {form.field(part)} {fields[part]}")
    if fields["skim"] is not None and fields["skim"]["pinned"] is not None and fields["type_vocab_size"] < 2:
        wrong.append(f"skim.pinned='first_segment' needs token types, and type_vocab_size is {fields['type_vocab_size']}")
    layers = fields["skim"] and fields["skim"]["layers"]
    if layers and layers[-1] >= fields["num_hidden_layers"]:
        wrong.append(f"skim.layers {','.join(map(str, layers))}: there are {fields['num_hidden_layers']} layers, from 0")
    length = fields["task"].get("max_length")
    positions = fields["max_position_embeddings"] - offset
    if length is not None and length > positions:
        behind = f" less the first {offset}" if offset else ""
        wrong.append(f"task.max_length {length} is more than max_position_embeddings {fields['max_position_embeddings']}{behind}")
    return wrong


def _head(fields: dict[str, Any]) -> str:
    return _named_head(fields) or "sequence_classification"


def _named_head(fields: dict[str, Any]) -> str | None:
    for name in fields["architectures"] or ():
        for ending, head in _HEADS.items():
            if name.endswith(ending):
                return head
    return None if fields["pooling"] is None else "sentence_embedding"


def _label_count(fields: dict[str, Any]) -> int:
    return len(fields["id2label"]) if fields["id2label"] else fields["num_labels"] or 2  # transformers leaves two labels out


def _label_names(fields: dict[str, Any]) -> tuple[tuple[str, ...] | None, int]:
    """Names of the labels, None for regression, and their number."""
    count = _label_count(fields)
    # One output of a text leaves nothing to choose from: as in transformers it is a value.
    if fields["problem_type"] != _ANY_LABELS and count == 1 and _head(fields) == "sequence_classification":
        return None, count
    named = fields["id2label"]
    return (default_label_names(count) if named is None else tuple(str(named[str(index)]) for index in range(count))), count


def to_values(arch: Architecture, label_names: tuple[str, ...] | None, pad_token_id: int | None) -> dict[str, Any]:
    """The inverse of `parse`, as the content of `config.json`.

    label_names: None for regression. pad_token_id: the tokenizer's; None: the backbone's usual one.
    """
    ending = next(ending for ending, head in _HEADS.items() if head == arch.head)
    if arch.head == "sentence_embedding":
        # To transformers an embedder is a bare encoder.
        of_head: dict[str, Any] = {"pooling": dataclasses.asdict(arch.pooling)}
        ending = ending if arch.skim else "Model"
    elif arch.head == "question_answering":
        of_head = {}
    else:
        of_head = label_fields(label_names or default_label_names(1))
    if arch.head == "sequence_classification":
        of_head["problem_type"] = _ANY_LABELS if arch.multi_label else _REGRESSION if label_names is None else _ONE_LABEL
    form = FORMATS[arch.backbone]
    if form.pads_first:
        pad_token_id = arch.position_offset - 1  # it says where positions start
    constants = {name: getattr(arch, name) for name in _SHAPES} | {name: getattr(arch, ours) for name, ours in _RATES.items()}
    constants |= {
        "max_position_embeddings": arch.max_position_embeddings + arch.position_offset,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    }
    if pad_token_id is None and form.pad_token_id < arch.vocab_size:
        pad_token_id = form.pad_token_id
    return {
        "architectures": [("Transkimmer" if arch.skim else form.class_prefix) + ending],
        **({"model_type": SKIMMING_MODEL_TYPE, "backbone": arch.backbone} if arch.skim else {"model_type": arch.backbone}),
        **{form.field(name): value for name, value in constants.items() if name not in form.fixed},
        **(VARIANTS[arch.backbone].write(arch) if arch.backbone in VARIANTS else {}),
        "pad_token_id": pad_token_id,  # None, which transformers takes, of a vocabulary without the usual one
        **of_head,
        **({"dense_layers": arch.dense_layers} if arch.dense_layers else {}),
        **({"dense_intermediate": arch.dense_intermediate} if arch.dense_intermediate else {}),
        **({"skim": skim_values(arch.skim)} if arch.skim else {}),
    }
