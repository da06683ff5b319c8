"""The parity law for every backbone: masked evaluation, compacted programs and graphs decide and answer alike, and as plain NumPy does that
removes tokens for real; whatever the batch mates, their order, the padding and the threshold, from all tokens to position 0 alone."""

import functools
import itertools

import jax
import numpy as np
import onnx
import pytest
from backbones import tiny
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from inference.skimmers import is_decided, make_examples, masked
from models.quick import quick_jit
from models.reference import relative_error, transkimmer

from transkimmer_jax.checkpoints import config_file, huggingface
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession

TOLERANCE, SLOTS, WIDTH = 1e-5, 4, 16
CAPACITIES = ((SLOTS * WIDTH, WIDTH),) * tiny.LAYERS
backbones = pytest.mark.parametrize("backbone", (*tiny.BACKBONES, "modernbert with biases"))
lengths_lists = st.lists(st.integers(1, WIDTH), min_size=SLOTS, max_size=SLOTS)
thresholds = st.sampled_from([-np.inf, -2.0, -0.5, 0.0, 0.5, 2.0, np.inf])


@functools.cache
def compacted_program(backbone):
    model = tiny.skimming(backbone)
    return quick_jit(lambda *batch, threshold: model.compacted(*batch, WIDTH, CAPACITIES, threshold=threshold))


def compacted(backbone, examples, threshold):
    total = len(examples.input_ids)
    # What lies behind the last token must not matter.
    ids, types = np.full(SLOTS * WIDTH, 7, np.int32), np.ones(SLOTS * WIDTH, np.int32)
    ids[:total], types[:total] = examples.input_ids, examples.token_type_ids
    return jax.device_get(compacted_program(backbone)(ids, types, examples.lengths.astype(np.int32), threshold=np.float32(threshold)))


@functools.cache
def session(runtime, backbone):
    # Sizes between which rows are rounded up, and attention's width.
    kind, sizes = {
        "onnxruntime": (OnnxRuntimeSession, {}),
        "openvino": (OpenVinoSession, {"row_sizes": (0, 2, 5, 7, 12, 13, 20, 32, 48, 1000), "width_multiple": 3}),
    }[runtime]
    return kind(build(tiny.skimming(backbone), outputs=("logits", "kept", "depth"), **sizes), threads=1)


def by_graph(runtime, backbone, examples, threshold, extra):
    """The graph's answers, of texts in the reverse order and further padding."""
    mask = np.arange(examples.lengths.max() + extra) < examples.lengths[:, None]
    ids, types = np.full(mask.shape, 7), np.ones(mask.shape, int)
    ids[mask], types[mask] = examples.input_ids, examples.token_type_ids
    answers = session(runtime, backbone).run(ids[::-1], mask[::-1].astype(int), types[::-1], threshold)
    return answers["logits"][::-1], answers["depth"][::-1]


@functools.cache
def stored(backbone):
    model = tiny.skimming(backbone)
    return huggingface.tensors(model), config_file.to_values(model.arch, ("a", "b", "c"), None)


def by_numpy(backbone, examples, threshold):
    """In float64, so that what others differ by is their own rounding: two in float32 may differ by the sum of theirs."""
    tensors, config = stored(backbone)
    for start, end in itertools.pairwise(examples.offsets):
        yield transkimmer(tensors, config, examples.input_ids[start:end], examples.token_type_ids[start:end], threshold=threshold)


def assert_equal(logits, depths, expected):
    for row, answer in enumerate(expected):
        depth = answer.keep.sum(axis=0)
        np.testing.assert_array_equal(depths[row][: len(depth)], depth)
        assert relative_error(logits[row], answer.logits, at_least=1.0) < TOLERANCE


@backbones
@settings(deadline=None, max_examples=15)
@example([1, 11, 10, 9], 51, -0.5, 0)  # the graph and masked evaluation differ by 1.1e-5 here, and each by 0.6e-5 at most from NumPy
@given(lengths_lists, st.integers(0, 2**16), thresholds, st.integers(0, 3))
def test_layouts_and_runtimes_agree(backbone, lengths, seed, threshold, extra):
    examples = make_examples(lengths, seed, tiny.VOCABULARY)
    by_mask = masked(tiny.skimming(backbone), examples, threshold, width=WIDTH)
    assume(is_decided(by_mask, threshold))
    expected = list(by_numpy(backbone, examples, threshold))
    assert_equal([example.logits for example in by_mask], [example.depth for example in by_mask], expected)
    packed = compacted(backbone, examples, threshold)
    assert not packed.lost.any()
    assert_equal(packed.logits, np.split(packed.depth[: len(examples.input_ids)], examples.offsets[1:-1]), expected)
    for runtime in ("onnxruntime", "openvino"):
        assert_equal(*by_graph(runtime, backbone, examples, threshold, extra), expected)


@backbones
def test_thresholds_reach_from_all_tokens_to_none(backbone):
    examples = make_examples([WIDTH] * SLOTS, 0, tiny.VOCABULARY)
    shares = [np.mean([one.depth for one in masked(tiny.skimming(backbone), examples, limit, width=WIDTH)]) for limit in (-np.inf, 0.0)]
    assert shares[0] == tiny.LAYERS and 0.1 * tiny.LAYERS < shares[1] < 0.9 * tiny.LAYERS


@backbones
def test_graphs_have_the_inputs_that_clients_feed(backbone):
    graph = build(tiny.skimming(backbone))
    onnx.checker.check_model(graph, full_check=True)
    names = [given.name for given in graph.graph.input]
    assert names == ["input_ids", "attention_mask", *(["token_type_ids"] if backbone in ("bert", "electra") else []), "threshold"]
