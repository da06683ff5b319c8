import numpy as np
import pytest

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import Task, get_task
from transkimmer_jax.evaluation.metrics import score_logits


def test_metrics_by_hand():
    labels = np.array([1, 1, 0, 0])
    logits = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)  # predicts 1 0 0 0
    binary = Task("t", ("text",), ("no", "yes"), 8, ("accuracy", "f1", "macro_f1", "matthews_correlation"))
    metrics = score_logits(binary, logits, labels)
    assert metrics == pytest.approx(
        {"accuracy": 0.75, "f1": 2 / 3, "macro_f1": (2 / 3 + 4 / 5) / 2, "matthews_correlation": 2 / np.sqrt(1 * 3 * 2 * 2)}
    )
    assert all(type(value) is float for value in metrics.values())


def test_correlations_by_hand():
    regression = Task("t", ("text",), None, 8, ("pearson", "spearman"))
    values = np.array([[1], [2], [4]], np.float32)
    # Deviations (-4, -1, 5)/3 and (-1, 0, 1).
    assert score_logits(regression, values, np.array([0, 1, 2], np.float32)) == pytest.approx(
        {"pearson": 3 / np.sqrt(42 / 9 * 2), "spearman": 1.0}
    )
    assert score_logits(regression, -values, np.array([0, 1, 2]))["spearman"] == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.0, 3e30, 1e-30, float("nan")])
def test_constant_predictions_have_no_correlation(constant):
    regression = Task("t", ("text",), None, 8, ("pearson", "spearman"))
    assert score_logits(regression, np.full((3, 1), constant, np.float32), np.arange(3.0)) == {"pearson": 0.0, "spearman": 0.0}
    binary = Task("t", ("text",), ("no", "yes"), 8, ("matthews_correlation", "f1", "macro_f1"))
    metrics = score_logits(binary, np.array([[1, 0]] * 4), np.array([0, 1, 1, 0]))
    assert metrics == pytest.approx({"matthews_correlation": 0, "f1": 0, "macro_f1": 1 / 3})
    assert score_logits(binary, np.array([[1, 0]]), np.array([0]))["matthews_correlation"] == 0


def test_metrics_refuse_shapes_that_do_not_fit():
    task = get_task(DataConfig(task="glue/mnli"))
    for logits, labels in ((np.zeros((2, 2)), np.zeros(2)), (np.zeros((2, 3)), np.zeros(3)), (np.zeros((0, 3)), np.zeros(0))):
        with pytest.raises(ValueError, match="do not fit"):
            score_logits(task, logits, labels)
