"""Windows of the log: a window that a checkpoint cuts gives the line of one that was not cut."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training.records import fetch, means

floats = st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False)


def scalars(loss, grad_norm=1.0):
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


@given(st.lists(floats, min_size=1, max_size=30), st.integers(0, 30))
def test_a_saved_window_goes_on_to_the_same_mean(losses, cut):
    """Through JSON, at any step, to the last bit."""
    whole = [scalars(loss) for loss in losses]
    restored = json.loads(json.dumps(fetch(whole[:cut], cut)))
    assert means(fetch(restored + whole[cut:], 30)) == means(fetch(whole, 30))
    assert means(fetch(whole, 30))["loss"] == float(np.mean(np.array(losses, np.float32)))


@pytest.mark.parametrize("broken", [{"loss": np.nan}, {"loss": 1.0, "grad_norm": np.inf}])
def test_values_that_are_not_finite_are_neither_logged_nor_saved(broken):
    with pytest.raises(TrainingError, match="^the loss or its gradient is not finite at or before step 7 .*: lower optimizer"):
        fetch([scalars(0.5), scalars(**broken)], 7)
