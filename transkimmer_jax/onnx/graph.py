"""A model as one ONNX graph of standard operators that computes each layer's kept tokens and no others.

Its inputs are padded, as clients of transformers' exports feed them. Inside, the tokens of all texts lie one after the other, in
`[rows, hidden]` with nothing in between; each predictor drops rows of that. Only attention sees a padded view,
`[batch, width]` of the longest text that is left. All shapes follow the data, so there are no capacities and nothing overflows.

An embedding, a layer and a head are functions over a builder.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from transkimmer_jax.models.embeddings import Embeddings
from transkimmer_jax.models.encoder import DistanceStates, Encoder
from transkimmer_jax.models.final_states import FinalStates
from transkimmer_jax.models.outputs import LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.models.skim import SkimPredictor
from transkimmer_jax.onnx.builder import GraphBuilder
from transkimmer_jax.onnx.heads import HEADS, HeadInputs
from transkimmer_jax.onnx.layers import Angles, Disentangled, angle_tables, layer
from transkimmer_jax.onnx.products import affine, array, flat, gelu, linear, norm
from transkimmer_jax.onnx.rows import Relative, Rows, View


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
        if index in arch.predictor_layers:
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
            final = HeadInputs(g.op("Gather", hidden, flat(g, rows.first), axis=0), hidden, places, mask, lengths)
        else:
            final = HeadInputs(hidden)
        answers = HEADS[type(model)](g, model, final)
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

    embedded = rows("word", array(embeddings.word.embedding), input_ids)
    if embeddings.position is not None:
        position = array(embeddings.position.embedding)[embeddings.position_offset :]
        if embeddings.token_type is not None:
            types = array(embeddings.token_type.embedding)
            if token_type_ids is None:
                position = position + types[:1]
            else:
                embedded = g.op("Add", embedded, rows("token_type", types, token_type_ids))
        embedded = g.op("Add", embedded, rows("position", position, positions))
    embedded = norm(g, embeddings.norm, embedded, "norm")
    return embedded if embeddings.projection is None else linear(g, embeddings.projection, embedded, "projection")


def margin(g: GraphBuilder, encoder: Encoder, index: int, hidden: str) -> str:
    """By how much each row of `hidden` is to be kept by layer `index`, [rows, 1], on the scale of thresholds."""
    place = encoder.predictor_layers.index(index)
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
    kernel, bias = (array(parameter) for parameter in (predictor.decision.kernel, predictor.decision.bias))
    return affine(g, features, kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1], "decision")


def leave(g: GraphBuilder, leaving: FinalStates, hidden: str) -> str:
    """The final states of rows [rows, hidden] that leave so."""
    states = hidden if leaving.norm is None else norm(g, leaving.norm, hidden, "final_norm")
    return states if leaving.forwarding is None else g.op("Add", states, linear(g, leaving.forwarding, states, "forwarding"))


def count_kept(g: GraphBuilder, mask: str, steps: list[Rows]) -> str:
    """Tokens that each layer computed, [layers, batch]; not those of position 0 that were no tokens."""
    lengths = g.op("Concat", *(rows.lengths(g) for rows in steps), axis=1)
    absent = g.op("Equal", g.op("Slice", mask, *(g.constant([bound]) for bound in (0, 1, 1))), g.constant(0))
    return g.op("Transpose", g.op("Sub", lengths, g.op("Cast", absent, to=TensorProto.INT64)), perm=[1, 0])


def count_layers(g: GraphBuilder, mask: str, computed: list[str]) -> str:
    """Layers that computed each token, [batch, sequence]. computed: of each layer the places of its rows, see `HeadInputs`."""
    shape = g.op("Shape", mask)
    depth = g.op("Expand", g.constant(0), g.op("ReduceProd", shape, keepdims=1))
    # A layer computes some of those that the one before it did.
    for number, places in enumerate(computed, 1):
        count = g.op("Expand", g.constant(number), g.op("Shape", places))
        depth = g.op("ScatterElements", depth, places, count, axis=0)
    return g.op("Where", g.op("Cast", mask, to=TensorProto.BOOL), g.op("Reshape", depth, shape), g.constant(0))
