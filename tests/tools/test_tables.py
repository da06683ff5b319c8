"""Tables of small records, and records that break their schema."""

import json

import pytest

from tools import curves, effects, records, tables
from transkimmer_jax.errors import DataError


def row(seed=0, points=((0.5, 0.847, 2.0), (0.285, 0.81, 3.4)), **changes):
    curve = [
        {"budget": budget, "value": value, "flops_vs_unpadded": times, "flops_vs_padded": 2 * times} for budget, value, times in points
    ]
    return {
        "task": "glue/mrpc", "backbone": "minilm-6l", "seed": seed, "kind": "skimming", "label": "", "metric": "accuracy", "split": "test",
        "examples": 1725, "dense_value": 0.85, "curve": curve, "command": "a", "dense_command": "b", "row_command": "c", "cores": 2,
    } | changes  # fmt: skip


def test_seeds_are_one_curve_and_points_are_measured():
    (curve,) = curves.Curve.of([records.Row.model_validate(row(seed)) for seed in (1, 0)])
    assert [record.seed for record in curve.records] == [0, 1] and curve.name == "MRPC"
    assert [str(curve.at(times)) for times in curves.SAVINGS] == ["0.3 (0.0) at 2.00x", "0.3 (0.0) at 2.00x", "4.0 (0.0) at 3.40x"]
    assert curve.at(5.0) is None and curve.largest_saving.budget == 0.5
    head, cells = curves.full(list(curve.records))
    assert dict(zip(head, cells, strict=True))["under one point"] == "2.00x"


def test_empty_columns_are_left_out():
    assert tables.table([["a", "b", "c"], ["1", "", "x"]]).splitlines()[0].split() == ["|", "a", "|", "c", "|"]


@pytest.mark.parametrize("changes", [{"kind": "other"}, {"curve": []}, {"dense_value": None}, {"cores": 0}, {"examples": 0}], ids=str)
def test_bad_row_is_refused(tmp_path, changes):
    (tmp_path / "bad.json").write_text(json.dumps(row(**changes)), encoding="utf-8")
    with pytest.raises(DataError):
        records.read_rows(["bad.json"], tmp_path)


def test_effects_have_standard_errors():
    pairs = [({"value": 0.8 + gain, "metric": "pearson"}, {"value": 0.8, "metric": "pearson"}) for gain in (0.02, 0.03, 0.025)]
    value, error = effects.gain(pairs, "value")
    assert value == pytest.approx(2.5) and effects.significance({"value": (value, error)}) > 2
