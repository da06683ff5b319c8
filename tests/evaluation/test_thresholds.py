"""Laws of the search for a threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.evaluation.thresholds import find_threshold


@settings(deadline=None)
@given(st.floats(0.05, 0.95), st.floats(-6, 6), st.floats(0.3, 4))
def test_find_threshold(target, middle, spread):
    """Of a share that falls smoothly with the threshold: met within 1 %, in few calls."""
    calls = []

    def share_at(threshold):
        calls.append(threshold)
        return 1 / (1 + np.exp((threshold - middle) / spread))

    found = find_threshold(share_at, target)
    assert share_at(found) == pytest.approx(target, rel=0.02)
    assert len(calls) - 1 <= 16 and len(set(calls[:-1])) == len(calls) - 1
    if abs(middle + spread * np.log(1 / target - 1)) < 0.25:
        assert len(calls) - 1 <= 6, "as in training, where the target has been held at 0"


def test_find_threshold_where_the_target_is_out_of_reach():
    """Nothing to gain by going on for ever; what comes nearest is taken."""
    assert find_threshold(lambda threshold: 0.5, 0.9) in (0.0, -64.0)
    stairs = find_threshold(lambda threshold: 0.8 if threshold < 1.3 else 0.2, 0.3)
    assert stairs >= 1.3, "nearer than what keeps more"
