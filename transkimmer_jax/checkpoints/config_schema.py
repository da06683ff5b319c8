"""What `config.json` may hold: BERT's fields, in the names of transformers' configs, and our own sections.

Other backbones' fields are in `config_backbones.py`.

Null means that a field is left out. Unknown fields are ignored, except in our own sections, where a misspelt field would be lost.
"""

import itertools
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.checkpoints.thresholds import FLOAT32_MAX
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.validation import Schema, explain

MOST_LABELS = 100_000  # a fresh classifier has a row for each
REGRESSION, ONE_LABEL, ANY_LABELS = "regression", "single_label_classification", "multi_label_classification"
# Endings of names in `architectures`. A bare encoder gets a classifier, where nothing says otherwise.
HEADS = {
    "ForSequenceClassification": "sequence_classification",
    "ForSentenceEmbedding": "sentence_embedding",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}


def _numbered(labels: dict[str, str]) -> dict[str, str]:
    if set(labels) != set(map(str, range(len(labels)))) or len(set(labels.values())) != len(labels):
        raise ValueError('must have a different name for each of the labels "0", "1", ...')
    return labels


def _distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) != len(texts):
        raise ValueError("must be different texts")
    return texts


def _rising(layers: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(layers)):
        raise ValueError("layers must rise")
    return layers


def _falling(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) == 1 or any(later >= earlier for earlier, later in itertools.pairwise(levels)):
        raise ValueError("must be at least two falling shares")
    return levels


Size = Annotated[int, Field(ge=1, le=2**20)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(ge=1e-30, le=1)]
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[Text, BeforeValidator(lambda name: str(name) if type(name) is int else name)]


class Section(Schema):
    """Fields of a JSON object, without conversions between types."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


class SkimSection(Section):
    """The `skim` section: `SkimArchitecture`."""

    model_config = ConfigDict(extra="forbid")

    predictor_size: Size | None = None
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1), AfterValidator(_rising)] | None = None
    initial_bias: Annotated[float, Field(ge=-1e6, le=1e6)] = SkimArchitecture.initial_bias
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    threshold: Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)] = SkimArchitecture.threshold
    attention_masking: Literal["renormalized", "post_softmax"] = "renormalized"
    pinned: Literal["first_segment"] | None = None
    levels: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(strict=False), AfterValidator(_falling)] = ()
    norm_eps: Epsilon | None = None
    forwarding: Literal["identity", "linear"] = "identity"


class PoolingSection(Section):
    """The `pooling` section: `PoolingArchitecture`."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["mean", "cls"] = "mean"
    normalize: bool = False


class SavedTask(Section):
    """The `task` section: the task that a model was trained on, as far as its folder says so.

    max_length: tokens of an example. text_columns: one, or two of pairs. doc_stride: tokens that windows of a context share.
    """

    name: Text | None = None
    max_length: Size | None = None
    text_columns: Annotated[tuple[Text, ...], Field(strict=False, min_length=1, max_length=2), AfterValidator(_distinct)] | None = None
    label_column: Text | None = None
    doc_stride: Annotated[int, Field(ge=0, le=2**20)] = DataConfig.doc_stride

    @property
    def pairs(self) -> bool | None:
        """Whether texts come in pairs; None where the folder does not say."""
        return None if self.text_columns is None else len(self.text_columns) == 2


class BackboneConfig(Section):
    """BERT's fields, RoBERTa's too, and those of ours."""

    unwritten: ClassVar[tuple[str, ...]] = ()  # fields that configs of the family do not have

    backbone: str
    vocab_size: Annotated[int, Field(ge=1, le=10**8)]
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size
    pad_token_id: Annotated[int, Field(ge=0, le=10**8)] | None = None
    layer_norm_eps: Epsilon = 1e-12
    initializer_range: Annotated[float, Field(ge=0, le=100)] = 0.02
    hidden_dropout_prob: Dropout = 0.1
    attention_probs_dropout_prob: Dropout = 0.1
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    num_labels: Annotated[int, Field(ge=1, le=MOST_LABELS)] | None = None
    id2label: Annotated[dict[str, Label], Field(min_length=1, max_length=MOST_LABELS), AfterValidator(_numbered)] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    architectures: Annotated[tuple[Text, ...], Field(strict=False, max_length=16)] = ()
    dense_layers: Layers | None = None
    dense_intermediate: Size | None = None
    skim: SkimSection | None = None
    pooling: PoolingSection | None = None
    task: SavedTask = SavedTask()

    @classmethod
    def field_name(cls, name: str) -> str:
        """The name in the family's configs of a field of BERT's."""
        alias = cls.model_fields[name].validation_alias
        return alias if isinstance(alias, str) else name

    @property
    def position_offset(self) -> int:
        """Rows of the position table before that of the first token."""
        form = FORMATS[self.backbone]
        if not form.pads_first:
            return form.position_offset
        return 1 + (form.pad_token_id if self.pad_token_id is None else self.pad_token_id)

    @property
    def named_head(self) -> str | None:
        """The head that the file names."""
        heads = (head for name in self.architectures for ending, head in HEADS.items() if name.endswith(ending))
        return next(heads, None if self.pooling is None else "sentence_embedding")

    @property
    def label_count(self) -> int:
        """Labels of the model; transformers leaves a number of two out."""
        return len(self.id2label) if self.id2label else self.num_labels or 2

    def architecture(self) -> Architecture:
        """The encoder with its head."""
        head = self.named_head or "sequence_classification"
        return Architecture(
            **self.constants(),
            backbone=self.backbone,
            num_labels=self.label_count,
            multi_label=self.problem_type == ANY_LABELS and head == "sequence_classification",
            head=head,
            pooling=PoolingArchitecture() if self.pooling is None else PoolingArchitecture(**self.pooling.model_dump()),
            skim=None if self.skim is None else SkimArchitecture(**self.skim.model_dump()),
            dense_layers=self.dense_layers,
            dense_intermediate=self.dense_intermediate,
        )

    def constants(self) -> dict[str, Any]:
        """Fields of `Architecture` that describe the encoder."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings - self.position_offset,
            "position_offset": self.position_offset,
            "type_vocab_size": self.type_vocab_size,
            "layer_norm_eps": self.layer_norm_eps,
            "initializer_range": self.initializer_range,
            "hidden_dropout": self.hidden_dropout_prob,
            "attention_dropout": self.attention_probs_dropout_prob,
        }

    @classmethod
    def write(cls, arch: Architecture) -> dict[str, Any]:
        """The inverse of `constants`."""
        fields = {
            "vocab_size": arch.vocab_size,
            "hidden_size": arch.hidden_size,
            "num_hidden_layers": arch.num_hidden_layers,
            "num_attention_heads": arch.num_attention_heads,
            "intermediate_size": arch.intermediate_size,
            "max_position_embeddings": arch.max_position_embeddings + arch.position_offset,
            "type_vocab_size": arch.type_vocab_size,
            "layer_norm_eps": arch.layer_norm_eps,
            "initializer_range": arch.initializer_range,
            "hidden_dropout_prob": arch.hidden_dropout,
            "attention_probs_dropout_prob": arch.attention_dropout,
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        }
        return {cls.field_name(name): value for name, value in fields.items() if name not in cls.unwritten}

    @model_validator(mode="after")
    def _consistent(self) -> "BackboneConfig":
        for problem in self.contradictions():
            raise ValueError(problem)
        return self

    def contradictions(self) -> list[str]:
        """Fields that are valid alone and not together, in words."""
        size, heads, layers, inner = map(self._said, ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"))
        length, positions, offset = self.task.max_length, self.max_position_embeddings, self.position_offset
        behind = f" less the first {offset}" if offset else ""
        chosen = (self.skim and self.skim.layers) or ()
        checks = {
            f"{size} is not a multiple of {heads}": self.hidden_size % self.num_attention_heads > 0,
            f"max_position_embeddings {positions} leaves no position behind the first {offset}": positions <= offset,
            f"num_labels is {self.num_labels}, but id2label names {self.label_count}": self.num_labels not in (None, self.label_count),
            f"regression has one output, not {self.label_count}: see id2label": self.problem_type == REGRESSION and self.label_count != 1,
            f"dense_layers {self.dense_layers} is less than {layers}": (self.dense_layers or 1000) < self.num_hidden_layers,
            f"dense_intermediate {self.dense_intermediate} is less than {inner}": (
                self.dense_intermediate is not None and self.dense_intermediate < self.intermediate_size
            ),
            f"skim.pinned='first_segment' needs token types, and type_vocab_size is {self.type_vocab_size}": (
                self.skim is not None and self.skim.pinned is not None and self.type_vocab_size < 2
            ),
            f"skim.layers {','.join(map(str, chosen))}: there are {self.num_hidden_layers} layers, from 0": (
                max(chosen, default=0) >= self.num_hidden_layers
            ),
            f"task.max_length {length} is more than max_position_embeddings {positions}{behind}": (length or 0) > positions - offset,
        }
        return [problem for problem, holds in checks.items() if holds]

    def _said(self, name: str) -> str:
        return f"{self.field_name(name)} {getattr(self, name)}"


S = TypeVar("S", bound=Schema)


def validated(schema: type[S], values: Any, where: str) -> S:
    """An object of a file, checked. where: begins the error, e.g. the file's path and ': '. Raises `CheckpointError`."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise CheckpointError(f"{where}{explain(error)}") from error
