"""Laws of gates, cumulative keep, skim loss and attention under skimming, each against its formula (docs/design.md, section 1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from models.quick import program, quick_jit
from models.reference import relative_error

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.layouts import PaddedTokens
from transkimmer_jax.models.skim import (
    GumbelGate,
    Levels,
    SkimPredictor,
    ThresholdGate,
    skim_loss,
    with_levels_at,
    with_shifted_margins,
)

ARCH = Architecture(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=40,
    hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.3, skim=SkimArchitecture(initial_bias=0.0),
)  # fmt: skip


@functools.cache
def make_model(**skim):
    return TranskimmerForSequenceClassification(dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, **skim)), rngs=nnx.Rngs(0))


def make_batch(rows=4, width=10, lengths=(10, 1, 6, 3)):
    ids = np.random.default_rng(0).integers(0, 100, (rows, width)).astype(np.int32)
    return ids, (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)


# --- predictors and gates


def test_predictor_is_its_formula():
    predictor = SkimPredictor(32, 24, 5.0, 1e-12, jnp.float32, nnx.Rngs(0))
    predictor.decision.bias[...] = jnp.array([0.3, -0.4])
    x = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    features = jax.nn.gelu(predictor.norm(predictor.dense(predictor.input_norm(x))), approximate=False)
    logits = predictor.decision(features)
    assert relative_error(predictor(x), logits[:, 1] - logits[:, 0]) < 1e-5


@pytest.mark.parametrize("bias", [5.0, 2.0])
def test_fresh_predictor_starts_at_its_bias(bias):
    """The last Linear is born with bias -b for skim and +b for keep, and with weights N(0, 0.02)."""
    predictor = SkimPredictor(64, 256, bias, 1e-12, jnp.float32, nnx.Rngs(0))
    np.testing.assert_array_equal(predictor.decision.bias[...], [-bias, bias])
    kernel = np.asarray(predictor.decision.kernel[...])
    # The standard error of a standard deviation over n samples is sigma / sqrt(2 n).
    assert abs(kernel.std() - 0.02) < 4 * 0.02 / np.sqrt(2 * kernel.size)


def test_shifted_margins():
    """Each layer's by its own, and nothing else of the model changes."""
    model, (ids, mask) = make_model(), make_batch()
    graph, params = nnx.split(model)
    shifted = nnx.merge(graph, with_shifted_margins(params, jnp.array([[0.25, -3.0]])))
    states = program(model)(ids, mask).hidden_states
    for layer, (hidden, shift) in enumerate(zip(states, (0.25, -3.0), strict=False)):
        before, after = (quick_jit(each.encoder.predictors[layer])(hidden) for each in (model, shifted))
        np.testing.assert_allclose(after, before + shift, rtol=1e-5, atol=1e-5)
    unchanged = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    changed = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(unchanged, jax.tree.leaves(jax.device_get(nnx.split(shifted)[1])), strict=True)
        if np.any(old != new)
    ]
    assert len(changed) == 2 and all("decision" in name and "bias" in name for name in changed), changed


def make_levels(knots):
    levels = Levels((0.6, 0.4, 0.2))
    levels.knots[...] = jnp.array(knots, jnp.float32)
    return levels


def test_levels_are_the_scale_of_thresholds():
    """At a level's knot a margin is what that level saves; between and beyond the knots it lies on a line."""
    levels = make_levels([-1.0, 1.0, 2.0])
    margins = jnp.array([-3.0, -1.0, 0.0, 1.0, 1.5, 2.0, 4.0])
    np.testing.assert_allclose(levels(margins), [0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.2], atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))
def test_levels_keep_the_order_of_margins(knots):
    """Whatever the knots: who is kept at a threshold is kept at every lower one."""
    margins = jnp.linspace(-5, 5, 101)
    assert np.all(np.diff(make_levels(knots)(margins)) > -1e-4)


def test_each_sequence_is_skimmed_at_its_level():
    levels = make_levels([-1.0, 1.0, 2.0])
    margins = jnp.array([[0.5, 1.5], [0.5, 1.5], [0.5, 1.5]])
    np.testing.assert_allclose(levels(margins, jnp.array([2, 0, 1])), [[-1.5, -0.5], [1.5, 2.5], [-0.5, 0.5]], atol=1e-6)


def test_levels_move_to_where_they_are_met():
    """A model whose levels are moved to thresholds decides at each level as it did at that threshold."""
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, levels=(0.6, 0.4, 0.2)))
    model, (ids, mask) = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0)), make_batch()
    for level, knots in zip(model.encoder.levels, ([-0.02, 0.0, 0.03], [-0.01, 0.01, 0.02]), strict=False):
        level.knots[...] = jnp.array(knots)
    graph, params = nnx.split(model)
    thresholds = (0.3, 0.65, 0.9)
    moved = nnx.merge(graph, with_levels_at(params, (0.4, 0.6, 0.8), thresholds))
    for before, after in zip(thresholds, (0.4, 0.6, 0.8), strict=True):
        kept, again = model(ids, mask, threshold=before).keep, moved(ids, mask, threshold=after).keep
        np.testing.assert_array_equal(kept, again)


def test_levels_are_shifted_each_by_its_own():
    """Margins that rise by so much at a level: that level's knot falls, and predictors stay as they are."""
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, levels=(0.6, 0.4)))
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    shift = jnp.arange(2 * arch.num_hidden_layers, dtype=jnp.float32).reshape(2, -1)
    shifted = nnx.merge(graph, with_shifted_margins(params, shift))
    for layer, level in enumerate(shifted.encoder.levels):
        np.testing.assert_array_equal(level.knots[...], -shift[:, layer])
        bias = model.encoder.predictors[layer].decision.bias[...]
        np.testing.assert_array_equal(shifted.encoder.predictors[layer].decision.bias[...], bias)


def test_threshold_gate_is_strict():
    margins = jnp.array([-1.0, 0.0, 0.5, 0.5000001, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(ThresholdGate(0.5)(margins, None), [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(ThresholdGate()(margins, None), [0, 0, 1, 1, 1, 0])


def test_fresh_model_keeps_everything():
    ids, mask = make_batch()
    output = program(make_model(initial_bias=5.0))(ids, mask)
    np.testing.assert_array_equal(output.keep, np.broadcast_to(mask, output.keep.shape))


def test_training_keep_values_are_binary_and_fall():
    """At bias 0 every gate is a coin: about half of what is left goes in each layer, as exact zeros and ones."""
    ids, mask = make_batch()
    keep = np.asarray(program(make_model())(ids, mask, key=jax.random.key(0)).keep)
    np.testing.assert_array_equal(np.unique(keep), [0.0, 1.0])
    assert np.all(keep[1:] <= keep[:-1])
    assert keep[-1].sum() < keep[0].sum() < mask.sum()


def test_gumbel_gate_gives_exactly_zero_or_one():
    margin = jnp.broadcast_to(jnp.linspace(-4.0, 4.0, 9), (2000, 9))
    for gate in (GumbelGate(), GumbelGate(noise=0.5)):
        for draw in (gate, jax.jit(gate.__call__)):
            np.testing.assert_array_equal(np.unique(draw(margin, jax.random.key(0))), [0.0, 1.0])


def test_gumbel_gate_keeps_with_the_probability_of_the_softmax():
    """Mean over draws = sigmoid(margin) within 4 standard errors."""
    draws, margins = 40_000, np.array([-4.0, -1.0, 0.0, 0.7, 3.0], np.float32)
    values = GumbelGate()(jnp.broadcast_to(margins, (draws, margins.size)), jax.random.key(1))
    probability = 1 / (1 + np.exp(-margins.astype(np.float64)))
    error = np.abs(np.asarray(values, np.float64).mean(0) - probability)
    assert np.all(error < 4 * np.sqrt(probability * (1 - probability) / draws)), error


def test_gumbel_gate_has_the_gradient_of_the_soft_sample():
    """Straight-through: d gate / d margin = s (1 - s) at the same noise, s = sigmoid(margin + noise)."""
    key = jax.random.key(2)
    margin = jax.random.normal(jax.random.key(3), (50,))
    gradient = quick_jit(jax.grad(lambda m: jnp.sum(GumbelGate()(m, key))))(margin)
    noise = np.asarray(jax.random.logistic(key, margin.shape, jnp.float32), np.float64)
    soft = 1 / (1 + np.exp(-(np.asarray(margin, np.float64) + noise)))
    assert relative_error(gradient, soft * (1 - soft)) < 1e-5
    assert not np.any(jax.grad(lambda m: jnp.sum(GumbelGate(gradient=0.0)(m, key)))(margin))


# --- skim loss


def test_skim_loss_on_hand_values():
    """Two layers, examples of 4 and 2 real tokens: kept 5 and then 3 of 6 -> (5/6 + 3/6) / 2."""
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    keep = jnp.array([[[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 0, 1, 0], [1, 0, 0, 0]]], jnp.float32)
    assert skim_loss(keep, mask) == pytest.approx((5 / 6 + 3 / 6) / 2, rel=1e-6)
    assert skim_loss(jnp.stack([mask, mask]).astype(jnp.float32), mask) == 1.0


def test_skim_loss_of_micro_batches_adds_up():
    """Sums, not averages of ratios: parts of a batch over the whole batch's denominator give the whole batch's loss."""
    rng = np.random.default_rng(0)
    mask = np.sort(rng.integers(0, 2, (6, 8)), axis=1)[:, ::-1]
    keep = (rng.random((3, 6, 8)) < 0.5).astype(np.float32) * mask.astype(np.float32)
    parts = [skim_loss(keep[:, rows], mask[rows], denominator=jnp.float32(mask.sum())) for rows in (slice(0, 1), slice(1, 6))]
    assert sum(parts) == pytest.approx(float(skim_loss(keep, mask)), rel=1e-6)


def soft_gate(margin, key):
    """Keep values between 0 and 1 that depend on the margin alone, so that shapes do not change random draws."""
    return jax.nn.sigmoid(margin)


def loss_and_gradient(model, ids, mask):
    graph, state = nnx.split(model)

    def loss(state):
        return skim_loss(nnx.merge(graph, state)(ids, mask, gate=soft_gate).keep, jnp.asarray(mask))

    return quick_jit(jax.value_and_grad(loss))(state)


def test_padding_cannot_lower_the_skim_loss():
    """The same batch padded to three times the width: the same loss, the same gradient of every parameter."""
    model, (ids, mask) = make_model(), make_batch()
    wider = [np.pad(part, ((0, 0), (0, 2 * part.shape[1]))) for part in (ids, mask)]
    loss, gradient = loss_and_gradient(model, ids, mask)
    wider_loss, wider_gradient = loss_and_gradient(model, *wider)
    assert float(wider_loss) == pytest.approx(float(loss), rel=1e-6)
    # Leaves that skimming does not reach (the head) have gradient 0 in both.
    pairs = list(zip(*map(jax.tree.leaves, jax.device_get((wider_gradient, gradient))), strict=True))
    scale = max(np.abs(b).max() for _, b in pairs)
    assert scale > 1e-3
    for a, b in pairs:
        assert np.abs(a - b).max() < 1e-6 * scale


# --- attention under skimming


def attention_inputs(seed=0, rows=2, width=6, heads=2, head_dim=4):
    rng = np.random.default_rng(seed)
    query, key, value = rng.standard_normal((3, rows, width, heads, head_dim)).astype(np.float32)
    mask = np.ones((rows, width), np.float32)
    mask[1, 4:] = 0
    return query, key, value, mask


def attend(query, key, value, mask, keep, masking="renormalized"):
    tokens = PaddedTokens.start(jnp.zeros((*mask.shape, query.shape[2] * query.shape[3])), jnp.asarray(mask), masking)
    return dataclasses.replace(tokens, keep=jnp.asarray(keep)).attend(*map(jnp.asarray, (query, key, value)), 0.0, None)


attend_once = quick_jit(attend, static_argnames="masking")  # within other jitted functions it is `attend`


def formula(query, key, value, mask, keep, masking="renormalized"):
    """docs/design.md, section 1.4, in float64: weights keep * exp(s), over their sum; or Eq. 4, softmax over real tokens times keep."""
    query, key, value, mask, keep = (np.asarray(part, np.float64) for part in (query, key, value, mask, keep))
    exponential = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1]))
    if masking == "post_softmax":
        weights = exponential * mask[:, None, None] / (exponential * mask[:, None, None]).sum(-1, keepdims=True) * keep[:, None, None]
    else:
        weights = exponential * keep[:, None, None] / (exponential * keep[:, None, None]).sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, value)


def keep_values(kind, mask):
    rng = np.random.default_rng(5)
    if kind == "soft":
        return (rng.uniform(0.1, 1.0, mask.shape) * mask).astype(np.float32)
    keep = (rng.random(mask.shape) < 0.5).astype(np.float32)
    keep[:, 0] = 1
    return keep * mask


@pytest.mark.parametrize("masking", ["renormalized", "post_softmax"])
@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_attention_is_its_formula(masking, kind):
    query, key, value, mask = attention_inputs()
    keep = keep_values(kind, mask)
    expected = formula(query, key, value, mask, keep, masking)
    assert relative_error(attend_once(query, key, value, mask, keep, masking), expected) < 1e-5
    # The two modes are different functions, so neither test can pass by computing the other.
    other = {"renormalized": "post_softmax", "post_softmax": "renormalized"}[masking]
    assert relative_error(formula(query, key, value, mask, keep, other), expected) > 0.05


@pytest.mark.parametrize("masking", ["renormalized", "post_softmax"])
@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_gradient_reaches_the_gates(masking, kind):
    """d(weighted sum of the attention's output) / d keep = central differences of the float64 formula; of skimmed keys under
    renormalisation, the derivative with their weight bounded by about that of the highest kept key."""
    query, key, value, mask = attention_inputs()
    keep = keep_values(kind, mask)
    probe = np.random.default_rng(7).standard_normal(query.shape)
    weighted = quick_jit(jax.grad(lambda k: jnp.sum(attend(query, key, value, mask, k, masking) * probe.astype(np.float32))))
    gradient = weighted(jnp.asarray(keep))
    expected, step = np.zeros(mask.shape), 1e-5
    for index in zip(*np.nonzero(mask), strict=True):
        shifted = [keep.astype(np.float64) for _ in range(2)]
        shifted[0][index] += step
        shifted[1][index] -= step
        high, low = (np.sum(formula(query, key, value, mask, k, masking) * probe) for k in shifted)
        expected[index] = (high - low) / (2 * step)
    if (masking, kind) == ("renormalized", "binary"):
        skimmed = (mask == 1) & (keep == 0)
        exact, expected[skimmed] = expected[skimmed], bounded_gradient(query, key, value, keep, probe)[skimmed]
        assert np.abs(exact).max() > 1.5 * np.abs(expected[skimmed]).max(), "the bound is at work here"
    real = mask == 1
    assert relative_error(np.asarray(gradient)[real], expected[real]) < 1e-5


def bounded_gradient(query, key, value, keep, probe):
    """Of every key [B, S]: its weight over the total, times the way from what was attended to the key's value."""
    query, key, value, keep = (array.astype(np.float64) for array in (query, key, value, keep))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    kept = keep[:, None, None, :]
    scores = scores - np.where(kept > 0, scores, -np.inf).max(axis=-1, keepdims=True)
    total = (kept * np.exp(scores)).sum(axis=-1)
    attended = np.einsum("bhqk,bkhd->bqhd", kept * np.exp(scores), value) / total.transpose(0, 2, 1)[..., None]
    ways = np.einsum("bqhd,bkhd->bhqk", probe, value) - np.einsum("bqhd,bqhd->bhq", probe, attended)[..., None]
    return (np.exp(np.minimum(scores, 0.1)) / total[..., None] * ways).sum(axis=(1, 2))


@pytest.mark.parametrize("masking", ["renormalized", "post_softmax"])
def test_nothing_is_nan_where_no_token_is_real(masking):
    """A row of padding (the fill of a last batch) gives zeros and finite gradients, and leaves its mates alone."""
    query, key, value, mask = attention_inputs()
    mask[1] = 0
    output = attend_once(query, key, value, mask, mask, masking)
    np.testing.assert_array_equal(output[1], np.zeros_like(output[1]))
    assert relative_error(output[:1], attend_once(query[:1], key[:1], value[:1], mask[:1], mask[:1], masking)) < 1e-6
    gradients = quick_jit(jax.grad(lambda *args: jnp.sum(attend(*args[:3], mask, args[3], masking) ** 2), (0, 1, 2, 3)))(
        *map(jnp.asarray, (query, key, value, mask))
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_padding_row_leaves_the_models_gradient_finite():
    ids, mask = make_batch()
    mask[2] = 0
    graph, state = nnx.split(make_model())

    def loss(state):
        output = nnx.merge(graph, state)(ids, mask, key=jax.random.key(0))
        return jnp.sum(output.logits**2) + skim_loss(output.keep, jnp.asarray(mask))

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(quick_jit(jax.grad(loss))(state)))


def test_an_extreme_score_of_a_skimmed_key_does_not_blow_up():
    """exp(score - highest kept score) overflows float32 here; output and gradient must stay finite."""
    query, key, value, mask = attention_inputs()
    keep = mask.copy()
    keep[0, 3] = 0
    key[0, 3] = 1e3 * query[0, 0]
    gradients = quick_jit(jax.grad(lambda *args: jnp.sum(attend(*args[:3], mask, args[3])), (0, 1, 2, 3)))(
        *map(jnp.asarray, (query, key, value, keep))
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    without = [np.delete(part, 3, axis=1)[:1] for part in (query, key, value, mask)]
    expected = attend_once(*without, without[-1])
    assert relative_error(np.delete(attend_once(query, key, value, mask, keep)[0], 3, axis=0), expected[0]) < 1e-6


def test_gates_without_noise_decide_as_evaluation_does():
    """And keep the relaxation's gradient."""
    margin = jnp.linspace(-3.0, 3.0, 13) + 0.1
    gate = GumbelGate(noise=0.0)
    np.testing.assert_array_equal(gate(margin, jax.random.key(0)), ThresholdGate(0.0)(margin, None))
    gradient = quick_jit(jax.grad(lambda margin: jnp.sum(gate(margin, jax.random.key(0)))))(margin)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(margin) * jax.nn.sigmoid(-margin), rtol=1e-5)


def test_margins_are_not_rounded_by_accelerators():
    """Their products ask for all bits of float32, forward and backward, whatever the default is."""
    predictor = SkimPredictor(8, 4, 0.0, 1e-12, jnp.float32, nnx.Rngs(0))
    graph, params = nnx.split(predictor)

    def total(params, hidden):
        return jnp.sum(nnx.merge(graph, params)(hidden))

    text = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, jnp.ones((3, 8))).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 5 and all("precision = [HIGHEST, HIGHEST]" in line for line in products), products
