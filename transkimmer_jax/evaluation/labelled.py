"""A model and the labelled texts that it is judged on."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError
from transkimmer_jax.inference.answering import OF_HEADS
from transkimmer_jax.inference.requirements import require_positions

if TYPE_CHECKING:
    from transkimmer_jax.checkpoints.config_file import SavedConfig
    from transkimmer_jax.data.batches import TokenizedExamples
    from transkimmer_jax.data.examples import Examples
    from transkimmer_jax.data.tasks import Task
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel


TASKS = "glue/<name>, imdb_reviews, yelp_polarity_reviews, 20newsgroups or movie_reviews"
_TEST_FILE = "test file"  # the name of --data in reports


@dataclasses.dataclass(frozen=True)
class Request:
    """A model and the texts to judge it on: of a task, or of a file.

    text_columns and label_column are those of a file. examples: how many to draw by seed 0; None: all. runtime, provider and precision
    are options of `SkimEngine`.
    """

    model: str
    task: str | None = None
    data: str | None = None
    data_dir: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    max_length: int | None = None
    batch_size: int = DataConfig().eval_batch_size
    examples: int | None = None
    split: str = "validation"
    threshold: float | None = None
    pooling: str | None = None
    runtime: str | None = None
    provider: str | None = None
    precision: str | None = None

    @property
    def runtime_options(self) -> dict[str, Any]:
        """How an engine computes, as options of `SkimEngine`."""
        return {"runtime": self.runtime, "provider": self.provider, "precision": self.precision}


def require_comparable(dense: str, model: str) -> None:
    """Raises `CheckpointError` where the classifier of `--dense` cannot be compared with that of `--model`: folders, or hub ids."""
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.checkpoints.locations import resolve

    one, other = (config_file.read(resolve(checkpoint)) for checkpoint in (dense, model))
    if one.architecture.head != other.architecture.head:
        raise CheckpointError(f"{dense} is for {one.architecture.head.replace('_', ' ')}, {model} is not")
    if one.architecture.vocab_size != other.architecture.vocab_size:
        raise CheckpointError(f"{dense} has another vocabulary than {model}: the same token ids mean something else to it")
    config_file.require_same_kind_of_labels(dense, one.architecture.multi_label, model, other.architecture.multi_label)
    counts = (one.architecture.num_labels, other.architecture.num_labels)
    if counts[0] != counts[1]:
        raise CheckpointError(f"{dense} has {counts[0]} labels, {model} has {counts[1]}")
    if not config_file.same_labels(other.label_names, one.label_names):
        raise CheckpointError(f"{dense} calls its labels {list(one.label_names or ())}, {model} {list(other.label_names or ())}")
    config_file.warn_of_assumed_order(dense, one.label_names, model, other.label_names)


def require_same_labels(model: str, saved: "SavedConfig", task: "Task") -> None:
    """Raises `CheckpointError` where a classifier, or regressor, has not the labels of a task, in its order."""
    from transkimmer_jax.checkpoints import config_file

    config_file.require_same_kind_of_labels(model, saved.architecture.multi_label, task.name, task.multi_label)
    names = saved.label_names
    count = 1 if names is None else len(names)
    if task.num_labels != count:
        raise CheckpointError(f"{model} has {count} labels, {task.name} has {task.num_labels}")
    if not config_file.same_labels(names, task.label_names):
        raise CheckpointError(
            f"{model} calls its labels {', '.join(names or ())}, {task.name} calls them {', '.join(task.label_names or ())}: one would be "
            "scored as another; where they mean the same, rename them in id2label of its config.json"
        )
    config_file.warn_of_assumed_order(model, names, task.name, task.label_names)


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled texts: tokens, and labels in the same order, see `metrics.compute_metrics`. count: of texts."""

    tokenized: "TokenizedExamples"
    labels: Any
    count: int


@dataclasses.dataclass(frozen=True)
class LabelledModel:
    """A model with what it is judged on.

    calibration: what the model folder says of kept tokens, if anything. pad_id: of its tokenizer. splits: by name, the first
    being the one that counts. source: what that one is, for people. chose_the_model: they are the validation texts of its training.
    """

    model: "TranskimmerPreTrainedModel"
    task: "Task"
    calibration: "Calibration | None"
    pad_id: int
    splits: dict[str, Split]
    source: str
    chose_the_model: bool = False

    @property
    def threshold(self) -> float:
        """The checkpoint's."""
        return self.model.arch.skim.threshold if self.model.arch.skim else 0.0


def read_length(model: str, folder: pathlib.Path, saved: "SavedConfig", task: "Task | None", given: int | None, flag: str) -> int:
    """Tokens read of a text: so many as are given; of a file, and of the task that the model was trained on, as an engine reads; of another
    task, as many as the literature.

    model: its name, for messages. task: None for a file. flag: that which gives a number.

    Raises:
      CheckpointError: more than the model has positions.
    """
    from transkimmer_jax.checkpoints import config_file

    length = given or (task.max_length if task is not None and task.name != saved.task.name else config_file.read_length(folder, saved))
    require_positions(model, saved.architecture, length, flag)
    return length


def load(request: Request) -> LabelledModel:
    """What the request names; of a task its validation splits, or with `--split test` its test splits, on which nothing should be chosen.

    Raises:
      ConfigError: numbers that cannot be meant.
      CheckpointError: a model that cannot be used, or not for this task.
      DataError: data that cannot be read.
    """
    # Imported here, so that --help answers at once.
    from transkimmer_jax.checkpoints import config_file, sentence_transformers
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.data.prepared import prepare
    from transkimmer_jax.data.records import require_readable
    from transkimmer_jax.data.tasks import file_task, get_task
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models import heads

    _check(request)
    if request.data:  # before a model is loaded
        require_readable(request.data)
    folder = resolve(request.model)
    saved = config_file.read(folder)
    known = None if request.task is None else get_task(DataConfig(task=request.task, data_dir=request.data_dir))
    head = saved.architecture.head
    if known is not None and known.head != head:
        raise CheckpointError(f"{request.model} is for {head.replace('_', ' ')}, {known.name} for {known.head.replace('_', ' ')}")
    max_length = read_length(request.model, folder, saved, known, request.max_length, "--max-length")
    model = heads.load(folder, dense=None, complete=True)
    if known is None:
        # The file's labels are those the model knows, whichever of them happen to occur in it.
        columns = tuple(request.text_columns or saved.task.text_columns or ())
        if columns:
            OF_HEADS[head]().columns_of(columns, saved.task.text_columns, request.model)
        label_column, multi_label = request.label_column or saved.task.label_column, saved.architecture.multi_label
        task = file_task(head, saved.label_names, columns, label_column, max_length, multi_label)
        task = dataclasses.replace(task, validation_splits={_TEST_FILE: "validation"})
    else:
        task = dataclasses.replace(known, max_length=max_length)
    if task.head == "sequence_classification":
        require_same_labels(request.model, saved, task)
    if known is not None:
        OF_HEADS[head]().require_task(known, saved.task.text_columns, request.model)
    task = dataclasses.replace(task, prompt=sentence_transformers.read_settings(folder, task.head, saved.values).default_text)
    tokenizer = pipeline.load_tokenizer(folder, model.arch.vocab_size)
    splits = {}
    for name, examples in _examples(request, task).items():
        ready = prepare(task, examples, tokenizer, saved.task.doc_stride)
        splits[name] = Split(ready.tokens, ready.labels, len(examples))
    calibration = Calibration.load(folder, model.arch.num_hidden_layers) if model.arch.skim else None
    source = f"{_TEST_FILE} {pathlib.Path(request.data).name}" if request.data else f"{task.name}, {next(iter(splits))} split"
    chose_the_model = request.task == saved.task.name and request.split == "validation" and request.task is not None
    return LabelledModel(model, task, calibration, tokenizer.pad_token_id, splits, source, chose_the_model)


def load_pairs(request: Request) -> "tuple[Task, dict[str, Examples]]":
    """What the request names, for an embedder: pairs of texts that people have scored, by split.

    Raises:
      ConfigError: numbers that cannot be meant. DataError: data that cannot be read, or that are not pairs with scores.
    """
    from transkimmer_jax.data.tasks import FILES_MAX_LENGTH, Task, get_task

    _check(request)
    columns = tuple(request.text_columns or ("sentence1", "sentence2"))
    if request.task is None:
        label = request.label_column or "score"
        task = Task("files", columns, None, FILES_MAX_LENGTH, ("spearman", "pearson"), label, validation_splits={_TEST_FILE: "validation"})
    else:
        task = get_task(DataConfig(task=request.task, data_dir=request.data_dir))
    if not (task.is_pair and task.is_regression):
        what = f"--text-columns {' '.join(columns)}" if request.task is None else request.task
        raise DataError(f"an embedder is evaluated on pairs of texts with a score, and {what} is none: take glue/stsb, or --data")
    return task, _examples(request, task)


def _examples(request: Request, task: "Task") -> "dict[str, Examples]":
    """The texts that the request names, by split. Raises `DataError` for data that cannot be read, or a split that is missing."""
    from transkimmer_jax.data import sources
    from transkimmer_jax.data.examples import subsample

    parts = task.test_splits if request.split == "test" else task.validation_splits
    if not parts:
        raise DataError(f"{task.name} has no labelled test split: its validation split is all that can be scored")
    data = DataConfig(task=task.name, data_dir=request.data_dir)
    return {
        name: subsample(
            sources.read_labelled(task, request.data) if request.data else sources.load_split(task, part, data),
            request.examples,
            seed=0,
        )
        for name, part in parts.items()
    }


def _check(request: Request) -> None:
    if request.data and request.split != "validation":
        raise ConfigError(f"--split {request.split} is of --task: a file has no splits")
    if request.task and (request.text_columns or request.label_column):
        raise ConfigError("--text-columns and --label-column are of --data: a task has columns of its own")
    if len(request.text_columns) > 2:
        raise ConfigError(f"--text-columns names one column or two, not {len(request.text_columns)}")
