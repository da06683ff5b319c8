"""Laws of what `evaluate` says of classes."""

import numpy as np
import pytest

from transkimmer_jax.data.tasks import Task
from transkimmer_jax.evaluation import reports

TASK = Task("files", ("text",), ("bad", "good"), 12)


@pytest.mark.parametrize("count", [200, 201])
def test_a_matrix_is_of_some_classes(count):
    """Of many it would be nearly all of a result."""
    task = Task("files", ("text",), tuple(map(str, range(count))), 12)
    values = reports.report(task, np.eye(count)[:3], np.arange(3))
    assert len(values["classes"]) == count and ("confusion_matrix" in values) == (count <= 200)
    assert len(reports.text(values).splitlines()) >= count


@pytest.mark.parametrize("right", [0, 1, 3], ids=["none is right", "one is right", "all are right"])
def test_classes_are_counted_however_few_predictions_are_right(right):
    """Also where the labels are of one class."""
    labels = np.ones(3, np.int32)
    logits = np.array([[0.0, 1.0]] * right + [[1.0, 0.0]] * (3 - right))
    values = reports.report(TASK, logits, labels)
    assert [scores["support"] for scores in values["classes"].values()] == [0, 3]
    assert values["classes"]["good"]["recall"] == pytest.approx(right / 3)
    lines = reports.text(values).splitlines()
    assert lines[2].split() == ["good", f"{float(right > 0):.4f}", f"{right / 3:.4f}", f"{2 * right / (3 + right):.4f}", "3"]
