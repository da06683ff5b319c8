"""Laws of `evaluate --curve`: its points are what `evaluate` alone says of them, and what it picks is what was asked for."""

import csv
import dataclasses
import itertools
import json
import math
import shutil

import pytest
from checkpoints.handmade import random_tensors, write_checkpoint
from cli.saved import make_tensors, save_dense, save_model
from training import runs

from transkimmer_jax import cli, console
from transkimmer_jax.evaluation import guarantees, labelled
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine

RECORDS = runs.make_reviews(50, seed=7)
MANY = runs.make_reviews(400, seed=8)
EVERYTHING_KEPT = (
    "keeping everything gives accuracy {0[everything_kept][accuracy]:.4f} (+0.0000 against dense,"
    " {0[everything_kept][flops_vs_unpadded]:.2f}x fewer FLOPs)"
)
SAME = ("kept_tokens", "kept_per_layer", "flops_vs_padded", "flops_vs_unpadded")


@pytest.fixture(scope="module")
def relabel(model_folder):
    """Records labelled as the model answers when nothing is skimmed."""
    engine = SkimEngine.from_pretrained(model_folder, dense=True)

    def run(records):
        answers = engine.predict([record["text"] for record in records], progress=False)
        return [record | {"label": answer.label} for record, answer in zip(records, answers, strict=True)]

    return run


@pytest.fixture(scope="module")
def reviews(relabel, tmp_path_factory):
    """Of which skimming less answers more rightly, and no skimming nine of ten."""
    records = relabel(RECORDS)
    for record in records[::10]:
        record["label"] = {"neg": "pos", "pos": "neg"}[record["label"]]
    return runs.write_jsonl(tmp_path_factory.mktemp("reviews") / "reviews.jsonl", records)


def sweep(model, data, output, *arguments):
    """What the command writes to sweep.json."""
    cli.main(["evaluate", "--model", str(model), "--data", str(data), "--curve", str(output), "--points=8", *map(str, arguments)])
    return json.loads((output / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def swept(model_folder, reviews, tmp_path_factory):
    """A folder, in which nothing is picked."""
    folder = tmp_path_factory.mktemp("sweeps") / "deep"
    sweep(model_folder, reviews, folder)
    return folder


@pytest.fixture(scope="module")
def result(swept):
    return json.loads((swept / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture
def evaluate(capsys):
    """What `evaluate` says, in the names that points have."""

    def run(model, data, *arguments):
        capsys.readouterr()
        cli.main(["evaluate", "--model", str(model), "--data", str(data), *map(str, arguments)])
        said = json.loads(capsys.readouterr().out)
        return {"threshold": said["threshold"], **said["metrics"]["test file"], **{name: said[name] for name in SAME}}

    return run


@pytest.fixture
def refusal(capsys, model_folder, reviews, tmp_path):
    """What the command says after 'error: '; with `late`, what it says last, after its table."""

    def run(*arguments, model=model_folder, data=reviews, late=False):
        capsys.readouterr()
        command = ["evaluate", "--model", model, "--data", data, "--curve", tmp_path / "output", "--points=3", *arguments]
        assert console.run(cli.main, list(map(str, command))) == 2
        captured = capsys.readouterr()
        last = captured.err.splitlines()[-1]
        if not late:
            assert captured.out == "" and captured.err == last + "\n", captured
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return run


def test_points_are_what_evaluate_says(model_folder, reviews, result, evaluate):
    points = result["points"]
    assert len(points) == 8 and (result["task"], result["metric"], result["examples"]) == ("files", "accuracy", 50)
    thresholds = [point["threshold"] for point in points]
    assert (thresholds[0], thresholds[-1]) == ("-inf", "inf") and thresholds[1:-1] == sorted(thresholds[1:-1]) and 0.25 in thresholds
    assert points[4] == evaluate(model_folder, reviews, f"--threshold={thresholds[4]!r}")
    assert points[0] | {"threshold": -1e9} == evaluate(model_folder, reviews, "--threshold=-1e9")
    assert result["dense_value"] == points[0]["accuracy"] and result["dense"] == "the same weights, nothing skimmed"
    assert points[0]["kept_tokens"] == 1.0 and len({point["kept_tokens"] for point in points}) == 8
    assert result["chosen"] is None and "guarantee" not in result
    assert result["split"] == "test file" and result["data"] == str(reviews)


def test_points_are_spread_over_what_they_spend(result):
    """From everything to the least, none twice."""
    spent = [1 / point["flops_vs_unpadded"] for point in result["points"]]
    gaps = [before - after for before, after in itertools.pairwise(spent)]
    assert min(gaps) > 0.2 * (spent[0] - spent[-1]) / 7 and max(gaps) < 2.2 * (spent[0] - spent[-1]) / 7


def test_what_can_be_had(result):
    """Of what can be served, the best; and what the model gives that skims nothing."""
    assert result["everything_kept"] == result["points"][0]
    finite = [point for point in result["points"] if point["threshold"] not in ("-inf", "inf")]
    assert result["best"]["accuracy"] == max(point["accuracy"] for point in finite)


def test_pareto(result):
    """By cost and value, every point that no other one beats."""
    costs = [(1 / point["flops_vs_unpadded"], -point["accuracy"], point["threshold"]) for point in result["points"]]
    best = [each for each in costs if not any(other[:2] != each[:2] and other[0] <= each[0] and other[1] <= each[1] for other in costs)]
    assert len({each[:2] for each in best}) == len(best) > 1, "equal ones would leave a choice"
    assert result["pareto"] == [threshold for *_, threshold in sorted(best, reverse=True, key=lambda each: each[0])]


def test_files_agree(swept, result):
    assert sorted(path.name for path in swept.iterdir()) == ["sweep.csv", "sweep.json", "sweep.png"]
    with (swept / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, point in zip(rows, result["points"], strict=True):
        values = {name: text if text.endswith("inf") else float(text) for name, text in row.items()}
        layers = [values.pop(f"kept_layer_{layer}") for layer in range(runs.TINY["num_hidden_layers"])]
        assert values | {"kept_per_layer": layers} == point
    assert (swept / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_budget(model_folder, reviews, result, tmp_path, capsys):
    """The best point that is cheap enough, marked in the table."""
    found = sweep(model_folder, reviews, tmp_path / "output", "--budget=0.95")
    assert found["points"] == result["points"]
    cheap = [point for point in found["points"] if 1 / point["flops_vs_unpadded"] <= 0.95]
    assert 1 < len(cheap) < 8 and found["chosen"] in cheap
    assert found["chosen"]["accuracy"] == max(point["accuracy"] for point in cheap)
    first, heads, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("test file reviews.jsonl: 50 texts, dense accuracy 0.9000") and heads.split()[:2] == ["threshold", "accuracy"]
    assert [line.endswith("<- chosen") for line in lines] == [point == found["chosen"] for point in found["points"]]
    assert last.startswith(f"the best is accuracy {found['best']['accuracy']:.4f} (") and last.endswith(EVERYTHING_KEPT.format(found))


def test_tolerance(model_folder, reviews, tmp_path):
    """The cheapest point that is good enough."""
    found = sweep(model_folder, reviews, tmp_path / "output", "--tolerance=0.2")
    good = [point for point in found["points"] if point["accuracy"] >= found["dense_value"] - 0.2 - 1e-9]
    assert 1 < len(good) < 8 and found["chosen"] == max(good, key=lambda point: point["flops_vs_unpadded"])


def first_not_rejected(tested, level):
    return next((number for number, each in enumerate(tested) if each["p_value"] > level), len(tested))


def test_guaranteed_disagreement(model_folder, relabel, write, tmp_path, capsys):
    """Tested on three quarters of the texts, exactly, up to the first that is not rejected. The right answers are dense's here."""
    data, tolerance = write("many.jsonl", relabel(MANY)), 0.35
    found = sweep(model_folder, data, tmp_path / "output", f"--tolerance={tolerance}", "--guarantee=0.9", "--risk=disagreement")
    tested = found["guarantee"].pop("tested")
    assert found["guarantee"] == {"confidence": 0.9, "risk": "disagreement", "tolerance": tolerance, "examples": 300}
    count = first_not_rejected(tested, 0.1)
    last = capsys.readouterr().out.splitlines()[-1]
    risk = tested[count - 1]["risk"]
    assert last == f"certified at 90%: at most 0.35 other answers than the dense model's ({risk:.4f} in 300 texts)"
    finite = found["points"][1:-1]
    assert count > 1 and found["chosen"] == finite[count - 1]
    for each, point in zip(tested, finite, strict=False):
        events = round(300 * each["risk"])
        assert each["threshold"] == point["threshold"] and each["risk"] == pytest.approx(events / 300, rel=1e-12)
        below = sum(math.comb(300, k) * tolerance**k * (1 - tolerance) ** (300 - k) for k in range(events + 1))
        assert each["p_value"] == pytest.approx(below, rel=1e-9)
        others = round(400 * (1 - point["accuracy"])) - events
        assert 0 <= others <= 100 * tolerance, "those of the other quarter, which would have it tested"


def test_guaranteed_accuracy(model_folder, write, tmp_path, monkeypatch):
    """By bets on the losses against the dense answers: 1 where only those are right, -1 where only they are wrong."""
    calls, really = [], guarantees.betting_p_value

    def betting_p_value(losses, tolerated, level):
        calls.append(losses)
        assert tolerated == 0.15 and level == pytest.approx(0.1, rel=1e-9) and losses.shape == (300,)
        return really(losses, tolerated, level)

    monkeypatch.setattr(guarantees, "betting_p_value", betting_p_value)
    found = sweep(model_folder, write("many.jsonl", MANY), tmp_path / "output", "--tolerance=0.15", "--guarantee=0.9")
    tested, points = found["guarantee"]["tested"], found["points"][1:-1]
    count = first_not_rejected(tested, 0.1)
    assert 1 < count < len(tested) and found["chosen"] == points[count - 1]
    assert len(tested) == len(calls) > 1
    for each, point, losses in zip(tested, points, calls, strict=False):
        assert each["threshold"] == point["threshold"] and each["risk"] == losses.mean() and set(losses) <= {-1, 0, 1}
        assert each["p_value"] == pytest.approx(really(losses, 0.15, 0.1), rel=1e-9)
        others = 400 * (found["points"][0]["accuracy"] - point["accuracy"]) - losses.sum()
        assert abs(others - round(others)) < 1e-6 and -100 <= others <= 15, "those of the other quarter, which would have it tested"


def applied(folder, found, config, capsys):
    """That the choice is written, and nothing else is changed."""
    chosen = found["chosen"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"applied": chosen["threshold"], "model": str(folder)}
    now = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert now.pop("skim")["threshold"] == chosen["threshold"] and now == config
    calibration = Calibration.load(folder, runs.TINY["num_hidden_layers"])
    assert calibration.threshold == chosen["threshold"] and len(calibration.lengths) == len(RECORDS)
    assert (calibration.kept.sum(axis=1) / calibration.lengths.sum()).tolist() == chosen["kept_per_layer"]


def test_apply(model_folder, reviews, evaluate, tmp_path, capsys, caplog):
    """What the model does from then on when nobody says otherwise."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"a graph")
    with caplog.at_level("WARNING", logger="transkimmer_jax"):
        found = sweep(folder, reviews, tmp_path / "output", "--budget=0.95", "--apply")
    assert f"{folder}/onnx has graphs with the threshold from before: export them again" in caplog.messages
    assert found["chosen"]["threshold"] not in ("-inf", "inf", 0.25)
    skim = config.pop("skim")
    applied(folder, found, config, capsys)
    now = json.loads((folder / "config.json").read_text(encoding="utf-8"))["skim"]
    assert now == skim | {"threshold": found["chosen"]["threshold"]}
    assert evaluate(folder, reviews) == found["chosen"]


def test_apply_to_a_checkpoint_of_the_original(tokenizer_folder, reviews, evaluate, tmp_path, capsys):
    """Whose config.json has no skim section."""
    folder = write_checkpoint(tmp_path / "model", make_tensors(), runs.TINY)
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = sweep(folder, reviews, tmp_path / "output", "--budget=0.95", "--apply", "--max-length=12")
    applied(folder, found, config, capsys)
    assert evaluate(folder, reviews, "--max-length=12") == found["chosen"]


def test_infinities_are_not_picked(model_folder, reviews, tmp_path):
    """At infinity position 0 alone is kept, the cheapest of all, but no saved threshold says so."""
    found = sweep(model_folder, reviews, tmp_path / "output", "--tolerance=0.99")
    finite = [point for point in found["points"] if point["threshold"] not in ("-inf", "inf")]
    assert found["chosen"] == max(finite, key=lambda point: point["flops_vs_unpadded"])
    assert found["chosen"]["flops_vs_unpadded"] < found["points"][-1]["flops_vs_unpadded"]


def test_another_dense_model(model_folder, reviews, result, evaluate, tokenizer_folder, tmp_path):
    """One that reads no more than 3 tokens if nobody says otherwise."""
    tensors = random_tensors(runs.TINY, predictor_size=16, seed=5)
    other = save_model(tmp_path, tokenizer_folder, tensors=tensors, max_length=3)
    found = sweep(model_folder, reviews, tmp_path / "output", "--dense", other, "--points=3")
    expected = evaluate(other, reviews, "--threshold=-1e9", "--max-length=12")["accuracy"]
    assert found["dense_value"] == expected != result["dense_value"]
    assert found["dense"] == str(other) and found["points"][0] == result["points"][0]


def test_another_dense_model_with_other_labels(refusal, model_folder, tokenizer_folder, tmp_path):
    config = runs.TINY | {"id2label": {"0": "neg", "1": "pos", "2": "neutral"}}
    other = save_model(tmp_path, tokenizer_folder, config=config, label_names=("neg", "pos", "neutral"))
    assert refusal("--dense", other) == f"{other} has 3 labels, {model_folder} has 2"


def test_no_threshold_is_good_enough(refusal, tmp_path):
    """What there is, is written all the same."""
    table = tmp_path / "output" / "sweep.csv"
    message = refusal("--budget=0.001", "--apply", late=True)
    result = json.loads((tmp_path / "output" / "sweep.json").read_text(encoding="utf-8"))
    assert message.startswith("no threshold spends at most --budget 0.001 of the dense model's FLOPs: the least is 0.")
    best = result["best"]
    assert f"; the best is accuracy {best['accuracy']:.4f} ({best['accuracy'] - result['dense_value']:+.4f} against dense, " in message
    assert message.endswith(f"{EVERYTHING_KEPT.format(result)}; {table} has all points")
    assert len(table.read_text(encoding="utf-8").splitlines()) == 4
    assert len(result["points"]) == 3 and result["chosen"] is None
    # So few texts show nothing.
    message = refusal("--tolerance=0.01", "--guarantee=0.95", "--points=8", late=True)
    assert message.startswith("no threshold is certified to lose at most --tolerance 0.01 with --guarantee 0.95; the best is accuracy ")
    result = json.loads((tmp_path / "output" / "sweep.json").read_text(encoding="utf-8"))
    assert all(each["p_value"] > 0.05 for each in result["guarantee"]["tested"]) and result["chosen"] is None


def test_models_that_cannot_be_swept(refusal, model_folder, tokenizer_folder, tmp_path):
    dense = save_dense(tmp_path / "dense", model_folder, tokenizer_folder)
    assert refusal("--max-length=12", model=dense) == f"{dense} is a dense model: it has no thresholds to sweep"
    assert refusal(model=tmp_path / "nowhere") == f"no checkpoint folder {str(tmp_path / 'nowhere')!r}"


def test_guarantees_that_cannot_be_given(refusal, tokenizer_folder, write, tmp_path, monkeypatch):
    config = runs.TINY | {"id2label": {"0": "LABEL_0"}}
    regression = save_model(tmp_path, tokenizer_folder, config=config, label_names=None)
    stars = write("stars.jsonl", [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}])
    guarantee = ("--tolerance=0.1", "--guarantee=0.9")
    message = refusal(*guarantee, model=regression, data=stars)
    assert message == "--guarantee counts right and wrong answers, and files is regression"
    assert refusal(*guarantee, "--examples=3") == "--guarantee needs more than 3 texts"

    # F1 is what MRPC and QQP choose by, though they have an accuracy too.
    for metrics in (("matthews_correlation",), ("f1", "accuracy")):

        def load(args, metrics=metrics, really=labelled.load):
            found = really(args)
            return dataclasses.replace(found, task=dataclasses.replace(found.task, metrics=metrics))

        with monkeypatch.context() as patched:
            patched.setattr(labelled, "load", load)
            message = refusal(*guarantee)
        assert message == f"files is scored by {metrics[0]}, not by accuracy: give --risk disagreement"


def test_a_guarantee_on_texts_that_chose_the_model(model_folder, write, tmp_path, monkeypatch, caplog):
    def load(args, really=labelled.load):
        return dataclasses.replace(really(args), chose_the_model=True)

    data = write("many.jsonl", MANY)
    sweep(model_folder, data, tmp_path / "output", "--tolerance=0.3", "--guarantee=0.9")
    assert not caplog.messages
    monkeypatch.setattr(labelled, "load", load)
    sweep(model_folder, data, tmp_path / "output", "--tolerance=0.3", "--guarantee=0.9")
    assert caplog.messages == ["test file many.jsonl has chosen this checkpoint: a guarantee needs texts that training has not seen"]
    caplog.clear()
    sweep(model_folder, data, tmp_path / "output", "--tolerance=0.3")
    assert not caplog.messages, "what is promised of these texts alone is true of them"


@pytest.fixture(scope="module")
def part(tokenizer_folder, tmp_path_factory):
    """A model with half of the dense one's layers, and that one."""
    whole = save_model(tmp_path_factory.mktemp("whole"), tokenizer_folder)
    config = runs.TINY | {"num_hidden_layers": 1, "dense_layers": runs.TINY["num_hidden_layers"]}
    tensors = random_tensors(config, predictor_size=16, seed=3)
    return save_model(tmp_path_factory.mktemp("part"), tokenizer_folder, config=config, tensors=tensors), whole


def test_a_part_of_the_dense_model(part, reviews, refusal, evaluate, tmp_path, capsys):
    """Losses are against the dense model where it is named; nothing that is called a loss is against the part itself."""
    model, whole = part
    message = refusal("--tolerance=0.1", model=model)
    assert message == f"--tolerance is a loss against the dense model, of which {model} has a part: name it by --dense"
    alone = sweep(model, reviews, tmp_path / "alone", "--points=3")
    said = capsys.readouterr().out
    assert "against unskimmed" in said and "against dense" not in said and alone["everything_kept"]["flops_vs_unpadded"] > 1.5
    beside = sweep(model, reviews, tmp_path / "beside", "--points=3", "--dense", whole)
    assert beside["dense_value"] == evaluate(whole, reviews, "--threshold=-1e9")["accuracy"] != alone["dense_value"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget=0.5", "--tolerance=0.1"], "--budget and --tolerance: give one of them"),
        (["--guarantee=0.9"], "--guarantee needs a --tolerance above 0: no sample can show that nothing at all is lost"),
        (["--guarantee=0.9", "--budget=0.5"], "--guarantee needs a --tolerance above 0: no sample can show that nothing at all is lost"),
        (["--guarantee=0.9", "--tolerance=0"], "--guarantee needs a --tolerance above 0: no sample can show that nothing at all is lost"),
        (["--tolerance=0.1", "--risk=disagreement"], "--risk is what --guarantee bounds: give both, or neither"),
        (["--apply"], "--apply needs --budget or --tolerance: nothing is picked without"),
    ],
)
def test_numbers_that_cannot_be_meant(refusal, tmp_path, arguments, complaint):
    assert refusal(*arguments) == complaint
    assert not (tmp_path / "output").exists()
