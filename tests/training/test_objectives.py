"""Laws of what is minimised: losses against their formulas, the shares against NumPy counts, the controller against a simulated model."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.analysis import flops
from transkimmer_jax.config import SkimConfig
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.training import objectives
from transkimmer_jax.training.objectives import Controller, distillation_loss, target_share, task_loss

ARCH = Architecture(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=2, skim=SkimArchitecture(predictor_size=3)
)
LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]], np.float32)
TEACHER = np.array([[0.5, -1.0, 2.5], [1.0, 0.0, -1.0], [-3.0, 4.0, 1.0]], np.float32)


def test_classification_loss():
    """Cross-entropy of each example, times its weight, summed."""
    weight = np.array([1.0, 0.5, 0.0], np.float32)
    first = math.log(math.exp(2) + math.exp(-1) + math.exp(0.5)) - 0.5
    loss = task_loss(jnp.array(LOGITS), jnp.array([2, 0, 1]), jnp.array(weight))
    assert float(loss) == pytest.approx(first + 0.5 * math.log(3), rel=1e-6)


def test_regression_loss():
    """Squared error where the labels are floats."""
    loss = task_loss(jnp.array([[1.0], [2.0], [7.0]]), jnp.array([3.0, 1.5, 0.0]), jnp.array([1.0, 2.0, 0.0]))
    assert float(loss) == 4 + 2 * 0.25


def test_zero_weights():
    """A padding example gives neither loss nor gradient, whatever stands in it."""
    labels, weight = jnp.array([2, 0, 1]), jnp.zeros(3)
    for loss in (
        lambda logits: task_loss(logits, labels, weight),
        lambda logits: distillation_loss(logits, jnp.array(TEACHER), weight, 2.0),
    ):
        value, gradient = jax.value_and_grad(loss)(jnp.array(LOGITS))
        assert float(value) == 0 and not gradient.any()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_the_kullback_leibler_divergence(temperature):
    weight = np.array([1.0, 0.5, 1.0], np.float32)
    teacher, student = (scipy.special.softmax(logits.astype(np.float64) / temperature, axis=-1) for logits in (TEACHER, LOGITS))
    expected = temperature**2 * float(np.sum(scipy.stats.entropy(teacher, student, axis=-1) * weight))
    assert expected > 0.1
    loss = distillation_loss(jnp.array(LOGITS), jnp.array(TEACHER), jnp.array(weight), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_state_distillation():
    """Squared distance over squared length, averaged over layers, weighted over examples."""
    teacher = np.array([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]])  # [layers 2, B 2, H 2]
    student = np.array([[[3.0, 3.0], [1.0, 2.0]], [[1.0, 2.0], [1.0, 1.0]]])
    first, second = (1 / 25 + 1 / 4) / 2, (4 / 1 + 0) / 2
    for weight, expected in (([1.0, 1.0], first + second), ([1.0, 0.0], first), ([0.5, 2.0], 0.5 * first + 2 * second)):
        loss = objectives.state_distillation_loss(jnp.array(student, jnp.bfloat16), jnp.array(teacher, jnp.float32), jnp.array(weight))
        assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_distillation_is_zero_at_the_teacher_and_positive_elsewhere():
    weight = jnp.ones(3)
    loss = jax.jit(lambda logits: distillation_loss(logits, jnp.array(TEACHER), weight, 2.0))
    assert float(loss(jnp.array(TEACHER))) == 0
    assert float(loss(jnp.array(TEACHER) + 3.0)) == pytest.approx(0, abs=1e-6), "a shift of all logits is no difference"
    for row, column in np.ndindex(TEACHER.shape):
        for change in (-0.1, 0.1):
            moved = TEACHER.copy()
            moved[row, column] += change
            assert float(loss(jnp.array(moved))) > 1e-4


def test_the_gradient_of_distillation_keeps_its_size_over_temperatures():
    """That is what the squared temperature is for: the limit is (student - teacher) / classes for centred logits."""
    student, teacher = jnp.array([[0.3, -0.3]]), jnp.array([[-0.1, 0.1]])
    for temperature in (10.0, 100.0):
        gradient = jax.grad(lambda logits, t=temperature: distillation_loss(logits, teacher, jnp.ones(1), t))(student)
        np.testing.assert_allclose(gradient, (student - teacher) / 2, rtol=2e-3)


def test_distillation_of_a_regressor_is_the_squared_error():
    loss = distillation_loss(jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [2.5]]), jnp.array([1.0, 2.0]), 2.0)
    assert float(loss) == 4 + 2 * 0.25


keeps = st.tuples(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**32 - 1))


def draw_keep(lengths, seed):
    """A mask [B, 6] of these lengths, and cumulative keep values [2, B, 6] below it."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int32)
    gates = rng.random((2, *mask.shape)) < 0.6
    gates[:, :, 0] = True
    return mask, np.cumprod(gates, axis=0).astype(np.float32) * mask.astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(keeps)
def test_flops_share_is_a_count(case):
    """Over the examples' own dense FLOPs: sums over the batch, not a mean of ratios."""
    mask, keep = draw_keep(*case)
    used = sum(flops.skimmed(ARCH, keep[:, row].sum(axis=-1)[:, None], mask[row].sum(keepdims=True))[0] for row in range(len(mask)))
    whole = sum(flops.dense(ARCH, float(row.sum())) for row in mask)
    skim = SkimConfig(objective="budget", allocation="learned", target_kind="flops")
    denominator = objectives.share_denominator(skim, ARCH, jnp.array(mask))
    share = objectives.priced_share(skim, ARCH, jnp.array(keep), jnp.array(mask), denominator)
    assert float(denominator) == pytest.approx(whole, rel=1e-6)
    assert float(share) == pytest.approx(used / whole, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(keeps)
def test_token_share_is_a_count(case):
    """Budget of tokens, and coefficient mode: kept over real tokens, and over all positions in the paper's normalisation."""
    mask, keep = draw_keep(*case)
    for skim, whole in (
        (SkimConfig(objective="budget", allocation="learned", target_kind="tokens"), 2 * mask.sum()),
        (SkimConfig(objective="coefficient", target_kind="flops"), 2 * mask.sum()),
        (SkimConfig(objective="coefficient", loss_normalization="padded"), 2 * mask.size),
    ):
        denominator = objectives.share_denominator(skim, ARCH, jnp.array(mask))
        share = objectives.priced_share(skim, ARCH, jnp.array(keep), jnp.array(mask), denominator)
        assert float(share) == pytest.approx(keep.sum() / whole, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(keeps)
def test_layer_shares_are_counts(case):
    mask, keep = draw_keep(*case)
    skim = SkimConfig(objective="budget", allocation="geometric")
    denominator = objectives.share_denominator(skim, ARCH, jnp.array(mask))
    shares = objectives.priced_share(skim, ARCH, jnp.array(keep), jnp.array(mask), denominator)
    np.testing.assert_allclose(shares, keep.sum(axis=(1, 2)) / mask.sum(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["flops", "tokens"])
@pytest.mark.parametrize("target", [0.15, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("steepness", [0.0, 0.5, 1.0])
def test_a_geometric_goal_costs_the_budget(steepness, target, kind):
    """And of the tokens behind position 0 each layer keeps the same part of the layer's before it, or of all, or between."""
    arch = dataclasses.replace(ARCH, num_hidden_layers=12, hidden_size=384, intermediate_size=1536)
    goal = objectives.goal(SkimConfig(target=target, target_kind=kind, steepness=steepness), arch, mean_length=40.0)
    kept = goal.astype(np.float64) * 40
    spent = flops.skimmed(arch, kept, np.array(40.0)) / flops.dense(arch, np.array(40.0)) if kind == "flops" else goal.mean()
    assert float(spent) == pytest.approx(target, rel=1e-4)
    parts = (kept - 1) / np.concatenate([[39.0], kept[:-1] - 1])
    np.testing.assert_allclose(parts[1:], parts[0] ** np.diff(np.arange(1, 13) ** steepness), rtol=1e-3)


def test_a_budget_below_the_possible():
    """All but position 0 go, and the goal asks for no more than that."""
    goal = objectives.goal(SkimConfig(target=0.001, target_kind="tokens"), ARCH, mean_length=20.0)
    np.testing.assert_allclose(goal, 1 / 20, rtol=1e-3)


def schedule(skim, total_steps):
    goal = objectives.goal(dataclasses.replace(skim, allocation="learned"), ARCH, mean_length=10.0)
    return [float(target_share(skim, goal, jnp.int32(step), total_steps)) for step in range(total_steps + 1)]


def test_target_share():
    """1 through the warm-up, then a straight line to the target, then constant."""
    targets = schedule(SkimConfig(target=0.4, warmup=0.1, anneal=0.5), 100)
    np.testing.assert_allclose(targets[:11], 1.0, rtol=1e-6)
    np.testing.assert_allclose(targets[10:61], np.linspace(1.0, 0.4, 51), rtol=1e-5)
    np.testing.assert_allclose(targets[60:], 0.4, rtol=1e-6)


def test_target_share_without_annealing_is_a_step():
    targets = schedule(SkimConfig(target=0.25, warmup=0.5, anneal=0.0), 10)
    np.testing.assert_allclose(targets, [1.0] * 6 + [0.25] * 5, rtol=1e-6)


def test_the_controller_starts_at_zero_and_waits_through_the_warmup():
    """Nothing is priced in the warm-up: predictors' overhead, which makes the share exceed 1, does not wind it up."""
    skim, controller = SkimConfig(), Controller.start()
    for _ in range(50):
        assert float(controller.coefficient(skim, jnp.float32(1.0))) == 0
        controller = controller.update(skim, jnp.float32(1.0), jnp.float32(1.1))


def test_the_integral_does_not_wind_up_in_the_warmup():
    """Gates that skim of themselves leave no debt of negative prices behind."""
    skim, controller = SkimConfig(), Controller.start()
    for _ in range(5):
        controller = controller.update(skim, jnp.float32(1.0), jnp.float32(0.5))
    assert float(controller.integral) == 0
    assert float(controller.update(skim, jnp.float32(0.99), jnp.float32(0.5)).integral) < 0


def test_the_controller_by_hand():
    skim = SkimConfig(controller_gain=0.5, controller_damping=4.0)
    controller = Controller.start().update(skim, jnp.float32(0.4), jnp.float32(0.8))
    measured = 0.7 + 0.3 * 0.8
    assert float(controller.measured) == pytest.approx(measured, rel=1e-6)
    assert float(controller.integral) == pytest.approx(0.5 * (measured - 0.4), rel=1e-6)
    assert float(controller.coefficient(skim, jnp.float32(0.3))) == pytest.approx(0.5 * (measured - 0.4) + 4 * (measured - 0.3), rel=1e-6)


@pytest.mark.parametrize("target", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("resistance", [0.05, 0.5, 2.0])
def test_the_controller_reaches_its_target(target, resistance):
    """A simulated model whose keep logit falls where the coefficient exceeds the worth of its tokens, and rises where it does not.

    The controller is told neither the worth nor how fast the model moves.
    """
    skim, total_steps, speed = SkimConfig(target=target), 1000, 0.02
    # As a whole, and as two layers of which the second is reluctant.
    goal, resistance = np.array([target, target / 2], np.float32), jnp.array([resistance, 2 * resistance])

    def step(state, now):
        controller, logit = state
        wanted = target_share(skim, goal, now, total_steps)
        coefficient = controller.coefficient(skim, wanted)
        logit = jnp.clip(logit - speed * (coefficient - resistance), -10.0, 5.0)
        share = jax.nn.sigmoid(logit)
        return (controller.update(skim, wanted, share), logit), (share, coefficient)

    _, (shares, coefficients) = jax.jit(lambda: jax.lax.scan(step, (Controller.start((2,)), jnp.full(2, 5.0)), jnp.arange(total_steps)))()
    assert not coefficients[0].any()
    np.testing.assert_allclose(shares[-100:], np.broadcast_to(goal, (100, 2)), rtol=0.05)
    assert np.all(shares[:50] > 0.95), "still dense at the end of the warm-up"


def test_gate_noise():
    """All of it until the target is reached, none from `noise_end` on, a straight line between; always all where it is not wanted."""
    skim = SkimConfig(warmup=0.1, anneal=0.4, noise_end=0.9)
    noise = [float(objectives.gate_noise(skim, jnp.int32(step), 100)) for step in range(101)]
    np.testing.assert_allclose(noise[:51], 1.0, rtol=1e-6)
    np.testing.assert_allclose(noise[50:91], np.linspace(1, 0, 41), atol=1e-5)
    np.testing.assert_allclose(noise[90:], 0.0, atol=1e-6)
    for always in (SkimConfig(noise_end=None), SkimConfig(objective="coefficient")):
        assert [float(objectives.gate_noise(always, jnp.int32(step), 100)) for step in (0, 60, 100)] == [1.0, 1.0, 1.0]
    abrupt = SkimConfig(warmup=0.1, anneal=0.8, noise_end=0.9)
    assert [float(objectives.gate_noise(abrupt, jnp.int32(step), 100)) for step in (89, 90, 91)] == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)
