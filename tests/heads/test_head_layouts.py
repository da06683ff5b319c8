"""Every head answers alike in every layout: masked, packed, as a graph, and as a plain NumPy network that really deletes tokens, whatever
the batch mates, the padding and the threshold."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH, DISENTANGLED, MODERN, make_examples
from models.quick import quick_jit
from models.reference import head_answers, referee_tensors, relative_error, transkimmer

from transkimmer_jax import (
    TranskimmerForQuestionAnswering,
    TranskimmerForSentenceEmbedding,
    TranskimmerForSequenceClassification,
    TranskimmerForTokenClassification,
)
from transkimmer_jax.checkpoints import config_file, huggingface
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.jax_runtime import JaxRuntime
from transkimmer_jax.inference.onnx_runtime import OnnxRuntime
from transkimmer_jax.models.architecture import PoolingArchitecture
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession

SLOTS, WIDTH, ROWS, LAYERS = 4, 10, 40, ARCH.num_hidden_layers
TOLERANCE, CLEARANCE = 1e-5, 1e-4
CAPACITIES = (((ROWS, WIDTH),) * LAYERS, ((30, 9), (23, 9), (11, 5)))
PINNING = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, pinned="first_segment"))
# For several budgets, and with maps of what is skimmed.
LEVELS = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, levels=(0.6, 0.4, 0.3), forwarding="linear"))
ONE_PREDICTOR = dataclasses.replace(ARCH, skim=dataclasses.replace(LEVELS.skim, layers=(1,)))
HEADS = {
    "mean": (TranskimmerForSentenceEmbedding, ARCH),
    "normalised": (TranskimmerForSentenceEmbedding, dataclasses.replace(ARCH, pooling=PoolingArchitecture("mean", True))),
    "cls": (TranskimmerForSentenceEmbedding, dataclasses.replace(ARCH, pooling=PoolingArchitecture("cls", False))),
    "levels": (TranskimmerForSentenceEmbedding, LEVELS),
    "levels of one predictor": (TranskimmerForSentenceEmbedding, ONE_PREDICTOR),
    "tags": (TranskimmerForTokenClassification, ARCH),
    "mapped tags": (TranskimmerForTokenClassification, LEVELS),
    "spans": (TranskimmerForQuestionAnswering, PINNING),
    "disentangled mean": (TranskimmerForSentenceEmbedding, dataclasses.replace(DISENTANGLED, skim=LEVELS.skim)),
    "disentangled spans": (TranskimmerForQuestionAnswering, DISENTANGLED),
    # The last layer reads all, and global layers stand around a local one; then a local one is the last.
    "modern mean": (TranskimmerForSentenceEmbedding, MODERN),
    "modern levels": (TranskimmerForSentenceEmbedding, dataclasses.replace(MODERN, skim=LEVELS.skim)),
    "modern classes": (TranskimmerForSequenceClassification, dataclasses.replace(MODERN, classifier_pooling="mean")),
    "modern spans": (TranskimmerForQuestionAnswering, dataclasses.replace(MODERN, local_layers=(1, 2))),
}
thresholds = st.sampled_from([-np.inf, -1.5, -0.5, 0.0, 0.4, 1.0, 2.5, np.inf])


@functools.cache
def make_model(name):
    model_class, arch = HEADS[name]
    model = model_class(arch, rngs=nnx.Rngs(0))
    for predictor in model.encoder.predictors:
        predictor.decision.kernel[...] = predictor.decision.kernel[...] * 40.0
    rng = np.random.default_rng(0)
    for level in model.encoder.levels:
        level.knots[...] = jnp.asarray([-1.0, 1.5, 0.5] + rng.normal(0, 0.2, 3), jnp.float32)  # the last is not in order
    for forwarding in model.encoder.forwarding:
        forwarding.kernel[...] = jnp.asarray(rng.normal(0, 0.2, forwarding.kernel.shape), jnp.float32)
        forwarding.bias[...] = jnp.asarray(rng.normal(0, 0.2, forwarding.bias.shape), jnp.float32)
    return model


@functools.cache
def masked(name):
    model = make_model(name)
    return quick_jit(lambda *batch, threshold: model(*batch, threshold=threshold, only_logits=True))


@functools.cache
def packed(name, capacities):
    model = make_model(name)
    return quick_jit(lambda *batch, threshold: model.compacted(*batch, WIDTH, capacities, threshold=threshold))


@functools.cache
def session(name, runtime):
    model = make_model(name)
    tokens = ["token_embeddings"] if model.head == "sentence_embedding" else []
    # Sizes between which rows are rounded up, and attention's width.
    sizes = {"row_sizes": (0, 2, 5, 7, 12, 13, 20, 32, 48, 1000), "width_multiple": 3} if runtime is OpenVinoSession else {}
    return runtime(build(model, outputs=[*(output.name for output in model.outputs), *tokens, "kept", "depth"], **sizes), threads=1)


def referee(name, examples, threshold):
    """Each example alone: what the head says, and the network's margins and decisions."""
    model = make_model(name)
    tensors, config = referee_tensors(huggingface.tensors(model)), config_file.to_values(model.arch, ("a", "b", "c"), 0)
    for start, end in zip(examples.offsets, examples.offsets[1:], strict=False):
        ids, types = examples.input_ids[start:end], examples.token_type_ids[start:end]
        pinned = types == 0 if model.arch.skim.pinned else None
        example = transkimmer(tensors, config, ids, types, threshold=threshold, pinned=pinned)
        of_text = {"logits": example.logits} if model.head == "sequence_classification" else None
        yield example, of_text or head_answers(model.head, tensors, example.hidden, model.arch.pooling, model.arch.layer_norm_eps)


def padded(examples, extra=0):
    """Ids, mask and types [batch, sequence]; what lies behind a text must not matter."""
    mask = np.arange(WIDTH + extra) < examples.lengths[:, None]
    ids, types = np.full(mask.shape, 7, np.int32), np.ones(mask.shape, np.int32)
    ids[mask], types[mask] = examples.input_ids, examples.token_type_ids
    return ids, mask.astype(np.int32), types


@pytest.mark.parametrize("name", HEADS)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, WIDTH), min_size=SLOTS, max_size=SLOTS),
    seed=st.integers(0, 9),
    threshold=thresholds,
    capacities=st.sampled_from(CAPACITIES),
    extra=st.integers(0, 3),
)
def test_all_layouts_agree(name, lengths, seed, threshold, capacities, extra):
    examples = make_examples(lengths, seed)
    alone = list(referee(name, examples, threshold))
    assume(not any(np.any(np.abs(example.margin - threshold) < CLEARANCE) for example, _ in alone))
    ids, mask, types = padded(examples)
    inside = mask.astype(bool)
    in_mask = jax.device_get(masked(name)(ids, mask, types, threshold=np.float32(threshold)))
    total = len(examples.input_ids)
    rows = np.full((2, ROWS), 7, np.int32)
    rows[0, :total], rows[1, :total] = examples.input_ids, examples.token_type_ids
    in_rows = jax.device_get(packed(name, capacities)(*rows, examples.lengths.astype(np.int32), threshold=np.float32(threshold)))
    graphs = [session(name, runtime).run(*padded(examples, extra), threshold) for runtime in (OnnxRuntimeSession, OpenVinoSession)]
    assert capacities != CAPACITIES[0] or not in_rows.lost.any()
    for output in make_model(name).outputs:
        ends = np.cumsum(examples.lengths)
        scale = max(1.0, *(np.abs(answers[output.name]).max() for _, answers in alone))
        for number, (example, answers) in enumerate(alone):
            expected, length = answers[output.name], len(example.hidden)
            mine = [getattr(in_mask, output.name)[number], *(graph[output.name][number] for graph in graphs)]
            mine = [values[:length] for values in mine] if output.per_token else mine
            if not in_rows.lost[number]:
                values = in_rows.answers[output.name]
                mine.append(values[ends[number] - length : ends[number]] if output.per_token else values[number])
            for values in mine:
                assert relative_error(values, expected, at_least=scale) < TOLERANCE
    for number, (example, _) in enumerate(alone):
        np.testing.assert_array_equal(in_mask.keep[:, number, : len(example.hidden)], example.keep)
        for graph in graphs:
            np.testing.assert_array_equal(graph["kept"][:, number], example.keep.sum(axis=1))
            if "token_embeddings" in graph:
                assert relative_error(graph["token_embeddings"][number, : len(example.hidden)], example.hidden) < TOLERANCE
                assert not graph["token_embeddings"][number, len(example.hidden) :].any()
    assert not in_mask.keep[:, ~inside].any()


def test_pinned_tokens_stay():
    """At a threshold that no margin exceeds, position 0 and the first segment are all that is left."""
    examples = make_examples([10, 6, 3, 1], 1)
    ids, mask, types = padded(examples)
    keep = masked("spans")(ids, mask, types, threshold=np.float32(np.inf)).keep
    expected = (types == 0) & mask.astype(bool)
    expected[:, 0] = True
    np.testing.assert_array_equal(np.asarray(keep), np.broadcast_to(expected, keep.shape))
    assert expected.sum() < mask.sum()


@pytest.mark.parametrize(
    "name", ["normalised", "levels", "levels of one predictor", "tags", "mapped tags", "spans", "disentangled mean", "modern mean"]
)
def test_gates_receive_gradients_from_every_head(name):
    """The training layout: what a skimmed token answers with differs from what it would have been, so gates are worth something."""
    model_class, arch = HEADS[name]
    model, examples = model_class(arch, rngs=nnx.Rngs(0)), make_examples([10, 6, 3, 1], 1)
    graph, params = nnx.split(model)

    def loss(params):
        out = nnx.merge(graph, params)(*padded(examples), key=jax.random.key(0), only_logits=True)
        return sum((getattr(out, output.name) ** 3).sum() for output in model.outputs)

    gradients = quick_jit(jax.grad(loss))(params)
    for predictor in gradients["encoder"]["predictors"].values():
        assert np.abs(predictor["decision"]["kernel"][...]).max() > 0


@pytest.mark.usefixtures("quickly_built_programs")
@pytest.mark.parametrize("name", ["mean", "levels", "levels of one predictor", "tags"])
def test_what_a_batch_loses_runs_again(name):
    """Compiled programs with too little room: each text's vector, each token's row, is where it belongs all the same."""
    model, examples = make_model(name), make_examples([10, 3, 1, 9, 7, 10, 2, 8] * 2, 3)
    expecting_little = Calibration.of_shares([0.3, 0.1, 0.1], WIDTH, 0.0)
    runtime = JaxRuntime(model, max_length=WIDTH, calibration=expecting_little, batch_tokens=ROWS, devices=jax.local_devices()[:1])
    answer = runtime.predict(examples, 0.1, progress=False)
    expected = OnnxRuntime(model, threads=1).predict(examples, 0.1, progress=False)
    assert runtime.statistics.again > 0
    np.testing.assert_array_equal(answer.kept, expected.kept)
    for output in model.outputs:
        assert relative_error(answer.outputs[output.name], expected.outputs[output.name], at_least=1.0) < TOLERANCE
