"""A model as one ONNX graph of standard operators that computes each layer's kept tokens and no others.

Its inputs are padded, as clients of transformers' exports feed them. Inside, the tokens of all texts lie one after the other, in
`[rows, hidden]` with nothing in between; each predictor drops rows of that. Only attention sees a padded view,
`[batch, width]` of the longest text that is left. All shapes follow the data, so there are no capacities and nothing overflows.

An embedding, a layer and a head are functions over a builder.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx
from flax import nnx
from onnx import TensorProto

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.embeddings import Embeddings
from transkimmer_jax.models.encoder import DistanceStates, Encoder, EncoderLayer, SelfAttention, StatesLeaving
from transkimmer_jax.models.heads import (
    Pooler,
    TranskimmerForQuestionAnswering,
    TranskimmerForSentenceEmbedding,
    TranskimmerForSequenceClassification,
    TranskimmerForTokenClassification,
)
from transkimmer_jax.models.layers import LEAST_NORM, rotary_frequencies
from transkimmer_jax.models.outputs import LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.models.skim import SkimPredictor
from transkimmer_jax.onnx.builder import GraphBuilder
from transkimmer_jax.onnx.rows import Pairs, Relative, Rows, View


def build(
    model: TranskimmerPreTrainedModel,
    *,
    outputs: Collection[str] | None = None,
    row_sizes: Sequence[int] | None = None,
    width_multiple: int = 1,
    table_dtype: int = TensorProto.FLOAT,
    reads_types: bool = True,
) -> onnx.ModelProto:
    """The graph of a model, dense or skimming, in float32.

    Inputs: input_ids, attention_mask and, see `reads_types`, token_type_ids, int64 [batch, sequence], padded on the right; of a skimming
    model also threshold, a float32 scalar that may be left out. Position 0 counts as a token in any case, so that an empty text gives no
    error.

    Args:
      model: its weights are copied into the graph.
      outputs: names; None: the head's and 'kept'. The head's are float32 [batch, ...] of texts or [batch, sequence, ...] of tokens, 0 where
        there is none. An embedder's states are float32 [batch, sequence, hidden], under the names token_embeddings and last_hidden_state.
        kept is int64 [layers, batch], what each layer computed; depth int64 [batch, sequence], layers that computed each token. These two
        count nothing where attention_mask is 0.
      row_sizes: rising from 0, and the last more than any batch has tokens; a layer computes as many rows as the next of these to the
        number of tokens. None: just as many.
      width_multiple: attention's padded view is as wide as the longest text that is left, rounded up to a multiple of this.
      table_dtype: of the embedding tables, FLOAT or BFLOAT16 of `onnx.TensorProto`. Their rows are float32 all the same.
      reads_types: whether token types are an input; False: all tokens are of the first type. A backbone of one type or none has no such
        input, and a model with `skim.pinned`, which reads them, always has it.

    Raises:
      CheckpointError: the model attends as the paper's Eq. 4 says, over skimmed tokens too.
    """
    model.require_compactable()
    arch, g = model.arch, GraphBuilder()
    wanted = [*(output.name for output in model.outputs), "kept"] if outputs is None else outputs
    reads_every_token = arch.reads_every_token or not {TOKEN_EMBEDDINGS, LAST_HIDDEN_STATE}.isdisjoint(wanted)
    pins = arch.skim is not None and arch.skim.pinned is not None
    reads_types = arch.type_vocab_size > 1 and (reads_types or pins)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if reads_types else [])]
    ids, mask, *types = (g.input(name, TensorProto.INT64, ("batch", "sequence")) for name in names)
    threshold = g.optional_input("threshold", np.array(arch.skim.threshold, np.float32)) if arch.skim is not None else ""
    with g.scope("packing"):
        places, positions, rows = Rows.pack(g, mask, row_sizes)
        ids, *types = (g.op("Gather", flat(g, values), places, axis=0) for values in (ids, *types))
        pinned = g.op("Equal", g.op("Unsqueeze", types[0], g.constant([1])), g.constant(0)) if pins else None
        lengths = rows.lengths(g)
    with g.scope("embeddings"):
        hidden = embed(g, model.embeddings, ids, types[0] if types else None, positions, table_dtype)
    parts, relative = model.encoder.relative(arch.max_position_embeddings), None
    if parts is not None or arch.kind.rotary:
        relative = Relative.of(g, parts, positions, lengths, arch.num_attention_heads)
    tables = angle_tables(g, model.encoder, arch)
    steps, computed = [], []  # of each layer: its rows, and their places
    views: dict[int | None, View] = {}
    left = []  # states of tokens that are skimmed, and their places
    for index, block in enumerate(model.encoder.layers):
        if index in arch.deciding_layers:
            with g.scope(f"predictors.{index}"):
                keep = rows.keep(g, margin(g, model.encoder, index, hidden), threshold, pinned)
                before, rows, views = rows, rows.shrink(g, keep), {}
                if reads_every_token:
                    gone = before.gone(g, flat(g, keep), rows)
                    states, gone_places = (g.op("Gather", values, gone, axis=0) for values in (hidden, places))
                    left.append([leave(g, model.encoder.leaving(index), states), gone_places])
                kept = rows.places(g, flat(g, keep))
                hidden = g.op("Gather", hidden, kept, axis=0)
                if reads_every_token or "depth" in wanted:
                    places = g.op("Gather", places, kept, axis=0)
                pinned = pinned and g.op("Gather", pinned, kept, axis=0)
                relative = relative and relative.shrink(g, kept)
        steps.append(rows)
        computed.append(places)
        with g.scope(f"layers.{index}"):
            attention = block.attention
            only_first = not reads_every_token and index == arch.num_hidden_layers - 1
            if attention.window not in views:
                views[attention.window] = rows.view(g, relative, attention.window, width_multiple, only_first)
            positional: Angles | Disentangled | None = None
            if relative is not None and attention.rope_theta is not None:
                positional = Angles.of(g, tables[attention.rope_theta], relative)
            elif relative is not None and isinstance(parts, DistanceStates):
                positional = Disentangled.project(attention, parts, relative)
            hidden = layer(g, block, hidden, views[attention.window], positional, only_first)
    with g.scope("head"):
        hidden = leave(g, model.encoder.leaving(None), hidden)
        if left:
            hidden, places = (g.op("Concat", *values, axis=0) for values in zip([hidden, places], *left, strict=True))
        if reads_every_token:
            final = FinalStates(g.op("Gather", hidden, flat(g, rows.first), axis=0), hidden, places, mask, lengths)
        else:
            final = FinalStates(hidden)
        answers = _HEADS[type(model)](g, model, final)
        if LAST_HIDDEN_STATE in wanted:
            answers[LAST_HIDDEN_STATE] = g.op("Identity", answers[TOKEN_EMBEDDINGS])
    shapes: dict[str, tuple[str | int, ...]] = {
        output.name: ("batch", "sequence", *output.shape) if output.per_token else ("batch", *output.shape) for output in model.outputs
    }
    shapes[TOKEN_EMBEDDINGS] = shapes[LAST_HIDDEN_STATE] = ("batch", "sequence", arch.hidden_size)
    for name in wanted:
        if name in answers:
            g.output(answers[name], name, TensorProto.FLOAT, shapes[name])
    with g.scope("counts"):
        if "kept" in wanted:
            g.output(count_kept(g, mask, steps), "kept", TensorProto.INT64, (arch.num_hidden_layers, "batch"))
        if "depth" in wanted:
            g.output(count_layers(g, mask, computed), "depth", TensorProto.INT64, ("batch", "sequence"))
    return g.model()


def embed(
    g: GraphBuilder,
    embeddings: Embeddings,
    input_ids: str,
    token_type_ids: str | None,
    positions: str,
    table_dtype: int = TensorProto.FLOAT,
) -> str:
    """The embeddings [rows, hidden] of tokens; all of these are [rows]. token_type_ids: None: all are of the first type, if any.
    table_dtype: see `build`."""

    def rows(name: str, table: np.ndarray, index: str) -> str:
        values = g.op("Gather", g.weight(name, table, table_dtype), index, axis=0)
        return values if table_dtype == TensorProto.FLOAT else g.op("Cast", values, to=TensorProto.FLOAT)

    embedded = rows("word", _array(embeddings.word.embedding), input_ids)
    if embeddings.position is not None:
        position = _array(embeddings.position.embedding)[embeddings.position_offset :]
        if embeddings.token_type is not None:
            types = _array(embeddings.token_type.embedding)
            if token_type_ids is None:
                position = position + types[:1]
            else:
                embedded = g.op("Add", embedded, rows("token_type", types, token_type_ids))
        embedded = g.op("Add", embedded, rows("position", position, positions))
    embedded = norm(g, embeddings.norm, embedded, "norm")
    return embedded if embeddings.projection is None else linear(g, embeddings.projection, embedded, "projection")


def margin(g: GraphBuilder, encoder: Encoder, index: int, hidden: str) -> str:
    """By how much each row of `hidden` is to be kept by layer `index`, [rows, 1], on the scale of thresholds."""
    place = encoder.deciding.index(index)
    value = predicted(g, encoder.predictors[place], hidden)
    if not encoder.levels:
        return value
    start, saved, slopes = (np.asarray(part, np.float32) for part in encoder.levels[place].scale())

    def ramp(slope: np.float32, knot: np.float32, clipped: bool) -> str:
        beyond = g.op("Sub", value, g.constant(knot, np.float32))
        return g.op("Mul", g.op("Relu", beyond) if clipped else beyond, g.constant(slope, np.float32))

    scaled = g.op("Add", ramp(slopes[0], start[0], False), g.constant(saved, np.float32))
    for number in range(1, len(slopes)):
        scaled = g.op("Add", scaled, ramp(slopes[number] - slopes[number - 1], start[number], True))
    return scaled


def predicted(g: GraphBuilder, predictor: SkimPredictor, hidden: str) -> str:
    """The predictor's margin of each row of `hidden`, [rows, 1]."""
    features = linear(g, predictor.dense, norm(g, predictor.input_norm, hidden, "input_norm"), "dense")
    features = gelu(g, norm(g, predictor.norm, features, "norm"))
    kernel, bias = (_array(parameter) for parameter in (predictor.decision.kernel, predictor.decision.bias))
    return affine(g, features, kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1], "decision")


def leave(g: GraphBuilder, leaving: StatesLeaving, hidden: str) -> str:
    """The final states of rows [rows, hidden] that leave so."""
    states = hidden if leaving.norm is None else norm(g, leaving.norm, hidden, "final_norm")
    return states if leaving.forwarding is None else g.op("Add", states, linear(g, leaving.forwarding, states, "forwarding"))


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
        projected, shape = np.asarray(states.states, np.float64), (-1, attention.num_heads, _head_size(attention))
        query_kernel, query_bias = _scaled_query(attention)
        kernel, bias = _parameters(attention.key_value)
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
    (query_kernel, query_bias), (kernel, bias) = _scaled_query(attention), _parameters(attention.key_value)
    kernel = np.concatenate([query_kernel, kernel], axis=1)
    bias = None if bias is None or query_bias is None else np.concatenate([query_bias, bias])
    heads, size = attention.num_heads, _head_size(attention)
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
    heads, size, width = attention.num_heads, _head_size(attention), attention.query.kernel.shape[0]
    kernel, bias = _parameters(attention.key_value)
    key, value = (part.reshape(width, heads, size) for part in np.split(kernel, 2, axis=1))
    query = affine(g, g.op("Gather", hidden, flat(g, view.first), axis=0), *_scaled_query(attention), "attention.query")
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


@dataclasses.dataclass(frozen=True)
class FinalStates:
    """The states that tokens leave the encoder with: what heads read.

    first: of position 0, [batch, hidden]. The others are of all tokens, and empty where the head reads position 0 alone. every:
    [rows, hidden], those that stayed before the others. places: int64 [rows], where each lies in the flattened batch. mask: int64
    [batch, sequence]. lengths: int64 [batch, 1], tokens of each text.
    """

    first: str
    every: str = ""
    places: str = ""
    mask: str = ""
    lengths: str = ""

    def placed(self, g: GraphBuilder, values: str) -> str:
        """Values [rows, n] of all tokens at their places, [batch, sequence, n]; 0 where there is no token."""
        shape = g.op("Shape", self.mask)
        width = g.op("Shape", values, start=1)
        total = g.op("ReduceProd", shape, keepdims=1)
        none = g.op("Expand", g.constant(0, np.float32), g.op("Concat", total, width, axis=0))
        scattered = g.op("ScatterND", none, g.op("Unsqueeze", self.places, g.constant([1])), values)
        return g.op("Reshape", scattered, g.op("Concat", shape, width, axis=0))

    def mean(self, g: GraphBuilder, placed: str) -> str:
        """Of the placed states of each text's tokens, [batch, hidden]."""
        total = g.op("ReduceSum", placed, g.constant([1]), keepdims=0)
        return g.op("Div", total, g.op("Cast", self.lengths, to=TensorProto.FLOAT))


def classify(g: GraphBuilder, model: TranskimmerForSequenceClassification, states: FinalStates) -> dict[str, str]:
    """The pooler and the classifier: logits [batch, labels]."""
    state = states.mean(g, states.placed(g, states.every)) if model.arch.classifier_pooling == "mean" else states.first
    return {"logits": linear(g, model.classifier, pooled(g, model.pooler, state), "classifier")}


def pooled(g: GraphBuilder, pooler: Pooler | None, states: str) -> str:
    """What stands before a classifier, of states [any, hidden]; None: nothing does."""
    if pooler is None:
        return states
    states = activation(g, pooler.activation, linear(g, pooler, states, "pooler"))
    return states if pooler.norm is None else norm(g, pooler.norm, states, "pooler.norm")


def pool(g: GraphBuilder, model: TranskimmerForSentenceEmbedding, states: FinalStates) -> dict[str, str]:
    """sentence_embedding [batch, hidden] and, where they are there, token_embeddings [batch, sequence, hidden]."""
    pooling = model.arch.pooling
    tokens = {TOKEN_EMBEDDINGS: states.placed(g, states.every)} if states.every else {}
    vector = states.mean(g, tokens[TOKEN_EMBEDDINGS]) if pooling.mode == "mean" else states.first
    if pooling.normalize:
        length = g.op("ReduceL2", vector, axes=[1], keepdims=1)
        vector = g.op("Div", vector, g.op("Max", length, g.constant(LEAST_NORM, np.float32)))
    return {"sentence_embedding": vector} | tokens


def tag(g: GraphBuilder, model: TranskimmerForTokenClassification, states: FinalStates) -> dict[str, str]:
    """logits [batch, sequence, labels]."""
    return {"logits": states.placed(g, linear(g, model.classifier, pooled(g, model.pooler, states.every), "classifier"))}


def mark_span(g: GraphBuilder, model: TranskimmerForQuestionAnswering, states: FinalStates) -> dict[str, str]:
    """start_logits and end_logits [batch, sequence]."""
    both = states.placed(g, linear(g, model.qa_outputs, pooled(g, model.pooler, states.every), "qa_outputs"))
    start, end = (g.op("Gather", both, g.constant(column), axis=2) for column in (0, 1))
    return {"start_logits": start, "end_logits": end}


_HEADS: dict[type[TranskimmerPreTrainedModel], Callable[[GraphBuilder, Any, FinalStates], dict[str, str]]] = {
    TranskimmerForSequenceClassification: classify,
    TranskimmerForSentenceEmbedding: pool,
    TranskimmerForTokenClassification: tag,
    TranskimmerForQuestionAnswering: mark_span,
}


def count_kept(g: GraphBuilder, mask: str, steps: list[Rows]) -> str:
    """Tokens that each layer computed, [layers, batch]; not those of position 0 that were no tokens."""
    lengths = g.op("Concat", *(rows.lengths(g) for rows in steps), axis=1)
    absent = g.op("Equal", g.op("Slice", mask, *(g.constant([bound]) for bound in (0, 1, 1))), g.constant(0))
    return g.op("Transpose", g.op("Sub", lengths, g.op("Cast", absent, to=TensorProto.INT64)), perm=[1, 0])


def count_layers(g: GraphBuilder, mask: str, computed: list[str]) -> str:
    """Layers that computed each token, [batch, sequence]. computed: of each layer the places of its rows, see `FinalStates`."""
    shape = g.op("Shape", mask)
    depth = g.op("Expand", g.constant(0), g.op("ReduceProd", shape, keepdims=1))
    # A layer computes some of those that the one before it did.
    for number, places in enumerate(computed, 1):
        count = g.op("Expand", g.constant(number), g.op("Shape", places))
        depth = g.op("ScatterElements", depth, places, count, axis=0)
    return g.op("Where", g.op("Cast", mask, to=TensorProto.BOOL), g.op("Reshape", depth, shape), g.constant(0))


def norm(g: GraphBuilder, module: nnx.LayerNorm, x: str, name: str) -> str:
    """LayerNorm over the last axis."""
    parameters = {part: getattr(module, part) for part in ("scale", "bias")}
    weights = [g.weight(f"{name}.{part}", _array(parameter)) for part, parameter in parameters.items() if parameter is not None]
    return g.op("LayerNormalization", x, *weights, axis=-1, epsilon=module.epsilon)


def gelu(g: GraphBuilder, x: str) -> str:
    """GELU with the error function, in the form that runtimes know and compute as one operator."""
    below = g.op("Add", g.op("Erf", g.op("Div", x, g.constant(math.sqrt(2), np.float32))), g.constant(1, np.float32))
    return g.op("Mul", g.op("Mul", x, below), g.constant(0.5, np.float32))


def activation(g: GraphBuilder, name: str, x: str) -> str:
    """See `models.layers.activation`."""
    return gelu(g, x) if name == "gelu" else g.op({"tanh": "Tanh", "relu": "Relu"}[name], x)


def linear(g: GraphBuilder, module: nnx.Linear, x: str, name: str) -> str:
    """A dense layer of the model."""
    return affine(g, x, *_parameters(module), name)


def affine(g: GraphBuilder, x: str, kernel: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    """x @ kernel + bias."""
    product = g.op("MatMul", x, g.weight(f"{name}.kernel", kernel))
    return product if bias is None else g.op("Add", product, g.weight(f"{name}.bias", bias))


def flat(g: GraphBuilder, x: str) -> str:
    """All elements in one row."""
    return g.op("Reshape", x, g.constant([-1]))


def _head_size(attention: SelfAttention) -> int:
    return attention.query.kernel.shape[1] // attention.num_heads


def _scaled_query(attention: SelfAttention) -> tuple[np.ndarray, np.ndarray | None]:
    """The query's kernel and bias, divided by what scores are divided by."""
    kernel, bias = _parameters(attention.query)
    scale = math.sqrt(attention.products * _head_size(attention))
    return kernel / scale, None if bias is None else bias / scale


def _parameters(module: nnx.Linear) -> tuple[np.ndarray, np.ndarray | None]:
    return _array(module.kernel), None if module.bias is None else _array(module.bias)


def _array(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float32)
