"""Records of JSONL, CSV and text files, one after the other, and what their columns hold."""

import contextlib
import csv
import io
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from transkimmer_jax.errors import DataError

_FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}


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


def read_example_records(
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


def column_text(record: dict[str, Any], column: str, where: str, setting: str) -> str:
    """The text in a column of a record. Raises `DataError` where it is none; `where` names the record, `setting` chooses the column."""
    text = column_value(record, column, where, setting)
    if not isinstance(text, str):
        raise DataError(f"{where}: column {column!r} holds {shown(text)}, not text: put it in quotes, or leave the line out")
    return str(text)


def column_value(record: dict[str, Any], column: str, where: str, setting: str) -> Any:
    """What a column of a record holds. Raises `DataError` where there is no such column, as `column_text`."""
    if column not in record:
        raise DataError(f"{where}: no column {column!r}, only {', '.join(map(repr, record)) or 'none'}: set {setting}")
    return record[column]


class CsvCell(str):
    """A cell of a CSV file: a text, unless a label is asked for."""


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
            raise DataError(f"{name}, line {number}: invalid JSON ({first_line(error)}): write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{name}, line {number}: {shown(record)} is no JSON object: write one object a line")
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
                yield number, dict(zip(header, map(CsvCell, row), strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: invalid CSV ({error}): put cells with commas or quotes in quotes") from error


def shown(value: Any) -> str:
    """`value`, short enough for one line."""
    text = repr(str(value)) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
