"""The page of a training run: its curves are the numbers of metrics.jsonl, of a run that has ended and of one that goes on."""

import dataclasses
import json
import re

import jax
import pytest
from reporting import browser as browsers
from training import runs

from transkimmer_jax import cli
from transkimmer_jax.errors import ConfigError, DataError
from transkimmer_jax.training.recipe import train_recipe

LINES = [
    {"step": 1, "loss": 0.7, "task_loss": 0.7, "share": 0.9, "target": 1.0, "coefficient": 0.0, "grad_norm": 1.5},
    {"step": 2, "threshold": 0.1, "validation/accuracy": 0.5, "validation/kept_tokens": 0.4, "validation/kept_layer_0": 0.5,
     "validation/kept_layer_1": 0.3, "validation/flops_vs_unpadded": 2.0, "validation/divergence": 1.25},
    {"step": 2, "loss": 0.6, "task_loss": 0.5, "share": 0.4, "target": 0.4, "coefficient": 0.1, "grad_norm": float("nan")},
]  # fmt: skip


METRICS = ("accuracy", "macro_f1")  # of a file with classes


def report(workdir, output, *more):
    cli.main(["report", "--run", str(workdir), "--output", str(output), *more])
    page = output.read_text(encoding="utf-8")
    told = re.search(r"const data = (.*);\n", page)
    assert told is not None and page.count("<script>") == page.count("</script>") == 1, "no text ends the script"
    return json.loads(told[1])


def curves(run):
    """(chart, curve) -> points."""
    return {(chart["title"], series["name"]): series["points"] for chart in run["charts"] for series in chart["series"]}


@pytest.fixture(scope="module")
def workdir(tokenizer_folder, tmp_path_factory, quickly_built_programs):
    """A recipe of 12 steps each."""
    folder = tmp_path_factory.mktemp("recipe")
    files = [runs.write_jsonl(folder / f"{name}.jsonl", runs.make_reviews(40, seed)) for seed, name in enumerate(("train", "validation"))]
    config = runs.make_config(runs.write_model(folder / "checkpoint", tokenizer_folder), *files)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=12, log_every=2, eval_every=4))
    with jax.numpy_dtype_promotion("standard"):
        train_recipe(runs.make_recipe(config, dense={}, skimming={"skim.levels": (0.8,)}), folder / "run", "transkimmer train </script><b>")
    return folder / "run"


def test_the_curves_are_the_records(workdir, tmp_path):
    """Of both runs of a recipe: every number of metrics.jsonl that the page shows, and none beside."""
    said = report(workdir, tmp_path / "page.html")
    assert [run["name"] for run in said["runs"]] == ["dense", "skimming"] and said["title"] == "Training of run"
    dense, skimming = (curves(run) for run in said["runs"])
    assert {chart for chart, _ in dense} == {"Loss", "Metrics", "Norm of the gradient"}
    lines = [json.loads(line) for line in (workdir / "skimming" / "metrics.jsonl").read_text().splitlines()]
    for curve, name in {
        ("Loss", "of the task"): "task_loss",
        ("Loss", "with the price of tokens"): "loss",
        ("Share spent in training", "measured"): "share",
        ("Share spent in training", "goal"): "target",
        ("Price of a token", "coefficient"): "coefficient",
        **{("Metrics", f"validation, {metric.replace('_', ' ')}"): f"validation/{metric}" for metric in METRICS},
        ("Times fewer FLOPs than dense", "validation, against unpadded"): "validation/flops_vs_unpadded",
        **{("Tokens kept by each layer in evaluation", f"layer {n + 1}"): f"validation/kept_layer_{n}" for n in range(3)},
        ("Norm of the gradient", "before it is clipped"): "grad_norm",
    }.items():
        wanted = [[line["step"], line[name]] for line in lines if name in line]
        assert len(wanted) >= 3 and skimming.pop(curve) == wanted
    facts = dict(map(tuple, said["runs"][1]["facts"]))
    dense_result, result = (json.loads((workdir / name / "result.json").read_text()) for name in ("dense", "skimming"))
    points = [[point["flops_vs_unpadded"], point["value"]] for point in result["curve"]]
    value = dense_result["metrics"]["validation"]["accuracy"]
    assert len(points) == 2 and skimming.pop(("Accuracy at each budget", "skimming")) == points
    assert skimming.pop(("Accuracy at each budget", "dense")) == [[1.0, value], [points[-1][0], value]]
    assert skimming == {}
    assert facts["accuracy, validation"] == f"{result['value']:.4f}" and facts["command"] == "transkimmer train </script><b>"
    assert report(workdir / "skimming", tmp_path / "one.html", "--title", "mine")["title"] == "mine"


def test_layers_of_several_splits(tmp_path, write):
    """As of MNLI: the first split's are shown, each once."""
    other = {name.replace("validation", "mismatched"): value for name, value in LINES[1].items() if "/" in name}
    write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in (LINES[0], LINES[1] | other, LINES[2])))
    (run,) = report(tmp_path, tmp_path / "page.html")["runs"]
    (chart,) = [chart for chart in run["charts"] if chart["title"] == "Tokens kept by each layer in evaluation"]
    assert [series["name"] for series in chart["series"]] == ["layer 1", "layer 2"]
    assert ("Metrics", "mismatched, accuracy") in curves(run)


def test_a_run_that_goes_on(tmp_path, write):
    """What is being written is left out; what is not finite is a gap."""
    write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 3, "lo')
    (run,) = report(tmp_path, tmp_path / "page.html")["runs"]
    assert run["facts"] == [["state", "goes on, or was interrupted, at step 2"]]
    assert curves(run)["Norm of the gradient", "before it is clipped"] == [[1, 1.5], [2, None]]
    assert curves(run)["Tokens kept by each layer in evaluation", "layer 2"] == [[2, 0.3]]
    units = {chart["title"]: chart["unit"] for chart in run["charts"]}
    assert units["Metrics"] == "share" and units["Divergence from the teacher"] == "number", "nats are no share"
    assert curves(run)["Divergence from the teacher", "validation, divergence"] == [[2, 1.25]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no metrics.jsonl: give the --workdir"),
        ("", "is empty: the run has not come to its first record"),
        ('{"step": 1}\nnonsense\n', "line 2: not the numbers of a step"),
        ('{"loss": 1.0}\n', "line 1: not the numbers of a step"),
        ('{"step": 1, "loss": "</script>"}\n', "line 1: not the numbers of a step"),
        ("[" * 100_000 + "\n", "line 1: not the numbers of a step"),
    ],
)
def test_what_is_no_run(tmp_path, write, content, message):
    if content is not None:
        write("metrics.jsonl", content)
    with pytest.raises(DataError, match=message):
        report(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_result(tmp_path, write):
    write("metrics.jsonl", LINES)
    for content, message in (("{", "is not the result of a run"), ("[]", "is not the result of a run")):
        write("result.json", content)
        with pytest.raises(DataError, match=message):
            report(tmp_path, tmp_path / "page.html")


@pytest.mark.parametrize("flag", [["--task", "glue/sst2"], ["--input", "texts.txt"], ["--budgets", "0.3"], ["--threshold", "1"]])
def test_flags_of_a_model(tmp_path, write, flag):
    write("metrics.jsonl", LINES)
    with pytest.raises(ConfigError, match=f"{flag[0]} is of --model"):
        report(tmp_path, tmp_path / "page.html", *flag)


def test_a_model_needs_texts(tmp_path):
    with pytest.raises(ConfigError, match="give --input, or --task"):
        cli.main(["report", "--model", "model", "--output", str(tmp_path / "page.html")])


@pytest.mark.slow
def test_in_a_browser(browser, workdir, tmp_path):
    """All charts are drawn, arrow keys read values, tables hold the numbers, and the console stays empty."""
    said = report(workdir, tmp_path / "page.html")
    content, console = browsers.opened(browser, tmp_path / "page.html", tmp_path)
    charts = [chart for run in said["runs"] for chart in run["charts"]]
    assert content.count("<figure>") == len(charts) == 11 and "NaN" not in content.partition("<main>")[2] and console == ""
    of_run = said["runs"][1]["charts"]
    loss = next(number for number, chart in enumerate(of_run) if chart["title"] == "Loss")
    last = of_run[loss]["series"][1]["points"]
    script = (
        f"const ofLoss = {loss};"
        + """
const svg = document.querySelectorAll("section")[1].querySelectorAll("svg[role=slider]")[ofLoss], figure = svg.closest("figure");
const press = (key) => svg.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const read = () => [svg.getAttribute("aria-valuenow"), svg.getAttribute("aria-valuetext"), figure.querySelector(".about").textContent];
const atEnd = read();
press("Home");
const atStart = read();
press("ArrowRight");
const next = read();
figure.querySelector("details").open = true;
const count = (kind) => figure.querySelectorAll(kind).length;
setTimeout(() => tell({ atEnd, atStart, next, rows: count("tr"), paths: count(".plot path") }), 500);
"""
    )
    told = browsers.evaluated(browser, tmp_path / "page.html", script, tmp_path)
    for place, (step, value) in (("atEnd", last[-1]), ("atStart", last[0]), ("next", last[1])):
        now, text, about = told[place]
        assert now == str(step) and about == f"Step {step}"
        assert float(re.search(r"of the task ([\d.]+)", text)[1]) == pytest.approx(value, rel=1e-3)
    assert told["rows"] == len(last) + 1 and told["paths"] == 2


@pytest.mark.slow
def test_everybody_can_read_it(accessible, fits_a_phone, workdir, tmp_path):
    report(workdir, tmp_path / "page.html")
    accessible(tmp_path / "page.html")
    fits_a_phone(tmp_path / "page.html")
