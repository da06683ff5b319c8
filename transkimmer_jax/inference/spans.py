"""Answers to questions as spans of a context, which is read in windows where it is long."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.words import tokenized
from transkimmer_jax.errors import DataError
from transkimmer_jax.inference.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class SpanAnswer:
    """The span of a context that answers a question best.

    text, start, end: the span, and its characters in the context; '' and None where there is no answer. score: sum of the logits of its
    first and last token. no_answer_score: the same sum of position 0, the least of all windows, as SQuAD 2.0 is scored.
    tokens, kept: over all windows, as of `answers.Answer`.
    """

    text: str
    start: int | None
    end: int | None
    score: float
    no_answer_score: float
    tokens: int
    kept: float


@dataclasses.dataclass(frozen=True)
class Windows:
    """Questions with windows of their contexts.

    owner: [windows], the question of each. spans: of each window, for its tokens [length, 2], their characters in the context.
    is_context: of each window, [length] bool.
    """

    examples: TokenizedExamples
    owner: np.ndarray
    spans: list[np.ndarray]
    is_context: list[np.ndarray]


def windows(questions: Sequence[str], contexts: Sequence[str], tokenizer: Any, max_length: int, doc_stride: int) -> Windows:
    """Every question with as many windows of its context as it takes, each of `max_length` tokens at most.

    doc_stride: tokens that two windows share; fewer where they have no room for more.

    Raises:
      DataError: a question that leaves no room for a context, or a context without a token.
    """
    encodings, owner = [], []
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        room = max_length - special - asked
        if room < 1:
            raise DataError(f"question {number} has {asked} tokens, which leaves no room for a context within {max_length}: shorten it")
        encoded = tokenizer(
            question, context, truncation="only_second", max_length=max_length, stride=min(doc_stride, room // 2),
            return_overflowing_tokens=True, return_attention_mask=False,
        )  # fmt: skip
        encodings += encoded.encodings
        owner += [number] * len(encoded.encodings)
        if not any(sequence == 1 for one in encoded.encodings for sequence in one.sequence_ids):
            raise DataError(f"context {number} holds no token: give a text to look for the answer in")
    return Windows(
        tokenized(encodings),
        np.array(owner, np.int64),
        [np.array(one.offsets, np.int64).reshape(-1, 2) for one in encodings],
        [np.array([sequence == 1 for sequence in one.sequence_ids], bool) for one in encodings],
    )


def answers(
    predictions: Predictions, windows: Windows, contexts: Sequence[str], max_answer_len: int, no_answer_threshold: float | None
) -> list[SpanAnswer]:
    """One for each context.

    Args:
      max_answer_len: tokens of an answer at most.
      no_answer_threshold: there is no answer where `no_answer_score` exceeds the best span's score by more than this; None: there always
        is one.
    """
    starts, ends = predictions.by_text("start_logits"), predictions.by_text("end_logits")
    results = []
    for number, context in enumerate(contexts):
        members = np.flatnonzero(windows.owner == number)
        best, place = -np.inf, (0, 0)
        for window in members:
            score, first, last = _best(starts[window], ends[window], windows.is_context[window], max_answer_len)
            if score > best:
                best, place = score, (int(windows.spans[window][first, 0]), int(windows.spans[window][last, 1]))
        nothing = min(float(starts[window][0] + ends[window][0]) for window in members)
        tokens = int(predictions.lengths[members].sum())
        kept = float(predictions.kept[:, members].sum() / (tokens * len(predictions.kept)))
        if no_answer_threshold is not None and nothing - best > no_answer_threshold:
            results.append(SpanAnswer("", None, None, best, nothing, tokens, kept))
        else:
            results.append(SpanAnswer(context[slice(*place)], *place, best, nothing, tokens, kept))
    return results


def _best(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, most: int) -> tuple[float, int, int]:
    """Score, first and last token of the best span [length] within the allowed tokens; -inf where there are none."""
    first, last = np.where(allowed, start, -np.inf), np.where(allowed, end, -np.inf)
    sums = first[:, None] + last[None, :]
    sums = np.where(np.tril(np.triu(np.ones_like(sums, bool)), most - 1), sums, -np.inf)
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[row, column]), int(row), int(column)
