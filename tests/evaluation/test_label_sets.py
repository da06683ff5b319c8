"""Scores of texts with any number of labels, against scikit-learn's and by hand."""

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import Task, texts_task
from transkimmer_jax.evaluation import guarantees, reports
from transkimmer_jax.evaluation.metrics import compute_metrics, score_logits
from transkimmer_jax.inference.predictions import Predictions

NAMES = ("a", "b", "c", "d")
TASK = Task("files", ("text",), NAMES, 12, ("micro_f1", "macro_f1"), multi_label=True)


def random_labels(count=40, seed=0, shift=(0.0, -1.0, 0.5, -9.0)):
    """Logits, and indicators that are often theirs; nobody says the last label."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(count, 4)) + shift).astype(np.float32)
    labels = ((logits + rng.normal(size=logits.shape)) >= 0).astype(np.float32)
    labels[:, 3] = 0
    return logits, labels


def predictions(logits):
    return Predictions({"logits": logits}, np.ones((1, len(logits))), np.ones(len(logits), int))


def test_scores_are_those_of_scikit_learn():
    logits, labels = random_labels()
    wanted, given = labels.astype(int), (scipy.special.expit(logits) >= 0.5).astype(int)
    expected = {
        f"{average}_f1": sklearn.metrics.f1_score(wanted, given, average=average, zero_division=0) for average in ("micro", "macro")
    }
    assert score_logits(TASK, logits, labels) == pytest.approx(expected) and 0.2 < expected["macro_f1"] < expected["micro_f1"] < 0.95
    report = reports.report(TASK, logits, labels)
    scores = sklearn.metrics.precision_recall_fscore_support(wanted, given, average=None, zero_division=0)
    for number, name in enumerate(NAMES):
        assert list(report["classes"][name].values()) == pytest.approx([values[number] for values in scores])
    assert "confusion_matrix" not in report
    assert [line.split()[0] for line in reports.text(report).splitlines()] == ["class", *NAMES]


def test_one_label_is_no_class_beside_its_absence():
    """To scikit-learn a single column is two classes, of which it would score the absence as well."""
    one = Task("files", ("text",), ("a",), 12, ("micro_f1", "macro_f1"), multi_label=True)
    logits, labels = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1.0], [0.0], [0.0], [0.0]])
    assert score_logits(one, logits, labels) == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 2 / 3})
    assert reports.report(one, logits, labels)["classes"] == {
        "a": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    }


def test_nobody_says_a_label():
    assert score_logits(TASK, np.full((2, 4), -1.0), np.zeros((2, 4))) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_shapes_that_do_not_fit():
    for labels in (np.zeros(3), np.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"labels of shape .* do not fit 4 outputs"):
            score_logits(TASK, np.zeros((3, 4)), labels)


def test_answers_text_by_text():
    logits, labels = np.array([[2.0, -1.0, 0.0, -3.0], [-1.0] * 4], np.float32), np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    first, second = reports.answers(TASK, predictions(logits), labels)
    assert (first["label"], first["predicted"], second["label"], second["predicted"]) == (["a", "b"], ["a", "c"], [], [])
    assert first["probabilities"] == pytest.approx(dict(zip(NAMES, scipy.special.expit([2.0, -1.0, 0.0, -3.0]), strict=True)))


def test_agreement_with_a_teacher():
    """Share of the labels, F1 where the teacher's are right, and the binary divergence of all labels."""
    student, teacher = np.array([[2.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 3.0], [1.0, -1.0]])
    task = texts_task(DataConfig(task="texts"), "sequence_classification", ("a", "b"), 16, "", multi_label=True)
    given, wanted = (scipy.special.expit(values) for values in (student, teacher))
    divergence = np.mean(wanted * np.log(wanted / given) + (1 - wanted) * np.log((1 - wanted) / (1 - given)))
    measured = compute_metrics(task, predictions(student), predictions(teacher))
    assert tuple(measured) == task.metrics and task.primary_metric == "micro_f1"
    assert measured == pytest.approx({"micro_f1": 2 * 2 / (2 * 2 + 1 + 1), "agreement": 0.5, "divergence": divergence})
    silent = predictions(np.full((2, 2), -1.0))
    assert compute_metrics(task, silent, silent) == {"micro_f1": 1.0, "agreement": 1.0, "divergence": 0.0}


def test_another_answer_is_one_with_another_label():
    answers, dense = np.array([[True, False], [True, True], [False, False]]), np.array([[True, False], [True, False], [True, True]])
    assert guarantees.losses_of("disagreement", answers, dense, dense).tolist() == [0.0, 1.0, 1.0]
