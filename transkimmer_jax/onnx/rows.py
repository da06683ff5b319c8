"""Where the tokens of a batch lie in a graph: packed row after row, and the padded view of them that attention reads.

A runtime that makes a program for every size of a product that it meets wants few sizes. For one there are a few rows more than tokens:
copies of the last, which nobody reads.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
from onnx import TensorProto

from transkimmer_jax.models.encoder import DistanceStates
from transkimmer_jax.models.encoder import Relative as RelativeParts
from transkimmer_jax.onnx.builder import GraphBuilder

# Added to the scores of keys that are padding: its exponential is 0, and float16 can hold it.
MASKED_SCORE = -65504.0


@dataclasses.dataclass(frozen=True)
class Rows:
    """The kept tokens of a batch, text after text, as rows of `[rows, ...]`. Every text has its position 0, as its first row.

    first: int64 [batch, 1], the row of each text's position 0.
    end: int64 [batch, 1], the row behind its last.
    always: bool [batch, 1], all true.
    sizes: int64 [n], rising; there are as many rows as the next of these to the number of tokens. '' for just as many.
    tokens: int64 [rows], which token each row holds: 0, 1 and so on, and the last again. '' where there are as many as rows.
    """

    first: str
    end: str
    always: str
    sizes: str
    tokens: str

    @classmethod
    def pack(cls, g: GraphBuilder, mask: str, sizes: Sequence[int] | None) -> tuple[str, str, Self]:
        """The place in the flattened mask, int64 [rows], and the position in its text of each row's token, and the rows.

        mask: int64 [batch, sequence], 0 where there is no token; position 0 is one in any case.
        """
        sequence = g.op("Squeeze", g.op("Shape", mask, start=1), g.constant([0]))
        first = g.op("Equal", g.op("Range", g.constant(0), sequence, g.constant(1)), g.constant(0))
        real = g.op("Or", g.op("Cast", mask, to=TensorProto.BOOL), first)
        lengths = g.op("ReduceSum", g.op("Cast", real, to=TensorProto.INT64), g.constant([1]), keepdims=1)
        end = g.op("CumSum", lengths, g.constant(0))
        table = "" if sizes is None else g.constant(sizes)
        always = g.op("Cast", lengths, to=TensorProto.BOOL)
        rows = cls(g.op("Sub", end, lengths), end, always, table, _tokens(g, end, table))
        places = rows.places(g, g.op("Reshape", real, g.constant([-1])))
        return places, g.op("Mod", places, sequence), rows

    def lengths(self, g: GraphBuilder) -> str:
        """Tokens of each text, int64 [batch, 1]."""
        return g.op("Sub", self.end, self.first)

    def places(self, g: GraphBuilder, flags: str) -> str:
        """Where flags are true, int64 [rows]. flags: bool [any], as many of them true as there are tokens; behind them any number."""
        return _places(g, flags, self.tokens)

    def keep(self, g: GraphBuilder, margin: str, threshold: str, pinned: str | None) -> str:
        """The rows whose margin [rows, 1] exceeds the threshold, those that are pinned (bool [rows, 1]; None: none), and each text's
        first: bool [rows, 1]."""
        wanted = g.op("Greater", margin, threshold)
        return g.op("ScatterElements", wanted if pinned is None else g.op("Or", wanted, pinned), self.first, self.always, axis=0)

    def shrink(self, g: GraphBuilder, keep: str) -> Self:
        """What is left of those that `keep` [rows, 1] names."""
        running = g.op("CumSum", g.op("Cast", keep, to=TensorProto.INT64), g.constant(0))
        one = g.constant(1)
        # First rows are kept: of the rows up to and with a first one, those but itself lie before it.
        first = g.op("Sub", g.op("GatherElements", running, self.first, axis=0), one)
        end = g.op("GatherElements", running, g.op("Sub", self.end, one), axis=0)
        return dataclasses.replace(self, first=first, end=end, tokens=_tokens(g, end, self.sizes))

    def gone(self, g: GraphBuilder, keep: str, left: Self) -> str:
        """The rows that `keep` [rows] does not name. left: the others."""
        end = g.op("Sub", self.end, left.end) if self.sizes else ""
        return _places(g, g.op("Not", keep), _tokens(g, end, self.sizes))

    def view(
        self,
        g: GraphBuilder,
        relative: "Relative | None" = None,
        window: int | None = None,
        width_multiple: int = 1,
        only_first: bool = False,
    ) -> "View":
        """The rows as attention reads them. relative: what scores owe to distances, of these rows. window: see `Distances`.
        width_multiple: of the view's width, which is rounded up to one. only_first: no other queries than those at position 0 read it."""
        lengths = self.lengths(g)
        width = g.op("ReduceMax", lengths, keepdims=0)
        if width_multiple > 1:
            multiple = g.constant(width_multiple)
            width = g.op("Mul", g.op("Div", g.op("Add", width, g.constant(width_multiple - 1)), multiple), multiple)
        offsets = g.op("Range", g.constant(0), width, g.constant(1))
        real = g.op("Less", offsets, lengths)
        slots = g.op("Where", real, g.op("Add", self.first, offsets), self.first)
        seen = g.op("Unsqueeze", real, g.constant([1, 2]))
        if relative is None or (relative.table is None and window is None):
            bias = first_bias = _score_of(g, seen)
        else:
            bias, first_bias = (relative.added(g, distance, seen, window) for distance in relative.distances(g, slots))
        pairs = (
            None if relative is None or relative.pairs is None or only_first else relative.pairs.locate(g, relative.distances(g, slots)[0])
        )
        return View(self.first, slots, self.places(g, g.op("Reshape", real, g.constant([-1]))), bias, first_bias, pairs)


@dataclasses.dataclass(frozen=True)
class View:
    """The rows of a batch as `[batch, width]`, where width is that of the longest text, or the next multiple that is asked for.

    first: int64 [batch, 1], the row of each text's position 0.
    slots: int64 [batch, width], the row that lies at each place; behind a text's end, its first.
    places: int64 [rows], where in the flattened view each row lies.
    bias: float32 [batch, 1, 1, width] or [batch, 1 or heads, width, width], to be added to scores: 0 there, or what scores owe to
      distances, and about `MASKED_SCORE` elsewhere.
    first_bias: float32 [batch, 1 or heads, 1, width], the same for queries at position 0.
    pairs: where disentangled attention reads what scores owe to distances; None where it is not asked for.
    """

    first: str
    slots: str
    places: str
    bias: str
    first_bias: str
    pairs: "Pairs | None" = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The rows of distances (`models.distances`) that the pairs of a batch's tokens read.

    table: int32 [distances], the row of each. middle: the place of distance 0 in it. heads: of attention. start, end: int32 [1], the first
    row that texts of the batch may read, and the one behind the last. row: int32 [batch, heads, width, width], of each query and key,
    from `start` on; '' before it is asked for.
    """

    table: str
    middle: int
    heads: int
    start: str
    end: str
    row: str = ""

    @classmethod
    def for_batch(cls, g: GraphBuilder, rows: np.ndarray, heads: int, lengths: str) -> Self:
        """Of a batch. rows: [distances], the row of each. lengths: int64 [batch, 1], tokens of its texts before any is skimmed."""
        table, middle = g.constant(rows, np.int32), len(rows) // 2
        furthest = g.op("Sub", g.op("Squeeze", g.op("ReduceMax", lengths, keepdims=1), g.constant([1])), g.constant(1))
        start = g.op("Gather", table, g.op("Add", furthest, g.constant(middle)), axis=0)
        last = g.op("Gather", table, g.op("Sub", g.constant(middle), furthest), axis=0)
        return cls(table, middle, heads, start, g.op("Add", last, g.constant(1, np.int32)))

    def locate(self, g: GraphBuilder, distance: str) -> Self:
        """With the row of each pair at these distances, int64 [batch, width, width]."""
        row = g.op("Gather", self.table, g.op("Add", distance, g.constant(self.middle)), axis=0)
        row = g.op("Unsqueeze", g.op("Sub", row, self.start), g.constant([1]))
        # `GatherElements` wants an index for each head.
        return dataclasses.replace(self, row=g.op("Expand", row, g.constant([1, self.heads, 1, 1])))


@dataclasses.dataclass(frozen=True)
class Relative:
    """Where tokens stand in their texts, and what scores owe to the distance of query and key.

    positions: int64 [rows], of each row's token. table: float32 [distances, heads]; None: there is no bias. middle: its row of distance
    0. pairs: of disentangled attention; None: it is another.
    """

    positions: str
    table: str | None = None
    middle: int = 0
    pairs: Pairs | None = None

    @classmethod
    def of(cls, g: GraphBuilder, parts: RelativeParts, positions: str, lengths: str, heads: int) -> Self:
        """Of all tokens. parts: what layers know of distances. lengths: int64 [batch, 1]. heads: of attention."""
        if parts is None:
            return cls(positions)
        if isinstance(parts, DistanceStates):
            return cls(positions, pairs=Pairs.for_batch(g, np.asarray(parts.rows), heads, lengths))
        return cls(positions, g.weight("relative_bias", np.asarray(parts)), len(parts) // 2)

    def shrink(self, g: GraphBuilder, kept: str) -> Self:
        """Of the rows that `kept`, int64 [rows], names."""
        return dataclasses.replace(self, positions=g.op("Gather", self.positions, kept, axis=0))

    def distances(self, g: GraphBuilder, slots: str) -> tuple[str, str]:
        """From queries to keys, int64 [batch, width, width]; and the same of queries at position 0, [batch, 1, width]."""
        places = g.op("Gather", self.positions, slots, axis=0)
        from_first = g.op("Unsqueeze", places, g.constant([1]))
        return g.op("Sub", from_first, g.op("Unsqueeze", places, g.constant([2]))), from_first

    def added(self, g: GraphBuilder, distance: str, seen: str, window: int | None) -> str:
        """What is added to scores at these distances [batch, queries, width]: float32 [batch, 1 or heads, queries, width].
        seen: bool [batch, 1, 1, width], keys that are there."""
        if window is not None:
            near = g.op("Less", g.op("Abs", distance), g.constant(window + 1))
            seen = g.op("And", seen, g.op("Unsqueeze", near, g.constant([1])))
        score = _score_of(g, seen)
        if self.table is None:
            return score
        rows = g.op("Gather", self.table, g.op("Add", distance, g.constant(self.middle)), axis=0)
        return g.op("Add", g.op("Transpose", rows, perm=[0, 3, 1, 2]), score)


def _tokens(g: GraphBuilder, end: str, sizes: str) -> str:
    """See `Rows.tokens`. end: int64 [batch, 1], tokens up to the end of each text."""
    if not sizes:
        return ""
    count = g.op("ReduceMax", end, keepdims=0)
    larger = g.op("Where", g.op("Less", sizes, count), g.constant(np.iinfo(np.int64).max), sizes)
    least = g.op("ReduceMin", larger, keepdims=0)
    return g.op("Min", g.op("Range", g.constant(0), least, g.constant(1)), g.op("Sub", count, g.constant(1)))


def _places(g: GraphBuilder, flags: str, tokens: str) -> str:
    places = g.op("Squeeze", g.op("NonZero", flags), g.constant([0]))
    return g.op("Gather", places, tokens, axis=0) if tokens else places


def _score_of(g: GraphBuilder, seen: str) -> str:
    return g.op("Where", seen, g.constant(0, np.float32), g.constant(MASKED_SCORE, np.float32))
