"""Texts to token ids by the library `tokenizers`: in chunks, since the arrays take a small part of the encodings' memory."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.progress import tqdm

_CHUNK = 100
_PROGRESS_BAR_FROM = 5000
# Characters tokenised of a text for each token that is read, and at least: so a text of megabytes costs milliseconds. Measured on IMDB's
# and QNLI's texts with the tokenizers of MiniLM and E5: 16, 64, 128 and 512 tokens never cover more than 7.1 characters a token.
_CHARACTERS_PER_TOKEN, _LEAST_CHARACTERS = 32, 4096


def chunks(count: int) -> Iterator[slice]:
    """Slices of at most 100 of `count` examples, with a progress bar from 5,000 on."""
    with tqdm(total=count, desc="tokenizing", unit=" examples", disable=count <= _PROGRESS_BAR_FROM) as bar:
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            yield slice(start, stop)
            bar.update(stop - start)


def encode(
    tokenizer: Any,
    inputs: Sequence[Any],
    max_length: int | None = None,
    strategy: str = "longest_first",
    stride: int = 0,
    special_tokens: bool = True,
) -> list[Any]:
    """The encodings of texts, pairs or lists of words, with the ids of transformers' `tokenizer(...)`.

    max_length: tokens kept, special ones included; what overflows is in `overflowing`. None: all. stride: tokens that two windows share.

    Raises:
      CheckpointError: a tokenizer in Python alone, which transformers calls slow.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{type(tokenizer).__name__} is a slow tokenizer, and only fast ones are supported: give one with a tokenizer.json"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if max_length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(max_length, stride=stride, strategy=strategy, direction=tokenizer.truncation_side)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    is_split = bool(inputs) and isinstance(inputs[0], list)
    return backend.encode_batch(list(inputs), is_pretokenized=is_split, add_special_tokens=special_tokens)


def prefix(text: Any, tokenizer: Any, max_length: int) -> Any:
    """The part of a text, or list of words, that is tokenised: 32 characters (or words) for each token read, and at least 4,096.

    Tokenizers that truncate on the left get the whole text.
    """
    return text[: _CHARACTERS_PER_TOKEN * max_length + _LEAST_CHARACTERS] if tokenizer.truncation_side == "right" else text


def gives_types(tokenizer: Any) -> bool:
    """Whether a tokenizer gives its model token types; its encodings hold some in any case."""
    return "token_type_ids" in tokenizer.model_input_names


def tokenized(encodings: Sequence[Any], tokenizer: Any, truncated: Sequence[bool] | None = None) -> TokenizedExamples:
    """Encodings as arrays, without labels; types are 0 where the tokenizer gives none. truncated: None: those that overflow."""
    cut = [bool(one.overflowing) for one in encodings] if truncated is None else truncated
    return from_rows([one.ids for one in encodings], [one.type_ids for one in encodings], tokenizer, cut)


def from_rows(ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]], tokenizer: Any, truncated: Sequence[bool]) -> TokenizedExamples:
    """Ids and types of examples as arrays, as `tokenized`."""
    all_ids = flat(ids, np.int32)
    return TokenizedExamples(
        all_ids,
        flat(types, np.int8) if gives_types(tokenizer) else np.zeros(len(all_ids), np.int8),
        np.cumsum([0, *map(len, ids)], dtype=np.int64),
        np.zeros(len(ids), np.int32),
        np.array(truncated, bool),
    )


def flat(rows: Sequence[Sequence[int]], dtype: Any) -> np.ndarray:
    """All rows, one after the other."""
    return np.fromiter(itertools.chain.from_iterable(rows), dtype)
