"""Where the tokens of a batch lie.

The layer mathematics (`encoder.py`) is written once; a layout says what attending, skimming and updating mean for
tokens that lie in a certain way. `PaddedTokens` is the fixed-shape layout of training and masked evaluation
(DESIGN section 3).
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from transkimmer_jax.models.layers import dropout

# exp(score - row maximum) of a skimmed key appears only in the gradient of its gate, where it may exceed 1.
# This bounds it, so that one extreme score cannot blow up the gradient.
_MAX_SKIMMED_LOG_WEIGHT = 10.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PaddedTokens:
    """A batch as `[B, S, H]`, with what has been kept of it so far.

    hidden: [B, S, H], the state that enters the next layer, computed for every token.
    forwarded: [B, S, H], each token's state as of the last layer it was kept in (DESIGN section 1.5).
    attention_mask: [B, S] float32, 1 for a real token.
    keep: [B, S] float32, cumulative: 1 while the token has been kept by every layer. Carries the gates' gradient.
    masking: 'renormalized', or 'post_softmax' for the paper's Eq. 4 (DESIGN section 1.4).
    """

    hidden: jax.Array
    forwarded: jax.Array
    attention_mask: jax.Array
    keep: jax.Array
    masking: str = dataclasses.field(default="renormalized", metadata={"static": True})

    @classmethod
    def start(cls, embeddings: jax.Array, attention_mask: jax.Array, masking: str) -> "PaddedTokens":
        """The batch before the first layer: every real token kept."""
        chex.assert_equal_shape_prefix([embeddings, attention_mask], 2)
        mask = attention_mask.astype(jnp.float32)
        return cls(embeddings, embeddings, mask, mask, masking)

    def skim(self, gate: jax.Array) -> "PaddedTokens":
        """Multiply the cumulative keep by `gate` [B, S]. Position 0 is always kept, padding never."""
        first = jnp.arange(gate.shape[1])[None, :] == 0
        return dataclasses.replace(self, keep=self.keep * jnp.where(first, 1.0, gate))

    def update(self, hidden: jax.Array) -> "PaddedTokens":
        """Take a layer's output: kept tokens move on, skimmed ones stay as they are in `forwarded`."""
        kept = self.keep[:, :, None].astype(hidden.dtype)
        forwarded = kept * hidden + (1 - kept) * self.forwarded
        return dataclasses.replace(self, hidden=hidden, forwarded=forwarded)

    def first(self) -> jax.Array:
        """The state of position 0 [B, H]. It is never skimmed, so `hidden` and `forwarded` agree there."""
        return self.hidden[:, 0]

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array, dropout_rate: float, dropout_key: jax.Array | None) -> jax.Array:
        """Multi-head attention over the kept tokens.

        Args:
          query, key, value: [B, S, heads, head_dim].
          dropout_rate, dropout_key: dropout on the attention weights; no key, no dropout.

        Returns:
          [B, S, heads, head_dim]; rows of skimmed tokens are computed, and read by nobody.
        """
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = scores * (query.shape[-1] ** -0.5)
        if self.masking == "post_softmax":
            weights = _softmax(scores, self.attention_mask) * self.keep[:, None, None, :]
        else:
            weights = _softmax(scores, self.keep)
        weights = dropout(weights.astype(value.dtype), dropout_rate, dropout_key)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _softmax(scores: jax.Array, keep: jax.Array) -> jax.Array:
    """Softmax over the kept keys: keep * exp(scores) / sum(keep * exp(scores)), differentiable in `keep`.

    Args:
      scores: [B, heads, S, S] float32.
      keep: [B, S] float32, 0 or 1.
    """
    keep = keep[:, None, None, :]
    highest = jnp.max(jnp.where(keep > 0, scores, jnp.finfo(jnp.float32).min), axis=-1, keepdims=True)
    relative = jnp.minimum(scores - jax.lax.stop_gradient(highest), _MAX_SKIMMED_LOG_WEIGHT)
    unnormalized = keep * jnp.exp(relative)
    total = jnp.sum(unnormalized, axis=-1, keepdims=True)
    # An example without one real token has no key to attend to: zeros, not NaN.
    return unnormalized / jnp.where(total > 0, total, 1.0)
