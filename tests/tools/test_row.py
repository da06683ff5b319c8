"""tools/row.py on runs in miniature: what it says of each budget is what the engine, masked evaluation and the run itself say."""

import dataclasses
import json
import shutil
import statistics

import jax
import pytest
from training import runs

from tools import row
from transkimmer_jax import cli
from transkimmer_jax.config import DataConfig, TrainConfig, override
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.recipe import train_recipe

BUDGETS = (0.8, 0.6, 0.45)
WAYS = {"onnxruntime float32", "onnxruntime int8"}


def common(checkpoint, folder):
    files = [runs.write_jsonl(folder / f"{name}.jsonl", runs.make_reviews(80, seed)) for seed, name in enumerate(("train", "dev"))]
    config = runs.make_config(checkpoint, *files)
    skim = dataclasses.replace(config.skim, target=0.6)
    data = dataclasses.replace(config.data, test_file=str(runs.write_jsonl(folder / "test.jsonl", runs.make_reviews(50, seed=7))))
    return dataclasses.replace(config, skim=skim, data=data, train=TrainConfig(steps=40, log_every=20, eval_every=20))


@pytest.fixture(scope="module")
def workdirs(tokenizer_folder, tmp_path_factory, quickly_built_programs):
    """A recipe of several budgets, and a static student of its dense model's first layer."""
    folder = tmp_path_factory.mktemp("runs")
    checkpoint = runs.write_model(folder / "tiny-3l", tokenizer_folder)
    levels = {"skim.levels": (0.8, 0.45), "skim.noise_end": 0.9}
    recipe = runs.make_recipe(common(checkpoint, folder), dense={}, skimming=levels)
    teacher = {"distill.teacher": str(folder / "recipe" / "dense" / "model")}
    static = override(recipe, teacher | {"skim.enabled": "false", "model.layers": "1"})
    with jax.numpy_dtype_promotion("standard"):
        train_recipe(recipe, folder / "recipe", "transkimmer train --config configs/files.py --workdir /tmp/runs/recipe")
        train_and_evaluate(static, folder / "static", f"transkimmer train --config.distill.teacher={teacher['distill.teacher']}")
    return folder


def made(workdirs, tmp_path, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tools/row.py", *map(str, arguments)])
        row.main([*map(str, arguments), "--output", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    return path.name, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def of_recipe(workdirs, tmp_path_factory):
    return made(workdirs, tmp_path_factory.mktemp("rows"), workdirs / "recipe", "--rounds", "3", "--timed", "20")


def test_a_record_of_several_budgets(workdirs, of_recipe):
    name, record = of_recipe
    result = json.loads((workdirs / "recipe" / "result.json").read_text(encoding="utf-8"))
    assert name == "files_tiny-3l_0.json"
    assert {field: record[field] for field in ("task", "backbone", "seed", "kind", "label", "metric", "split", "examples")} == {
        "task": "files", "backbone": "tiny-3l", "seed": 0, "kind": "skimming", "label": "", "metric": "accuracy", "split": "test",
        "examples": 50,
    }  # fmt: skip
    assert (record["layers"], record["dense_layers"], record["unlabelled"]) == (3, 3, 0)
    assert record["steps"] == record["dense_steps"] == 40 and record["seconds"] == result["skimming"]["seconds"]
    assert record["device"] == result["device"] and record["cores"] >= 1 and record["commit"]
    assert record["command"] == record["dense_command"] == "transkimmer train --config configs/files.py --workdir recipe"
    assert record["row_command"].startswith("python -m tools.row recipe --rounds 3")


def test_the_curve_is_the_run_s_own(workdirs, of_recipe):
    """The engine's, at the threshold of each budget, agrees with the masked evaluation that the run ended with."""
    _, record = of_recipe
    result = json.loads((workdirs / "recipe" / "result.json").read_text(encoding="utf-8"))
    assert [point["budget"] for point in record["curve"]] == list(BUDGETS)
    assert len({point["flops_vs_unpadded"] for point in record["curve"]}) == 3
    for ours, theirs in zip(record["curve"], [each for each in result["curve"] if each.get("split", "test") == "test"], strict=True):
        assert ours["budget"] == theirs["budget"] and ours["value"] == pytest.approx(theirs["value"], abs=1e-6)
        assert ours["flops_vs_unpadded"] == pytest.approx(theirs["flops_vs_unpadded"], rel=1e-6)
        assert statistics.mean(ours["kept_per_layer"]) == pytest.approx(theirs["kept_tokens"], rel=1e-6)
    assert record["dense_value"] == result["dense"]["metrics"]["test"]["accuracy"]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_point_is_what_evaluate_says(workdirs, of_recipe, tmp_path, budget):
    """Padded FLOPs too: those of the dense model at the task's padded length."""
    _, record = of_recipe
    (point,) = (point for point in record["curve"] if point["budget"] == budget)
    model, data, said = workdirs / "recipe" / "model", workdirs / "test.jsonl", tmp_path / "said.json"
    cli.main(["evaluate", "--model", str(model), "--data", str(data), "--threshold", str(1 - budget), "--json", str(said)])
    said = json.loads(said.read_text(encoding="utf-8"))
    assert {name: point[name] for name in ("value", "flops_vs_unpadded", "flops_vs_padded")} == pytest.approx(
        {name: said[name] for name in ("value", "flops_vs_unpadded", "flops_vs_padded")}, rel=1e-6
    )


def test_the_clock(of_recipe):
    """Every way that this machine has, at every budget, with the dense model of the same way beside it."""
    _, record = of_recipe
    assert set(record["clock"]) == WAYS
    assert (record["timed"], record["rounds"], record["batch_size"]) == (20, 3, 32) and record["cpu"]
    exact = record["clock"]["onnxruntime float32"]
    assert exact["dense"]["value"] == record["dense_value"]
    assert [point["value"] for point in exact["curve"]] == [point["value"] for point in record["curve"]]
    for entry in record["clock"].values():
        assert [point["budget"] for point in entry["curve"]] == list(BUDGETS)
        assert entry["dense"]["texts_per_second"] > 0
        assert all(point["texts_per_second"] > 0 and point["times_dense"] > 0 for point in entry["curve"])


def test_questions_are_counted_and_not_their_windows(workdirs, tmp_path):
    run, _ = row.read_runs(workdirs / "recipe", None)
    asked = [{"question": "is it", "context": "a film " * 20, "answers": {"text": [], "answer_start": []}}] * 2
    path = runs.write_jsonl(tmp_path / "questions.jsonl", asked)
    data = DataConfig(
        task="questions", train_file=str(path), test_file=str(path), text_columns=("question", "context"), label_column="answers",
        max_length=12, doc_stride=2,
    )  # fmt: skip
    scored = row.Scored.load(dataclasses.replace(run, config=dataclasses.replace(run.config, data=data)))
    assert len(scored.prepared.tokens) > 4 and scored.examples == 2


def test_the_clock_is_medians_of_rounds(workdirs, of_recipe, monkeypatch):
    """Texts a second of the median round, and the median of the ratios within a round: a slow round is slow for all."""
    rounds = {"dense": [4.0, 40.0, 2.0], 0.8: [2.0, 10.0, 2.0], 0.6: [1.0, 10.0, 1.0], 0.45: [1.0, 4.0, 0.5]}
    asked = []
    monkeypatch.setattr(row, "interleaved", lambda contenders, parts: asked.append((set(contenders), len(parts) - 1)) or {
        name: rounds[name.rpartition(" ")[2]] if name.endswith("dense") else rounds[float(name.rpartition(" ")[2])] for name in contenders
    })  # fmt: skip
    run, dense = row.read_runs(workdirs / "recipe", None)
    said = row.clock(row.Scored.load(run), run, dense, of_recipe[1], [("onnxruntime", "float32")], timed=20, batch=8, rounds=3)
    assert asked == [({f"onnxruntime float32 {name}" for name in rounds}, 3)] and said["batch_size"] == 8
    entry = said["clock"]["onnxruntime float32"]
    assert entry["dense"]["texts_per_second"] == 20 / 4.0
    assert [point["texts_per_second"] for point in entry["curve"]] == [20 / 2.0, 20 / 1.0, 20 / 1.0]
    assert [point["times_dense"] for point in entry["curve"]] == [2.0, 4.0, 4.0]


def test_budgets_between_the_trained_ones(workdirs, tmp_path):
    name, record = made(workdirs, tmp_path, workdirs / "recipe", "--no-clock", "--budgets", "0.5", "0.7", "--label", "fine")
    assert name == "files_tiny-3l_0_fine.json" and "clock" not in record
    assert [point["budget"] for point in record["curve"]] == [0.8, 0.7, 0.6, 0.5, 0.45]
    spent = [1 / point["flops_vs_unpadded"] for point in record["curve"]]
    assert spent == sorted(spent, reverse=True) and spent[0] > spent[2] > spent[4]


def test_a_single_run_beside_its_dense_one(workdirs, of_recipe, tmp_path):
    """It is a recipe's second run to the record, whichever way the dense one is named."""
    name, record = made(workdirs, tmp_path, workdirs / "recipe" / "skimming", "--dense", workdirs / "recipe", "--no-clock")
    same = ("curve", "dense_value", "command", "dense_command", "steps", "dense_steps")
    assert name == of_recipe[0] and {field: record[field] for field in same} == {field: of_recipe[1][field] for field in same}
    assert made(workdirs, tmp_path, workdirs / "recipe" / "skimming", "--dense", workdirs / "recipe" / "dense", "--no-clock")[0] == name


def test_a_run_of_one_budget(workdirs, of_recipe):
    """A curve of one point, at the threshold that its model has."""
    run, _ = row.read_runs(workdirs / "recipe", None)
    assert run.budgets == BUDGETS and run.threshold(0.8) == pytest.approx(0.2)
    single = dataclasses.replace(run, config=override(run.config, {"skim.levels": ""}))
    assert single.budgets == (0.6,) and single.threshold(0.6) is None
    assert row.curve(row.Scored.load(single), single, single.budgets) == [of_recipe[1]["curve"][1]], "0.6 is the model's own"


def test_a_static_student(workdirs, of_recipe, tmp_path):
    """The dense model's first layer of three, taught by all: it costs about a third of the FLOPs, and skims nothing."""
    config = json.loads((workdirs / "static" / "config.json").read_text(encoding="utf-8"))
    assert config["distill"]["teacher"] == config["model"]["pretrained"] == str(workdirs / "recipe" / "dense" / "model")
    name, record = made(workdirs, tmp_path, workdirs / "static", "--dense", workdirs / "recipe" / "dense", "--no-clock")
    (point,) = record["curve"]
    assert name == "files_tiny-3l_0_static1.json" and (record["kind"], record["label"]) == ("static", "static1")
    assert record["command"] == "transkimmer train --config.distill.teacher=dense/model", "no folder of this machine"
    assert (record["layers"], record["dense_layers"]) == (1, 3) and point["budget"] is None and point["kept_per_layer"] == [1.0]
    # Its only layer is also the last, of which position 0 alone is computed.
    assert 2.5 < point["flops_vs_unpadded"] < 9
    padding = [each["flops_vs_padded"] / each["flops_vs_unpadded"] for each in (point, of_recipe[1]["curve"][0])]
    assert padding[0] == pytest.approx(padding[1]), "against the same dense model"


def test_commands_of_a_run_that_starts_from_another(workdirs):
    """That of the dense run, which is its recipe's, stands before its own; the seconds of both are added."""
    dense = "transkimmer train --config configs/files.py --workdir recipe"
    assert row.Run.read(workdirs / "static").commands == [dense, "transkimmer train --config.distill.teacher=dense/model"]
    assert row.Run.read(workdirs / "recipe" / "dense").commands == [dense]
    assert row.Run.read(workdirs / "recipe" / "skimming").commands == [dense], "both runs of a recipe have its command"
    static, first = (row.Run.read(folder) for folder in (workdirs / "static", workdirs / "recipe" / "dense"))
    assert static.seconds == static.result["seconds"] + first.result["seconds"] and first.seconds == first.result["seconds"]


def test_texts_without_labels(workdirs, tmp_path, capsys):
    """Are counted where they are; their file may be gone when the record is made."""
    run, _ = row.read_runs(workdirs / "recipe", None)
    assert row._unlabelled(run) == 0
    lines = runs.write_jsonl(tmp_path / "more.jsonl", runs.make_reviews(7, seed=3))
    more = dataclasses.replace(run, config=override(run.config, {"distill.unlabelled_file": str(lines)}))
    assert row._unlabelled(more) == 7
    lines.unlink()
    assert row._unlabelled(more) is None and f"{lines} is not here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["static"], "holds a single run: give --dense"),
        (["missing", "--dense", "recipe"], "holds no finished run"),
        (["static", "--dense", "recipe/skimming"], "is no dense run of a whole model"),
        (["recipe/dense", "--dense", "recipe"], "skims nothing and leaves nothing out"),
        (["static", "--dense", "recipe", "--budgets", "0.5"], "was not trained for several budgets"),
    ],
)
def test_refusals(workdirs, tmp_path, arguments, says):
    paths = [str(workdirs / word) if word[0].isalpha() else word for word in arguments]
    with pytest.raises(ConfigError, match=says):
        made(workdirs, tmp_path, *paths)


def test_another_seed_is_not_compared(workdirs, tmp_path):
    copy = shutil.copytree(workdirs / "recipe" / "dense", tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text(encoding="utf-8")) | {"seed": 1}
    (copy / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(ConfigError, match="has seed 0, .* has seed 1"):
        row.read_runs(workdirs / "static", copy)
