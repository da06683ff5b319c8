"""Answers of `predict`, compared."""

import pytest


def assert_same(answers, expected, rtol=1e-4):
    """The same but for the last digits of probabilities, in which batches of other texts may differ."""
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        rest = [{name: value for name, value in one.items() if name != "probabilities"} for one in (answer, wanted)]
        assert rest[0] == rest[1], rest
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], rel=rtol)
