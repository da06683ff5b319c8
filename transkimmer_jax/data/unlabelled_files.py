"""Files of texts whose labels nobody knows, or asks for."""

import functools
import logging
import pathlib

from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.records import column_text, is_text_file, read_example_records
from transkimmer_jax.errors import DataError

logger = logging.getLogger("transkimmer_jax")


def read_texts(path: str | pathlib.Path, text_columns: tuple[str, ...], setting: str, cure: str, *, whole: bool = False) -> Examples:
    """The texts of a file, without labels: those of its examples mean nothing. What is blank in all columns is left out, since nothing can
    be learned of it.

    Args:
      path: a `.jsonl` or `.csv` file with these columns, of which others are ignored; for single texts also a `.txt` file, one text a
        line.
      text_columns: one column, or two for pairs; of a `.txt` file each line is a text.
      whole: leave out what is blank in any column: a question is nothing without a context.
      setting: what chose the file, for messages. cure: what to set where a column is missing.

    Raises:
      DataError: as `read_file`, but for what it says of labels; a file of blank texts alone.
    """
    is_pair = len(text_columns) == 2
    columns = ("text",) if is_text_file(path) and not is_pair else text_columns
    rows = [
        [column_text(record, column, where, cure) for column in columns]
        for where, record in read_example_records(path, setting, (".jsonl", ".csv", ".txt"))
    ]
    fills = all if whole else any
    filled = [row for row in rows if fills(text.strip() for text in row)]
    if not filled:
        raise DataError(f"{path}: all texts are blank under {', '.join(columns)}: check {setting}")
    if len(filled) < len(rows):
        _tell_of_blanks(str(path), ", ".join(columns), len(rows) - len(filled), len(rows))
    return Examples.without_labels([row[0] for row in filled], [row[1] for row in filled] if is_pair else None)


@functools.cache  # said once, though a run reads a file for each split
def _tell_of_blanks(path: str, columns: str, blank: int, count: int) -> None:
    logger.info("%s: %d of %d texts are blank under %s, and left out", path, blank, count, columns)
