"""A model and the labelled texts it is judged on: the flags that name them, and how they are loaded."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from transkimmer_jax.cli import runtime
from transkimmer_jax.cli.answering import OF_HEADS
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from transkimmer_jax.checkpoints.config_file import SavedConfig
    from transkimmer_jax.data.batches import TokenizedExamples
    from transkimmer_jax.data.examples import Examples
    from transkimmer_jax.data.tasks import Task
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel


TASKS = "glue/<name>, imdb_reviews, yelp_polarity_reviews, 20newsgroups or movie_reviews"
_TEST_FILE = "test file"  # the name of --data in reports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--task", help=f"{TASKS}; of a reader squad/v1.1 or squad/v2.0")
    data.add_argument("--data", help="a .jsonl or .csv file with the model's text columns and labels")
    parser.add_argument("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets)")
    parser.add_argument(
        "--text-columns",
        nargs="+",
        help="columns of --data (default: the model's, or 'text'; of taggers 'tokens', of readers question context, of embedders sentence1"
        " sentence2)",
    )
    parser.add_argument(
        "--label-column",
        help="column of --data (default: the model's, or 'label'; of taggers 'tags', of readers 'answers', of embedders 'score')",
    )
    parser.add_argument("--max-length", type=int, help="tokens kept of an example (default: the model's, or the task's)")
    parser.add_argument("--batch-size", type=int, default=DataConfig().eval_batch_size, help="texts of one batch (default: %(default)s)")
    parser.add_argument("--examples", type=int, help="use only this many examples, drawn by seed 0")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="of --task; few tasks have a labelled test split: IMDB, Yelp, 20 Newsgroups; MRPC and STS-B where the prepared data hold test "
        "labels, which TFDS's own download hides (default: %(default)s)",
    )


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
    runtime.require_positions(model, saved.architecture, length, flag)
    return length


def load(args: argparse.Namespace) -> LabelledModel:
    """What the flags name; of a task its validation splits, or with `--split test` its test splits, on which nothing should be chosen.

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

    _check(args)
    if args.data:  # before a model is loaded
        require_readable(args.data)
    folder = resolve(args.model)
    saved = config_file.read(folder)
    known = None if args.data else get_task(DataConfig(task=args.task, data_dir=args.data_dir))
    head = saved.architecture.head
    if known is not None and known.head != head:
        raise CheckpointError(f"{args.model} is for {head.replace('_', ' ')}, {known.name} for {known.head.replace('_', ' ')}")
    max_length = read_length(args.model, folder, saved, known, args.max_length, "--max-length")
    model = heads.load(folder, dense=None, complete=True)
    if known is None:
        # The file's labels are those the model knows, whichever of them happen to occur in it.
        columns = tuple(args.text_columns or saved.task.text_columns or ())
        if columns:
            OF_HEADS[head]().columns_of(columns, saved.task.text_columns, args.model)
        label_column, multi_label = args.label_column or saved.task.label_column, saved.architecture.multi_label
        task = file_task(head, saved.label_names, columns, label_column, max_length, multi_label)
        task = dataclasses.replace(task, validation_splits={_TEST_FILE: "validation"})
    else:
        task = dataclasses.replace(known, max_length=max_length)
    if task.head == "sequence_classification":
        require_same_labels(args.model, saved, task)
    if known is not None:
        OF_HEADS[head]().require_task(known, saved.task.text_columns, args.model)
    task = dataclasses.replace(task, prompt=sentence_transformers.read_settings(folder, task.head, saved.values).default_text)
    tokenizer = pipeline.load_tokenizer(folder, model.arch.vocab_size)
    splits = {}
    for name, examples in _examples(args, task).items():
        ready = prepare(task, examples, tokenizer, saved.task.doc_stride)
        splits[name] = Split(ready.tokens, ready.labels, len(examples))
    calibration = Calibration.load(folder, model.arch.num_hidden_layers) if model.arch.skim else None
    source = f"{_TEST_FILE} {pathlib.Path(args.data).name}" if args.data else f"{task.name}, {next(iter(splits))} split"
    chose_the_model = args.task == saved.task.name and args.split == "validation" and args.task is not None
    return LabelledModel(model, task, calibration, tokenizer.pad_token_id, splits, source, chose_the_model)


def load_pairs(args: argparse.Namespace) -> "tuple[Task, dict[str, Examples]]":
    """What the flags name, for an embedder: pairs of texts that people have scored, by split.

    Raises:
      ConfigError: numbers that cannot be meant. DataError: data that cannot be read, or that are not pairs with scores.
    """
    from transkimmer_jax.data.tasks import FILES_MAX_LENGTH, Task, get_task

    _check(args)
    columns = tuple(args.text_columns or ("sentence1", "sentence2"))
    if args.data:
        label = args.label_column or "score"
        task = Task("files", columns, None, FILES_MAX_LENGTH, ("spearman", "pearson"), label, validation_splits={_TEST_FILE: "validation"})
    else:
        task = get_task(DataConfig(task=args.task, data_dir=args.data_dir))
    if not (task.is_pair and task.is_regression):
        what = f"--text-columns {' '.join(columns)}" if args.data else args.task
        raise DataError(f"an embedder is evaluated on pairs of texts with a score, and {what} is none: take glue/stsb, or --data")
    return task, _examples(args, task)


def _examples(args: argparse.Namespace, task: "Task") -> "dict[str, Examples]":
    """The texts that the flags name, by the splits' names. Raises `DataError` for data that cannot be read, or a split that is missing."""
    from transkimmer_jax.data import sources
    from transkimmer_jax.data.examples import subsample

    parts = task.test_splits if args.split == "test" else task.validation_splits
    if not parts:
        raise DataError(f"{task.name} has no labelled test split: its validation split is all that can be scored")
    data = DataConfig(task=task.name, data_dir=args.data_dir)
    return {
        name: subsample(
            sources.read_labelled(task, args.data) if args.data else sources.load_split(task, part, data),
            args.examples,
            seed=0,
        )
        for name, part in parts.items()
    }


def _check(args: argparse.Namespace) -> None:
    if args.data and args.split != "validation":
        raise ConfigError(f"--split {args.split} is of --task: a file has no splits")
    for name, least in (("max_length", 3), ("batch_size", 1), ("examples", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if args.task and (args.text_columns or args.label_column):
        raise ConfigError("--text-columns and --label-column are of --data: a task has columns of its own")
    if args.text_columns is not None and len(args.text_columns) > 2:
        raise ConfigError(f"--text-columns names one column or two, not {len(args.text_columns)}")
