"""Answers to questions as spans of a context, which is read in windows where it is long."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.data.windows import Windows
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
            score, first, last = best_span(starts[window], ends[window], windows.is_context[window], max_answer_len)
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


def best_span(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, most: int) -> tuple[float, int, int]:
    """Score, first and last token of the best span [length] within the allowed tokens; -inf where there are none."""
    first, last = np.where(allowed, start, -np.inf), np.where(allowed, end, -np.inf)
    sums = first[:, None] + last[None, :]
    sums = np.where(np.tril(np.triu(np.ones_like(sums, bool)), most - 1), sums, -np.inf)
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[row, column]), int(row), int(column)
