"""Questions with their contexts, which are read in windows where they are long: what readers read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.records import shown
from transkimmer_jax.data.words import tokenized
from transkimmer_jax.errors import ExampleError

# Of a window the context has this part at least: with hardly any room, a long context would become a window a token.
_LEAST_PART = 4


@dataclasses.dataclass(frozen=True)
class Windows:
    """Questions with windows of their contexts.

    owner: [windows], the question of each. spans: of each window, for its tokens [length, 2], their characters in the context.
    is_context: of each window, [length] bool.
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
    encodings, owner = [], []
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
        encodings += encoded.encodings
        owner += [number] * len(encoded.encodings)
        if not any(sequence == 1 for one in encoded.encodings for sequence in one.sequence_ids):
            raise ExampleError("question", number, "its context holds no token: give a text to look for the answer in")
    return Windows(
        tokenized(encodings),
        np.array(owner, np.int64),
        [np.array(one.offsets, np.int64).reshape(-1, 2) for one in encodings],
        [np.array([sequence == 1 for sequence in one.sequence_ids], bool) for one in encodings],
    )
