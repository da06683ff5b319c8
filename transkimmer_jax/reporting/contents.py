"""What a report shows of texts: which tokens were read how deep, at which budgets, and what the model answered."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.encodings import tokenized
from transkimmer_jax.data.token_files import OUTSIDE
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.evaluation.thresholds import find_threshold
from transkimmer_jax.inference.answers import best_span
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.vectors import neighbours, unit

_FITTED_ON = 128  # texts on which the thresholds of budgets are fitted
_NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Budget:
    """One threshold, and what it spends on these texts. kept_per_layer: shares of tokens. flops_vs_unpadded: times fewer."""

    threshold: float
    kept_per_layer: list[float]
    flops_vs_unpadded: float


@dataclasses.dataclass(frozen=True)
class ReadText:
    """One input.

    parts: a text, or two. tokens: of those that stand in a part: its number, first character and the one behind the last. depths: by
    budget, how many layers computed each of these tokens. costs: by budget, the share of the dense model's FLOPs. answers: by budget, for
    people. truth: the label, where it is known. wrong: by budget, whether the answer is another.
    """

    parts: tuple[str, ...]
    tokens: list[tuple[int, int, int]]
    depths: list[list[int]]
    costs: list[float]
    answers: list[str]
    truth: str | None
    wrong: list[bool]


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a report shows. head: what the model answers. layers: of the model. own: which of the budgets is the model's."""

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

    engine: with depths; of an embedder its default prompt stands before each text. texts: of one part each, or of two.

    Raises:
      CheckpointError: a tokenizer that does not tell where tokens lie.
    """
    if not tokenizer.is_fast:
        raise CheckpointError("a report needs a fast tokenizer, which tells where tokens lie: give one, of a tokenizer.json")
    before = engine.default_prompt
    firsts, seconds = [before + parts[0] for parts in texts], [parts[1] for parts in texts if len(parts) == 2]
    encoded = tokenizer(
        firsts, seconds or None, truncation="longest_first", max_length=engine.max_length, return_attention_mask=False
    ).encodings
    examples = tokenized(encoded)
    sample = examples.take(np.arange(min(len(texts), _FITTED_ON)))

    def share(threshold: float) -> float:
        return 1 / engine.predict_tokenized(sample, threshold=threshold).flops_vs_unpadded(engine.arch)

    # Rising, so that the budgets fall.
    thresholds = sorted({engine.threshold, *(find_threshold(share, target) for target in shares)})
    predictions = [engine.predict_tokenized(examples, threshold=threshold, progress=True) for threshold in thresholds]
    budgets = [
        Budget(float(threshold), one.kept_per_layer().tolist(), one.flops_vs_unpadded(engine.arch))
        for threshold, one in zip(thresholds, predictions, strict=True)
    ]
    answers = [_answers(engine, one, encoded, texts) for one in predictions]
    shares_of_texts = [spent / dense for spent, dense in (one.costs(engine.arch) for one in predictions)]
    read = []
    for number, parts in enumerate(texts):
        encoding = encoded[number]
        ends = [end for _, end in encoding.offsets]
        places = [
            place for place, part in enumerate(encoding.sequence_ids) if part is not None and (not before or ends[place] > len(before))
        ]
        spans = [
            (int(encoding.sequence_ids[place]), max(0, encoding.offsets[place][0] - len(before)), ends[place] - len(before))
            for place in places
        ]
        depths = [(one.depths or [])[number][places].tolist() for one in predictions]
        costs = [float(shares_of_one[number]) for shares_of_one in shares_of_texts]
        said = [answered[number] for answered in answers]
        wrong = [truths[number] is not None and label != truths[number] for label, _ in said]
        read.append(ReadText(parts, spans, depths, costs, [text for _, text in said], truths[number], wrong))
    own = thresholds.index(engine.threshold)
    return Contents(title, engine.arch.head, engine.arch.num_hidden_layers, budgets, own, read)


def _answers(
    engine: SkimEngine, predictions: Predictions, encoded: Sequence[Any], texts: Sequence[tuple[str, ...]]
) -> list[tuple[str, str]]:
    """Of each text: the answer, to be compared with a label, and the same for people."""
    head = engine.arch.head
    if head == "sentence_embedding":
        return [("", text) for text in _neighbours(predictions.outputs["sentence_embedding"])]
    if head == "question_answering":
        return _spans(predictions, encoded, texts)
    names = engine.label_names
    if head == "token_classification":
        inside = [[part is not None for part in one.sequence_ids] for one in encoded]
        labels = [row.argmax(axis=1)[mask] for row, mask in zip(predictions.by_text("logits"), inside, strict=True)]
        counts = [np.bincount(row, minlength=engine.arch.num_labels) for row in labels]
        shown = [
            ", ".join(f"{count} {name}" for name, count in zip(engine.label_texts, row.tolist(), strict=True) if count and name != OUTSIDE)
            for row in counts
        ]
        return [("", text or "nothing") for text in shown]
    if names is None:
        return [(f"{value:.4g}", f"{value:.3f}") for value in predictions.logits[:, 0].tolist()]
    probabilities = predictions.probabilities()
    best = probabilities.argmax(axis=1)
    return [(names[label], f"{names[label]} {100 * row[label]:.0f} %") for label, row in zip(best, probabilities, strict=True)]


def _neighbours(vectors: np.ndarray) -> list[str]:
    vectors = unit(vectors)
    return [
        "nearest: " + ", ".join(f"{other + 1} ({vectors[row] @ vectors[other]:.2f})" for other in near)
        for row, near in enumerate(neighbours(vectors, _NEIGHBOURS))
    ]


def _spans(predictions: Predictions, encoded: Sequence[Any], texts: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    answers = []
    for number, (start, end) in enumerate(zip(predictions.by_text("start_logits"), predictions.by_text("end_logits"), strict=True)):
        inside = np.array([part == 1 for part in encoded[number].sequence_ids])
        _, first, last = best_span(start, end, inside, 30)
        offsets = encoded[number].offsets
        text = texts[number][-1][offsets[first][0] : offsets[last][1]]
        answers.append((text, text))
    return answers
