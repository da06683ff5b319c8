"""The encoder, written once for every token layout and backbone: predict -> skim -> layer -> update, layer after layer."""

import dataclasses
import math
from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.attention import Disentangled, Distances
from transkimmer_jax.models.distances import distance_rows
from transkimmer_jax.models.final_states import FinalStates
from transkimmer_jax.models.layers import LayerNorm, Linear, dropout, gelu, norm, rotated
from transkimmer_jax.models.layouts import Tokens
from transkimmer_jax.models.skim import Forwarding, Levels, SkimPredictor

DISTANCE_BUCKETS = 32  # transformers computes with no other number

Layout = TypeVar("Layout", bound=Tokens)


class Gate(Protocol):
    """Turns margins [...] into keep values [...] in float32: `ThresholdGate` or `GumbelGate`."""

    def __call__(self, margin: jax.Array, key: jax.Array | None) -> jax.Array: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistanceStates:
    """What disentangled attention makes keys and queries of. states: [R, H], one a row of distances. rows: see `Disentangled`."""

    states: jax.Array
    rows: jax.Array


# What layers know of distances: a bias, see `Distances`; states; or nothing.
Relative = jax.Array | DistanceStates | None


class SelfAttention(nnx.Module):
    """Multi-head self-attention. Key and value come from one product; the query has its own, as the last layer needs it for
    position 0 alone."""

    def __init__(self, arch: Architecture, number: int, dtype, rngs: nnx.Rngs):
        def linear(outputs: int) -> Linear:
            normal = nnx.initializers.normal(arch.initializer_range)
            return Linear(arch.hidden_size, outputs, use_bias=arch.attention_bias, kernel_init=normal, dtype=dtype, rngs=rngs)

        local = number in arch.local_layers
        self.num_heads = arch.num_attention_heads
        self.dropout_rate, self.hidden_dropout_rate = arch.attention_dropout, arch.hidden_dropout
        # Scores are sums of so many products: of two contents, and of either with the distance.
        self.products = 3 if arch.kind.disentangled else 1
        self.window = arch.local_window if local else None
        self.rope_theta = (arch.local_rope_theta if local else arch.rope_theta) if arch.kind.rotary else None
        self.query = linear(arch.hidden_size)
        self.key_value = linear(2 * arch.hidden_size)
        self.out = linear(arch.hidden_size)

    def __call__(
        self, tokens: Tokens, hidden: jax.Array, first: jax.Array | None, key: jax.Array | None, relative: Relative = None
    ) -> jax.Array:
        """What tokens read of each other.

        Args:
          tokens: where they lie.
          hidden: [..., H], what they enter with.
          first: [B, H], the same of position 0, where it alone is asked for; None: all are.
          relative: what there is to know of distances.

        Returns:
          [..., H] for every token, or [B, H] for position 0 alone.
        """
        keys, values = (self._heads(part) for part in jnp.split(self.key_value(hidden), 2, axis=-1))
        query = self._queries(hidden if first is None else first)
        if self.rope_theta is not None:
            keys = rotated(keys, tokens.positions, self.rope_theta)
            query = rotated(query, tokens.positions, self.rope_theta) if first is None else query  # position 0 is turned by nothing
        attend = tokens.attend if first is None else tokens.attend_first
        distances: Distances | None = None
        if isinstance(relative, DistanceStates):
            key, states_key = split_key(key, 2)
            distances = Distances(disentangled=self._disentangled(relative, states_key))
        elif relative is not None or self.window is not None:
            distances = Distances(relative, window=self.window)
        attended = attend(query, keys, values, self.dropout_rate, key, distances)
        return self.out(attended.reshape(*attended.shape[:-2], -1))

    def _disentangled(self, relative: DistanceStates, key: jax.Array | None) -> Disentangled:
        """By the products that contents have too. Once for all texts: states of distances are the same for all."""
        states = dropout(relative.states, self.hidden_dropout_rate, key)
        keys = self._heads(self.key_value.part(states, self.query.kernel.shape[1]))
        return Disentangled(keys, self._queries(states), relative.rows)

    def _queries(self, hidden: jax.Array) -> jax.Array:
        """[..., heads, head_dim] of [..., H], over the root of how many products a score is the sum of."""
        query = self._heads(self.query(hidden))
        return query if self.products == 1 else query * jnp.asarray(self.products**-0.5, query.dtype)

    def _heads(self, projected: jax.Array) -> jax.Array:
        """[..., H] as [..., heads, head_dim]."""
        return projected.reshape(*projected.shape[:-1], self.num_heads, projected.shape[-1] // self.num_heads)


class EncoderLayer(nnx.Module):
    """One Transformer layer. Post-norm: norm(x + attention(x)), then norm(h + feed_forward(h)). Pre-norm: x + attention(norm(x)), then
    h + feed_forward(norm(h)); in the first layer attention reads x itself, which the embeddings have normalised."""

    def __init__(self, arch: Architecture, number: int, dtype, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> Linear:
            normal = nnx.initializers.normal(arch.initializer_range)
            return Linear(inputs, outputs, use_bias=arch.feed_forward_bias, kernel_init=normal, dtype=dtype, rngs=rngs)

        self.dropout_rate = arch.hidden_dropout
        self.pre_norm, self.gated = arch.kind.pre_norm, arch.kind.gated
        self.attention = SelfAttention(arch, number, dtype, rngs)
        self.attention_norm = None if self.pre_norm and number == 0 else norm(arch, rngs)
        self.up = linear(arch.hidden_size, arch.intermediate_size * (2 if self.gated else 1))
        self.down = linear(arch.intermediate_size, arch.hidden_size)
        self.output_norm = norm(arch, rngs)  # of the feed-forward part

    def __call__(self, tokens: Tokens, key: jax.Array | None, only_first: bool = False, relative: Relative = None) -> jax.Array:
        """[..., H] for every token, or [B, H] for position 0 alone, which the same tokens attend to. relative: of distances."""
        attention_key, first_key, second_key = split_key(key, 3)
        residual = tokens.first() if only_first else tokens.hidden
        entering = self._before(self.attention_norm, tokens.hidden)
        first = self._before(self.attention_norm, residual) if only_first else None
        attended = self.attention(tokens, entering, first, attention_key, relative)
        hidden = self._behind(self.attention_norm, residual + dropout(attended, self.dropout_rate, first_key))
        fed = self._feed_forward(self._before(self.output_norm, hidden))
        return self._behind(self.output_norm, hidden + dropout(fed, self.dropout_rate, second_key))

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        inner = self.up(x)
        if not self.gated:
            return self.down(gelu(inner))
        inner, by = jnp.split(inner, 2, axis=-1)
        return self.down(gelu(inner) * by)

    def _before(self, norm: LayerNorm | None, x: jax.Array) -> jax.Array:
        return norm(x) if self.pre_norm and norm is not None else x

    def _behind(self, norm: LayerNorm | None, x: jax.Array) -> jax.Array:
        return x if self.pre_norm or norm is None else norm(x)


class RelativeBias(nnx.Module):
    """A bias of scores by the distance of query and key, one for each head; the same in all layers (Song et al., 2020). Near distances have
    a row of the table each, further ones share rows."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.table = nnx.Embed(DISTANCE_BUCKETS, arch.num_attention_heads, embedding_init=normal, rngs=rngs)
        self.furthest = arch.max_position_embeddings - 1

    def __call__(self) -> jax.Array:
        """The bias of every distance, see `Distances`."""
        return jnp.take(self.table.embedding[...], distance_buckets(self.furthest), axis=0)  # type: ignore[index]


def distance_buckets(furthest: int) -> np.ndarray:
    """The row of the table for each distance from -furthest, an earlier key, to furthest, a later one: [2 * furthest + 1] int32.

    Of the half of the rows for one direction, the first half are of one distance each; the others are of ranges that grow with the
    logarithm, up to 128. In float32, as in transformers, since distances lie on the borders of ranges.
    """
    distance = np.arange(-furthest, furthest + 1)
    half, near, far = DISTANCE_BUCKETS // 2, DISTANCE_BUCKETS // 4, 128
    length = np.abs(distance)
    share = np.log(np.maximum(length, 1).astype(np.float32) / np.float32(near)) / np.float32(math.log(far / near))
    ranged = near + (share * np.float32(half - near)).astype(np.int32)
    return np.where(distance > 0, half, 0) + np.where(length < near, length, np.minimum(ranged, half - 1)).astype(np.int32)


class RelativeStates(nnx.Module):
    """A state of each row of distances, normed, of which layers make keys and queries; the same in all layers (He et al., 2021)."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.span, self.reach = arch.position_buckets, arch.max_relative_positions
        self.table = nnx.Embed(2 * self.span, arch.hidden_size, embedding_init=normal, rngs=rngs)
        self.norm = norm(arch, rngs)

    def __call__(self, longest: int) -> DistanceStates:
        """Of the rows that texts of up to `longest` tokens read, and of no others."""
        rows = self.rows(longest)
        states = self.norm(self.table.embedding[rows[-1] : rows[0] + 1])  # type: ignore[index]
        return DistanceStates(states, jnp.asarray(rows - rows[-1]))

    def rows(self, longest: int) -> np.ndarray:
        """The row of the table of each distance in such texts, see `distance_rows`."""
        return distance_rows(longest, self.span, self.reach)


@dataclasses.dataclass(frozen=True)
class EncoderOutput(Generic[Layout]):
    """What leaves the encoder. A head reads `first`, `mean_state()` or `final_states()`, and need not know where the tokens lie. Of the
    latter two, a compiled program computes what is read.

    tokens: the batch after the last layer; before its update where `only_first` was asked for. first: [B, H], the final state of position
    0. kept: by each layer, see `Tokens.kept`. margins: [...] float32 of each predictor. hidden_states: what entered
    each layer and, unless `only_first`, the last output, [..., H]. leaving: how tokens leave the last layer."""

    tokens: Layout
    first: jax.Array
    kept: tuple[jax.Array, ...]
    margins: tuple[jax.Array, ...]
    hidden_states: tuple[jax.Array, ...]
    leaving: FinalStates

    def mean_state(self) -> jax.Array:
        """The mean of the final states of each sequence's tokens, [B, H] float32; see `Tokens`."""
        return self.tokens.mean_state(self.leaving)

    def final_states(self) -> jax.Array:
        """Each token's final state, [..., H]; see `Tokens`."""
        return self.tokens.final_states(self.leaving)


class Encoder(nnx.Module):
    """A stack of layers, each behind its skim predictor, or some of them. Without predictors it is the dense encoder, in any layout.

    predictor_layers: the layers with a predictor, rising. Lists of predictors, levels and maps follow them."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        self.remat = arch.remat
        self.predictor_layers = arch.predictor_layers
        self.layers = nnx.List([EncoderLayer(arch, number, dtype, rngs) for number in range(arch.num_hidden_layers)])
        self.predictors = nnx.List(
            [
                SkimPredictor(arch.hidden_size, arch.predictor_size, arch.skim.initial_bias, arch.predictor_norm_eps, dtype, rngs)
                for _ in self.predictor_layers
            ]
            if arch.skim is not None
            else []
        )
        levels = arch.skim.levels if arch.skim is not None else ()
        self.levels = nnx.List([Levels(levels) for _ in self.predictor_layers] if levels else [])
        self.forwarding = nnx.List([Forwarding(arch.hidden_size, rngs) for _ in self.predictor_layers] if arch.maps_forwarded else [])
        self.relative_bias = RelativeBias(arch, rngs) if arch.kind.relative_bias else None
        self.relative_states = RelativeStates(arch, rngs) if arch.kind.disentangled else None
        self.final_norm = norm(arch, rngs) if arch.kind.pre_norm else None

    def relative(self, longest: int) -> Relative:
        """What layers know of distances in texts of up to `longest` tokens."""
        if self.relative_states is not None:
            return self.relative_states(longest)
        return None if self.relative_bias is None else self.relative_bias()

    def leaving(self, number: int | None) -> FinalStates:
        """How tokens leave that are skimmed before layer `number`; None: behind the last."""
        maps = number is not None and self.forwarding
        return FinalStates(self.final_norm, self.forwarding[self.predictor_layers.index(number)] if maps else None)

    def margin(self, number: int, hidden: jax.Array, level: jax.Array | None = None) -> jax.Array:
        """By how much each token [..., H] is to be kept by layer `number`, [...] float32. level: see `__call__`."""
        place = self.predictor_layers.index(number)
        margin = self.predictors[place](hidden)
        return self.levels[place](margin, level) if self.levels else margin

    def __call__(
        self, tokens: Layout, gate: Gate, key: jax.Array | None, only_first: bool = False, level: jax.Array | None = None
    ) -> EncoderOutput[Layout]:
        """Run all layers.

        Args:
          tokens: the batch, embedded.
          gate: turns margins into keep values.
          key: drives dropout and random gates; None in evaluation.
          only_first: the reader reads position 0 alone, so the last layer computes only that. Exact: no other token's last
            state is anyone's input.
          level: [B] int, of padded tokens: at which of the model's levels each text is skimmed, so that margins are those beyond it. None:
            they are on the scale of thresholds (`Levels`).
        """
        count = len(self.layers)
        kept, margins, hidden_states = [], [], [tokens.hidden]
        run_layer = jax.checkpoint(_call, static_argnums=3) if self.remat else _call
        first, relative = None, self.relative(tokens.longest)
        for number, (layer, layer_key) in enumerate(zip(self.layers, split_key(key, count), strict=True)):
            gate_key, layer_key = split_key(layer_key, 2)
            if number in self.predictor_layers:
                margin = self.margin(number, tokens.hidden, level)
                tokens = tokens.skim(gate(margin, gate_key), self.leaving(number))
                margins.append(margin)
            kept.append(tokens.kept)
            if only_first and number == count - 1:
                first = run_layer(layer, tokens, layer_key, True, relative)
            else:
                tokens = tokens.update(run_layer(layer, tokens, layer_key, False, relative))
                hidden_states.append(tokens.hidden)
        leaving = self.leaving(None)
        first = leaving.normalize(tokens.first() if first is None else first)
        return EncoderOutput(tokens, first, tuple(kept), tuple(margins), tuple(hidden_states), leaving)


def split_key(key: jax.Array | None, count: int):
    """`count` keys, or as many Nones where there is no key (evaluation)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def _call(layer: EncoderLayer, tokens: Tokens, key: jax.Array | None, only_first: bool, relative: Relative) -> jax.Array:
    return layer(tokens, key, only_first, relative)
