"""The contents of a report of texts: the depth of each token at each budget, costs and answers."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.encodings import encode, prefix, tokenized
from transkimmer_jax.data.files import OUTSIDE
from transkimmer_jax.data.windows import Windows
from transkimmer_jax.data.words import TokenizedWords
from transkimmer_jax.errors import DataError
from transkimmer_jax.evaluation.thresholds import find_threshold
from transkimmer_jax.inference.answers import LONGEST_ANSWER, answered, labels_of, tagged
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions, decisions
from transkimmer_jax.inference.vectors import neighbours, unit

_FITTED_ON = 128  # texts on which the thresholds of budgets are fitted
_NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Budget:
    """One threshold and its costs on these texts. kept_per_layer: shares of tokens. flops_vs_unpadded: times fewer."""

    threshold: float
    kept_per_layer: list[float]
    flops_vs_unpadded: float


@dataclasses.dataclass(frozen=True)
class ReadText:
    """One input.

    parts: a text, or two. tokens: of those that stand in a part: its number, first character and the one behind the last. depths: by
    budget, how many layers computed each of these tokens; of one in several windows, the most. costs: by budget, the share of the dense
    model's FLOPs. answers: by budget, for people. truth: the label, where it is known. wrong: by budget, whether the answer is another.
    """

    parts: tuple[str, ...]
    tokens: list[tuple[int, int, int]]
    depths: list[list[int]]
    costs: list[float]
    answers: list[str]
    truth: str | None
    wrong: list[bool]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Texts as tokens.

    examples: of a reader's text its windows, of others one. owner: [examples] int64, the text of each. places: of each example, for its
    tokens [length, 3]: the number of the part where each stands, -1 of none, its first character there and the one behind the last.
    windows: of a reader; None of others. words: of a tagger; None of others.
    """

    examples: TokenizedExamples
    owner: np.ndarray
    places: list[np.ndarray]
    windows: Windows | None = None
    words: TokenizedWords | None = None


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a report. head, layers: of the model. own: the index of the model's own budget."""

    title: str
    head: str
    layers: int
    budgets: list[Budget]
    own: int
    texts: list[ReadText]


def contents(
    title: str,
    engine: SkimEngine,
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    truths: Sequence[str | None],
    shares: Sequence[float],
) -> Contents:
    """Read texts at the engine's threshold, and at those that spend these shares of the dense model's FLOPs on them.

    engine: with depths; of an embedder its default prompt stands before each text. texts: of one part each, or of two; of a reader a
    question and its context, which is read as `SkimEngine.answer` reads it.

    Raises:
      CheckpointError: a slow tokenizer.
      DataError: of a reader, texts of one part, or such that `SkimEngine.answer` cannot read.
    """
    reading = _read(engine, tokenizer, texts)
    sample = reading.examples.take(np.flatnonzero(reading.owner < _FITTED_ON))

    def share(threshold: float) -> float:
        return 1 / engine.predict_tokenized(sample, threshold=threshold).flops_vs_unpadded(engine.arch)

    # Rising, so that the budgets fall.
    thresholds = sorted({engine.threshold, *(find_threshold(share, target) for target in shares)})
    predictions = [engine.predict_tokenized(reading.examples, threshold=threshold, progress=True) for threshold in thresholds]
    budgets = [
        Budget(float(threshold), one.kept_per_layer().tolist(), one.flops_vs_unpadded(engine.arch))
        for threshold, one in zip(thresholds, predictions, strict=True)
    ]
    answers = [_answers(engine, one, reading, texts) for one in predictions]
    costs = [_costs(engine, one, reading) for one in predictions]
    read = []
    for number, parts in enumerate(texts):
        tokens, depths = _deepest(reading, predictions, number)
        said = [of_budget[number] for of_budget in answers]
        wrong = [truths[number] is not None and label != truths[number] for label, _ in said]
        spent = [float(one[number]) for one in costs]
        read.append(ReadText(parts, tokens, depths, spent, [text for _, text in said], truths[number], wrong))
    own = thresholds.index(engine.threshold)
    return Contents(title, engine.arch.head, engine.arch.num_hidden_layers, budgets, own, read)


def _read(engine: SkimEngine, tokenizer: Any, texts: Sequence[tuple[str, ...]]) -> _Reading:
    if engine.arch.head == "question_answering":
        if any(len(parts) != 2 for parts in texts):
            raise DataError("a reader's report shows questions with their contexts: give texts of two parts")
        windows = engine.tokenize_questions([parts[0] for parts in texts], [parts[1] for parts in texts])
        spans = zip(windows.spans, windows.is_context, strict=True)
        parts_of = [(np.where(inside, 1, np.where(span[:, 1] > span[:, 0], 0, -1)), span) for span, inside in spans]
        return _Reading(windows.examples, windows.owner, [np.column_stack(columns) for columns in parts_of], windows)
    before = engine.default_prompt
    firsts, seconds = [before + parts[0] for parts in texts], [parts[1] for parts in texts if len(parts) == 2]
    firsts, seconds = ([prefix(text, tokenizer, engine.max_length) for text in column] for column in (firsts, seconds))
    encodings = encode(tokenizer, list(zip(firsts, seconds, strict=True)) if seconds else firsts, engine.max_length)
    places = [_places(one, len(before)) for one in encodings]
    if engine.arch.head == "token_classification":
        words = engine.tokenize_words(firsts)
        return _Reading(words.examples, np.arange(len(texts)), places, words=words)
    return _Reading(tokenized(encodings, tokenizer), np.arange(len(texts)), places)


def _places(encoding: Any, before: int) -> np.ndarray:
    """`_Reading.places` of an example. before: characters of the prompt before the first part, whose tokens stand in none."""
    places = []
    for part, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True):
        prompt = before if part == 0 else 0
        places.append((-1 if part is None or end <= prompt else part, max(0, start - prompt), end - prompt))
    return np.array(places, np.int64).reshape(-1, 3)


def _deepest(reading: _Reading, predictions: Sequence[Predictions], number: int) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    """`ReadText.tokens` and `ReadText.depths` of a text."""
    deepest: dict[tuple[int, int, int], np.ndarray] = {}
    for row in np.flatnonzero(reading.owner == number).tolist():
        depths = np.array([(one.depths or [])[row] for one in predictions])  # [budgets, length]
        for place, of_token in zip(reading.places[row].tolist(), depths.T, strict=True):
            if place[0] >= 0:
                deepest[tuple(place)] = np.maximum(of_token, deepest.get(tuple(place), 0))
    tokens = sorted(deepest)
    return tokens, [[int(deepest[token][budget]) for token in tokens] for budget in range(len(predictions))]


def _costs(engine: SkimEngine, predictions: Predictions, reading: _Reading) -> np.ndarray:
    """The cost of each text, as a share of the dense model's FLOPs, [N]."""
    spent, dense = (np.bincount(reading.owner, flops) for flops in predictions.costs(engine.arch))
    return spent / dense


def _answers(engine: SkimEngine, predictions: Predictions, reading: _Reading, texts: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Of each text: the answer, to be compared with a label, and the same for people."""
    head = engine.arch.head
    if head == "sentence_embedding":
        return [("", text) for text in _neighbours(engine.vectors(predictions))]
    if reading.windows is not None:
        spans = answered(predictions, reading.windows, [context for _, context in texts], LONGEST_ANSWER, None)
        return [(span.text, span.text) for span in spans]
    if reading.words is not None:
        counts = [collections.Counter(tag.label for tag in text.tags) for text in tagged(predictions, reading.words, engine.label_texts)]
        shown = [name for name in engine.label_texts if name != OUTSIDE]
        return [("", ", ".join(f"{of_text[name]} {name}" for name in shown if of_text[name]) or "nothing") for of_text in counts]
    names = engine.label_names
    if names is None:
        return [(f"{value:.4g}", f"{value:.3f}") for value in predictions.logits[:, 0].tolist()]
    probabilities = predictions.probabilities(engine.arch.multi_label)
    if engine.arch.multi_label:
        decided = decisions(predictions.logits, multi_label=True)
        return [
            (
                listed(labels_of(given, names)),
                listed([f"{names[label]} {100 * row[label]:.0f} %" for label in np.flatnonzero(given)]),
            )
            for given, row in zip(decided, probabilities, strict=True)
        ]
    best = probabilities.argmax(axis=1)
    return [(names[label], f"{names[label]} {100 * row[label]:.0f} %") for label, row in zip(best, probabilities, strict=True)]


def listed(labels: Sequence[str]) -> str:
    """The labels of a text that has any number of them, for people, and to be compared with others in the same order."""
    return ", ".join(labels) or "no label"


def _neighbours(vectors: np.ndarray) -> list[str]:
    vectors = unit(vectors)
    return [
        "nearest: " + ", ".join(f"{other + 1} ({vectors[row] @ vectors[other]:.2f})" for other in near)
        for row, near in enumerate(neighbours(vectors, _NEIGHBOURS))
    ]
