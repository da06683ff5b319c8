"""Laws of a call of the whole model: gradients reach every parameter, optional inputs have their documented defaults,
precision and rematerialisation change nothing but precision and memory, one program serves all thresholds."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.quick import program, quick_jit
from models.reference import relative_error

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.errors import DataError
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.skim import skim_loss

LAYERS, ROWS, WIDTH = 2, 4, 10
ARCH = Architecture(
    vocab_size=100, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64, max_position_embeddings=40,
    num_labels=3, initializer_range=0.3, skim=SkimArchitecture(predictor_size=24, initial_bias=1.0),
)  # fmt: skip


@functools.cache
def make_model(**changes):
    return TranskimmerForSequenceClassification(dataclasses.replace(ARCH, **changes), rngs=nnx.Rngs(0))


def call(model, *batch, **options):
    return program(model)(*batch, **options)


def make_batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 100, (ROWS, WIDTH)).astype(np.int32)
    mask = (np.arange(WIDTH) < np.array([[10], [1], [6], [3]])).astype(np.int32)
    return ids, mask, rng.integers(0, 2, ids.shape).astype(np.int32)


@functools.cache
def training_step(**changes):
    """coefficient -> gradient of cross entropy + coefficient * skim loss in a training call, and its logits."""
    graph, state = nnx.split(make_model(**changes))
    ids, mask, types = make_batch()

    def loss(state, coefficient):
        output = nnx.merge(graph, state)(ids, mask, types, key=jax.random.key(0))
        task = -jnp.mean(jax.nn.log_softmax(output.logits)[jnp.arange(ROWS), jnp.arange(ROWS) % 3])
        return task + coefficient * skim_loss(output.keep, jnp.asarray(mask)), output.logits

    return functools.partial(quick_jit(jax.grad(loss, has_aux=True)), state)


@pytest.mark.parametrize(("masking", "coefficient"), [("renormalized", 1.0), ("renormalized", 0.0), ("post_softmax", 1.0)])
def test_every_parameter_receives_a_gradient(masking, coefficient):
    """No leaf is cut off: the task loss alone reaches every predictor too (through the attention of kept tokens).

    Whole leaves only: rows of unused words and positions, and the keys' half of the joint bias (softmax does not
    see a shift of all scores), have gradient 0 by nature.
    """
    gradients, _ = training_step(skim=dataclasses.replace(ARCH.skim, attention_masking=masking))(coefficient)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    # 3 tables and a norm; 14 leaves a layer and 8 a predictor; pooler and classifier.
    assert len(leaves) == 5 + LAYERS * (14 + 8) + 4
    for path, leaf in leaves:
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert float(jnp.abs(leaf).max()) > 1e-7, jax.tree_util.keystr(path)


def test_unused_rows_receive_none():
    """Words and positions that do not occur are not moved, except by what the reader may add (weight decay)."""
    gradients, _ = training_step(skim=ARCH.skim)(1.0)
    ids, mask, _ = make_batch()
    word, position = (np.asarray(gradients["embeddings"][table]["embedding"][...]) for table in ("word", "position"))
    unseen = np.setdiff1d(np.arange(100), ids[mask == 1])
    assert not word[unseen].any()
    assert not position[WIDTH:].any()
    assert position[:WIDTH].any(axis=1).all()


def test_defaults_of_mask_and_token_types():
    model, (ids, _, _) = make_model(), make_batch()
    explicit = call(model, ids, np.ones_like(ids), np.zeros_like(ids))
    for output in (call(model, ids), call(model, ids, np.ones_like(ids)), call(model, ids, None, np.zeros_like(ids))):
        np.testing.assert_array_equal(output.keep, explicit.keep)
        for a, b in zip(jax.tree.leaves(output), jax.tree.leaves(explicit), strict=True):
            assert relative_error(a, b) < 1e-5


def test_token_types_matter():
    model, (ids, mask, types) = make_model(), make_batch()
    assert relative_error(call(model, ids, mask, types).logits, call(model, ids, mask).logits) > 1e-3


@pytest.mark.parametrize("mask_dtype", [np.bool_, np.float32])
def test_masks_of_any_dtype(mask_dtype):
    model, (ids, mask, types) = make_model(), make_batch()
    expected = call(model, ids, mask, types)
    np.testing.assert_array_equal(call(model, ids, mask.astype(mask_dtype), types).logits, expected.logits)


@pytest.mark.parametrize("skim", [ARCH.skim, None], ids=["skimming", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_dtypes(skim, dtype):
    """As `SequenceClassifierOutput` documents them: what decides or is scored is float32 in every compute dtype."""
    batch = make_batch()
    output = jax.eval_shape(lambda: make_model(skim=skim, compute_dtype=dtype)(*batch))
    chex.assert_shape(output.logits, (ROWS, 3))
    chex.assert_shape(output.keep, (LAYERS, ROWS, WIDTH))
    chex.assert_shape([output.last_hidden_state, *output.hidden_states], (ROWS, WIDTH, 32))
    assert len(output.hidden_states) == LAYERS + 1
    assert output.logits.dtype == output.keep.dtype == jnp.float32
    assert {state.dtype for state in (output.last_hidden_state, *output.hidden_states)} == {jnp.dtype(dtype)}
    if skim is None:
        assert output.margin is None
    else:
        chex.assert_shape(output.margin, (LAYERS, ROWS, WIDTH))
        assert output.margin.dtype == jnp.float32


def test_parameters_are_float32_under_bfloat16():
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(make_model(compute_dtype="bfloat16")))} == {jnp.dtype("float32")}


def test_bfloat16_is_close_to_float32():
    """Everything kept: two units of bfloat16's 8 bits for the embeddings and for each layer; and not computed in float32."""
    batch, open_threshold = make_batch(), -np.inf
    exact = call(make_model(), *batch, threshold=open_threshold)
    rough = call(make_model(compute_dtype="bfloat16"), *batch, threshold=open_threshold)
    for depth, (a, b) in enumerate(zip(rough.hidden_states, exact.hidden_states, strict=True), start=1):
        assert 2**-12 < relative_error(a.astype(jnp.float32), b) < 2 * depth * 2**-8
    assert 2**-12 < relative_error(rough.logits, exact.logits) < 2 * depth * 2**-8
    assert relative_error(rough.margin, exact.margin) < 2**-8


def test_bfloat16_trains():
    gradients, _ = training_step(compute_dtype="bfloat16")(1.0)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.any(leaf)


def test_remat_changes_nothing():
    """The same logits and gradients, dropout and gates included: recomputation draws the same random numbers."""
    gradients, logits = training_step(skim=ARCH.skim)(1.0)
    regradients, again = training_step(remat=True)(1.0)
    assert relative_error(again, logits) < 1e-6
    for a, b in zip(jax.tree.leaves(regradients), jax.tree.leaves(gradients), strict=True):
        assert relative_error(a, b) < 1e-5


def test_dense_model():
    """`skim=None`: no predictors, every real token computed, whatever threshold is given."""
    model, (ids, mask, types) = make_model(skim=None), make_batch()
    output = call(model, ids, mask, types)
    assert output.margin is None
    assert not any("predictors" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(nnx.state(model)))
    np.testing.assert_array_equal(output.keep, np.broadcast_to(mask, (LAYERS, ROWS, WIDTH)))
    real = mask == 1
    assert relative_error(output.last_hidden_state[real], output.hidden_states[-1][real]) < 1e-6
    np.testing.assert_array_equal(call(model, ids, mask, types, threshold=np.inf).logits, output.logits)


def test_threshold_of_the_architecture_is_the_default():
    """None takes the checkpoint's threshold; a given one replaces it."""
    batch = make_batch()
    model = make_model(skim=dataclasses.replace(ARCH.skim, threshold=2.0))
    plain = make_model()
    keep = call(model, *batch).keep
    np.testing.assert_array_equal(keep, call(plain, *batch, threshold=2.0).keep)
    assert np.any(keep != call(plain, *batch).keep)
    np.testing.assert_array_equal(call(model, *batch, threshold=0.0).keep, call(plain, *batch).keep)


def test_one_program_serves_all_thresholds():
    graph, state = nnx.split(make_model())

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(state, batch, threshold):
        return nnx.merge(graph, state)(*batch, threshold=threshold).keep.sum()

    chex.clear_trace_counter()
    kept = [float(run(state, make_batch(), threshold)) for threshold in (-np.inf, 1.8, 2.0, 2.2, np.inf)]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) > 2


def test_split_and_merge():
    """The state is parameters only (no hidden counters of random streams), and merging gives the same model."""
    model, batch = make_model(), make_batch()
    graph, state = nnx.split(model)
    assert all(isinstance(variable, nnx.Param) for variable in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable)))
    merged = nnx.merge(graph, state)
    assert merged is not model
    assert merged.arch == model.arch
    for a, b in zip(jax.tree.leaves(call(merged, *batch)), jax.tree.leaves(call(model, *batch)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keys():
    """One key, one result; another key, another; and no call leaves a trace in the model."""
    model, batch = make_model(), make_batch()
    run = quick_jit(lambda key: model(*batch, key=key).logits)
    first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.any(first != other, axis=1))


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("gates", {"hidden_dropout": 0.0, "attention_dropout": 0.0}),
        ("attention dropout", {"hidden_dropout": 0.0, "skim": None}),
        ("hidden dropout", {"attention_dropout": 0.0, "skim": None}),
        ("nowhere", {"hidden_dropout": 0.0, "attention_dropout": 0.0, "skim": None}),
    ],
)
def test_every_source_of_randomness_is_driven_by_the_key(place, changes):
    """Each source alone changes the logits with the key; with all of them off, training's call is evaluation's."""
    model, batch = make_model(**changes), make_batch()
    run = quick_jit(lambda key: model(*batch, key=key).logits)
    differs = not np.array_equal(run(jax.random.key(0)), run(jax.random.key(1)))
    assert differs == (place != "nowhere")
    if place == "nowhere":
        assert relative_error(run(jax.random.key(0)), call(model, *batch).logits) < 1e-6


def test_more_positions_than_embeddings_is_an_error_not_nan():
    with pytest.raises(DataError, match="41 positions, but the checkpoint has 40"):
        make_model()(np.zeros((1, 41), np.int32))


IDS = np.zeros((2, 5), np.int32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (([[1, 2]],), "input_ids must be an array [B, S], not a list: give a tokenizer return_tensors='np'"),
        (("good",), "input_ids must be an array [B, S], not a str: give a tokenizer return_tensors='np'"),
        ((IDS[0],), "input_ids has the shape [5], and must have [B, S], neither of them 0"),
        ((IDS[:, :0],), "input_ids has the shape [2, 0], and must have [B, S], neither of them 0"),
        ((IDS.astype(np.float32),), "input_ids must hold integers, not float32"),
        ((IDS - 1,), "input_ids holds -1, outside of the model's 0 to 99: take the model's own tokenizer"),
        ((jnp.asarray(IDS + 100),), "input_ids holds 100, outside of the model's 0 to 99: take the model's own tokenizer"),
        ((IDS, IDS[:, 1:]), "attention_mask has the shape [2, 4], and must have that of input_ids, [2, 5]"),
        ((IDS, None, IDS[:1]), "token_type_ids has the shape [1, 5], and must have that of input_ids, [2, 5]"),
        ((IDS, None, IDS + 2), "token_type_ids holds 2, outside of the model's 0 to 1: take the model's own tokenizer"),
        ((IDS, None, IDS.astype(bool)), "token_type_ids must hold integers, not bool"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_arrays_that_are_no_tokens(arrays, says):
    with pytest.raises(DataError) as error:
        make_model()(*arrays)
    assert str(error.value) == says
