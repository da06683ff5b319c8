"""Laws of sweeps: thresholds spread over what they cost, and the picks are those that going through all points gives."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.evaluation import sweeps
from transkimmer_jax.evaluation.summary import SplitEvaluation
from transkimmer_jax.inference.predictions import Predictions


def evaluation(share, accuracy=0.5):
    """Of a model that spends this share of the unpadded dense FLOPs."""
    metrics = {"accuracy": accuracy, "macro_f1": accuracy / 2}
    predictions = Predictions({"logits": np.zeros((1, 2))}, np.ones((2, 1)), np.ones(1))
    return SplitEvaluation(metrics, 0.75, [1.0, 0.5], 2 / share, 1 / share, predictions)


def falling(middle, spread):
    """Shares that fall smoothly with the threshold, from 1.02 to 0.1; and the thresholds asked for."""
    calls = []

    def evaluate(threshold):
        calls.append(threshold)
        return evaluation(0.56 - 0.46 * math.tanh((threshold - middle) / spread / 2))

    return evaluate, calls


def shares(points):
    return [point.evaluation.flops_share for point in points]


@settings(deadline=None)
@given(st.floats(-6, 6), st.floats(0.3, 4), st.floats(-2, 2), st.integers(3, 24))
def test_sweep(middle, spread, offset, count):
    """From a threshold somewhere on the slope, as a trained model has."""
    evaluate, calls = falling(middle, spread)
    start = middle + offset * spread
    points = sweeps.sweep(evaluate, start, count)
    thresholds = [point.threshold for point in points]
    assert len(points) == count and thresholds == sorted(set(thresholds)) and len(calls) == len(set(calls)) < 2 * count + 3
    assert thresholds[0] == -math.inf and thresholds[-1] == math.inf
    for point in points:
        assert point.evaluation == evaluate(point.threshold)
    even, spent = 0.92 / (count - 1), evaluate(start).flops_share
    # Not where it spends what an end spends.
    assert start in thresholds or min(1.02 - spent, spent - 0.1) <= even / 4
    gaps = -np.diff(shares(points))
    assert gaps.min() > even / 4 and gaps.max() < 2.1 * even, "half a gap for the start, a quarter at either side of each"


@settings(deadline=None)
@given(st.floats(-30, 30), st.floats(0.01, 10))
def test_a_start_far_from_the_slope(middle, spread):
    """Found from afar: the start's own share does not matter."""
    points = sweeps.sweep(falling(middle, spread)[0], 0.0, 20)
    gaps = -np.diff(shares(points))
    assert gaps.min() > 0.25 * 0.92 / 19 and gaps.max() < 0.25


def test_stops_when_nothing_lies_between():
    def stairs(threshold):
        return evaluation(1.0 if threshold < 0.3 else 0.4 if threshold < 700 else 0.2)

    calls = []
    points = sweeps.sweep(lambda threshold: calls.append(threshold) or stairs(threshold), 0.0, 100)
    assert shares(points) == [1.0, 0.4, 0.2] and len(calls) < 60
    assert shares(sweeps.sweep(lambda threshold: evaluation(1.0), 0.0, 1000)) == [1.0, 1.0], "the ends"


@st.composite
def many_points(draw):
    """On a grid, so that there are equal ones."""
    cells = draw(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=12))
    return [sweeps.Point(float(number), evaluation(share / 8, value / 8)) for number, (share, value) in enumerate(cells)]


def dominates(first, second):
    """At least as good and as cheap, and one of the two better."""
    (cost, value), (other_cost, other_value) = [(each.evaluation.flops_share, each.value("accuracy")) for each in (first, second)]
    return cost <= other_cost and value >= other_value and (cost, value) != (other_cost, other_value)


@given(many_points())
def test_pareto(points):
    front = sweeps.pareto(points, "accuracy")
    assert all(any(each is point for point in points) for each in front)
    assert not any(dominates(point, each) for point in points for each in front)
    for point in points:
        assert any(dominates(each, point) or each.evaluation == point.evaluation for each in front)
    costs, values = shares(front), [each.value("accuracy") for each in front]
    assert costs == sorted(set(costs), reverse=True) and values == sorted(set(values), reverse=True)


@given(many_points(), st.integers(0, 9))
def test_best_within(points, eighths):
    found = sweeps.best_within(points, "accuracy", eighths / 8)
    affordable = sorted((-point.value("accuracy"), point.evaluation.flops_share) for point in points if shares([point])[0] <= eighths / 8)
    assert (None if found is None else (-found.value("accuracy"), found.evaluation.flops_share)) == next(iter(affordable), None)


@given(many_points(), st.integers(0, 9))
def test_cheapest_above(points, eighths):
    found = sweeps.cheapest_above(points, "accuracy", eighths / 8)
    costs = sorted(point.evaluation.flops_share for point in points if point.value("accuracy") >= eighths / 8)
    assert (None if found is None else found.evaluation.flops_share) == next(iter(costs), None)
    assert found is None or (found in points and found.value("accuracy") >= eighths / 8)


def test_a_loss_of_exactly_what_is_tolerated():
    """0.8 - 0.1 is more than 0.7 in floating point."""
    points = [sweeps.Point(0.0, evaluation(0.5, right / 100)) for right in range(101)]
    for tolerance, dense in itertools.combinations_with_replacement(range(101), 2):
        least = dense / 100 - tolerance / 100
        assert sweeps.cheapest_above([points[dense - tolerance]], "accuracy", least) is points[dense - tolerance]
        assert dense == tolerance or sweeps.cheapest_above([points[dense - tolerance - 1]], "accuracy", least) is None


POINTS = sweeps.sweep(lambda threshold: evaluation(0.5 - math.atan(threshold) / 4, 0.9 - math.atan(threshold) ** 2 / 20), 0.25, 9)


def test_the_metric_is_the_one_asked_for():
    points = [sweeps.Point(0.0, evaluation(0.5, 0.6)), sweeps.Point(1.0, evaluation(0.4, 0.5))]
    assert sweeps.cheapest_above(points, "macro_f1", 0.3) is points[0] and sweeps.cheapest_above(points, "accuracy", 0.3) is points[1]
    assert sweeps.best_within(points, "macro_f1", 1.0) is points[0] and sweeps.pareto(points, "macro_f1") == points


def test_describe():
    """JSON has no infinity."""
    first, *middle, last = [json.loads(json.dumps(point.describe(), allow_nan=False)) for point in POINTS]
    assert (first["threshold"], last["threshold"]) == ("-inf", "inf")
    for point, row in zip(POINTS[1:-1], middle, strict=True):
        accuracy, times = point.value("accuracy"), point.evaluation.flops_vs_unpadded
        assert row == {
            "threshold": point.threshold, "accuracy": accuracy, "macro_f1": accuracy / 2, "flops_vs_unpadded": times,
            "flops_vs_padded": 2 * times, "kept_tokens": 0.75, "kept_per_layer": [1.0, 0.5],
        }  # fmt: skip


def test_write_csv(tmp_path):
    sweeps.write_csv(tmp_path / "deep" / "sweep.csv", POINTS)
    with (tmp_path / "deep" / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for point, row in zip(POINTS, rows, strict=True):
        expected = point.describe()
        expected |= {f"kept_layer_{layer}": share for layer, share in enumerate(expected.pop("kept_per_layer"))}
        assert {name: text if text.endswith("inf") else float(text) for name, text in row.items()} == expected


@pytest.mark.parametrize(("points", "chosen"), [(POINTS, None), (POINTS, POINTS[2]), (POINTS[:1], POINTS[0])])
@pytest.mark.parametrize(("name", "signature"), [("sweep.png", b"\x89PNG\r\n\x1a\n"), ("sweep.svg", b"<?xml")])
def test_plot(tmp_path, name, signature, points, chosen):
    from matplotlib import pyplot

    sweeps.plot(tmp_path / name, points, "accuracy", sweeps.Baseline("dense", 0.9, 1.0), chosen, "glue/sst2")
    content = (tmp_path / name).read_bytes()
    assert content.startswith(signature) and len(content) > 5000
    assert pyplot.get_fignums() == [], "every figure is closed"
