"""Files of labelled examples: texts and labels of JSONL and CSV files."""

import ast
import collections
import functools
import itertools
import json
import logging
import pathlib
import re
from typing import Any

import numpy as np

from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.records import (
    COLUMN_FIELDS,
    FILE_FIELDS,
    CsvCell,
    column_text,
    column_value,
    read_example_records,
    require_unicode,
    shown,
)
from transkimmer_jax.errors import DataError, first_names

logger = logging.getLogger("transkimmer_jax")

# Not all that float() reads: to it the class 2020_01 would be 202001.
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0[0-9]+")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # as str() writes it
# A list as Python writes it, or an array as NumPy does, without commas: to Python `'a' 'b'` would be the one text 'ab'.
_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[0-9][0-9.e+-]*|None|True|False""")
_LIST = re.compile(rf"\[\s*+(?:(?:{_ITEM.pattern})(?:\s*+,\s*+|\s++))*(?:{_ITEM.pattern})?\s*+\]")
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Classes:
    """Names of classes, in which those of many examples are looked up."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}
        counts = collections.Counter(name.casefold() for name in names)
        self._by_folded = {name.casefold(): number for name, number in self._numbers.items() if counts[name.casefold()] == 1}
        self.are_integers = all(map(_INTEGER.fullmatch, names))
        self.hold_a_number = any(map(_NUMBER.fullmatch, names))

    def __len__(self) -> int:
        return len(self.names)

    def number_of(self, name: str) -> int | None:
        """Of the class with this name; None for none. Case counts where a class has exactly this name, or several differ by it alone."""
        number = self._numbers.get(name)
        return self._by_folded.get(name.casefold()) if number is None else number


def read_file(
    path: str | pathlib.Path,
    text_columns: tuple[str, ...],
    label_column: str,
    label_names: tuple[str, ...] | None,
    settings: tuple[str, str] = COLUMN_FIELDS,
    multi_label: bool = False,
    file_setting: str = FILE_FIELDS,
) -> Examples:
    """The examples of a `.jsonl` file (one object a line) or a `.csv` file (with a header), in UTF-8.

    Args:
      path: the file.
      text_columns: one column, or two for pairs. A text may be empty, but not missing.
      label_column: holds a class name, or a class index where no class name is a number; for regression a number.
      label_names: the classes in the order of the logits; None for regression.
      settings: what chooses the columns of texts, and of labels.
      multi_label: whether the column holds lists of labels, in CSV files as JSON or as pandas writes them; [] is a text without any.
      file_setting: what chooses the file.

    Returns:
      Examples with labels [N]; of a multi-label file [N, labels] float32, 1 of a label that the text has, else 0.

    Raises:
      DataError: one line with file, line number and cure: no such file, no example, not UTF-8, invalid JSON or CSV,
        a missing column, text or label, a label outside `label_names`.
    """
    texts: list[list[str]] = [[] for _ in text_columns]
    labels: list[Any] = []
    classes = None if label_names is None else Classes(label_names)
    for where, record in read_example_records(path, file_setting):
        for column, values in zip(text_columns, texts, strict=True):
            values.append(column_text(record, column, where, settings[0]))
        if multi_label:
            labels.append(read_labels(record, label_column, classes or Classes(()), where, settings[1]))
        else:
            labels.append(read_label(record, label_column, classes, where, settings[1]))
    dtype = np.float32 if label_names is None or multi_label else np.int32
    return Examples(texts[0], texts[1] if len(texts) == 2 else None, np.asarray(labels, dtype))


def read_labels(record: dict[str, Any], label_column: str, classes: Classes, where: str, setting: str) -> np.ndarray:
    """Which labels a record of a multi-label file has, [labels] float32 of 0 and 1. Arguments and errors as `read_label`."""
    has = np.zeros(len(classes), np.float32)
    for value in _listed_labels(record, label_column, where, setting):
        has[int(_label(value, classes, where))] = 1
    return has


def read_label(record: dict[str, Any], label_column: str, classes: Classes | None, where: str, setting: str) -> int | float:
    """The class index of one record, or without classes the value to regress on; as `read_file`. `where` names the record, `setting`
    chooses the column."""
    return _label(_label_value(record, label_column, where, setting), classes, where)


def holds_lists(path: str | pathlib.Path, label_column: str) -> bool:
    """Whether the labels of a `.jsonl` or `.csv` file are lists, by its first example. Raises `DataError` as `read_file`."""
    (first,) = itertools.islice(read_example_records(path), 1)
    return _list_in(column_value(first[1], label_column, first[0], COLUMN_FIELDS[1])) is not None


def infer_label_sets(path: str | pathlib.Path, label_column: str) -> tuple[str, ...]:
    """The labels of a multi-label `.jsonl` or `.csv` file, in the order of `infer_labels`.

    Raises:
      DataError: as `read_file`, and where all texts have the same labels, or none.
    """
    lists = [_listed_labels(record, label_column, where, COLUMN_FIELDS[1]) for where, record in read_example_records(path)]
    names = _ordered([value for values in lists for value in values])
    if len({frozenset(map(str, values)) for values in lists}) == 1:
        every = f"every list of labels is {shown([*names])}"
        raise DataError(f"{path}: {every}: there is nothing to tell apart; is {label_column!r} the column of labels?")
    _tell(str(path), f"{len(names)} labels, of which a text has any number, {first_names(names)}")
    return names


def infer_labels(path: str | pathlib.Path, label_column: str) -> tuple[str, ...] | None:
    """The classes of a `.jsonl` or `.csv` file, or None where its labels are real numbers (regression).

    Integers become classes in numeric order, anything with a word in it in the order of the texts. Cells of a CSV file are numbers where
    all of the column can be read as such. Integers of which some begin with 0, as 001, are codes: texts like words.

    Raises:
      DataError: as `read_file`, and for a column with a single class.
    """
    values, numbers = [], []
    for where, record in read_example_records(path):
        values.append(_label_value(record, label_column, where, COLUMN_FIELDS[1]))
        numbers.append(_number(values[-1], where))
    real = next((value for value, number in zip(values, numbers, strict=True) if isinstance(number, float)), None)
    if None not in numbers and real is not None:
        _tell(str(path), f"a regression, since labels as {real} are real numbers")
        return None
    names = _ordered(values)
    if len(names) == 1:
        raise DataError(f"{path}: every label is {names[0]!r}: there is nothing to tell apart; is {label_column!r} the column of labels?")
    _tell(str(path), f"{len(names)} classes, {first_names(names)}")
    return names


def _ordered(values: list[int | float | str]) -> tuple[str, ...]:
    """The names of labels, each once: of integers by their values, of anything with a word or a code among it by the texts."""
    numbers = [_number(value, "") for value in values]
    if None in numbers or any(isinstance(value, str) and _CODE.fullmatch(value) for value in values):
        return tuple(sorted({str(value) for value in values}))
    return tuple(str(number) for number in sorted({number for number in numbers if number is not None}))


@functools.cache  # said once, though both runs of a recipe read the file
def _tell(path: str, what: str) -> None:
    logger.info("%s: %s", path, what)


def _label(value: int | float | str, classes: Classes | None, where: str) -> int | float:
    """The class index, or the value to regress on."""
    number = _number(value, where)
    if classes is None:
        # Also false for NaN, which json and float() accept.
        if number is None or not abs(number) <= _FLOAT32_MAX:
            raise DataError(f"{where}: label {shown(value)} is not a finite number, but the task is a regression: correct it")
        return float(number)
    named = classes.number_of(str(value))
    if named is None and isinstance(number, int) and classes.are_integers:
        named = classes.number_of(str(number))  # a cell may hold +1 or 01; beside codes that would be another code
    if named is not None:
        return named
    if isinstance(number, int) and 0 <= number < len(classes) and not classes.hold_a_number:
        return number
    known = first_names(classes.names)
    raise DataError(f"{where}: label {shown(value)} is none of the labels trained on ({known}): correct it, or leave the line out")


def _label_value(record: dict[str, Any], label_column: str, where: str, setting: str) -> int | float | str:
    """What stands in the column, a text without white space around it."""
    value = column_value(record, label_column, where, setting)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: column {label_column!r} has no label: fill it in, or leave the line out")
    if _list_in(value) is not None:
        raise DataError(f"{where}: label {shown(value)} is a list, and the task has one label a text: give lists in all lines, or in none")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{where}: label {shown(value)} is no integer, text or real number: write it as one of these")
    if isinstance(value, str):
        require_unicode(value, label_column, where)
    return type(value)(value.strip()) if isinstance(value, str) else value


def _listed_labels(record: dict[str, Any], label_column: str, where: str, setting: str) -> list[int | str]:
    """What stands in the column of a multi-label file: integers, and texts without white space around them."""
    value = column_value(record, label_column, where, setting)
    labels = _list_in(value)
    if labels is None:
        raise DataError(f'{where}: label {shown(value)} is no list, and a text has any number of labels: write ["a", "b"], or [] for none')
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (int, str)) or (isinstance(label, str) and not label.strip()):
            raise DataError(f"{where}: the list of labels {shown(value)} holds {shown(label)}: write each label as a text or an integer")
        if isinstance(label, str):
            require_unicode(label, label_column, where)
    labels = [label.strip() if isinstance(label, str) else label for label in labels]
    twice = next((name for name, count in collections.Counter(map(str, labels)).items() if count > 1), None)
    if twice is not None:  # above all in lists of a 0 or 1 for every label, where these numbers would be the names
        raise DataError(f"{where}: the list of labels {shown(value)} holds {shown(twice)} twice: write each label that the text has, once")
    return labels


def _list_in(value: Any) -> list[Any] | None:
    """The list that a value is, or that stands in a cell of a CSV file, in JSON or as pandas writes it there; None where it is none."""
    if not isinstance(value, CsvCell):
        return value if isinstance(value, list) else None
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, _written_by_pandas):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError):
            continue
    return None


def _written_by_pandas(text: str) -> list[Any]:
    """Raises `ValueError` and `SyntaxError` for what is no list, and no array, of texts, numbers, None, True and False."""
    if not _LIST.fullmatch(text):
        raise ValueError("no list")
    return ast.literal_eval(f"[{','.join(_ITEM.findall(text))}]")


def _number(value: int | float | str, where: str) -> int | float | None:
    """The number that a label is; None of a text, which in a JSONL file a number in quotes is too."""
    if not isinstance(value, str):
        return value
    if not isinstance(value, CsvCell) or not _NUMBER.fullmatch(value):
        return None
    try:
        return int(value) if value.lstrip("+-").isdecimal() else float(value)
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise DataError(f"{where}: label {shown(value)} is no number that can be read: {error}") from error
