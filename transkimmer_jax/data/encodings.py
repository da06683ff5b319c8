"""What fast tokenizers return, as arrays: a small part of the memory. So examples are tokenised in chunks, whose encodings are dropped."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.progress import tqdm

_CHUNK = 1000
_PROGRESS_BAR_FROM = 5000


def chunks(count: int) -> Iterator[slice]:
    """So many examples in parts that are tokenised one after the other, with a progress bar where they take a while."""
    with tqdm(total=count, desc="tokenizing", unit=" examples", disable=count <= _PROGRESS_BAR_FROM) as bar:
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            yield slice(start, stop)
            bar.update(stop - start)


def reads_types(tokenizer: Any) -> bool:
    """Whether a tokenizer gives its model token types. One that does not has them in its encodings all the same."""
    return "token_type_ids" in tokenizer.model_input_names


def tokenized(encodings: Sequence[Any], tokenizer: Any) -> TokenizedExamples:
    """A tokenizer's encodings, those of the library `tokenizers`, without labels. Types are 0 where it gives none."""
    ids = flat([one.ids for one in encodings], np.int32)
    return TokenizedExamples(
        ids,
        flat([one.type_ids for one in encodings], np.int8) if reads_types(tokenizer) else np.zeros(len(ids), np.int8),
        np.concatenate([[0], np.cumsum([len(one.ids) for one in encodings])]).astype(np.int64),
        np.zeros(len(encodings), np.int32),
        np.array([bool(one.overflowing) for one in encodings], bool),
    )


def flat(rows: Sequence[Sequence[int]], dtype: Any) -> np.ndarray:
    """All rows, one after the other."""
    return np.fromiter(itertools.chain.from_iterable(rows), dtype)
