"""Tables, sentences and the chart of rows that were made up, by hand; and that the committed chart is of the committed rows."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from tools import charts, curves, effects, tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


def point(budget, value, unpadded, padding=2.0):
    return {"budget": budget, "value": value, "flops_vs_unpadded": unpadded, "flops_vs_padded": padding * unpadded}


def record(task="glue/mrpc", seed=0, points=(), *, backbone="minilm-6l", kind="skimming", label="", dense=0.85, **more):
    names = {"command": f"transkimmer train --config {task}", "dense_command": "transkimmer train --config dense", "row_command": "row.py"}
    return names | {
        "task": task, "backbone": backbone, "seed": seed, "kind": kind, "label": label, "metric": "accuracy", "split": "test",
        "examples": 1725, "dense_value": dense, "curve": list(points), "cores": 2,
    } | more  # fmt: skip


def timed(points, times):
    """A clock on which int8 is twice as fast, and half a point worse."""
    ways = {"onnxruntime float32": (100, 0.0), "onnxruntime int8": (200, 0.005)}
    return {"cpu": "a processor", "batch_size": 32, "clock": {
        way: {
            "dense": {"texts_per_second": dense, "value": 0.85},
            "curve": [
                {"budget": each["budget"], "value": each["value"] - less, "times_dense": faster, "texts_per_second": faster * dense}
                for each, faster in zip(points, times, strict=True)
            ],
        }
        for way, (dense, less) in ways.items()
    }}  # fmt: skip


FIRST = [point(0.5, 0.847, 2.0), point(0.4, 0.842, 2.4), point(0.285, 0.81, 3.4)]
SECOND = [point(0.5, 0.845, 2.02), point(0.4, 0.84, 2.6), point(0.285, 0.83, 3.6), point(0.2, 0.7, 5.0)]
MRPC = [record(seed=1, points=SECOND), record(seed=0, points=FIRST, **timed(FIRST, (1.5, 2.0, 3.0)))]
STATIC = record(points=[point(None, 0.80, 3.0)], kind="static", label="static2")
COLA = record("glue/cola", points=[point(0.5, 0.83, 2.0, 6.0), point(0.285, 0.80, 3.5, 6.0)])
IMDB = record("imdb_reviews", points=[point(0.285, 0.855, 3.5, 1.3)])
OLD = {
    "task": "glue/rte", "backbone": "minilm-6l", "seed": 0, "metric": "accuracy", "split": "validation", "target": 0.28, "steps": 9,
    "dense_value": 0.6, "value": 0.57, "flops_vs_unpadded": 3.6, "flops_vs_padded": 14.0, "layers": 4, "clock_vs_unpadded": 3.3,
}  # fmt: skip


def test_seeds_are_one_curve():
    """Of the budgets that all of them have, in points; the largest first."""
    (curve,) = curves.Curve.of(MRPC)
    assert [each["seed"] for each in curve.records] == [0, 1] and curve.is_main and curve.name == "MRPC"
    assert [each.budget for each in curve.points] == [0.5, 0.4, 0.285]
    assert curve.points[0].lost == pytest.approx((0.3, 0.5)) and curve.points[0].mean == pytest.approx(0.4)
    assert curve.points[2].deviation == pytest.approx(np.std([4.0, 2.0], ddof=1)) and curve.points[2].flops_vs_unpadded == 3.5
    assert str(curve.points[2]) == "3.0 (1.4) at 3.50x"
    assert str(curves.Curve.of([COLA])[0].points[0]) == "2.0 at 2.00x", "one seed has no deviation"


def test_points_are_measured_ones():
    (curve,) = curves.Curve.of(MRPC)
    assert [curve.at(saving).budget for saving in curves.SAVINGS] == [0.5, 0.4, 0.285]
    assert curve.at(5.0) is None and curve.nearest(5.0).budget == 0.285 and curve.at(4.3).budget == 0.285
    assert curves.Curve.of([IMDB])[0].at(2.0).budget == 0.285, "whoever asks for less saves 3.5 times"
    assert curves.Curve.of([COLA])[0].at(2.6) is None, "between its points it has none"
    assert curve.largest_saving.budget == 0.4, "0.9 points are lost there, 3 behind it"
    assert curves.Curve.of([COLA])[0].largest_saving is None and curves.Curve.of([IMDB])[0].largest_saving.budget == 0.285


def test_seeds_without_a_common_budget():
    with pytest.raises(ValueError, match="MRPC, minilm-6l: seeds 0 1 have no budget in common; give one a --label"):
        curves.Curve.of([record(points=FIRST[:1]), record(seed=1, points=FIRST[1:])])


def test_a_point_of_one_loses_less_than_one():
    (curve,) = curves.Curve.of([record(points=[point(0.5, 0.84, 2.0)], dense=0.85)])
    assert curve.points[0].mean == pytest.approx(1.0) and curve.largest_saving is None


def test_the_table():
    head, *rows = curves.table([*MRPC, STATIC, COLA, IMDB, OLD])
    (cola, mrpc, imdb) = (dict(zip(head, cells, strict=True)) for cells in rows)
    assert mrpc == {
        "task": "MRPC", "backbone": "minilm-6l", "metric": "accuracy, test", "dense": "85.0 (0.0)", "lost at 2x": "0.4 (0.1) at 2.01x",
        "lost at 2.5x": "0.9 (0.1) at 2.50x", "lost at 3.5x": "3.0 (1.4) at 3.50x", "under one point": "2.50x", "vs padded": "7.0x",
        "static student; skimming nearby": "5.0 at 3.00x; 3.0 (1.4) at 3.50x", "clock, float32": "3.00x", "int8": "3.00x", "seeds": "0 1",
    }  # fmt: skip
    assert (cola["task"], cola["lost at 2.5x"], cola["under one point"], cola["static student; skimming nearby"]) == (
        "CoLA",
        "2.0 at 2.00x",
        "none",
        "",
    )
    assert (imdb["lost at 2x"], imdb["lost at 3.5x"], imdb["under one point"], imdb["int8"]) == (
        "-0.5 at 3.50x",
        "-0.5 at 3.50x",
        "3.50x",
        "",
    )
    said = tables.rows_of_curves([*MRPC, STATIC, COLA])
    assert (
        said.count("\n| ") == 3
        and "The clock is of batches of 32 on 2 cores, a processor. int8 moves the metric by 0.5 points at most." in said
    )


def test_a_clock_is_of_a_machine():
    """Of one processor the foot of a table names it; of several it says whose rows each has timed."""
    of_cola = record("glue/cola", points=FIRST, **timed(FIRST, (1.5, 2.0, 3.0)) | {"cpu": "another"})
    assert curves.told(MRPC).endswith("batches of 32 on 2 cores, a processor. int8 moves the metric by 0.5 points at most.")
    assert "on 2 cores, a processor (MRPC); 2 cores, another (CoLA)." in curves.told([*MRPC, of_cola])
    other = curves.told([*MRPC, of_cola | {"backbone": "mpnet-base"}])
    assert "on 2 cores, a processor (minilm-6l); 2 cores, another (mpnet-base)." in other
    twice = curves.told([*MRPC, of_cola, MRPC[1] | {"backbone": "mpnet-base", "cpu": "another"}])
    assert "a processor (MRPC of minilm-6l); 2 cores, another (CoLA, MRPC of mpnet-base)." in twice


def test_variants_have_rows_of_their_own():
    variant = record(points=FIRST, label="mean head")
    rows = curves.table([*MRPC, variant])[1:]
    assert [cells[0] for cells in rows] == ["MRPC", "MRPC, mean head"]
    assert len(charts.shown([*MRPC, variant])[0]) == 1 and curves.average([variant]) == "" and curves.in_words([variant]) == ""


def test_words():
    assert curves.in_words([*MRPC, STATIC, COLA, IMDB]).splitlines()[:3] == [
        "- **CoLA** (is the sentence grammatical?), minilm-6l: no budget stays under one point; 5.0 points are lost at 3.5 times.",
        "- **MRPC** (do both sentences say the same?), minilm-6l: under one point at 2.5 times fewer FLOPs; 3.0 points are lost at 3.5 "
        "times. A static student loses 5.0 points at 3.0 times, skimming loses 3.0 points at 3.5.",
        "- **IMDB** (does the review praise the film?), minilm-6l: under one point at 3.5 times fewer FLOPs.",
    ]
    better = record(points=[point(None, 0.862, 3.0)], kind="static", label="static2")
    assert "A static student gains 1.2 points at 3.0 times, skimming loses" in curves.in_words([*MRPC, better])


def test_the_convention_of_papers():
    """Each task at its largest saving, dense where every budget loses more; and all at one budget. IMDB is none of GLUE's."""
    said = curves.average([*MRPC, STATIC, COLA, IMDB])
    padded, padding, unpadded, lost = (5.0 + 6.0) / 2, (2.0 + 6.0) / 2, (2.5 + 1.0) / 2, 0.9 / 2
    assert f"{padded:.2f}x fewer FLOPs than padded dense, of which padding alone is {padding:.2f}x and the student {unpadded:.2f}x" in said
    assert f"{lost:.2f} points lost. Dense counts for CoLA." in said and "minilm-6l, 2 tasks (CoLA, MRPC)" in said
    assert "all at one budget" not in said, "1.2 points are lost on average at a half"
    better = record("glue/cola", points=[point(0.5, 0.84, 2.0, 6.0), point(0.285, 0.80, 3.5, 6.0)])
    assert "all at one budget, 50.0% of the FLOPs: 8.01x fewer" in curves.average([*MRPC, better])
    assert curves.average([*MRPC, COLA | {"backbone": "mpnet-base"}]) == "", "of one task there is no average"


def test_commands_are_of_the_first_seed():
    assert curves.commands([*MRPC, COLA]) == [
        "transkimmer train --config dense", "transkimmer train --config glue/cola", "row.py", "transkimmer train --config glue/mrpc",
    ]  # fmt: skip


def test_rows_of_before_give_way():
    """To a curve of their task and backbone, and not to a variant or a static student."""
    old = {"rte": OLD, "mrpc": OLD | {"task": "glue/mrpc"}, "other": OLD | {"task": "glue/mrpc", "backbone": "e5-small-12l"}}
    assert curves.superseded(old | {"new": MRPC[0]}) == ["mrpc"]
    assert curves.superseded(old | {"new": STATIC, "variant": record(points=FIRST, label="mean")}) == []
    said = tables.single([*old.values(), *MRPC])
    assert said.startswith("## One budget\n") and said.count("\n| ") == 4
    assert "| RTE | minilm-6l | accuracy, validation | 4 | 60.0 | 3.0 |" in said
    assert tables.single([old["mrpc"], *MRPC]) == "" and tables.single(MRPC) == ""


def test_superseded_records_are_dropped(monkeypatch, tmp_path):
    (tmp_path / "results" / "rows").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- table: headline rows/*.json -->\n<!-- end -->\n")
    for name, each in {"old": OLD | {"task": "glue/mrpc"}, "rte": OLD, "new": MRPC[1]}.items():
        (tmp_path / "results" / "rows" / f"{name}.json").write_text(json.dumps(each))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RECORDS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["tables.py", "--drop-superseded"])
    assert tables.main() == 0
    assert {path.stem for path in (tmp_path / "results" / "rows").iterdir()} == {"rte", "new"}
    assert (tmp_path / "README.md").read_text().splitlines()[1:-1] == [
        "| task | dense | lost at 2x | lost at 2.5x | lost at 3.5x | clock, float32 | int8 | texts a second, int8 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| MRPC, accuracy | 85.0 | 0.3 at 2.00x | 0.8 at 2.40x | 4.0 at 3.40x | 3.00x | 3.00x | 600, dense 200 |",
    ]


def test_a_chart(tmp_path):
    """Every task by its name, in text that readers and screen readers can read, on nothing; the same records give the same file."""
    records = [*MRPC, STATIC, COLA, IMDB, record(backbone="mpnet-base", points=FIRST)]
    paths = [tmp_path / f"{number}.svg" for number in range(2)]
    for path in paths:
        charts.results(records, path)
    svg = paths[0].read_text(encoding="utf-8")
    assert svg == paths[1].read_text(encoding="utf-8")
    for words in ("MRPC", "CoLA", "IMDB", "static students", "minilm-6l", "mpnet-base", "points lost", "2x"):
        assert f">{words}" in svg
    assert not re.search(r"fill: #(ffffff|000000)", svg), "neither a background nor black ink"
    assert charts.digest(*charts.shown(records)) in svg
    changed = [*MRPC, STATIC, COLA | {"dense_value": 0.86}, IMDB]
    assert charts.digest(*charts.shown(changed)) not in svg


def test_a_chart_of_speeds(tmp_path):
    """Of the contenders that every batch size of a workload has."""
    settings = [
        {"workload": "glue/sst2", "length": 64, "batch_size": size, "contenders": {
            name: {"examples_per_second": 100.0 * size} for name in ("compacted:openvino:bfloat16", "dense:torch:float32", *more)
        }}
        for size, more in ((32, ()), (1, ("dense:openvino:int8",)))
    ]  # fmt: skip
    charts.performance([settings], tmp_path / "speeds.svg")
    svg = (tmp_path / "speeds.svg").read_text(encoding="utf-8")
    assert all(f">{words}" in svg for words in ("compacted:openvino:bfloat16", "dense:torch:float32", "glue/sst2, 64 tokens at most"))
    assert "dense:openvino:int8" not in svg


def test_the_committed_chart_is_of_the_committed_rows():
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results" / "rows").glob("*.json")]
    main, static = charts.shown(records)
    chart = ROOT / "docs" / "results.svg"
    assert chart.is_file() == bool(main)
    assert not main or charts.digest(main, static) in chart.read_text(encoding="utf-8"), "run python -m tools.charts"


def linear(colour):
    """Of '#RRGGBB' the linear RGB."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    x, y, z = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1: what those see who lack one kind of cones.
SIGHT = {
    "all": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


@pytest.mark.parametrize("page", ["#FFFFFF", "#0D1117", "#1E2129"], ids=["white", "GitHub's dark", "the site's dark"])
def test_the_chart_is_readable_in_light_and_dark(page):
    """Contrast 3, which WCAG asks of graphics and large text."""
    for colour in (*charts.COLOURS, charts.INK):
        darker, lighter = sorted((luminance(colour), luminance(page)))
        assert (lighter + 0.05) / (darker + 0.05) >= 3, colour


@pytest.mark.parametrize("sight", SIGHT)
def test_lines_are_told_apart_by_the_colour_blind(sight):
    """By colour, ten times what is just noticed in a patch; and by markers besides."""
    seen = [lab(SIGHT[sight] @ linear(colour)) for colour in charts.COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 22


def ablation(folder, name, value, agreement=None, metric="accuracy", examples=400):
    more = {} if agreement is None else {"agreement": agreement, "unseen_texts": 5000}
    values = {"task": "glue/sst2", "metric": metric, "value": value, "examples": {"validation": examples}} | more
    (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


def test_effects(tmp_path):
    """Gains of pairs with their errors; what is beyond two of them in the surer measure is no chance."""
    for number, gain in enumerate((0.02, 0.03, 0.025)):
        ablation(tmp_path, f"with{number}", 0.8 + gain, metric="pearson")
        ablation(tmp_path, f"without{number}", 0.8, metric="pearson")
    seeds = effects.effect({"what": "x", "pairs": [[f"with{n}", f"without{n}"] for n in range(3)]}, tmp_path)
    assert seeds.runs == 3 and seeds.gains["value"] == pytest.approx((2.5, np.std([2, 3, 2.5], ddof=1) / np.sqrt(3))) and seeds.verdict == 1
    one = effects.effect({"what": "x", "pairs": [["with0", "without0"]]}, tmp_path)
    assert one.gains["value"][0] == pytest.approx(2.0) and one.verdict == 0, "one pair of correlations tells nothing"
    ablation(tmp_path, "base", 0.8, 0.85)
    ablation(tmp_path, "worse", 0.79, 0.80)
    ablation(tmp_path, "slightly", 0.83, 0.851)
    worse, slightly = (effects.effect({"what": name, "pairs": [[name, "base"]]}, tmp_path) for name in ("worse", "slightly"))
    error = 100 * np.sqrt((0.79 * 0.21 + 0.8 * 0.2) / 400)
    assert worse.gains["value"] == pytest.approx((-1.0, error)) and worse.verdict == -1 and slightly.verdict == 0
    said = effects.text([{"what": each, "pairs": [[each, "base"]]} for each in ("slightly", "worse")], tmp_path)
    assert "## What helped" not in said and said.index("## What chance could have done") < said.index("## What did harm")
    assert f"| worse | sst2 | -1.0 ± {error:.1f} | -5.0 ± 0.8 | 1 |" in said


@pytest.mark.parametrize(("name", "most"), [("results.md", 120), ("ablations.md", 150)])
def test_documents_stay_short(name, most):
    assert len((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()) <= most
