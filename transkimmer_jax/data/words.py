"""From words, or texts, to tokens that know which word they are of: what taggers read."""

import dataclasses
import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.data.cutting import Cutter
from transkimmer_jax.data.encodings import chunks, flat, tokenized

NO_WORD = -1  # of special tokens

Word = tuple[str, tuple[int, int] | None]


@dataclasses.dataclass(frozen=True)
class TokenizedWords:
    """Texts as tokens, and their words.

    word_of: [tokens] int32, the number within its text of each token's word, `NO_WORD` of special tokens. texts: as they were given.
    spans: of each text its words' characters, [words, 2] int32; None where words were given.
    """

    examples: TokenizedExamples
    word_of: np.ndarray
    texts: Sequence[Any]
    spans: list[np.ndarray | None]

    def words(self, number: int) -> list[Word]:
        """Of a text each word, with the characters (start, end) where it lies in the text; None where words were given."""
        text, spans = self.texts[number], self.spans[number]
        if spans is None:
            return [(word, None) for word in text]
        return [(text[start:end], (start, end)) for start, end in spans.tolist()]


def tokenize_words(texts: Sequence[Any], tokenizer: Any, max_length: int) -> TokenizedWords:
    """Texts, or lists of words, as tokens, cut to `max_length` tokens with special tokens.

    A text is divided into words as the tokenizer divides it, and only words that are read are told. Of a list of words all are.
    Of a long text, or a long list, only as much is tokenised as decides which tokens are read.

    Args:
      texts: strings, or lists of strings; not both.
      tokenizer: a fast one.

    Raises:
      DataError: millions of characters that hold next to no token.
    """
    is_split = bool(texts) and not isinstance(texts[0], str)
    encode = _encode_lists if is_split else _encode_texts
    examples, word_of = [tokenized((), tokenizer)], [np.zeros(0, np.int32)]
    spans: list[np.ndarray | None] = []
    for chunk in chunks(len(texts)):
        part = texts[chunk]
        encodings = encode(part, tokenizer, max_length)
        examples.append(tokenized(encodings, tokenizer))
        word_of.append(flat([[NO_WORD if word is None else word for word in one.word_ids] for one in encodings], np.int32))
        spans += [None if is_split else _spans(text, encoding) for text, encoding in zip(part, encodings, strict=True)]
    return TokenizedWords(concatenated(examples), np.concatenate(word_of), texts, spans)


def _encode_texts(texts: Sequence[str], tokenizer: Any, max_length: int) -> list[Any]:
    cut, _ = Cutter(tokenizer, max_length, in_place=True).cut(texts, None)
    return tokenizer(list(cut), truncation=True, max_length=max_length, return_attention_mask=False).encodings


def _encode_lists(texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> list[Any]:
    """Each word is tokenised by itself, so the first words tell what is read if they have more tokens than that. All words are tokenised
    where they have fewer, since some words have none."""
    marks_spaces = _marks_spaces(tokenizer)

    def encoded(texts: list[Sequence[str]]) -> list[Any]:
        given = [_spaced(text) for text in texts] if marks_spaces else texts
        return tokenizer(given, is_split_into_words=True, truncation=True, max_length=max_length, return_attention_mask=False).encodings

    cut = [text[: max_length + 1] for text in texts] if tokenizer.truncation_side == "right" else list(texts)
    encodings = encoded(cut)
    for number, text in enumerate(texts):
        if len(text) > len(cut[number]) and not encodings[number].overflowing:
            [encodings[number]] = encoded([text])
    return encodings


def _marks_spaces(tokenizer: Any) -> bool:
    """Whether a word behind a space is another piece than the same word at the front, as byte-level tokenizers mostly have it."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if splitter is None:
        return False
    behind, alone = (splitter.pre_tokenize_str(text)[-1][0] for text in ("a a", "a"))
    return behind != alone


def _spaced(words: Sequence[str]) -> list[str]:
    """Words with the space before each that a text of them has; one that is empty, or begins with white space, stays as it is."""
    return [*words[:1], *(" " + word if word[:1].strip() else word for word in words[1:])]


def visible(text: str, start: int, end: int) -> tuple[int, int]:
    """Of the characters from `start` to `end` those without white space and zero-width or control characters around them: some tokenizers
    count the space before a word to it, and others read none of these.

    Of these alone nothing is left, and both are `end`.
    """
    end = min(end, len(text))
    while start < end and _is_invisible(text[start]):
        start += 1
    while start < end and _is_invisible(text[end - 1]):
        end -= 1
    return start, end


def _is_invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def character_spans(text: str, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """The `visible` characters of tokens or words that follow each other, with accents behind them that no token has, [N, 2] int32.

    places: the characters that the tokenizer tells of each; one that strips accents leaves out those that are characters of their own.
    """
    spans = []
    for (start, end), (limit, _) in itertools.pairwise([*places, (len(text), 0)]):
        while start < end < limit and unicodedata.category(text[end])[0] in "MC":  # control characters may stand among accents
            end += 1
        spans.append(visible(text, start, end))
    return np.array(spans, np.int32).reshape(-1, 2)


def _spans(text: str, encoding: Any) -> np.ndarray:
    """Of words, which are numbered from 0 without gaps."""
    count = 1 + max((word for word in encoding.word_ids if word is not None), default=-1)
    return character_spans(text, [encoding.word_to_chars(number) or (0, 0) for number in range(count)])
