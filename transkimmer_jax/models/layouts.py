"""Where the tokens of a batch lie.

The layer mathematics (`encoder.py`) is written once; a layout says what attending, skimming and updating mean for
tokens that lie in a certain way (docs/design.md, section 3). `PaddedTokens` is the fixed-shape layout of training and masked
evaluation: every token is computed, and a mask says which count. `PackedTokens` is that of compacted inference: the kept
tokens and no others, so that the time spent is that of the tokens kept.

A token leaves with the state of the last layer that it was kept in: its final state (docs/design.md, section 1.5). What a head may read
of these is the same for both layouts: position 0's (`first`), their mean over each sequence (`mean_state`), or each at its token's place
(`final_states`). Where the encoder ends in a norm, a final state is what that makes of the state that a token leaves with. Of a skimmed
token it may besides be a linear map, one for each predictor. A layout is given both as a `Leaving`.
"""

import dataclasses
from typing import Protocol, Self

import jax
import jax.numpy as jnp

from transkimmer_jax.models import attention
from transkimmer_jax.models.attention import Distances


class Leaving(Protocol):
    """What becomes of the states of tokens that leave before a certain layer, or behind the last: `finished` of each, and a linear map."""

    def finished(self, hidden: jax.Array) -> jax.Array:
        """[..., H], as they are before the map."""

    def mapped(self, states: jax.Array, count: jax.Array | None = None) -> jax.Array:
        """The final state of finished ones [..., H]; or the sum of final states of a sum of `count` [...] finished ones."""


class Tokens(Protocol):
    """What the encoder asks of a layout. `...` is [B, S] or [T], however the tokens lie."""

    @property
    def hidden(self) -> jax.Array:
        """[..., H], the state that enters the next layer."""

    @property
    def positions(self) -> jax.Array:
        """Where each token stands in its text, whatever was skimmed before it: [...], or [1, S] for all alike; int32, from 0 on."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the batch can hold."""

    @property
    def kept(self) -> jax.Array:
        """What has been kept so far: [B, S] for padded tokens, the number [B] for packed ones."""

    def skim(self, gate: jax.Array, leaving: Leaving) -> Self:
        """Drop the tokens whose `gate` [...] is 0, which leave so. Position 0 and pinned tokens are always kept, padding never."""

    def update(self, hidden: jax.Array) -> Self:
        """Take a layer's output [..., H] for the kept tokens."""

    def first(self) -> jax.Array:
        """The state of position 0, [B, H]."""

    def mean_state(self, leaving: Leaving) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32; zeros for a sequence without any. leaving: how those
        leave that are still here."""

    def final_states(self, leaving: Leaving) -> jax.Array:
        """Each token's final state, at the place where the token was before anything was skimmed, [..., H]; zeros where there is none.
        leaving: as in `mean_state`."""

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """Multi-head attention of the kept tokens over the kept tokens; all [..., heads, head_dim]. distances: what scores owe to these;
        None: nothing."""

    def attend_first(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """The same for position 0 alone: query and result are [B, heads, head_dim]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PaddedTokens:
    """A batch as `[B, S, H]`, with what has been kept of it so far.

    hidden: [B, S, H], the state that enters the next layer, computed for every token.
    forwarded: [B, S, H], the final states of tokens that have left (docs/design.md, section 1.5); zeros of all others.
    left: [B, H] float32, their sum over each sequence. Of this and the one before, what nobody reads is not computed.
    attention_mask: [B, S] float32, 1 for a real token.
    keep: [B, S] float32, cumulative: 1 while the token has been kept by every layer. Carries the gates' gradient.
    always: [B, S] bool, or [1, S] for all alike: tokens that no gate skims.
    masking: 'renormalized', or 'post_softmax' for the paper's Eq. 4 (docs/design.md, section 1.4).
    """

    hidden: jax.Array
    forwarded: jax.Array
    left: jax.Array
    attention_mask: jax.Array
    keep: jax.Array
    always: jax.Array
    masking: str = dataclasses.field(default="renormalized", metadata={"static": True})

    @classmethod
    def start(cls, embeddings: jax.Array, attention_mask: jax.Array, masking: str, pinned: jax.Array | None = None) -> "PaddedTokens":
        """The batch before the first layer: every real token kept. pinned: [B, S] bool, tokens that are never skimmed; None: no others
        than position 0."""
        if embeddings.shape[:2] != attention_mask.shape:
            raise ValueError(f"attention_mask has shape {attention_mask.shape}, input_ids {embeddings.shape[:2]}")
        mask = attention_mask.astype(jnp.float32)
        first = jnp.arange(mask.shape[1])[None, :] == 0
        left = jnp.zeros((len(mask), embeddings.shape[2]), jnp.float32)
        always = first if pinned is None else first | pinned
        return cls(embeddings, jnp.zeros_like(embeddings), left, mask, mask, always, masking)

    def skim(self, gate: jax.Array, leaving: Leaving) -> "PaddedTokens":
        """Multiply the cumulative keep by `gate` [B, S]. Position 0 and pinned tokens are always kept, padding never."""
        keep = self.keep * jnp.where(self.always, 1.0, gate)
        gone = self.keep - keep
        return dataclasses.replace(
            self,
            keep=keep,
            forwarded=self.forwarded + self._states(gone, leaving),
            left=self.left + self._total(gone, leaving),
        )

    def update(self, hidden: jax.Array) -> "PaddedTokens":
        """Take a layer's output. What it says of skimmed tokens is read by nobody."""
        return dataclasses.replace(self, hidden=hidden)

    def first(self) -> jax.Array:
        """The state of position 0, [B, H]."""
        return self.hidden[:, 0]

    def mean_state(self, leaving: Leaving) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32."""
        total = self.left + self._total(self.keep, leaving)
        return total / jnp.maximum(jnp.sum(self.attention_mask, axis=1), 1.0)[:, None]

    def final_states(self, leaving: Leaving) -> jax.Array:
        """Each token's final state, [B, S, H]; zeros of padding."""
        return self.forwarded + self._states(self.keep, leaving)

    def _states(self, which: jax.Array, leaving: Leaving) -> jax.Array:
        """The final states of the tokens that `which` [B, S] names, and zeros, [B, S, H]."""
        states = leaving.mapped(leaving.finished(self.hidden))
        return which[:, :, None].astype(states.dtype) * states

    def _total(self, which: jax.Array, leaving: Leaving) -> jax.Array:
        """The sum of these over each sequence, [B, H] float32."""
        finished = leaving.finished(self.hidden).astype(jnp.float32)
        return leaving.mapped(jnp.sum(which[:, :, None] * finished, axis=1), jnp.sum(which, axis=1))

    @property
    def positions(self) -> jax.Array:
        return jnp.arange(self.hidden.shape[1], dtype=jnp.int32)[None]

    @property
    def longest(self) -> int:
        return self.hidden.shape[1]

    @property
    def kept(self) -> jax.Array:
        return self.keep

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """Multi-head attention over the kept tokens.

        Args:
          query: [B, Q, heads, head_dim]. key, value: [B, S, heads, head_dim].
          dropout_rate, dropout_key: dropout on the attention weights; no key, no dropout.
          distances: what scores owe to these; None: nothing.

        Returns:
          [B, Q, heads, head_dim]; rows of skimmed tokens are computed, and read by nobody.
        """
        positions = (self.positions[:, : query.shape[1]], self.positions)
        counted, kept = (self.attention_mask, self.keep) if self.masking == "post_softmax" else (self.keep, None)
        return attention.masked(query, key, value, counted, kept, dropout_rate, dropout_key, positions, distances)

    def attend_first(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        dropout_rate: float,
        dropout_key: jax.Array | None,
        distances: Distances | None = None,
    ) -> jax.Array:
        """`attend` for position 0 alone: query [B, heads, head_dim] -> [B, heads, head_dim]."""
        return self.attend(query[:, None], key, value, dropout_rate, dropout_key, distances)[:, 0]


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

    @classmethod
    def start(
        cls,
        embeddings: jax.Array,
        lengths: jax.Array,
        width: int,
        capacities: tuple[tuple[int, int], ...],
        pinned: jax.Array | None = None,
    ) -> "PackedTokens":
        """The batch before the first layer: embeddings [T, H] of sequences of `lengths` [B] tokens, one after the other. pinned: [T] bool,
        tokens that are never skimmed; None: no others than position 0.

        A sequence that does not fit keeps its rows until the first `skim`, as those behind it stand where they stand."""
        rows = jnp.arange(embeddings.shape[0])
        fits = (lengths == 0) | ((lengths <= width) & (jnp.cumsum(lengths, dtype=jnp.int32) <= len(rows)))
        sequence = jnp.repeat(jnp.arange(len(lengths)), lengths, total_repeat_length=len(rows))
        left = jnp.zeros((len(lengths), embeddings.shape[1]), jnp.float32)
        positions = rows - _take(jnp.cumsum(lengths, dtype=jnp.int32) - lengths, sequence)
        return cls(embeddings, lengths, sequence, positions, rows, rows, (), lengths, left, pinned, ~fits, width, tuple(capacities))

    @property
    def longest(self) -> int:
        return self.width

    @property
    def kept(self) -> jax.Array:
        return self.lengths

    def skim(self, gate: jax.Array, leaving: Leaving) -> "PackedTokens":
        """Move the tokens that `gate` [T] keeps together, into the next capacity; what does not fit is lost, by whole sequences."""
        (capacity, width), rest = self.capacities[0], self.capacities[1:]
        rows = jnp.arange(self.hidden.shape[0])
        first = self.sequence != jnp.concatenate([jnp.full(1, -1), self.sequence[:-1]])
        always = first if self.pinned is None else first | self.pinned
        real = rows < jnp.sum(self.lengths)
        kept = ((gate > 0) | always) & real
        before = _exclusive_sum(kept)  # kept rows before each row
        counts = jnp.diff(_take(before, _exclusive_sum(self.lengths)))
        gone_states = self._summed(leaving.finished(self.hidden), real & ~kept)
        left = self.left + leaving.mapped(gone_states, (self.lengths - counts).astype(jnp.float32))
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
            history=(*self.history, leaving.mapped(leaving.finished(self.hidden))),
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

    def mean_state(self, leaving: Leaving) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32; leftovers for lost sequences."""
        states = self._summed(leaving.finished(self.hidden), jnp.arange(self.hidden.shape[0]) < jnp.sum(self.lengths))
        total = self.left + leaving.mapped(states, self.lengths.astype(jnp.float32))
        return total / jnp.maximum(self.count, 1).astype(jnp.float32)[:, None]

    def final_states(self, leaving: Leaving) -> jax.Array:
        """Each token's final state, [T at the start, H]; leftovers behind the last token."""
        return _take(jnp.concatenate([*self.history, leaving.mapped(leaving.finished(self.hidden))]), self._located())

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
        attended = attention.attend(self._view(query), self._view(key), self._view(value), self.lengths, (places, places), distances)
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
        return attention.attend(query[:, None], self._view(key), self._view(value), self.lengths, positions, distances)[:, 0]

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
