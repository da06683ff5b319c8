"""Laws of the windows of the log: what is saved of one goes on as if nothing had happened."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training.windows import MetricsWindow

floats = st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False)


def scalars(loss, grad_norm=1.0):
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


@given(st.lists(floats, min_size=1, max_size=30), st.integers(0, 30))
def test_saved_and_restored(losses, cut):
    """By way of JSON, at any step: the same mean, to the last bit."""
    whole, first = MetricsWindow(), MetricsWindow()
    for loss in losses:
        whole.add(scalars(loss))
    for loss in losses[:cut]:
        first.add(scalars(loss))
    second = MetricsWindow(json.loads(json.dumps(first.values(cut))))
    for loss in losses[cut:]:
        second.add(scalars(loss))
    assert second.means(30) == whole.means(30)
    assert whole.means(30)["loss"] == float(np.mean(np.array(losses, np.float32)))


@pytest.mark.parametrize("broken", [{"loss": np.nan}, {"loss": 1.0, "grad_norm": np.inf}])
def test_what_is_not_finite_is_neither_logged_nor_saved(broken):
    window = MetricsWindow()
    window.add(scalars(0.5))
    window.add(scalars(**broken))
    for read in (window.values, window.means):
        with pytest.raises(
            TrainingError, match="^the loss or its gradient is not finite at or before step 7 .*: lower optimizer.learning_rate"
        ):
            read(7)


def test_an_empty_window_can_be_saved():
    assert MetricsWindow().values(3) == []
