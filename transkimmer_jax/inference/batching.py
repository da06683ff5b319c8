"""Who goes with whom: batches within a budget of tokens."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from transkimmer_jax.inference.shapes import Bucket

Batch = tuple[Bucket, np.ndarray]  # and its members


def cut(
    lengths: np.ndarray,
    tokens: int,
    texts: int,
    sizes: Sequence[int] | None = None,
    joined: Callable[[np.ndarray], int] | None = None,
) -> list[slice]:
    """Texts of these lengths, in their order, as batches of at most so many tokens and so many texts, or of one longer text.

    sizes: rising; a batch that others follow has one of these numbers of texts, or fewer than the least. None: any.
    joined: how many of the first of these texts may go together. None: all.
    """
    ends, batches, start = lengths.cumsum(), [], 0
    while start < len(lengths):
        fitting = int(ends.searchsorted(ends[start] - lengths[start] + tokens, side="right"))
        stop = min(max(start + 1, fitting), start + texts)
        if joined is not None:
            stop = start + max(1, joined(lengths[start:stop]))
        if sizes is not None and stop < len(lengths):
            stop = start + (sizes[bisect.bisect_right(sizes, stop - start) - 1] or stop - start)
        batches.append(slice(start, stop))
        start = stop
    return batches


def by_length(
    lengths: np.ndarray,
    tokens: int,
    texts: int,
    sizes: Sequence[int] | None = None,
    pairs: float = math.inf,
    pairs_per_token: float = math.inf,
) -> list[np.ndarray]:
    """Positions in `lengths` batch by batch, sorted by length, the longest first: what memory is needed is asked for at once. See `cut`.

    pairs: of tokens that attention compares in a batch at most, each text padded to the longest; one longer text has more.
    pairs_per_token: the same for each real token, so that one long text does not make many short ones as wide as itself. Where the longest
      is at most twice as long as the mean, texts go together all the same.
    """
    order = (-lengths).argsort(kind="stable")

    def joined(falling: np.ndarray) -> int:
        """How many of these go together: each one more adds the same pairs and no more tokens than the one before, so none fits later."""
        longest = falling[0]
        compared = np.arange(1, len(falling) + 1) * longest**2
        return int(np.count_nonzero((compared <= pairs) & (compared <= max(pairs_per_token, 2 * longest) * falling.cumsum())))

    return [order[batch] for batch in cut(lengths[order].astype(np.int64), tokens, texts, sizes, joined)]


def by_bucket(lengths: np.ndarray, buckets: list[tuple[Bucket, Bucket]], cost: Callable[[Bucket], float]) -> Iterator[Batch]:
    """Positions in `lengths` batch by batch, each in the narrowest bucket that holds it, narrowest first.

    Within a bucket texts stay in their order: sorted, the short ones would use up a batch's slots and leave its rows empty. What fills no
    batch goes along with the texts of the next wider bucket, unless its part of a batch there costs more than a batch of its own: attention
    is as wide as the bucket for every text. A batch of its own, and what is left at the end, is a small one if that holds it.

    cost: of a batch of a bucket, in any unit.
    """
    home = np.searchsorted([large.width for large, _ in buckets], lengths)
    occupied = np.unique(home).tolist()
    waiting = np.zeros(0, np.int64)
    for number, wider in itertools.pairwise([*occupied, None]):
        large, small = buckets[number]
        waiting = np.concatenate([waiting, np.flatnonzero(home == number)])
        *full, rest = (waiting[batch] for batch in cut(lengths[waiting], large.tokens, large.sequences))
        yield from ((large, members) for members in full)
        tokens = int(lengths[rest].sum())
        alone = small if small.holds(len(rest), tokens) else large
        if wider is None or cost(alone) < _share(buckets[wider][0], len(rest), tokens) * cost(buckets[wider][0]):
            yield alone, rest
            rest = rest[:0]
        waiting = rest


def _share(bucket: Bucket, texts: int, tokens: int) -> float:
    """How many batches of a bucket so many texts of so many tokens together take, above 1 where they take several."""
    return max(texts / bucket.sequences, tokens / bucket.tokens)
