"""The texts of a report: of a file, or of a task."""

import dataclasses
import pathlib

from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation.labelled import require_same_labels
from transkimmer_jax.inference.answering import OF_HEADS


@dataclasses.dataclass(frozen=True)
class TextsRequest:
    """A model and the texts that it shall read: the first `texts` of the file `input`, or as many of a task, drawn by seed 0."""

    model: str
    input: str | None = None
    task: str | None = None
    data_dir: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    texts: int = 200


def of_file(request: TextsRequest, folder: pathlib.Path) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """The first texts of a file, each of one part or two, and their labels where a column of them is named."""
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.data.files import Classes, read_label, read_labels
    from transkimmer_jax.data.records import column_text, is_text_file, read_example_records
    from transkimmer_jax.inference.answers import labels_of
    from transkimmer_jax.reporting.contents import listed

    assert request.input is not None
    saved = config_file.read(folder)
    names = saved.label_names
    head = saved.architecture.head
    if request.label_column and (names is None or head != "sequence_classification"):
        raise ConfigError(f"--label-column marks texts that a classifier puts in another class, and {request.model} is none: leave it out")
    answering = OF_HEADS[head]()
    columns = answering.checked_columns(tuple(request.text_columns or saved.task.text_columns or answering.columns))
    if is_text_file(request.input):
        if len(columns) == 2:
            raise ConfigError(f"--input {request.input} has a text a line, and {request.model} reads pairs: give a .jsonl or .csv file")
        columns = ("text",)
    texts: list[tuple[str, ...]] = []
    truths: list[str | None] = []
    classes = Classes(names or ())
    for where, record in read_example_records(request.input, (".jsonl", ".csv", ".txt")):
        texts.append(tuple(column_text(record, column, where) for column in columns))
        if request.label_column is None or names is None:
            truths.append(None)
        elif saved.architecture.multi_label:
            truths.append(listed(labels_of(read_labels(record, request.label_column, classes, where), names)))
        else:
            truths.append(names[int(read_label(record, request.label_column, classes, where))])
        if len(texts) == request.texts:
            break
    return texts, truths


def of_task(request: TextsRequest, folder: pathlib.Path) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """Texts of a task's validation split, drawn by seed 0, and the model's names of their classes, where the model has classes."""
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.data import sources
    from transkimmer_jax.data.examples import subsample
    from transkimmer_jax.data.tasks import get_task

    assert request.task is not None
    if request.text_columns or request.label_column:
        raise ConfigError("--text-columns and --label-column are of --input: a task has columns of its own")
    data = DataConfig(task=request.task, data_dir=request.data_dir)
    task = get_task(data)
    if task.head != "sequence_classification":
        raise ConfigError(f"--task {request.task} has no labels of texts: give --input")
    saved = config_file.read(folder)
    OF_HEADS[saved.architecture.head]().require_task(task, saved.task.text_columns, request.model)
    names = None
    if saved.architecture.head == "sequence_classification":
        require_same_labels(request.model, saved, task)
        names = saved.label_names
    examples = subsample(sources.load_split(task, next(iter(task.validation_splits.values())), data), request.texts, seed=0)
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    truths: list[str | None] = [None if names is None else names[label] for label in examples.labels]
    return list(zip(*columns, strict=True)), truths
