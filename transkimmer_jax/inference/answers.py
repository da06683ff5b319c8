"""What an engine says of texts: classes, tags of words, spans of a context."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.special
from numpy.lib.stride_tricks import sliding_window_view

from transkimmer_jax.data.windows import Windows
from transkimmer_jax.data.words import NO_WORD, TokenizedWords
from transkimmer_jax.inference.predictions import Predictions, decisions

LONGEST_ANSWER = 30  # tokens of a span, where nobody says otherwise


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the engine says of one text.

    label: the class with the highest logit; of a multi-label classifier a list of the labels whose probability is at least 0.5, in the
    model's order, or []; for regression the value. logits: [num_labels] float32. probabilities: of each label by name, which of a
    multi-label classifier do not sum to 1; None for regression. tokens: of the text as the model read it. kept: share of them that the
    layers computed, averaged over layers. truncated: the text was longer than the model reads. Two answers are
    equal where all but their logits are, which are an array.
    """

    label: str | float | list[str]
    logits: np.ndarray = dataclasses.field(compare=False)
    probabilities: dict[str, float] | None
    tokens: int
    kept: float
    truncated: bool


def classified(
    predictions: Predictions, truncated: np.ndarray, label_names: tuple[str, ...] | None, multi_label: bool = False
) -> list[Answer]:
    """One for each prediction. truncated: [N] bool. label_names: of the classes; None: LABEL_0 and so on, or of one logit a value.
    multi_label: whether a text has any number of them."""
    logits = predictions.logits
    labels: Sequence[str | float | list[str]]
    probabilities: list[dict[str, float] | None]
    if label_names is None and logits.shape[1] == 1 and not multi_label:
        labels, probabilities = logits[:, 0].tolist(), [None] * len(logits)
    else:
        names = label_names or tuple(f"LABEL_{index}" for index in range(logits.shape[1]))
        decided = decisions(logits, multi_label)
        labels = [labels_of(row, names) for row in decided] if multi_label else [names[index] for index in decided]
        probabilities = [dict(zip(names, row, strict=True)) for row in predictions.probabilities(multi_label).tolist()]
    columns = (labels, logits, probabilities, predictions.lengths.tolist(), predictions.shares_kept().tolist(), truncated.tolist())
    return [Answer(*row) for row in zip(*columns, strict=True)]


def labels_of(given: np.ndarray, label_names: Sequence[str]) -> list[str]:
    """The names of the labels that a text has. given: [labels], anything but 0 where it has one."""
    return [label_names[number] for number in np.flatnonzero(given).tolist()]


@dataclasses.dataclass(frozen=True)
class Tag:
    """A word's tag, which is that of its first token.

    label: None of a word that the model did not read. score: its probability. start, end: the word's characters in its text; None where
    words were given.
    """

    word: str
    label: str | None
    score: float
    start: int | None = None
    end: int | None = None


@dataclasses.dataclass(frozen=True)
class TaggedText:
    """The tags of a text's words. tokens, kept, truncated: as of `Answer`."""

    tags: list[Tag]
    tokens: int
    kept: float
    truncated: bool


def tagged(predictions: Predictions, texts: TokenizedWords, label_names: tuple[str, ...]) -> list[TaggedText]:
    """One for each text."""
    probabilities = predictions.probabilities()
    shares, answers = predictions.shares_kept(), []
    for number in range(len(texts.examples)):
        start, end = texts.examples.offsets[number : number + 2]
        word_of, rows = texts.word_of[start:end], probabilities[start:end]
        # The first token of each word that was read.
        first = dict(zip(*np.unique(word_of, return_index=True), strict=True))
        first.pop(NO_WORD, None)
        tags = []
        for index, (word, span) in enumerate(texts.words(number)):
            place = span or (None, None)
            if index in first:
                row = rows[first[index]]
                tags.append(Tag(word, label_names[int(np.argmax(row))], float(row.max()), *place))
            else:
                tags.append(Tag(word, None, 0.0, *place))
        answers.append(TaggedText(tags, int(predictions.lengths[number]), float(shares[number]), bool(texts.examples.truncated[number])))
    return answers


@dataclasses.dataclass(frozen=True)
class SpanAnswer:
    """The span of a context that answers a question best.

    text, start, end: the span, and its characters in the context; '' and None where there is no answer. score: sum of the logits of its
    first and last token. no_answer_score: the same sum of position 0, the least of all windows, as SQuAD 2.0 is scored.
    probability: of its first token times that of its last, among the context's tokens and position 0 of its window, as transformers'
    pipeline has it; where there is no answer that of position 0, in the window of `no_answer_score`. tokens, kept: over all windows, as
    of `Answer`.
    """

    text: str
    start: int | None
    end: int | None
    score: float
    no_answer_score: float
    probability: float
    tokens: int
    kept: float


def answered(
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
        found = [best_span(starts[window], ends[window], windows.is_context[window], max_answer_len) for window in members]
        (best, first, last), chosen = max(zip(found, members, strict=True), key=lambda entry: entry[0][0])
        nothing, without = min((float(starts[window][0] + ends[window][0]), window) for window in members)
        place: tuple[int | None, int | None] = (int(windows.spans[chosen][first, 0]), int(windows.spans[chosen][last, 1]))
        if no_answer_threshold is not None and nothing - best > no_answer_threshold:
            place, chosen, first, last = (None, None), without, 0, 0
        text = "" if place[0] is None else context[slice(*place)]
        probability = _probability(starts[chosen], ends[chosen], windows.is_context[chosen], first, last)
        tokens = int(predictions.lengths[members].sum())
        kept = float(predictions.kept[:, members].sum() / (tokens * len(predictions.kept)))
        results.append(SpanAnswer(text, *place, best, nothing, probability, tokens, kept))
    return results


def _probability(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, first: int, last: int) -> float:
    """Of the span from token `first` to token `last`, by the softmax over the allowed tokens and position 0, which stands for no answer."""
    allowed = allowed | (np.arange(len(allowed)) == 0)
    sums = scipy.special.logsumexp(start[allowed]) + scipy.special.logsumexp(end[allowed])
    return float(np.exp(start[first] + end[last] - sums))


def best_span(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, most: int) -> tuple[float, int, int]:
    """Score, first and last token of the best span [length] within the allowed tokens; -inf where there are none."""
    first, last = np.where(allowed, start, -np.inf), np.where(allowed, end, -np.inf)
    most = min(most, len(start))
    # Of each first token the last ones within reach, [length, most].
    sums = first[:, None] + sliding_window_view(np.pad(last, (0, most - 1), constant_values=-np.inf), most)
    row, further = np.unravel_index(np.argmax(sums), sums.shape)
    return float(sums[row, further]), int(row), int(row + further)
