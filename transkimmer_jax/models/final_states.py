"""The final states of tokens (docs/design.md, section 1.5)."""

import dataclasses

import jax

from transkimmer_jax.models.layers import LayerNorm
from transkimmer_jax.models.skim import Forwarding


@dataclasses.dataclass(frozen=True)
class FinalStates:
    """Turns the states of tokens that leave before one layer, or behind the last, into final states.

    norm: the encoder's last norm, of pre-norm backbones; None: the identity.
    forwarding: the linear map of the layer's predictor; None: the identity.
    """

    norm: LayerNorm | None = None
    forwarding: Forwarding | None = None

    def normalize(self, hidden: jax.Array) -> jax.Array:
        """The encoder's last norm of states [..., H]."""
        return hidden if self.norm is None else self.norm(hidden)

    def project(self, states: jax.Array, count: jax.Array | None = None) -> jax.Array:
        """The final states of normalized ones [..., H]; or the sum of the final states of a sum of `count` [...] normalized ones."""
        return states if self.forwarding is None else self.forwarding(states, count)
