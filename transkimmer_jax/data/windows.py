"""Questions with windows of their contexts: the input of readers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.data.encodings import chunks, encode, prefix, tokenized
from transkimmer_jax.data.records import shown
from transkimmer_jax.data.words import character_spans
from transkimmer_jax.errors import ExampleError

# A window's least share of context: with hardly any room, a long context would become a window a token.
_LEAST_PART = 4


@dataclasses.dataclass(frozen=True)
class Windows:
    """Questions with windows of their contexts.

    owner: [windows], the question of each. spans: of each window, its tokens' characters in the context or the question,
    [length, 2] int32, see `character_spans`; none of special tokens. is_context: of each window, [length] bool, its tokens of visible
    characters of the context: where answers begin and end.
    """

    examples: TokenizedExamples
    owner: np.ndarray
    spans: list[np.ndarray]
    is_context: list[np.ndarray]


def windows(questions: Sequence[str], contexts: Sequence[str], tokenizer: Any, max_length: int, doc_stride: int) -> Windows:
    """Every question with as many windows of its context as it takes, each of `max_length` tokens at most.

    doc_stride: tokens that two windows share; at most half of a window's room for the context.

    Raises:
      ExampleError: a question that leaves less than a quarter of a window for its context, or a context without a token.
    """
    examples, owner, spans, is_context = [tokenized((), tokenizer)], [], [], []
    for chunk in chunks(len(questions)):
        pairs = list(zip(questions[chunk], contexts[chunk], strict=True))
        strides = [min(doc_stride, room // 2) for room in _rooms(pairs, chunk.start, tokenizer, max_length)]
        read: dict[int, list[Any]] = {}
        for stride in sorted(set(strides)):
            rows = [row for row, own in enumerate(strides) if own == stride]
            firsts = encode(tokenizer, [pairs[row] for row in rows], max_length, "only_second", stride)
            read |= {row: [one, *one.overflowing] for row, one in zip(rows, firsts, strict=True)}
        for row, (number, pair) in enumerate(zip(range(len(questions))[chunk], pairs, strict=True)):
            encodings = read[row]
            owners = [_owners(one) for one in encodings]
            places = [_spans(one, of_token, pair) for one, of_token in zip(encodings, owners, strict=True)]
            inside = [(of_token == 1) & (span[:, 1] > span[:, 0]) for of_token, span in zip(owners, places, strict=True)]
            if not any(one.any() for one in inside):
                raise ExampleError("question", number, "its context holds no token: give a text to look for the answer in")
            # The windows of a context hold all of it, so none is truncated.
            examples.append(tokenized(encodings, tokenizer, [False] * len(encodings)))
            owner += [number] * len(encodings)
            spans += places
            is_context += inside
    return Windows(concatenated(examples), np.array(owner, np.int64), spans, is_context)


def _rooms(pairs: Sequence[tuple[str, str]], first: int, tokenizer: Any, max_length: int) -> list[int]:
    """Tokens of context in a window of each question. first: the number of the first question."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    most = room - max_length // _LEAST_PART
    questions = [prefix(question, tokenizer, max_length) for question, _ in pairs]
    counts = [len(one.ids) for one in encode(tokenizer, questions, special_tokens=False)]
    for number, count in enumerate(counts):
        if count > most:
            question = shown(pairs[number][0])
            reason = f"{question} has {count} tokens, which leaves no room for a context within {max_length}: shorten it to {most}"
            raise ExampleError("question", first + number, reason)
    return [room - count for count in counts]


def _owners(encoding: Any) -> np.ndarray:
    """The text of each token, 0 or 1, and -1 of special tokens, [length]."""
    return np.array([-1 if number is None else number for number in encoding.sequence_ids])


def _spans(encoding: Any, owner: np.ndarray, texts: tuple[str, str]) -> np.ndarray:
    """Each token's characters in its text, [length, 2] int32."""
    spans, offsets = np.zeros((len(owner), 2), np.int32), encoding.offsets  # one list: tokenizers builds another at every access
    for number, text in enumerate(texts):
        tokens = np.flatnonzero(owner == number)
        spans[tokens] = character_spans(text, [offsets[token] for token in tokens])
    return spans
