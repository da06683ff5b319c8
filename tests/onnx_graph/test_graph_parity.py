"""The parity law for graphs: the masked evaluation's decisions and logits, whatever the batch mates, the padding, the runtime and the
threshold."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH, DISENTANGLED, LAST_TWO, MODERN, is_decided, make_examples, make_model, masked
from models.quick import program
from models.reference import referee_tensors, relative_error, transkimmer

from transkimmer_jax.checkpoints import config_file, huggingface
from transkimmer_jax.errors import CheckpointError, InferenceError
from transkimmer_jax.inference import onnx_runtime
from transkimmer_jax.inference.onnx_runtime import OnnxRuntime
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession

TOLERANCE = 1e-5
OUTPUTS = ("logits", "kept", "depth")
LAYERS = ARCH.num_hidden_layers
RUNTIMES = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}
# With larger weights some texts amplify rounding: half a unit in the last place of every weight moved a logit by 7e-6.
CALM = dataclasses.replace(ARCH, initializer_range=0.2)
HEADS = {"three classes": CALM, "regression": dataclasses.replace(CALM, num_labels=1), "dense": dataclasses.replace(CALM, skim=None)}
HEADS["last two decide"] = dataclasses.replace(CALM, skim=LAST_TWO.skim)
SLOTS = 5
lengths_lists = st.lists(st.integers(1, 12), min_size=SLOTS, max_size=SLOTS)  # of one size, so that the masked program is compiled once
thresholds = st.sampled_from([-np.inf, -4.0, -1.5, -0.5, 0.0, 0.4, 1.0, 2.5, 6.0, np.inf])


@functools.cache
def session(runtime, head="three classes", outputs=OUTPUTS):
    return RUNTIMES[runtime](build(make_model(HEADS[head]), outputs=outputs), threads=1)


def padded(examples, extra=0):
    """Ids, mask and types [batch, sequence]; what lies behind a text must not matter."""
    mask = np.arange(examples.lengths.max() + extra) < examples.lengths[:, None]
    ids, types = np.full(mask.shape, 7), np.ones(mask.shape, int)
    ids[mask], types[mask] = examples.input_ids, examples.token_type_ids
    return ids, mask.astype(int), types


@functools.cache
def stored(head):
    """What the referee reads."""
    model = make_model(HEADS[head])
    return referee_tensors(huggingface.tensors(model)), config_file.to_values(model.arch, ("a", "b", "c")[: model.arch.num_labels], 0)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    lengths_lists, st.integers(0, 3), thresholds, st.integers(0, 5), st.integers(1, SLOTS),
    st.sampled_from(["three classes", "regression", "last two decide"]),
)  # fmt: skip
def test_decisions_and_logits(runtime, lengths, seed, threshold, extra, mates, head):
    """Those of masked evaluation for every example, with any mates, at every threshold from all tokens to [CLS] alone; and those of the
    referee, which removes tokens for real, one text at a time, in float64. Logits are compared with its own: two results in float32
    differ by the noise of both."""
    examples = make_examples(lengths, seed)
    expected = masked(make_model(HEADS[head]), examples, threshold)[:mates]
    assume(is_decided(expected, threshold))
    answer = session(runtime, head).run(*(part[:mates] for part in padded(examples, extra)), threshold)
    for row, (example, start, end) in enumerate(zip(expected, examples.offsets, examples.offsets[1:], strict=False)):
        length = end - start
        exact = transkimmer(*stored(head), examples.input_ids[start:end], examples.token_type_ids[start:end], threshold=threshold)
        np.testing.assert_array_equal(exact.keep.sum(axis=0), example.depth)
        np.testing.assert_array_equal(answer["depth"][row, :length], example.depth)
        assert not answer["depth"][row, length:].any()
        np.testing.assert_array_equal(answer["kept"][:, row], [(example.depth > layer).sum() for layer in range(LAYERS)])
        for logits in (answer["logits"][row], example.logits):
            assert relative_error(logits, exact.logits, at_least=1.0) < TOLERANCE


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_dense_model_packs_too(runtime):
    model, examples = make_model(HEADS["dense"]), make_examples([12, 3, 9, 1, 5], 1)
    ids, mask, types = padded(examples, 2)
    answer = session(runtime, "dense").run(ids, mask, types)
    assert relative_error(answer["logits"], program(model)(ids, mask, types).logits, at_least=1.0) < TOLERANCE
    np.testing.assert_array_equal(answer["kept"], np.broadcast_to(examples.lengths, (LAYERS, 5)))
    np.testing.assert_array_equal(answer["depth"], mask * LAYERS)


@pytest.mark.parametrize("head", ["three classes", "dense"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_texts_without_a_token_disturb_nobody(runtime, head):
    examples = make_examples([4, 1, 7], 2)
    ids, mask, types = padded(examples)
    alone = session(runtime, head).run(ids, mask, types, 0.0)
    rows = np.array([1, 3, 4])
    with_empty = [np.zeros((6, 7), int) for _ in range(3)]
    for wide, values in zip(with_empty, (ids, mask, types), strict=True):
        wide[rows] = values
    answer = session(runtime, head).run(*with_empty, 0.0)
    assert np.isfinite(answer["logits"]).all()
    assert relative_error(answer["logits"][rows], alone["logits"], at_least=1.0) < TOLERANCE
    empty = np.setdiff1d(np.arange(6), rows)
    assert not answer["kept"][:, empty].any() and not answer["depth"][empty].any()
    np.testing.assert_array_equal(answer["kept"][:, rows], alone["kept"])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_threshold_is_the_models_where_none_is_given(runtime):
    arch = dataclasses.replace(CALM, skim=dataclasses.replace(CALM.skim, threshold=1.5))
    examples = make_examples([12, 9, 12, 7, 8], 0)
    batch = padded(examples)
    own = RUNTIMES[runtime](build(make_model(arch)), threads=1)
    given_it, default = session(runtime).run(*batch, 1.5)["kept"], session(runtime).run(*batch)["kept"]
    np.testing.assert_array_equal(own.run(*batch)["kept"], given_it)
    np.testing.assert_array_equal(own.run(*batch, 0.0)["kept"], default)
    assert given_it.sum() < default.sum()


@pytest.mark.parametrize("head", ["three classes", "dense"])
def test_the_file_is_one_of_standard_operators(head):
    for outputs in (("logits",), ("logits", "kept"), OUTPUTS):
        graph = build(make_model(HEADS[head]), outputs=outputs)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.domain for node in graph.graph.node} == {""}
        assert [output.name for output in graph.graph.output] == list(outputs)
        assert len({node.name for node in graph.graph.node}) == len(graph.graph.node)


# Weights of half the size: what is rounded in both factors of a gated product counts twice.
@pytest.mark.parametrize("arch", [ARCH, DISENTANGLED, dataclasses.replace(MODERN, initializer_range=0.15)], ids=lambda arch: arch.backbone)
def test_quantised_products_change_little(arch):
    """Decisions are made in float32, of states that are rounded a little: few of them change."""
    examples = make_examples([12] * 40, 3)
    graph, batch = build(make_model(arch), outputs=OUTPUTS), padded(examples)
    exact, rounded = (OnnxRuntimeSession(graph, threads=1, precision=precision).run(*batch) for precision in ("float32", "int8"))
    assert np.mean(exact["depth"] != rounded["depth"]) < 0.03
    same = (exact["depth"] == rounded["depth"]).all(axis=1)
    error = np.abs(rounded["logits"] - exact["logits"])[same].mean()
    assert 0 < error < 0.1 * np.abs(exact["logits"]).mean()


@pytest.mark.parametrize(("sizes", "rows"), [(None, 16), ((0, 5, 16, 90), 16), ((0, 5, 15, 20, 90), 20)])
def test_layers_compute_as_many_rows_as_the_next_size(sizes, rows):
    graph = build(make_model(HEADS["dense"]), outputs=("logits",), row_sizes=sizes)
    inner = next(node.output[0] for node in graph.graph.node if node.op_type == "Erf")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
    answers = OnnxRuntimeSession(graph, threads=1).run(*padded(make_examples([9, 2, 5], 0), extra=3))
    assert answers[inner].shape == (rows, ARCH.intermediate_size)


@pytest.mark.parametrize(("multiple", "width"), [(1, 9), (4, 12), (9, 9)])
def test_attention_is_as_wide_as_the_next_multiple(multiple, width):
    graph = build(make_model(HEADS["dense"]), outputs=("logits",), width_multiple=multiple)
    weights = next(node.output[0] for node in graph.graph.node if node.op_type == "Softmax")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(weights, onnx.TensorProto.FLOAT, None))
    answers = OnnxRuntimeSession(graph, threads=1).run(*padded(make_examples([9, 2, 5], 0), extra=3))
    assert answers[weights].shape == (3, ARCH.num_attention_heads, width, width)


def test_an_engine_builds_graphs_for_bfloat16_differently(monkeypatch):
    built = []
    monkeypatch.setattr(onnx_runtime, "build", lambda model, **options: built.append(options) or build(model))
    monkeypatch.setitem(onnx_runtime._SESSIONS, "openvino", lambda graph, **options: None)
    for precision in ("float32", "bfloat16"):
        OnnxRuntime(make_model(), provider="openvino", precision=precision)
    other, bfloat16 = built
    assert bfloat16.pop("row_sizes")[:10] == (0, 16, 18, 20, 22, 24, 26, 28, 30, 32)
    assert bfloat16 == other | {"width_multiple": 16, "table_dtype": onnx.TensorProto.BFLOAT16}


def test_tables_in_bfloat16_give_rounded_embeddings():
    model = make_model()
    rounded = nnx.clone(model)
    for table in (rounded.embeddings.word, rounded.embeddings.position, rounded.embeddings.token_type):
        table.embedding[...] = table.embedding[...].astype(jnp.bfloat16).astype(jnp.float32)
    batch = padded(make_examples([9, 2, 5], 0))
    graphs = build(model), build(rounded), build(model, table_dtype=onnx.TensorProto.BFLOAT16)
    plain, expected, answers = (OnnxRuntimeSession(graph, threads=1).run(*batch) for graph in graphs)
    np.testing.assert_array_equal(answers["logits"], expected["logits"])
    assert (answers["logits"] != plain["logits"]).any()
    assert graphs[2].ByteSize() < graphs[0].ByteSize()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_a_runtime_cannot_compute_is_refused(runtime):
    with pytest.raises(InferenceError, match="not 'float8'"):
        RUNTIMES[runtime](build(make_model()), precision="float8")


def test_the_papers_attention_is_refused():
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, attention_masking="post_softmax"))
    with pytest.raises(CheckpointError, match="cannot be compacted"):
        build(make_model(arch))
