"""Questions with their contexts, which are read in windows where they are long: what readers read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.records import shown
from transkimmer_jax.data.words import tokenized, visible
from transkimmer_jax.errors import ExampleError

# Of a window the context has this part at least: with hardly any room, a long context would become a window a token.
_LEAST_PART = 4


@dataclasses.dataclass(frozen=True)
class Windows:
    """Questions with windows of their contexts.

    owner: [windows], the question of each. spans: of each window, for its tokens [length, 2], their characters in the context, or in the
    question, without white space around them; none of special tokens. is_context: of each window, [length] bool, its tokens of the context
    that are not white space alone: where answers begin and end.
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
    encodings, owner, spans, is_context = [], [], [], []
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        room = max_length - special - asked
        if room < max_length // _LEAST_PART:
            most = max_length - special - max_length // _LEAST_PART
            reason = f"{shown(question)} has {asked} tokens, which leaves no room for a context within {max_length}: shorten it to {most}"
            raise ExampleError("question", number, reason)
        encoded = tokenizer(
            question, context, truncation="only_second", max_length=max_length, stride=min(doc_stride, room // 2),
            return_overflowing_tokens=True, return_attention_mask=False,
        )  # fmt: skip
        read = [_spans(one, (question, context)) for one in encoded.encodings]
        inside = [_of_context(one) & (places[:, 1] > places[:, 0]) for one, places in zip(encoded.encodings, read, strict=True)]
        if not any(one.any() for one in inside):
            raise ExampleError("question", number, "its context holds no token: give a text to look for the answer in")
        encodings += encoded.encodings
        owner += [number] * len(read)
        spans += read
        is_context += inside
    return Windows(tokenized(encodings), np.array(owner, np.int64), spans, is_context)


def _of_context(encoding: Any) -> np.ndarray:
    """[length] bool."""
    return np.array([sequence == 1 for sequence in encoding.sequence_ids], bool)


def _spans(encoding: Any, texts: tuple[str, str]) -> np.ndarray:
    """Of each token its characters in the one of both texts that it is of, [length, 2] int64."""
    places = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    spans = [(0, 0) if number is None else visible(texts[number], *span) for number, span in places]
    return np.array(spans, np.int64).reshape(-1, 2)
