"""The encoder, written once for every token layout and backbone: predict -> skim -> layer -> update."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.layers import LayerNorm, dropout, gelu
from transkimmer_jax.models.layouts import PaddedTokens
from transkimmer_jax.models.skim import SkimPredictor


class Gate(Protocol):
    """Turns margins [...] into keep values [...] in float32: `ThresholdGate` or `GumbelGate`."""

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array: ...


class SelfAttention(nnx.Module):
    """Multi-head self-attention. Query, key and value come from one product with a [H, 3H] kernel."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.num_heads = arch.num_attention_heads
        self.dropout_rate = arch.attention_dropout
        self.qkv = nnx.Linear(arch.hidden_size, 3 * arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(arch.hidden_size, arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: PaddedTokens, key: jax.Array | None) -> jax.Array:
        hidden = tokens.hidden
        head_dim = hidden.shape[-1] // self.num_heads
        query, key_, value = (
            part.reshape(*hidden.shape[:-1], self.num_heads, head_dim) for part in jnp.split(self.qkv(hidden), 3, axis=-1)
        )
        attended = tokens.attend(query, key_, value, self.dropout_rate, key)
        return self.out(attended.reshape(hidden.shape))


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

    def __call__(self, tokens: PaddedTokens, key: jax.Array | None) -> jax.Array:
        attention_key, first_key, second_key = split_key(key, 3)
        attended = self.attention(tokens, attention_key)
        hidden = self.attention_norm(tokens.hidden + dropout(attended, self.dropout_rate, first_key))
        fed = self.down(gelu(self.up(hidden)))
        return self.output_norm(hidden + dropout(fed, self.dropout_rate, second_key))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """tokens: the batch after the last layer. keep: [layers, B, S] cumulative. margin: [layers, B, S], None where
    nothing is skimmed. hidden_states: the input of each layer and the last output, layers + 1 of [B, S, H]."""

    tokens: PaddedTokens
    keep: jax.Array
    margin: jax.Array | None
    hidden_states: tuple[jax.Array, ...]


class Encoder(nnx.Module):
    """A stack of layers, each behind its skim predictor. Without predictors it is the dense encoder."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        self.remat = arch.remat
        self.layers = nnx.List([EncoderLayer(arch, dtype, rngs) for _ in range(arch.num_hidden_layers)])
        self.predictors = nnx.List(
            [
                SkimPredictor(
                    arch.hidden_size, arch.skim.predictor_size or arch.hidden_size, arch.skim.initial_bias, arch.layer_norm_eps, dtype, rngs
                )
                for _ in range(arch.num_hidden_layers)
            ]
            if arch.skim is not None
            else []
        )

    def __call__(self, tokens: PaddedTokens, gate: Gate, key: jax.Array | None) -> EncoderOutput:
        """Run all layers. `gate` turns margins into keep values; `key` drives dropout and random gates, None in evaluation."""
        keep, margins, hidden_states = [], [], [tokens.hidden]
        run_layer = jax.checkpoint(_call) if self.remat else _call
        for index, (layer, layer_key) in enumerate(zip(self.layers, split_key(key, len(self.layers)), strict=True)):
            gate_key, layer_key = split_key(layer_key, 2)
            if self.predictors:
                margin = self.predictors[index](tokens.hidden)
                tokens = tokens.skim(gate(margin, gate_key))
                margins.append(margin)
            tokens = tokens.update(run_layer(layer, tokens, layer_key))
            keep.append(tokens.keep)
            hidden_states.append(tokens.hidden)
        return EncoderOutput(tokens, jnp.stack(keep), jnp.stack(margins) if margins else None, tuple(hidden_states))


def split_key(key: jax.Array | None, count: int):
    """`count` keys, or as many Nones where there is no key (evaluation)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def _call(layer: EncoderLayer, tokens: PaddedTokens, key: jax.Array | None) -> jax.Array:
    return layer(tokens, key)
