"""Texts and lists of words as tokens that know their word: the input of taggers."""

import dataclasses
import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.data.encodings import chunks, encode, flat, prefix, tokenized

NO_WORD = -1  # of special tokens

Word = tuple[str, tuple[int, int] | None]


@dataclasses.dataclass(frozen=True)
class TokenizedWords:
    """Texts as tokens, and their words.

    word_of: [tokens] int32, the number within its text of each token's word, `NO_WORD` of special tokens. texts: the input.
    spans: of each text its words' characters, [words, 2] int32; None of a list of words.
    """

    examples: TokenizedExamples
    word_of: np.ndarray
    texts: Sequence[Any]
    spans: list[np.ndarray | None]

    def words(self, number: int) -> list[Word]:
        """The words of a text with their characters (start, end) in it; None of a list of words."""
        text, spans = self.texts[number], self.spans[number]
        if spans is None:
            return [(word, None) for word in text]
        return [(text[start:end], (start, end)) for start, end in spans.tolist()]


def tokenize_words(texts: Sequence[Any], tokenizer: Any, max_length: int) -> TokenizedWords:
    """Texts, or lists of words, as tokens, cut to `max_length` tokens with special tokens.

    The tokenizer divides a text into words; only words that are read are listed. Of a list of words all are.

    Args:
      texts: strings, or lists of strings; not both.
    """
    is_split = bool(texts) and not isinstance(texts[0], str)
    marks_spaces = is_split and _marks_spaces(tokenizer)
    examples, word_of = [tokenized((), tokenizer)], [np.zeros(0, np.int32)]
    spans: list[np.ndarray | None] = []
    for chunk in chunks(len(texts)):
        part = texts[chunk]
        read = [prefix(text, tokenizer, max_length) for text in part]
        if is_split:
            read = [[prefix(word, tokenizer, max_length) for word in words] for words in read]
            encodings = encode(tokenizer, [_spaced(words) for words in read] if marks_spaces else read, max_length)
        else:
            encodings = encode(tokenizer, read, max_length)
        cut = [bool(one.overflowing) or len(own) < len(text) for one, own, text in zip(encodings, read, part, strict=True)]
        examples.append(tokenized(encodings, tokenizer, cut))
        word_of.append(flat([[NO_WORD if word is None else word for word in one.word_ids] for one in encodings], np.int32))
        spans += [None if is_split else _spans(text, encoding) for text, encoding in zip(part, encodings, strict=True)]
    return TokenizedWords(concatenated(examples), np.concatenate(word_of), texts, spans)


def _marks_spaces(tokenizer: Any) -> bool:
    """Whether a space before a word changes its tokens, as in byte-level tokenizers."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if splitter is None:
        return False
    behind, alone = (splitter.pre_tokenize_str(text)[-1][0] for text in ("a a", "a"))
    return behind != alone


def _spaced(words: Sequence[str]) -> list[str]:
    """Words with the space that a text has before each; an empty word, or one that begins with white space, gets none."""
    return [*words[:1], *(" " + word if word[:1].strip() else word for word in words[1:])]


def visible(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without white space, zero-width and control characters at its ends; (end, end) where nothing is left.

    Some tokenizers count the space before a word to it, and others have no tokens of these characters.
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
    """The `visible` spans of tokens or words in their order, [N, 2] int32, with the combining accents behind each.

    places: the tokenizer's spans; one that strips accents leaves out those that are characters of their own.
    """
    spans = []
    for (start, end), (limit, _) in itertools.pairwise([*places, (len(text), 0)]):
        while start < end < limit and unicodedata.category(text[end])[0] in "MC":  # control characters may stand among accents
            end += 1
        spans.append(visible(text, start, end))
    return np.array(spans, np.int32).reshape(-1, 2)


def _spans(text: str, encoding: Any) -> np.ndarray:
    """Spans of the words, numbered from 0 without gaps."""
    count = 1 + max((word for word in encoding.word_ids if word is not None), default=-1)
    return character_spans(text, [encoding.word_to_chars(number) or (0, 0) for number in range(count)])
