"""Students against teachers, by hand and by brute force."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import texts_task
from transkimmer_jax.evaluation import agreement
from transkimmer_jax.evaluation.metrics import compute_metrics
from transkimmer_jax.inference.predictions import Predictions


def predictions(lengths=None, **outputs):
    count = len(next(iter(outputs.values()))) if lengths is None else len(lengths)
    return Predictions(outputs, np.ones((1, count)), np.array([1] * count if lengths is None else lengths))


def task(head, label_names=None):
    return texts_task(DataConfig(task="texts"), head, label_names, 16, "")


def test_labels():
    """Of texts and of tokens: how many are the same, and how far the probabilities are apart."""
    student = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], np.float32)
    teacher = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    expected = np.mean(
        [scipy.stats.entropy(scipy.special.softmax(b), scipy.special.softmax(a)) for a, b in zip(student, teacher, strict=True)]
    )
    for head, lengths in (("sequence_classification", None), ("token_classification", [2, 1])):
        measured = compute_metrics(task(head, ("x", "y")), predictions(lengths, logits=student), predictions(lengths, logits=teacher))
        assert measured == pytest.approx({"agreement": 2 / 3, "divergence": expected}, rel=1e-6)


def test_a_regression():
    """Correlations with the teacher's values."""
    values, wanted = np.array([[1.0], [2.0], [4.0]]), np.array([[0.1], [0.5], [0.4]])
    measured = compute_metrics(task("sequence_classification"), predictions(logits=values), predictions(logits=wanted))
    assert measured["pearson"] == pytest.approx(scipy.stats.pearsonr(values[:, 0], wanted[:, 0]).statistic)
    assert measured["spearman"] == pytest.approx(0.5)


def test_spans():
    """Both ends have to be the same; divergence is over the places of each text."""
    student = {"start_logits": np.array([0.0, 1.0, 5.0, 0.0]), "end_logits": np.array([0.0, 1.0, 0.0, 1.0])}
    teacher = {"start_logits": np.array([0.0, 2.0, 5.0, 0.0]), "end_logits": np.array([0.0, 1.0, 3.0, 1.0])}
    measured = compute_metrics(task("question_answering"), predictions([2, 2], **student), predictions([2, 2], **teacher))
    parts = [
        scipy.stats.entropy(*(scipy.special.softmax(outputs[name][part]) for outputs in (teacher, student)))
        for name in student
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert measured == pytest.approx({"agreement": 0.5, "divergence": sum(parts) / 4}, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 30, 700])
def test_vectors(count, monkeypatch):
    """Nearest neighbours against a loop over texts; the matrix of similarities comes in parts."""
    rng = np.random.default_rng(count)
    teacher = rng.normal(size=(count, 6)).astype(np.float32)
    student = teacher + rng.normal(size=teacher.shape).astype(np.float32)
    measured = agreement.compute_agreement(
        task("sentence_embedding"), predictions(sentence_embedding=student), predictions(sentence_embedding=teacher)
    )
    given, wanted = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (student, teacher))
    assert measured["cosine"] == pytest.approx(np.mean([a @ b for a, b in zip(given, wanted, strict=True)]), abs=1e-5)
    neighbours = min(10, count - 1)
    shared = []
    for row in range(count):
        nearest = []
        for values in (given, wanted):
            similarity = values @ values[row]
            similarity[row] = -2
            nearest.append(set(np.argsort(-similarity)[:neighbours]))
        shared.append(len(nearest[0] & nearest[1]) / neighbours if neighbours else 1.0)
    assert measured["neighbours"] == pytest.approx(np.mean(shared), abs=1e-9)


def test_nothing_to_compare():
    """An average of nothing is not a number."""
    empty = predictions(sentence_embedding=np.zeros((0, 4)))
    with pytest.raises(ValueError, match="no text"):
        agreement.compute_agreement(task("sentence_embedding"), empty, dataclasses.replace(empty))
