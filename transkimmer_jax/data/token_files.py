"""Files whose labels are of tokens: words with a tag each, and questions with answers in a context."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.records import (
    COLUMN_FIELDS,
    column_text,
    column_value,
    read_example_records,
    require_unicode,
    shown,
)
from transkimmer_jax.errors import DataError, first_names

OUTSIDE = "O"  # the tag of a word that is part of nothing


@dataclasses.dataclass(frozen=True)
class Answers:
    """Of a question: texts that answer it, and at which character of the context each starts. Empty: the context does not say."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


def read_tags(
    path: str | pathlib.Path, words_column: str, tags_column: str, tag_names: tuple[str, ...], settings: tuple[str, str] = COLUMN_FIELDS
) -> Examples:
    """The examples of a `.jsonl` file with a list of words and a list of as many tags a line; an example's text is its words, its label
    the number of each one's tag.

    Raises:
      DataError: one line with file, line number and cure, as `labelled_files.read_file`; also for lists of different lengths.
    """
    texts, labels = [], []
    for where, words, tags in _tagged(path, words_column, tags_column, settings):
        unknown = next((tag for tag in tags if tag not in tag_names), None)
        if unknown is not None:
            raise DataError(f"{where}: tag {shown(unknown)} is none of the tags trained on ({first_names(tag_names)}): correct it")
        texts.append(words)
        labels.append(tuple(tag_names.index(tag) for tag in tags))
    return Examples(texts, None, objects(labels))


def infer_tags(path: str | pathlib.Path, words_column: str, tags_column: str) -> tuple[str, ...]:
    """The tags of a file, `OUTSIDE` first and the others by their letters. Raises `DataError` as `read_tags`."""
    names = {tag for _, _, tags in _tagged(path, words_column, tags_column, COLUMN_FIELDS) for tag in tags}
    if len(names) < 2:
        raise DataError(
            f"{path}: every tag is {shown(next(iter(names), ''))}: there is nothing to tell apart; is {tags_column!r} the column?"
        )
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))


def _tagged(
    path: str | pathlib.Path, words_column: str, tags_column: str, settings: tuple[str, str]
) -> Iterator[tuple[str, list[str], list[str]]]:
    for where, record in read_example_records(path, endings=(".jsonl",)):
        columns = []
        for column, setting in zip((words_column, tags_column), settings, strict=True):
            values = column_value(record, column, where, setting)
            if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
                raise DataError(f"{where}: column {column!r} holds {shown(values)}, not a list of texts: write one for each word")
            for value in values:
                require_unicode(value, column, where)
            columns.append(values)
        words, tags = columns
        if len(words) != len(tags):
            raise DataError(f"{where}: {len(words)} words and {len(tags)} tags: each word has one tag")
        yield where, words, tags


def read_questions(
    path: str | pathlib.Path, columns: tuple[str, ...], answers_column: str, settings: tuple[str, str] = COLUMN_FIELDS
) -> Examples:
    """The examples of a `.jsonl` file with a question, a context and answers a line: {"text": [...], "answer_start": [...]}, as SQuAD's are
    in most libraries. Of a question that the context does not answer both are empty.

    Raises:
      DataError: one line with file, line number and cure, as `labelled_files.read_file`; also for an answer that is not where it says.
    """
    if len(columns) != 2:
        raise DataError(f"{settings[0]} of questions names two columns, of the question and of the context, not {len(columns)}")
    questions, contexts, labels = [], [], []
    for where, record in read_example_records(path, endings=(".jsonl",)):
        question, context = (column_text(record, column, where, settings[0]) for column in columns)
        if not context.strip():
            raise DataError(f"{where}: column {columns[1]!r} holds no text to look for the answer in: leave the line out")
        given = column_value(record, answers_column, where, settings[1])
        questions.append(question)
        contexts.append(context)
        labels.append(_answers(given, context, where, answers_column))
    return Examples(questions, contexts, objects(labels))


def _answers(given: Any, context: str, where: str, column: str) -> Answers:
    texts, starts = (given.get(name) for name in ("text", "answer_start")) if isinstance(given, dict) else (None, None)
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) and text for text in texts)
        or not all(type(start) is int and start >= 0 for start in starts)
    ):
        raise DataError(f"{where}: column {column!r} holds {shown(given)}: write " + '{"text": [...], "answer_start": [...]}')
    for text, start in zip(texts, starts, strict=True):
        if context[start : start + len(text)] != text:
            raise DataError(f"{where}: answer {shown(text)} does not stand at character {start} of the context: correct answer_start")
    return Answers(tuple(texts), tuple(starts))


def objects(values: Iterable[Any]) -> np.ndarray:
    """An array [N] of things that are no numbers."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array
