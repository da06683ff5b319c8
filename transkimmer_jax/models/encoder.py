"""The encoder, written once for every token layout and backbone: predict -> skim -> layer -> update, layer after layer."""

import dataclasses
from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.layers import LayerNorm, dropout, gelu
from transkimmer_jax.models.layouts import Tokens
from transkimmer_jax.models.skim import SkimPredictor

Layout = TypeVar("Layout", bound=Tokens)


class Gate(Protocol):
    """Turns margins [...] into keep values [...] in float32: `ThresholdGate` or `GumbelGate`."""

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array: ...


class SelfAttention(nnx.Module):
    """Multi-head self-attention. Key and value come from one product; the query has its own, as the last layer needs it for
    position 0 alone."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.num_heads = arch.num_attention_heads
        self.dropout_rate = arch.attention_dropout
        self.query = nnx.Linear(arch.hidden_size, arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.key_value = nnx.Linear(arch.hidden_size, 2 * arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(arch.hidden_size, arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Tokens, key: jax.Array | None, only_first: bool = False) -> jax.Array:
        """[..., H] for every token, or [B, H] for position 0 alone."""
        keys, values = (self._heads(part) for part in jnp.split(self.key_value(tokens.hidden), 2, axis=-1))
        query = self._heads(self.query(tokens.first() if only_first else tokens.hidden))
        attend = tokens.attend_first if only_first else tokens.attend
        attended = attend(query, keys, values, self.dropout_rate, key)
        return self.out(attended.reshape(*attended.shape[:-2], -1))

    def _heads(self, projected: jax.Array) -> jax.Array:
        """[..., H] as [..., heads, head_dim]."""
        return projected.reshape(*projected.shape[:-1], self.num_heads, projected.shape[-1] // self.num_heads)


class EncoderLayer(nnx.Module):
    """One post-norm Transformer layer: norm(x + attention(x)), then norm(h + feed_forward(h))."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.dropout_rate = arch.hidden_dropout
        self.attention = SelfAttention(arch, dtype, rngs)
        self.attention_norm = LayerNorm(arch.hidden_size, epsilon=arch.layer_norm_eps, rngs=rngs)
        self.up = nnx.Linear(arch.hidden_size, arch.intermediate_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(arch.intermediate_size, arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.output_norm = LayerNorm(arch.hidden_size, epsilon=arch.layer_norm_eps, rngs=rngs)

    def __call__(self, tokens: Tokens, key: jax.Array | None, only_first: bool = False) -> jax.Array:
        """[..., H] for every token, or [B, H] for position 0 alone, which the same tokens attend to."""
        attention_key, first_key, second_key = split_key(key, 3)
        residual = tokens.first() if only_first else tokens.hidden
        attended = self.attention(tokens, attention_key, only_first)
        hidden = self.attention_norm(residual + dropout(attended, self.dropout_rate, first_key))
        fed = self.down(gelu(self.up(hidden)))
        return self.output_norm(hidden + dropout(fed, self.dropout_rate, second_key))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput(Generic[Layout]):
    """What leaves the encoder. A head reads `first`, `tokens.mean_state()` or `tokens.final_states()`, and need not know where the tokens
    lie. Of the latter two, a compiled program computes what is read.

    tokens: the batch after the last layer; before its update where `only_first` was asked for. first: [B, H], position 0
    after the last layer. kept: by each layer, see `Tokens.kept`. margins: [...] float32 of each, empty where nothing
    is skimmed. hidden_states: what entered each layer and, unless `only_first`, the last output, [..., H]."""

    tokens: Layout
    first: jax.Array
    kept: tuple[jax.Array, ...]
    margins: tuple[jax.Array, ...]
    hidden_states: tuple[jax.Array, ...]


class Encoder(nnx.Module):
    """A stack of layers, each behind its skim predictor. Without predictors it is the dense encoder, in any layout."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        self.remat = arch.remat
        self.layers = nnx.List([EncoderLayer(arch, dtype, rngs) for _ in range(arch.num_hidden_layers)])
        self.predictors = nnx.List(
            [
                SkimPredictor(arch.hidden_size, arch.predictor_size, arch.skim.initial_bias, arch.layer_norm_eps, dtype, rngs)
                for _ in range(arch.num_hidden_layers)
            ]
            if arch.skim is not None
            else []
        )

    def __call__(self, tokens: Layout, gate: Gate, key: jax.Array | None, only_first: bool = False) -> EncoderOutput[Layout]:
        """Run all layers.

        Args:
          tokens: the batch, embedded.
          gate: turns margins into keep values.
          key: drives dropout and random gates; None in evaluation.
          only_first: the reader reads position 0 alone, so the last layer computes only that. Exact: no other token's last
            state is anyone's input.
        """
        count = len(self.layers)
        kept, margins, hidden_states = [], [], [tokens.hidden]
        run_layer = jax.checkpoint(_call, static_argnums=3) if self.remat else _call
        first = None
        for number, (layer, layer_key) in enumerate(zip(self.layers, split_key(key, count), strict=True)):
            gate_key, layer_key = split_key(layer_key, 2)
            if self.predictors:
                margin = self.predictors[number](tokens.hidden)
                tokens = tokens.skim(gate(margin, gate_key))
                margins.append(margin)
            kept.append(tokens.kept)
            if only_first and number == count - 1:
                first = run_layer(layer, tokens, layer_key, True)
            else:
                tokens = tokens.update(run_layer(layer, tokens, layer_key, False))
                hidden_states.append(tokens.hidden)
        first = tokens.first() if first is None else first
        return EncoderOutput(tokens, first, tuple(kept), tuple(margins), tuple(hidden_states))


def split_key(key: jax.Array | None, count: int):
    """`count` keys, or as many Nones where there is no key (evaluation)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def _call(layer: EncoderLayer, tokens: Tokens, key: jax.Array | None, only_first: bool) -> jax.Array:
    return layer(tokens, key, only_first)
