"""Tokens of examples for each head, with their labels at tokens."""

import dataclasses
import logging
from typing import Any

import numpy as np

from transkimmer_jax.data import pipeline
from transkimmer_jax.data.batches import NO_LABEL, TokenizedExamples
from transkimmer_jax.data.examples import Answers, Examples
from transkimmer_jax.data.tasks import TEXTS, Task
from transkimmer_jax.data.windows import Windows, windows
from transkimmer_jax.data.words import tokenize_words, visible

logger = logging.getLogger("transkimmer_jax")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """tokens: the model's input; of questions an example is a window. labels: of `metrics.compute_metrics`, [N] or [N, labels],
    `TagLabels` or `QuestionLabels`."""

    tokens: TokenizedExamples
    labels: Any


@dataclasses.dataclass(frozen=True)
class TagLabels:
    """labels: [tokens] int32, the tag of a word at its first token, `NO_LABEL` at others. offsets: of texts, as in `TokenizedExamples`."""

    labels: np.ndarray
    offsets: np.ndarray


@dataclasses.dataclass(frozen=True)
class QuestionLabels:
    """Contexts and answers of questions, and the windows of the contexts."""

    windows: Windows
    contexts: list[str]
    answers: list[Answers]


def prepare(task: Task, examples: Examples, tokenizer: Any, doc_stride: int) -> Prepared:
    """Tokenise the examples of a task, behind its prompt.

    doc_stride: tokens that two windows of a context share.

    Raises:
      DataError: texts that cannot be read. CheckpointError: a slow tokenizer.
    """
    if task.head in ("sequence_classification", "sentence_embedding") or (task.head == "token_classification" and task.name == TEXTS):
        return Prepared(pipeline.tokenize(examples.behind(task.prompt), tokenizer, task.max_length), examples.labels)
    if task.head == "token_classification":
        return _tagged(task, examples, tokenizer)
    return _asked(task, examples, tokenizer, doc_stride)


def warn_of_cut(tokens: TokenizedExamples, texts: str, limit: str) -> None:
    """Log how many texts were cut, if any. texts: their name. limit: the setting that cut them, with its value."""
    if tokens.truncated.any():
        logger.warning(
            "%d of %d %s are longer than %s: the rest of each is not read, and counts nowhere",
            tokens.truncated.sum(), len(tokens), texts, limit,
        )  # fmt: skip


def _tagged(task: Task, examples: Examples, tokenizer: Any) -> Prepared:
    words = tokenize_words(examples.texts, tokenizer, task.max_length)
    owner = np.repeat(np.arange(len(examples)), words.examples.lengths)
    # The first token of each word: a word's tokens stand together, and texts do not share words.
    numbers = words.word_of
    first = (numbers >= 0) & ((np.roll(numbers, 1) != numbers) | (np.roll(owner, 1) != owner))
    labels = np.full(len(numbers), NO_LABEL, np.int32)
    for token in np.flatnonzero(first):
        labels[token] = examples.labels[owner[token]][numbers[token]]
    return Prepared(dataclasses.replace(words.examples, token_labels=labels), TagLabels(labels, words.examples.offsets))


def _asked(task: Task, examples: Examples, tokenizer: Any, doc_stride: int) -> Prepared:
    contexts = examples.pairs or []
    read = windows(examples.texts, contexts, tokenizer, task.max_length, doc_stride)
    count = len(read.owner)
    if task.name == TEXTS:
        unlabelled = dataclasses.replace(read.examples, labels=np.zeros((count, 2), np.int32), labelled=np.zeros(count, bool))
        return Prepared(unlabelled, examples.labels)
    answers: list[Answers] = list(examples.labels)
    places = np.zeros((count, 2), np.int32)  # position 0 where the window holds no answer
    for window in range(count):
        number = read.owner[window]
        for text, begin in zip(answers[number].texts, answers[number].starts, strict=True):
            spans, inside = read.spans[window], read.is_context[window]
            start, end = visible(contexts[number], begin, begin + len(text))  # as spans are
            covered = np.flatnonzero(inside & (spans[:, 1] > start) & (spans[:, 0] < end))
            # Whole, or not at all.
            if len(covered) and spans[covered[0], 0] <= start and spans[covered[-1], 1] >= end:
                places[window] = covered[0], covered[-1]
                break
    return Prepared(dataclasses.replace(read.examples, labels=places), QuestionLabels(read, contexts, answers))
