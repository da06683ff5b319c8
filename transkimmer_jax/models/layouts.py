"""Where the tokens of a batch lie.

The layer mathematics (`encoder.py`) is written once; a layout says what attending, skimming and updating mean for
tokens that lie in a certain way (docs/design.md, section 3). `PaddedTokens` is the fixed-shape layout of training and masked
evaluation: every token is computed, and a mask says which count. `packed_tokens.PackedTokens` is that of compacted inference: the kept
tokens and no others, so that the time spent is that of the tokens kept.

A token leaves with the state of the last layer that it was kept in: its final state (docs/design.md, section 1.5). What a head may read
of these is the same for both layouts: position 0's (`first`), their mean over each sequence (`mean_state`), or each at its token's place
(`final_states`). Where the encoder ends in a norm, a final state is what that makes of the state that a token leaves with. Of a skimmed
token it may besides be a linear map, one for each predictor. A layout is given both as `FinalStates`.
"""

import dataclasses
from typing import Protocol, Self

import jax
import jax.numpy as jnp

from transkimmer_jax.models import attention
from transkimmer_jax.models.attention import Distances
from transkimmer_jax.models.final_states import FinalStates


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

    def skim(self, gate: jax.Array, leaving: FinalStates) -> Self:
        """Drop the tokens whose `gate` [...] is 0, which leave so. Position 0 and pinned tokens are always kept, padding never."""

    def update(self, hidden: jax.Array) -> Self:
        """Take a layer's output [..., H] for the kept tokens."""

    def first(self) -> jax.Array:
        """The state of position 0, [B, H]."""

    def mean_state(self, leaving: FinalStates) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32; zeros for a sequence without any. leaving: how those
        leave that are still here."""

    def final_states(self, leaving: FinalStates) -> jax.Array:
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

    def skim(self, gate: jax.Array, leaving: FinalStates) -> "PaddedTokens":
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
        return self.hidden[:, 0]

    def mean_state(self, leaving: FinalStates) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32."""
        total = self.left + self._total(self.keep, leaving)
        return total / jnp.maximum(jnp.sum(self.attention_mask, axis=1), 1.0)[:, None]

    def final_states(self, leaving: FinalStates) -> jax.Array:
        """Each token's final state, [B, S, H]; zeros of padding."""
        return self.forwarded + self._states(self.keep, leaving)

    def _states(self, which: jax.Array, leaving: FinalStates) -> jax.Array:
        """The final states of the tokens that `which` [B, S] names, and zeros, [B, S, H]."""
        states = leaving.project(leaving.normalize(self.hidden))
        return which[:, :, None].astype(states.dtype) * states

    def _total(self, which: jax.Array, leaving: FinalStates) -> jax.Array:
        """The sum of these over each sequence, [B, H] float32."""
        normalized = leaving.normalize(self.hidden).astype(jnp.float32)
        return leaving.project(jnp.sum(which[:, :, None] * normalized, axis=1), jnp.sum(which, axis=1))

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
