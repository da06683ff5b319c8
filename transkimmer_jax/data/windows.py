"""Questions with their contexts, which are read in windows where they are long: what readers read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.data.encodings import chunks, tokenized
from transkimmer_jax.data.records import shown
from transkimmer_jax.data.words import character_spans
from transkimmer_jax.errors import ExampleError

# Of a window the context has this part at least: with hardly any room, a long context would become a window a token.
_LEAST_PART = 4


@dataclasses.dataclass(frozen=True)
class Windows:
    """Questions with windows of their contexts.

    owner: [windows], the question of each. spans: of each window, for its tokens [length, 2], their characters in the context, or in the
    question, see `character_spans`; none of special tokens. is_context: of each window, [length] bool, its tokens of the context
    that have characters which are seen: where answers begin and end.
    """

    examples: TokenizedExamples
    owner: np.ndarray
    spans: list[np.ndarray]
    is_context: list[np.ndarray]


def windows(questions: Sequence[str], contexts: Sequence[str], tokenizer: Any, max_length: int, doc_stride: int) -> Windows:
    """Every question with as many windows of its context as it takes, each of `max_length` tokens at most.

    doc_stride: tokens that two windows share; fewer where they have no room for more.

    Raises:
      ExampleError: a question that leaves less than a quarter of a window for its context, or a context without a token.
    """
    examples, owner, spans, is_context = [tokenized((), tokenizer)], [], [], []
    for chunk in chunks(len(questions)):
        numbers, pairs = range(len(questions))[chunk], list(zip(questions[chunk], contexts[chunk], strict=True))
        rooms = _rooms(pairs, chunk.start, tokenizer, max_length)
        read = _encoded(pairs, np.minimum(doc_stride, rooms // 2), tokenizer, max_length)
        for number, pair, encodings in zip(numbers, pairs, read, strict=True):
            places = [_spans(one, pair) for one in encodings]
            inside = [_of_context(one) & (span[:, 1] > span[:, 0]) for one, span in zip(encodings, places, strict=True)]
            if not any(one.any() for one in inside):
                raise ExampleError("question", number, "its context holds no token: give a text to look for the answer in")
            owner += [number] * len(encodings)
            spans += places
            is_context += inside
        examples.append(tokenized([one for encodings in read for one in encodings], tokenizer))
    # The windows of a context hold all of it: what a window leaves out is no text that was cut.
    uncut = dataclasses.replace(concatenated(examples), truncated=np.zeros(len(owner), bool))
    return Windows(uncut, np.array(owner, np.int64), spans, is_context)


def _rooms(pairs: Sequence[tuple[str, str]], first: int, tokenizer: Any, max_length: int) -> np.ndarray:
    """Tokens of a context that a window of each question has room for, [N]. first: the number of the first question."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    asked = [len(ids) for ids in tokenizer([question for question, _ in pairs], add_special_tokens=False)["input_ids"]]
    most = max_length - special - max_length // _LEAST_PART
    for number, count in enumerate(asked):
        if count > most:
            question = shown(pairs[number][0])
            reason = f"{question} has {count} tokens, which leaves no room for a context within {max_length}: shorten it to {most}"
            raise ExampleError("question", first + number, reason)
    return max_length - special - np.array(asked)


def _encoded(pairs: Sequence[tuple[str, str]], strides: np.ndarray, tokenizer: Any, max_length: int) -> list[list[Any]]:
    """The encodings of the windows of each pair. strides: [N], tokens that two windows of each share."""
    encodings: list[list[Any]] = [[] for _ in pairs]
    for stride in np.unique(strides).tolist():
        rows = np.flatnonzero(strides == stride).tolist()
        columns = zip(*(pairs[row] for row in rows), strict=True)
        encoded = tokenizer(
            *map(list, columns), truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_attention_mask=False,
        )  # fmt: skip
        for one, row in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
            encodings[rows[row]].append(one)
    return encodings


def _of_context(encoding: Any) -> np.ndarray:
    """[length] bool."""
    return np.array([sequence == 1 for sequence in encoding.sequence_ids], bool)


def _spans(encoding: Any, texts: tuple[str, str]) -> np.ndarray:
    """Of each token its characters in the one of both texts that it is of, [length, 2] int32."""
    owner = np.array([-1 if number is None else number for number in encoding.sequence_ids])
    spans, offsets = np.zeros((len(owner), 2), np.int32), encoding.offsets  # one list: tokenizers builds another at every access
    for number, text in enumerate(texts):
        tokens = np.flatnonzero(owner == number)
        spans[tokens] = character_spans(text, [offsets[token] for token in tokens])
    return spans
