"""A Transformer layer of a graph: attention, rotated or disentangled positions, and the feed-forward part."""

import dataclasses

import numpy as np
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import DistanceStates, Encoder, EncoderLayer, SelfAttention
from transkimmer_jax.models.layers import rotary_frequencies
from transkimmer_jax.onnx.builder import GraphBuilder
from transkimmer_jax.onnx.products import affine, flat, gelu, head_size, linear, norm, parameters, scaled_query
from transkimmer_jax.onnx.rows import Pairs, Relative, View


@dataclasses.dataclass(frozen=True)
class Angles:
    """By what rotation multiplies rows' queries and keys, float32 [rows, 1, head size]. sin: negative in the first half of a head."""

    cos: str
    sin: str

    @classmethod
    def of(cls, g: GraphBuilder, table: str, relative: Relative) -> "Angles":
        """Of rows that stand where `relative` says, from one of `angle_tables`."""
        rows = g.op("Unsqueeze", g.op("Gather", table, relative.positions, axis=0), g.constant([1]))
        cos, sin = g.ops("Split", rows, outputs=2, axis=-1)
        return cls(g.op("Concat", cos, cos, axis=-1), g.op("Concat", g.op("Neg", sin), sin, axis=-1))

    def rotate(self, g: GraphBuilder, x: str) -> str:
        """Queries or keys [rows, any number, head size]; see `models.layers.rotated`."""
        first, second = g.ops("Split", x, outputs=2, axis=-1)
        exchanged = g.op("Concat", second, first, axis=-1)
        return g.op("Add", g.op("Mul", x, self.cos), g.op("Mul", exchanged, self.sin))


@dataclasses.dataclass(frozen=True)
class Disentangled:
    """A layer's keys and queries of distances, constants of the graph; see `models.attention.Disentangled`.

    keys, queries: [R, heads, head size], the latter scaled as those of contents. rows: [distances], the row of each. positions: int64
    [rows], where each row's token stands in its text.
    """

    keys: np.ndarray
    queries: np.ndarray
    rows: np.ndarray
    positions: str

    @classmethod
    def project(cls, attention: SelfAttention, states: DistanceStates, relative: Relative) -> "Disentangled":
        """Of a layer."""
        projected, shape = np.asarray(states.states, np.float64), (-1, attention.num_heads, head_size(attention))
        query_kernel, query_bias = scaled_query(attention)
        kernel, bias = parameters(attention.key_value)
        size = query_kernel.shape[1]
        keys, queries = projected @ kernel[:, :size], projected @ query_kernel
        keys = keys if bias is None else keys + bias[:size]
        queries = queries if query_bias is None else queries + query_bias
        return cls(keys.reshape(shape), queries.reshape(shape), np.asarray(states.rows), relative.positions)

    def scores(self, g: GraphBuilder, query: str, key: str, pairs: Pairs) -> str:
        """What scores owe to distances, [batch, heads, width, width]. query: [batch, heads, width, head size]. key: transposed."""
        keys = g.weight("attention.distance.key", self.keys.transpose(1, 2, 0))
        queries = g.weight("attention.distance.query", self.queries.transpose(1, 0, 2))
        # Of the rows that texts of the batch may read: few where they are short.
        keys, queries = (
            g.op("Slice", rows, pairs.start, pairs.end, g.constant([axis], np.int32)) for rows, axis in ((keys, 2), (queries, 1))
        )
        query_terms = g.op("GatherElements", g.op("MatMul", query, keys), pairs.row, axis=3)
        return g.op("Add", query_terms, g.op("GatherElements", g.op("MatMul", queries, key), pairs.row, axis=2))

    def meet_first(self, g: GraphBuilder, keys: str) -> tuple[str, str]:
        """Keys [rows, heads, head size] as queries at position 0 meet them, and what scores owe to the keys alone, [rows, heads]."""
        later = self.rows[len(self.rows) // 2 :]
        distance_keys, queries = (
            g.op("Gather", g.weight(f"attention.distance.{name}", values[later]), self.positions, axis=0)
            for name, values in (("key", self.keys), ("query", self.queries))
        )
        key_terms = g.op("ReduceSum", g.op("Mul", keys, queries), g.constant([2]), keepdims=0)
        return g.op("Add", keys, distance_keys), key_terms


def angle_tables(g: GraphBuilder, encoder: Encoder, arch: Architecture) -> dict[float, str]:
    """For each base of angles the cosines and, behind them, the sines of every position, [positions, head size]. From a table, as runtimes'
    own functions differ at large angles."""
    tables: dict[float, str] = {}
    positions = np.arange(arch.max_position_embeddings, dtype=np.float32)[:, None]
    for theta in (layer.attention.rope_theta for layer in encoder.layers):
        if theta is not None and theta not in tables:
            angles = (positions * rotary_frequencies(arch.hidden_size // arch.num_attention_heads, theta)).astype(np.float64)
            tables[theta] = g.weight(f"angles.{theta}", np.concatenate([np.cos(angles), np.sin(angles)], axis=1))
    return tables


def layer(g: GraphBuilder, block: EncoderLayer, hidden: str, view: View, positional: Angles | Disentangled | None, only_first: bool) -> str:
    """A Transformer layer of rows [rows, hidden]; `only_first` gives the rows of position 0 alone, [batch, hidden]. positional: how its
    attention tells distances, beside by the view's bias."""

    def before(module: nnx.LayerNorm | None, x: str, name: str) -> str:
        return norm(g, module, x, name) if block.pre_norm and module is not None else x

    def behind(module: nnx.LayerNorm | None, x: str, name: str) -> str:
        return x if block.pre_norm or module is None else norm(g, module, x, name)

    attend = attend_first if only_first else attend_all
    residual = g.op("Gather", hidden, flat(g, view.first), axis=0) if only_first else hidden
    entering = before(block.attention_norm, hidden, "attention_norm")
    attended = linear(g, block.attention.out, attend(g, block.attention, entering, view, positional), "attention.out")
    hidden = behind(block.attention_norm, g.op("Add", residual, attended), "attention_norm")
    inner = linear(g, block.up, before(block.output_norm, hidden, "output_norm"), "up")
    if block.gated:
        inner, by = g.ops("Split", inner, outputs=2, axis=-1)
        inner = g.op("Mul", gelu(g, inner), by)
    else:
        inner = gelu(g, inner)
    return behind(block.output_norm, g.op("Add", hidden, linear(g, block.down, inner, "down")), "output_norm")


def attend_all(g: GraphBuilder, attention: SelfAttention, hidden: str, view: View, positional: Angles | Disentangled | None) -> str:
    """What every row reads of the rows of its text, [rows, hidden]."""
    (query_kernel, query_bias), (kernel, bias) = scaled_query(attention), parameters(attention.key_value)
    kernel = np.concatenate([query_kernel, kernel], axis=1)
    bias = None if bias is None or query_bias is None else np.concatenate([query_bias, bias])
    heads, size = attention.num_heads, head_size(attention)
    product = affine(g, hidden, kernel, bias, "attention.query_key_value")

    # A row of the product is 3 * heads pieces. Gathered one by one, pieces are split, padded and transposed in a single copy.
    def gathered(pieces: str, in_row: int, offset: int) -> str:
        start = g.op("Mul", g.op("Unsqueeze", view.slots, g.constant([1])), g.constant(in_row))
        rows = g.op("Add", start, g.constant(np.arange(heads)[:, None] + offset))
        return g.op("Gather", g.op("Reshape", pieces, g.constant([-1, size])), rows, axis=0)

    if not isinstance(positional, Angles):
        query, key, value = (gathered(product, 3 * heads, offset) for offset in (0, heads, 2 * heads))
    else:
        turned, value = g.ops("Split", product, g.constant([2 * heads * size, heads * size]), outputs=2, axis=1)
        turned = positional.rotate(g, g.op("Reshape", turned, g.constant([-1, 2 * heads, size])))
        query, key, value = gathered(turned, 2 * heads, 0), gathered(turned, 2 * heads, heads), gathered(value, heads, 0)
    key = g.op("Transpose", key, perm=[0, 1, 3, 2])
    scores = g.op("Add", g.op("MatMul", query, key), view.bias)
    if isinstance(positional, Disentangled) and view.pairs is not None:
        scores = g.op("Add", scores, positional.scores(g, query, key, view.pairs))
    attended = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
    attended = g.op("Reshape", g.op("Transpose", attended, perm=[0, 2, 1, 3]), g.constant([-1, heads * size]))
    return g.op("Gather", attended, view.places, axis=0)


def attend_first(g: GraphBuilder, attention: SelfAttention, hidden: str, view: View, positional: Angles | Disentangled | None) -> str:
    """What the rows of position 0 read of their texts, [batch, hidden].

    The key's product is applied to the few queries, and the value's to what they read, in place of both to every token. The key's bias
    shifts all scores of a query alike, which the softmax does not see; the value's bias passes through it whole. Keys that are rotated, or
    meet queries of distances, are computed all the same, as each has its own angle or distance; the queries, at position 0, are not turned.
    """
    heads, size, width = attention.num_heads, head_size(attention), attention.query.kernel.shape[0]
    kernel, bias = parameters(attention.key_value)
    key, value = (part.reshape(width, heads, size) for part in np.split(kernel, 2, axis=1))
    query = affine(g, g.op("Gather", hidden, flat(g, view.first), axis=0), *scaled_query(attention), "attention.query")
    query = g.op("Reshape", query, g.constant([0, heads, size]))
    padded = g.op("Gather", hidden, view.slots, axis=0)
    if positional is None:
        query = g.op("MatMul", g.op("Transpose", query, perm=[1, 0, 2]), g.weight("attention.key.kernel", key.transpose(1, 2, 0)))
        scores = g.op("MatMul", g.op("Transpose", query, perm=[1, 0, 2]), g.op("Transpose", padded, perm=[0, 2, 1]))
    else:
        keys = affine(g, hidden, key.reshape(width, -1), None if bias is None else np.split(bias, 2)[0], "attention.key")
        keys, key_terms = g.op("Reshape", keys, g.constant([-1, heads, size])), None
        if isinstance(positional, Angles):
            keys = positional.rotate(g, keys)
        else:
            keys, key_terms = positional.meet_first(g, keys)
        keys = g.op("Transpose", g.op("Gather", keys, view.slots, axis=0), perm=[0, 2, 3, 1])
        scores = g.op("Squeeze", g.op("MatMul", g.op("Unsqueeze", query, g.constant([2])), keys), g.constant([2]))
        if key_terms is not None:
            scores = g.op("Add", scores, g.op("Transpose", g.op("Gather", key_terms, view.slots, axis=0), perm=[0, 2, 1]))
    weights = g.op("Softmax", g.op("Add", scores, g.op("Squeeze", view.first_bias, g.constant([2]))), axis=-1)
    attended = g.op("Transpose", g.op("MatMul", weights, padded), perm=[1, 0, 2])
    attended = g.op("MatMul", attended, g.weight("attention.value.kernel", value.transpose(1, 0, 2)))
    attended = g.op("Reshape", g.op("Transpose", attended, perm=[1, 0, 2]), g.constant([-1, heads * size]))
    return attended if bias is None else g.op("Add", attended, g.weight("attention.value.bias", np.split(bias, 2)[1]))
