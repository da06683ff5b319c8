"""Losses against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from transkimmer_jax.training import objectives
from transkimmer_jax.training.objectives import distillation_loss, task_loss

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


def test_embedding_loss():
    """Twice one minus the cosine; a padding example is not learned, nor is the length of a vector."""
    rng = np.random.default_rng(0)
    vectors, teacher = rng.normal(size=(2, 5, 4)).astype(np.float32)
    weight = np.array([1.0, 0.5, 0.0, 1.0, 1.0], np.float32)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(vectors.astype(float), teacher.astype(float), strict=True)]
    loss = objectives.embedding_loss(jnp.array(vectors), jnp.array(teacher), jnp.array(weight))
    assert float(loss) == pytest.approx(np.sum(weight * 2 * (1 - np.array(cosines))), rel=1e-5)
    at_teacher, gradient = jax.value_and_grad(lambda values: objectives.embedding_loss(values, jnp.array(teacher), jnp.array(weight)))(
        jnp.array(3 * teacher)
    )
    assert abs(float(at_teacher)) < 1e-5 and np.abs(gradient).max() < 1e-5


def test_tagging_loss():
    """The mean over the labelled tokens of each text; a text without any costs nothing."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    labels = np.array([[1, -100, 4, 0], [-100, 2, -100, -100], [-100] * 4])
    weight = np.array([1.0, 0.5, 1.0], np.float32)
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = -np.mean([log_p[0, 0, 1], log_p[0, 2, 4], log_p[0, 3, 0]]) - 0.5 * log_p[1, 1, 2]
    assert float(objectives.tagging_loss(jnp.array(logits), jnp.array(labels), jnp.array(weight))) == pytest.approx(expected, rel=1e-5)


def test_losses_of_tokens_do_not_see_padding():
    """Whatever stands there, a text has the loss that it has alone."""
    rng = np.random.default_rng(2)
    logits, teacher = rng.normal(size=(2, 2, 5, 3)).astype(np.float32)
    mask, weight = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]), np.ones(2, np.float32)
    for loss in (
        lambda given, wanted, mask, weight: objectives.tag_distillation_loss(given, wanted, mask, weight, 2.0),
        lambda given, wanted, mask, weight: objectives.span_distillation_loss(given[..., 0], wanted[..., 0], mask, weight, 2.0),
        lambda given, wanted, mask, weight: objectives.span_loss(given[..., 0], jnp.array([2, 1])[: len(mask)], mask, weight),
    ):
        whole = loss(*map(jnp.array, (logits, teacher, mask, weight)))
        first = loss(*(jnp.array(values[:1, :3]) for values in (logits, teacher, mask)), jnp.ones(1))
        second = loss(*map(jnp.array, (logits, teacher, mask, np.array([0.0, 1.0], np.float32))))
        assert float(whole) == pytest.approx(float(first + second), rel=1e-5) and float(whole) > 0


def test_distillation_of_tokens_is_the_divergence():
    """Of spans over places, of tags over labels."""
    rng = np.random.default_rng(3)
    logits, teacher = rng.normal(size=(2, 1, 4, 3)).astype(np.float32)
    mask, weight = jnp.ones((1, 4), jnp.int32), jnp.ones(1)
    expected = np.mean([scipy.stats.entropy(*map(scipy.special.softmax, (teacher[0, place], logits[0, place]))) for place in range(4)])
    loss = objectives.tag_distillation_loss(jnp.array(logits), jnp.array(teacher), mask, weight, 1.0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    expected = scipy.stats.entropy(*map(scipy.special.softmax, (teacher[0, :, 0], logits[0, :, 0])))
    loss = objectives.span_distillation_loss(jnp.array(logits[..., 0]), jnp.array(teacher[..., 0]), mask, weight, 1.0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
