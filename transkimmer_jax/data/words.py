"""From words, or texts, to tokens that know which word they are of: what taggers read."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples

NO_WORD = -1  # of special tokens

Word = tuple[str, tuple[int, int] | None]


@dataclasses.dataclass(frozen=True)
class TokenizedWords:
    """Texts as tokens, and their words.

    word_of: [tokens] int32, the number within its text of each token's word, `NO_WORD` of special tokens. words: of each text, the word,
    the characters (start, end) where it lies in the text, None where words were given.
    """

    examples: TokenizedExamples
    word_of: np.ndarray
    words: list[list[Word]]


def tokenize_words(texts: Sequence[Any], tokenizer: Any, max_length: int) -> TokenizedWords:
    """Texts, or lists of words, as tokens, cut to `max_length` tokens with special tokens.

    A text is divided into words as the tokenizer divides it, and only words that are read are told. Of a list of words all are.

    Args:
      texts: strings, or lists of strings; not both.
      tokenizer: a fast one.
    """
    is_split = bool(texts) and not isinstance(texts[0], str)
    given = [_spaced(text) for text in texts] if is_split and _marks_spaces(tokenizer) else list(texts)
    encodings = []
    if texts:
        encodings = tokenizer(
            given, is_split_into_words=is_split, truncation=True, max_length=max_length, return_attention_mask=False
        ).encodings
    word_of = flat([[NO_WORD if word is None else word for word in one.word_ids] for one in encodings], np.int32)
    words: list[list[Word]] = [
        [(word, None) for word in text] if is_split else _words(text, encoding) for text, encoding in zip(texts, encodings, strict=True)
    ]
    return TokenizedWords(tokenized(encodings), word_of, words)


def tokenized(encodings: Sequence[Any]) -> TokenizedExamples:
    """What fast tokenizers return, without labels."""
    return TokenizedExamples(
        flat([one.ids for one in encodings], np.int32),
        flat([one.type_ids for one in encodings], np.int8),
        np.concatenate([[0], np.cumsum([len(one.ids) for one in encodings])]).astype(np.int64),
        np.zeros(len(encodings), np.int32),
        np.array([bool(one.overflowing) for one in encodings], bool),
    )


def flat(rows: Sequence[Sequence[int]], dtype: Any) -> np.ndarray:
    """All rows, one after the other."""
    return np.fromiter(itertools.chain.from_iterable(rows), dtype)


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
    """Of the characters from `start` to `end` those without white space around them: some tokenizers count the space before a word to it.

    Of white space alone nothing is left, and both are `end`.
    """
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _words(text: str, encoding: Any) -> list[Word]:
    """Words are numbered from 0 without gaps."""
    count = 1 + max((word for word in encoding.word_ids if word is not None), default=-1)
    words: list[Word] = []
    for number in range(count):
        start, end = visible(text, *(encoding.word_to_chars(number) or (0, 0)))
        words.append((text[start:end], (start, end)))
    return words
