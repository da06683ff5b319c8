"""Records of JSONL, CSV and text files, and typed values of their columns."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import stat
import sys
from collections.abc import Iterator
from typing import Annotated, Any, TextIO

from pydantic import AfterValidator, Field, StrictStr, TypeAdapter, ValidationError

from transkimmer_jax import memory
from transkimmer_jax.errors import DataError, first_line

_FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")
LONGEST_LINE = 1 << 28  # characters of a line, and of a CSV cell: beyond it is no text, and memory
_LONG_LINE = 1 << 22  # characters from which on it matters what else a line takes


def read_records(path: str | pathlib.Path, format: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", columns) of every record, read as they are asked for, in UTF-8.

    Args:
      path: a file, or '-' for standard input.
      format: 'jsonl' (one object a line), 'csv' (with a header) or 'text' (each line the column 'text' of a record; an empty
        line is an empty text). None: by the file's name, and 'jsonl' for standard input.

    Raises:
      DataError: one line with file, line number and cure: a file that cannot be read, not UTF-8, invalid JSON or CSV, a line of more
        than `LONGEST_LINE` characters.
    """
    require_readable(path)
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


def read_example_records(path: str | pathlib.Path, endings: tuple[str, ...] = (".jsonl", ".csv")) -> Iterator[tuple[str, dict[str, Any]]]:
    """`read_records` of a file on disk with at least one record, and with one of these endings."""
    path = pathlib.Path(path)
    require_readable(path)
    if path.suffix.lower() not in endings:
        raise DataError(f"{path}: the name must end in {' or '.join(endings)}, which says how it is read: rename or convert it")
    empty = True
    for where, record in read_records(path):
        empty = False
        yield where, record
    if empty:
        raise DataError(f"{path}: the file holds no example: write one a line")


def is_text_file(path: str | pathlib.Path) -> bool:
    """Whether a file has a text a line, by its name."""
    return _FORMATS.get(pathlib.Path(path).suffix.lower()) == "text"


def require_readable(path: str | pathlib.Path) -> None:
    """Raises `DataError` for a path that is no readable file, without opening it; '-' is standard input."""
    if str(path) == "-":
        return
    if pathlib.Path(path).suffix.lower() in _COMPRESSED:
        raise DataError(f"{path}: compressed files are not read: unpack it first")
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # the latter for a name with a NUL in it
        raise DataError(f"{path!s:.200}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: cannot be read: Is a directory")
    # Opening a pipe waits for its writer. A shell's <(command) is a pipe that has one.
    if stat.S_ISFIFO(mode) and not str(path).startswith(("/dev/fd/", "/proc/")):
        raise DataError(f"{path}: is a named pipe: hand it over as standard input")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read: Permission denied")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of column. name: for messages, 'a list of texts'."""

    adapter: TypeAdapter[Any]
    name: str


def _encodable(text: str) -> str:
    """Refuses halves of a character, which JSON can escape and tokenizers cannot read. `UnicodeEncodeError` is a `ValueError`."""
    if not text.isascii():
        text.encode()
    return text


_Text = Annotated[StrictStr, AfterValidator(_encodable)]
TEXT = Kind(TypeAdapter(_Text), "text in Unicode")
WORDS = Kind(TypeAdapter(Annotated[list[_Text], Field(min_length=1)]), "a list of texts, one for each word")


def column_value(record: dict[str, Any], column: str, where: str, kind: Kind | None = None) -> Any:
    """The value in a column of a record. Raises `DataError` for a missing column and another type; `where` names the record."""
    if column not in record:
        raise DataError(f"{where}: no column {column!r:.60}, only {_names(record)}")
    if kind is None:
        return record[column]
    try:
        return kind.adapter.validate_python(record[column])
    except ValidationError as error:
        raise DataError(f"{where}: column {column!r:.60} holds {shown(record[column])}, not {kind.name}") from error


def column_text(record: dict[str, Any], column: str, where: str) -> str:
    """The text in a column of a record, as `column_value`."""
    return column_value(record, column, where, TEXT)


def _names(record: dict[str, Any]) -> str:
    """The columns, for a message; a first line that is no header may have thousands of cells, or one of megabytes."""
    names = [repr(name if len(name) <= 40 else name[:37] + "...") for name in itertools.islice(record, 8)]
    return ", ".join(names + ["..."] * (len(record) > 8)) or "none"


class CsvCell(str):
    """A cell of a CSV file: a text that a label may read as a number or a list."""


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


def _lines(name: str, file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which is longer than memory."""
    numbers = itertools.count(1)

    def line() -> str:
        text, number = file.readline(LONGEST_LINE + 1), next(numbers)
        if len(text) > LONGEST_LINE:
            raise DataError(f"{name}, line {number}: is longer than {LONGEST_LINE:,} characters: divide it")
        if len(text) > _LONG_LINE:
            memory.give_back_freed_memory()  # of the pieces that it was read in
        return text

    return iter(line, "")


def _text_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(name, file), start=1):
        yield number, {"text": line.rstrip("\r\n")}


def _jsonl_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for line in _lines(name, file):  # not by `enumerate`, which keeps the line until the next one
        number += 1
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: invalid JSON ({first_line(error)}): write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{name}, line {number}: {shown(record)} is no JSON object: write one object a line")
        line = ""  # it may be long, and is read
        yield number, record


def _csv_records(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # of the process; 131,072 is less than a book's chapter
    reader = csv.reader(_lines(name, file), strict=True)
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
                twice = next((column for place, column in enumerate(row) if column in row[:place]), None)
                if twice is not None:
                    raise DataError(f"{name}, line {number}: column {twice!r:.60} is there twice: rename one")
            elif len(row) != len(header):
                raise DataError(f"{name}, line {number}: {len(row)} cells under {len(header)} columns: put cells with commas in quotes")
            else:
                yield number, dict(zip(header, map(CsvCell, row), strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: invalid CSV ({error}): put cells with commas or quotes in quotes") from error


def shown(value: Any) -> str:
    """`value`, short enough for one line."""
    text = repr(str(value[:60])) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
