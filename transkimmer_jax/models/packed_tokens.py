"""The layout of compacted inference: the kept tokens and no others (docs/design.md, section 3.1)."""

import dataclasses

import jax
import jax.numpy as jnp

from transkimmer_jax.models import attention
from transkimmer_jax.models.attention import Distances
from transkimmer_jax.models.final_states import FinalStates


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedTokens:
    """The kept tokens of a batch, sequence after sequence in one `[T, H]` buffer with nothing in between. For inference.

    T is the layer's capacity, a constant of the compiled program: rows behind the last kept token hold leftovers that nobody
    reads. Shrinking moves the kept rows together, in their order. The indices come from one running sum a skimming.

    hidden: [T, H].
    lengths: [B] int32, kept tokens of each sequence; 0 for an empty slot, and for a lost one after a skimming.
    sequence: [T] int32, which one each row is of. Moved with the rows: counted out anew, it would cost several passes a layer.
    positions: [T] int32, where each row's token stands in its text. Moved where a layer reads them.
    origin: [T] int32, the row that each row's token had at the start.
    location: [T at the start] int32, where each token's final state lies in the concatenated `history`.
    history: the final states that the rows before each skimming would leave with. Of these, what nobody reads is not computed.
    count: [B] int32, tokens of each sequence at the start.
    left: [B, H] float32, the sum over each sequence of the final states of its tokens that have left. Computed where it is returned.
    pinned: [T] bool, rows that are never skimmed; None: no others than position 0.
    lost: [B] bool, the sequence did not fit into some layer's capacity and was dropped whole; the others are not touched by that.
    width: the most tokens of one sequence that attention can see.
    capacities: (T, width) behind the predictors still to come; the first is taken by the next `skim`.
    portable: attention calls no kernel of one platform, see `attention.attend`.
    """

    hidden: jax.Array
    lengths: jax.Array
    sequence: jax.Array
    positions: jax.Array
    origin: jax.Array
    location: jax.Array
    history: tuple[jax.Array, ...]
    count: jax.Array
    left: jax.Array
    pinned: jax.Array | None
    lost: jax.Array
    width: int = dataclasses.field(metadata={"static": True})
    capacities: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})
    portable: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def start(
        cls,
        embeddings: jax.Array,
        lengths: jax.Array,
        width: int,
        capacities: tuple[tuple[int, int], ...],
        pinned: jax.Array | None = None,
        portable: bool = False,
    ) -> "PackedTokens":
        """The batch before the first layer: embeddings [T, H] of sequences of `lengths` [B] tokens, one after the other. pinned: [T] bool,
        tokens that are never skimmed; None: no others than position 0.

        A sequence that does not fit keeps its rows until the first `skim`, as those behind it stand where they stand."""
        rows = jnp.arange(embeddings.shape[0])
        fits = (lengths == 0) | ((lengths <= width) & (jnp.cumsum(lengths, dtype=jnp.int32) <= len(rows)))
        sequence = jnp.repeat(jnp.arange(len(lengths)), lengths, total_repeat_length=len(rows))
        left = jnp.zeros((len(lengths), embeddings.shape[1]), jnp.float32)
        positions = rows - _take(jnp.cumsum(lengths, dtype=jnp.int32) - lengths, sequence)
        return cls(
            embeddings, lengths, sequence, positions, rows, rows, (), lengths, left, pinned, ~fits, width, tuple(capacities), portable
        )  # fmt: skip

    @property
    def longest(self) -> int:
        return self.width

    @property
    def kept(self) -> jax.Array:
        return self.lengths

    def skim(self, gate: jax.Array, leaving: FinalStates) -> "PackedTokens":
        """Move the tokens that `gate` [T] keeps together, into the next capacity; what does not fit is lost, by whole sequences."""
        (capacity, width), rest = self.capacities[0], self.capacities[1:]
        rows = jnp.arange(self.hidden.shape[0])
        first = self.sequence != jnp.concatenate([jnp.full(1, -1), self.sequence[:-1]])
        always = first if self.pinned is None else first | self.pinned
        real = rows < jnp.sum(self.lengths)
        kept = ((gate > 0) | always) & real
        before = _exclusive_sum(kept)  # kept rows before each row
        counts = jnp.diff(_take(before, _exclusive_sum(self.lengths)))
        gone_states = self._summed(leaving.normalize(self.hidden), real & ~kept)
        left = self.left + leaving.project(gone_states, (self.lengths - counts).astype(jnp.float32))
        fits = ~self.lost & _fits(jnp.where(self.lost, 0, counts), capacity, width)
        lengths = jnp.where(fits, counts, 0)
        # Rows of lost sequences go too. The others' move up: what was kept before them, less what was lost before them.
        gone = _exclusive_sum(counts - lengths)[:-1]
        kept = kept & self._of_rows(fits)
        # The inverse of the new row on the kept ones: one scatter of integers, then one move of the states.
        target = jnp.where(kept, before[:-1] - self._of_rows(gone), capacity)
        source = jnp.zeros(capacity, jnp.int32).at[target].set(rows, mode="drop")
        return dataclasses.replace(
            self,
            hidden=_take(self.hidden, source),
            lengths=lengths,
            sequence=_take(self.sequence, source),
            positions=_take(self.positions, source),
            origin=_take(self.origin, source),
            location=self._located(),
            history=(*self.history, leaving.project(leaving.normalize(self.hidden))),
            left=left,
            pinned=None if self.pinned is None else _take(self.pinned, source),
            lost=~fits,
            width=width,
            capacities=rest,
        )

    def update(self, hidden: jax.Array) -> "PackedTokens":
        """Take a layer's output [T, H]. Skimmed tokens are no longer here to be touched."""
        return dataclasses.replace(self, hidden=hidden)

    def first(self) -> jax.Array:
        """The state of position 0 of each sequence, [B, H]; leftovers in empty slots."""
        return _take(self.hidden, self._starts())

    def mean_state(self, leaving: FinalStates) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32; leftovers for lost sequences."""
        states = self._summed(leaving.normalize(self.hidden), jnp.arange(self.hidden.shape[0]) < jnp.sum(self.lengths))
        total = self.left + leaving.project(states, self.lengths.astype(jnp.float32))
        return total / jnp.maximum(self.count, 1).astype(jnp.float32)[:, None]

    def final_states(self, leaving: FinalStates) -> jax.Array:
        """Each token's final state, [T at the start, H]; leftovers behind the last token."""
        return _take(jnp.concatenate([*self.history, leaving.project(leaving.normalize(self.hidden))]), self._located())

    def skims(self) -> jax.Array:
        """How many skimmings each token has outlasted, [T at the start] int32: all that there is to say about its decisions."""
        ends = jnp.cumsum(jnp.array([state.shape[0] for state in self.history], jnp.int32))
        return jnp.searchsorted(ends, self._located(), side="right").astype(jnp.int32)

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """Multi-head attention within each sequence; all [T, heads, head_dim]."""
        self._only_inference(dropout_key)
        rows = jnp.arange(query.shape[0])
        places = self._view(self.positions)
        attended = attention.attend(
            self._view(query), self._view(key), self._view(value), self.lengths, (places, places), distances, portable=self.portable
        )
        flat = attended.reshape(-1, *attended.shape[2:])
        return _take(flat, self.sequence * self.width + rows - self._of_rows(self._starts()))

    def attend_first(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """The same for position 0 of each sequence: query [B, heads, head_dim] -> [B, heads, head_dim]."""
        self._only_inference(dropout_key)
        places = self._view(self.positions)
        positions = (jnp.zeros((len(places), 1), jnp.int32), places)
        return attention.attend(
            query[:, None], self._view(key), self._view(value), self.lengths, positions, distances, portable=self.portable
        )[:, 0]

    def _starts(self) -> jax.Array:
        """The row of position 0 of each sequence, [B] int32."""
        return jnp.cumsum(self.lengths, dtype=jnp.int32) - self.lengths

    def _of_rows(self, values: jax.Array) -> jax.Array:
        """For each row [T] what `values` [B] holds for its sequence."""
        return _take(values, self.sequence)

    def _summed(self, states: jax.Array, which: jax.Array) -> jax.Array:
        """The sum over each sequence of the states [T, H] of its rows that `which` [T] names, [B, H] float32.

        As a product with ones and zeros: accelerators are good at these, and the order of its additions is fixed.
        """
        member = (self.sequence[None, :] == jnp.arange(len(self.lengths))[:, None]) & which[None, :]
        weights = member.astype(states.dtype)
        return jnp.matmul(weights, states, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)

    def _view(self, rows: jax.Array) -> jax.Array:
        """Rows [T, ...] as [B, width, ...]: each sequence's tokens, then leftovers."""
        return _take(rows, self._starts()[:, None] + jnp.arange(self.width)[None, :])

    def _located(self) -> jax.Array:
        """`location` with every token that is still here at its present row."""
        rows = jnp.arange(self.hidden.shape[0])
        offset = sum(state.shape[0] for state in self.history)
        here = jnp.where(rows < jnp.sum(self.lengths), self.origin, len(self.location))
        return self.location.at[here].set(rows + offset, mode="drop")

    def _only_inference(self, dropout_key: jax.Array | None) -> None:
        assert dropout_key is None, "packed tokens are for inference: gates there carry no gradient"


def _exclusive_sum(values: jax.Array) -> jax.Array:
    """What stands before each of `values` [N], and before the end: [N + 1] int32."""
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(values, dtype=jnp.int32)])


def _fits(lengths: jax.Array, capacity: int, width: int) -> jax.Array:
    """Which sequences, of so many tokens [B], fit one after the other into `capacity` rows, none wider than `width`; [B] bool.

    One that is too wide leaves its rows to the others; one for which no rows are left, to the narrower ones behind it nothing.
    """
    narrow = lengths <= width
    return (narrow & (jnp.cumsum(jnp.where(narrow, lengths, 0), dtype=jnp.int32) <= capacity)) | (lengths == 0)


def _take(values: jax.Array, rows: jax.Array) -> jax.Array:
    """values[rows]; a row behind the last is the last."""
    return jnp.take(values, rows, axis=0, mode="clip")
