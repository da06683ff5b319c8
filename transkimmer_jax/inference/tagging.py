"""What a tagger says of words."""

import dataclasses

import numpy as np

from transkimmer_jax.data.words import NO_WORD, TokenizedWords
from transkimmer_jax.inference.predictions import Predictions


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
    """The tags of a text's words. tokens, kept, truncated: as of `answers.Answer`."""

    tags: list[Tag]
    tokens: int
    kept: float
    truncated: bool


def tagged(predictions: Predictions, texts: TokenizedWords, label_names: tuple[str, ...]) -> list[TaggedText]:
    """One for each text."""
    probabilities = predictions.probabilities()
    shares = predictions.kept.mean(axis=0) / predictions.lengths
    answers = []
    for number, words in enumerate(texts.words):
        start, end = texts.examples.offsets[number : number + 2]
        word_of, rows = texts.word_of[start:end], probabilities[start:end]
        # The first token of each word that was read.
        first = dict(zip(*np.unique(word_of, return_index=True), strict=True))
        first.pop(NO_WORD, None)
        tags = []
        for index, (word, span) in enumerate(words):
            place = span or (None, None)
            if index in first:
                row = rows[first[index]]
                tags.append(Tag(word, label_names[int(row.argmax())], float(row.max()), *place))
            else:
                tags.append(Tag(word, None, 0.0, *place))
        answers.append(TaggedText(tags, int(predictions.lengths[number]), float(shares[number]), bool(texts.examples.truncated[number])))
    return answers
