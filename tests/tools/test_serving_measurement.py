"""Numbers of `transkimmer load` by hand-made answers."""

import numpy as np
import orjson
import pytest

from tools.traffic import Body, Measurement, Traffic

HEADERS = {"x-compute-tokens": "10", "x-compute-share": "0.25"}
TRAFFIC = Traffic(seconds=10.0, clients=4)


@pytest.mark.parametrize("last", [9.99, 10.5])
def test_throughput_of_bursts(last):
    """A hundred texts every second, whether the last burst falls into the measured seconds or not."""
    measurement = Measurement(None, 1e-3)
    for burst in [*np.arange(0.5, 9.9), *([last] if last < 10 else [])]:
        for number in range(25):
            measurement.answered(burst + number * 1e-3, 4)
    assert measurement.result(TRAFFIC)["texts_per_second"] == pytest.approx(100, rel=0.08)


def test_what_is_counted():
    """Waiting times in milliseconds, shares by tokens, texts that differ, requests of which nothing came back."""
    measurement = Measurement(("a", "b"), 0.01)
    measurement.asked = 4
    measurement.statuses.update(["200", "200", "429"])
    expected = np.array([[0.3, 0.7], [0.9, 0.1]])
    answer = [[{"label": "b", "score": 0.7}, {"label": "a", "score": 0.3}], [{"label": "a", "score": 0.7}, {"label": "b", "score": 0.3}]]
    measurement.take(Body(b"", 2, expected), orjson.dumps(answer), HEADERS)
    measurement.take(Body(b"", 1), b"", {"x-compute-tokens": "30", "x-compute-share": "1.0"})
    measurement.latencies += [0.1, 0.2, 0.3]
    measurement.answered(1.0, 3)
    result = measurement.result(TRAFFIC)
    assert (result["lost"], result["checked_texts"], result["wrong_texts"]) == (1, 2, 1)
    assert result["largest_difference"] == pytest.approx(0.2) and result["kept_share"] == pytest.approx((10 * 0.25 + 30) / 40)
    assert result["milliseconds"]["p50"] == result["milliseconds"]["mean"] == pytest.approx(200) and result["texts_per_second"] == 0.3


@pytest.mark.parametrize("answer", [[[None]], [[0.5], [0.5]], [[0.5, 0.5]]], ids=str)
def test_what_cannot_be_compared_is_wrong(answer):
    """No number, another number of texts, another size of vectors."""
    measurement = Measurement(None, 1e9)
    measurement.take(Body(b"", 1, np.array([[0.5]])), orjson.dumps(answer), HEADERS)
    assert measurement.wrong == 1


@pytest.mark.parametrize("answer", [[[{"label": "LABEL_0", "score": 1.0}]], {"error": "no"}, [["a"]]], ids=str)
def test_answers_of_another_model_are_wrong(answer):
    """Other labels, or another shape."""
    measurement = Measurement(("a", "b"), 1e9)
    measurement.take(Body(b"", 1, np.array([[0.5, 0.5]])), orjson.dumps(answer), HEADERS)
    assert measurement.checked == measurement.wrong == 1
