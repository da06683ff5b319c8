"""Examples of JSONL, CSV and TXT files, for each head."""

import ast
import collections
import contextlib
import functools
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, StrictFloat, StrictInt, StringConstraints, TypeAdapter, model_validator

from transkimmer_jax.data.examples import Answers, Examples, objects
from transkimmer_jax.data.records import WORDS, CsvCell, Kind, column_text, column_value, is_text_file, read_example_records, shown
from transkimmer_jax.errors import DataError, first_names
from transkimmer_jax.validation import Schema

logger = logging.getLogger("transkimmer_jax")

OUTSIDE = "O"  # the tag of a word outside of every entity

# Neither 001, which is a code, nor 2020_01, which float() reads as 202001.
_NUMBER = re.compile(r"[+-]?(?:(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # as str() writes it
_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[0-9][0-9.e+-]*|None|True|False""")
_LIST = re.compile(rf"\[\s*+(?:(?:{_ITEM.pattern})(?:\s*+,\s*+|\s++))*(?:{_ITEM.pattern})?\s*+\]")
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_Name = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]


def _different(labels: list[Any]) -> list[Any]:
    """Refuses a list of a 0 or 1 for every label, where these numbers would be taken for names."""
    if len(set(map(str, labels))) < len(labels):
        raise ValueError("a label is there twice")
    return labels


class _Answers(Schema):
    """SQuAD's answers, as most libraries have them."""

    model_config = ConfigDict(extra="ignore", strict=True)
    text: list[Annotated[str, Field(min_length=1)]]
    answer_start: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _are_paired(self) -> Self:
        if len(self.text) != len(self.answer_start):
            raise ValueError("each text has a start")
        return self


_LABEL = Kind(TypeAdapter(StrictInt | StrictFloat | _Name), "a label: a text or a number")
_LABELS = Kind(TypeAdapter(Annotated[list[StrictInt | _Name], AfterValidator(_different)]), 'a list of different labels: ["a", "b"], or []')
_ANSWERS = Kind(TypeAdapter(_Answers), 'answers: {"text": [...], "answer_start": [...]}')


class Classes:
    """The names of classes, to look up labels."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}
        counts = collections.Counter(name.casefold() for name in names)
        self._folded = {name.casefold(): number for number, name in enumerate(names) if counts[name.casefold()] == 1}
        self._hold_a_number = any(map(_NUMBER.fullmatch, names))

    def number_of(self, label: int | float | str, where: str) -> int:
        """The index of a label: of its name, or itself where no name is a number.

        Case counts where a class has exactly this name, or several differ by case alone.

        Raises:
          DataError: a label of no class; `where` names the record.
        """
        number = self._numbers.get(str(label), self._folded.get(str(label).casefold()))
        if number is not None:
            return number
        index = _number(label)
        if isinstance(index, int) and 0 <= index < len(self.names) and not self._hold_a_number:
            return index
        raise DataError(f"{where}: label {shown(label)} is none of the labels trained on ({first_names(self.names)})")


def read_file(
    path: str | pathlib.Path,
    text_columns: tuple[str, ...],
    label_column: str,
    label_names: tuple[str, ...] | None,
    multi_label: bool = False,
) -> Examples:
    """The examples of a `.jsonl` or `.csv` file of labelled texts.

    Args:
      path: the file.
      text_columns: one column, or two for pairs. A text may be empty, but not missing.
      label_column: class names, or class indices where no class name is a number; for regression numbers; for multi-label tasks lists of
        labels, in CSV files as JSON, or as pandas writes lists and arrays.
      label_names: the classes in the order of the logits; None for regression.

    Returns:
      Examples with labels [N]; of a multi-label file [N, labels] float32, 1 of a label that the text has, else 0.

    Raises:
      DataError: one line with file, line number and cause.
    """
    classes = None if label_names is None else Classes(label_names)
    texts: list[list[str]] = [[] for _ in text_columns]
    labels: list[Any] = []
    for where, record in read_example_records(path):
        for column, values in zip(text_columns, texts, strict=True):
            values.append(column_text(record, column, where))
        labels.append((read_labels if multi_label else read_label)(record, label_column, classes, where))
    dtype = np.float32 if label_names is None or multi_label else np.int32
    return Examples(texts[0], texts[1] if len(texts) == 2 else None, np.asarray(labels, dtype))


def read_label(record: dict[str, Any], column: str, classes: Classes | None, where: str) -> int | float:
    """The class index of a record, or without classes its value. Raises `DataError` as `read_file`; `where` names the record."""
    label = _label(record, column, where)
    if classes is not None:
        return classes.number_of(label, where)
    number = _number(label)
    if number is None or not abs(number) <= _FLOAT32_MAX:  # false of NaN, too
        raise DataError(f"{where}: label {shown(label)} is not a finite number, but the task is a regression")
    return float(number)


def read_labels(record: dict[str, Any], column: str, classes: Classes | None, where: str) -> np.ndarray:
    """The labels of a record of a multi-label file, [labels] float32 of 0 and 1. Raises `DataError` as `read_file`."""
    assert classes is not None
    has = np.zeros(len(classes.names), np.float32)
    for label in _listed_labels(record, column, where):
        has[classes.number_of(label, where)] = 1
    return has


def holds_lists(path: str | pathlib.Path, label_column: str) -> bool:
    """Whether the labels of a file are lists, by its first example. Raises `DataError` as `read_file`."""
    [(where, record)] = itertools.islice(read_example_records(path), 1)
    return isinstance(_list_of_cell(column_value(record, label_column, where)), list)


def infer_label_sets(path: str | pathlib.Path, label_column: str) -> tuple[str, ...]:
    """The labels of a multi-label file, in the order of `infer_labels`.

    Raises:
      DataError: as `read_file`, and where all texts have the same labels, or none.
    """
    lists = [_listed_labels(record, label_column, where) for where, record in read_example_records(path)]
    names = _ordered([label for labels in lists for label in labels])
    if len({frozenset(map(str, labels)) for labels in lists}) == 1:
        raise DataError(f"{path}: every list of labels is {shown([*names])}: is {label_column!r} the column of labels?")
    _log_once(f"{path}: {len(names)} labels, of which a text has any number, {first_names(names)}")
    return names


def infer_labels(path: str | pathlib.Path, label_column: str) -> tuple[str, ...] | None:
    """The classes of a file, or None where its labels are real numbers (regression).

    Integers become classes in numeric order, anything with a word in it in the order of the texts. Cells of a CSV file are numbers where
    all of the column can be read as such; 001 is a code, and so a text.

    Raises:
      DataError: as `read_file`, and for a column with a single class.
    """
    labels = [_label(record, label_column, where) for where, record in read_example_records(path)]
    numbers = [_number(label) for label in labels]
    if None not in numbers and any(isinstance(number, float) for number in numbers):
        real = next(label for label, number in zip(labels, numbers, strict=True) if isinstance(number, float))
        _log_once(f"{path}: a regression, since labels as {real} are real numbers")
        return None
    names = _ordered(labels)
    if len(names) == 1:
        raise DataError(f"{path}: every label is {names[0]!r:.60}: is {label_column!r} the column of labels?")
    _log_once(f"{path}: {len(names)} classes, {first_names(names)}")
    return names


def read_tags(path: str | pathlib.Path, words_column: str, tags_column: str, tag_names: tuple[str, ...]) -> Examples:
    """The examples of a `.jsonl` file with a list of words and a list of as many tags a line: a text is its words, its label the number of
    each word's tag. Raises `DataError` as `read_file`."""
    numbers = {name: number for number, name in enumerate(tag_names)}
    texts, labels = [], []
    for where, words, tags in _tagged(path, words_column, tags_column):
        unknown = next((tag for tag in tags if tag not in numbers), None)
        if unknown is not None:
            raise DataError(f"{where}: tag {shown(unknown)} is none of the tags trained on ({first_names(tag_names)})")
        texts.append(words)
        labels.append(tuple(numbers[tag] for tag in tags))
    return Examples(texts, None, objects(labels))


def infer_tags(path: str | pathlib.Path, words_column: str, tags_column: str) -> tuple[str, ...]:
    """The tags of a file, `OUTSIDE` first and the others by their letters. Raises `DataError` as `read_tags`."""
    names = {tag for _, _, tags in _tagged(path, words_column, tags_column) for tag in tags}
    if len(names) < 2:
        raise DataError(f"{path}: every tag is {shown(*names)}: is {tags_column!r} the column of tags?")
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))


def _tagged(path: str | pathlib.Path, words_column: str, tags_column: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for where, record in read_example_records(path, (".jsonl",)):
        words, tags = (column_value(record, column, where, WORDS) for column in (words_column, tags_column))
        if len(words) != len(tags):
            raise DataError(f"{where}: {len(words)} words and {len(tags)} tags: each word has one tag")
        yield where, words, tags


def read_questions(path: str | pathlib.Path, columns: tuple[str, ...], answers_column: str) -> Examples:
    """The examples of a `.jsonl` file with a question, a context and answers a line, {"text": [...], "answer_start": [...]}; both lists are
    empty where the context does not answer.

    Raises:
      DataError: as `read_file`; also for an answer that does not stand at its start.
    """
    if len(columns) != 2:
        raise DataError(f"the text columns of questions are two, of the question and of the context, not {len(columns)}")
    questions, contexts, labels = [], [], []
    for where, record in read_example_records(path, (".jsonl",)):
        question, context = (column_text(record, column, where) for column in columns)
        if not context.strip():
            raise DataError(f"{where}: column {columns[1]!r} holds no text to look for the answer in: leave the line out")
        answers = column_value(record, answers_column, where, _ANSWERS)
        for text, start in zip(answers.text, answers.answer_start, strict=True):
            if not context.startswith(text, start):
                raise DataError(f"{where}: answer {shown(text)} does not stand at character {start} of the context: correct answer_start")
        questions.append(question)
        contexts.append(context)
        labels.append(Answers(tuple(answers.text), tuple(answers.answer_start)))
    return Examples(questions, contexts, objects(labels))


def read_texts(path: str | pathlib.Path, text_columns: tuple[str, ...], *, whole: bool = False) -> Examples:
    """The texts of a file without labels. Examples that are blank in all columns are left out.

    Args:
      path: a `.jsonl` or `.csv` file with these columns; for single texts also a `.txt` file, one text a line.
      text_columns: one column, or two for pairs.
      whole: leave out examples that are blank in any column: a question needs its context.

    Raises:
      DataError: as `read_file`; a file of blank texts alone.
    """
    is_pair = len(text_columns) == 2
    columns = ("text",) if is_text_file(path) and not is_pair else text_columns
    records = read_example_records(path, (".jsonl", ".csv", ".txt"))
    rows = [[column_text(record, column, where) for column in columns] for where, record in records]
    fills = all if whole else any
    filled = [row for row in rows if fills(text.strip() for text in row)]
    if not filled:
        raise DataError(f"{path}: all texts are blank under {', '.join(columns)}")
    if len(filled) < len(rows):
        _log_once(f"{path}: {len(rows) - len(filled)} of {len(rows)} texts are blank under {', '.join(columns)}, and left out")
    return Examples.without_labels([row[0] for row in filled], [row[1] for row in filled] if is_pair else None)


@functools.cache  # a recipe reads a file several times
def _log_once(message: str) -> None:
    logger.info("%s", message)


def _ordered(labels: list[Any]) -> tuple[str, ...]:
    """The names of labels, each once: of integers by their values, of anything with a word among it by the texts."""
    numbers = [_number(label) for label in labels]
    if None in numbers:
        return tuple(sorted({str(label) for label in labels}))
    return tuple(str(number) for number in sorted({number for number in numbers if number is not None}))


def _label(record: dict[str, Any], column: str, where: str) -> int | float | str:
    """The label in a column, a text without white space around it."""
    cell = column_value(record, column, where)
    label = column_value({column: _list_of_cell(cell)}, column, where, _LABEL)
    return CsvCell(label) if isinstance(cell, CsvCell) else label


def _listed_labels(record: dict[str, Any], column: str, where: str) -> list[int | str]:
    """The labels in a column of a multi-label file."""
    return column_value({column: _list_of_cell(column_value(record, column, where))}, column, where, _LABELS)


def _list_of_cell(value: Any) -> Any:
    """The list that a CSV cell holds as JSON, or as pandas writes it; any other value as it is."""
    if not isinstance(value, CsvCell) or not re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL):
        return value
    for read in (json.loads, _python_list):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(value.strip())
    return value


def _python_list(text: str) -> Any:
    """A list as Python writes it, or an array as NumPy does, without commas: `ast` alone reads `'a' 'b'` as the one text 'ab'."""
    if not _LIST.fullmatch(text):
        raise ValueError("no list of texts and numbers")
    return ast.literal_eval(f"[{','.join(_ITEM.findall(text))}]")


def _number(label: int | float | str) -> int | float | None:
    """The number that a label is, as a number or as a cell of a CSV file; None of a text."""
    if not isinstance(label, str):
        return label
    if not isinstance(label, CsvCell) or not _NUMBER.fullmatch(label):
        return None
    try:
        return int(label) if label.lstrip("+-").isdecimal() else float(label)
    except ValueError:  # Python reads no integer of thousands of digits
        return None
