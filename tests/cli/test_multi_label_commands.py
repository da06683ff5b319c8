"""Every command on a classifier that gives a text any number of labels: what it prints is what the engine says, or one line of refusal."""

import json
import re
import runpy
import shutil

import numpy as np
import pytest
import scipy.special
from cli.saved import save_model
from inference.skimmers import is_decided, masked
from training import runs

from transkimmer_jax import SkimEngine, TranskimmerForSequenceClassification, cli
from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import InferenceError
from transkimmer_jax.inference.answers import classified
from transkimmer_jax.onnx.export import export as export_graph

NAMES = ("insult", "threat", "toxic")
CONFIG = runs.TINY | {"id2label": dict(zip("012", NAMES, strict=True)), "problem_type": "multi_label_classification"}
RECORDS = runs.make_reviews(60, seed=7)
TEXTS = [record["text"] for record in RECORDS]


@pytest.fixture(scope="module")
def model(tokenizer_folder, tmp_path_factory):
    """Random weights that give each label to about half of the texts, and skim."""
    folder = save_model(tmp_path_factory.mktemp("several"), tokenizer_folder, config=CONFIG, label_names=NAMES)
    loaded = TranskimmerForSequenceClassification.from_pretrained(folder)
    logits = SkimEngine(loaded, load_tokenizer(folder)).predict_texts(TEXTS)[0].logits
    loaded.classifier.bias[...] = loaded.classifier.bias[...] - logits.mean(axis=0)
    again, task = folder.parent / "again", config_file.read(folder).values["task"]
    loaded.save_pretrained(again, tokenizer=load_tokenizer(folder), label_names=NAMES, extra_config={"task": task})
    return again


@pytest.fixture(scope="module")
def dense(model, tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "model"
    TranskimmerForSequenceClassification.from_pretrained(model, dense=True).save_pretrained(
        folder, tokenizer=load_tokenizer(tokenizer_folder), label_names=NAMES
    )
    return folder


@pytest.fixture(scope="module")
def labelled(model, tmp_path_factory):
    """Lists as the model says where nothing is skimmed, but for every tenth."""
    answers = SkimEngine.from_pretrained(model, dense=True).predict(TEXTS, progress=False)
    records = [{"text": text, "label": answer.label} for text, answer in zip(TEXTS, answers, strict=True)]
    for record in records[::10]:
        record["label"] = [name for name in NAMES if name not in record["label"]]
    assert len({tuple(record["label"]) for record in records}) >= 4
    return runs.write_jsonl(tmp_path_factory.mktemp("labelled") / "remarks.jsonl", records)


@pytest.fixture
def said(capsys):
    """What a command prints."""

    def run(*arguments):
        capsys.readouterr()
        cli.main(list(map(str, arguments)))
        return capsys.readouterr()

    return run


def scores(text_labels, predicted):
    """Micro and macro F1 from counts."""
    counts = {name: [0, 0, 0] for name in NAMES}
    for wanted, given in zip(text_labels, predicted, strict=True):
        for name, (both, left, right) in counts.items():
            counts[name] = [both + (name in wanted and name in given), left + (name in wanted), right + (name in given)]
    f1 = [2 * both / (left + right) for both, left, right in counts.values()]
    total = np.sum(list(counts.values()), axis=0)
    return {"micro_f1": 2 * total[0] / (total[1] + total[2]), "macro_f1": np.mean(f1)}


@pytest.mark.parametrize("runtime", ["jax", "onnx"])
def test_answers_are_those_of_masked_evaluation(model, runtime):
    """Labels and sigmoids, at thresholds from all tokens to [CLS] alone."""
    engine = SkimEngine.from_pretrained(model, runtime=runtime)
    examples, module = engine.tokenize(TEXTS), TranskimmerForSequenceClassification.from_pretrained(model)
    compared = 0
    for threshold in (-np.inf, 0.25, 1.0, np.inf):
        expected = masked(module, examples, threshold)
        if not is_decided(expected, threshold):
            continue
        compared += 1
        predictions = engine.predict_tokenized(examples, threshold=threshold)
        for answer, wanted in zip(classified(predictions, examples.truncated, NAMES, True), expected, strict=True):
            np.testing.assert_allclose(answer.logits, wanted.logits, atol=1e-4, rtol=0)
            assert answer.probabilities == pytest.approx(dict(zip(NAMES, scipy.special.expit(wanted.logits), strict=True)), abs=1e-4)
            assert answer.label == [name for name, logit in zip(NAMES, answer.logits, strict=True) if logit >= 0]
    assert compared >= 3


def test_predict(model, labelled, said):
    """A line has a list of labels, in the model's order, and each label's probability; it may be trained on."""
    lines = [json.loads(line) for line in said("predict", "--model", model, "--input", labelled, "--quiet").out.splitlines()]
    for line, answer in zip(lines, SkimEngine.from_pretrained(model).predict(TEXTS, progress=False), strict=True):
        assert line["label"] == answer.label == [name for name, value in line["probabilities"].items() if value >= 0.5]
        assert line["probabilities"] == pytest.approx(answer.probabilities, rel=1e-4) and tuple(line["probabilities"]) == NAMES
    assert {len(line["label"]) for line in lines} >= {0, 1, 2}
    assert any(abs(sum(line["probabilities"].values()) - 1) > 0.2 for line in lines)


def test_evaluate(model, labelled, said, tmp_path):
    captured = said("evaluate", "--model", model, "--data", labelled, "--predictions", tmp_path / "lines.jsonl")
    result, lines = json.loads(captured.out), [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    expected = scores([line["label"] for line in lines], [line["predicted"] for line in lines])
    assert [line["label"] for line in lines] == [json.loads(line)["label"] for line in labelled.read_text().splitlines()]
    assert result["metric"] == "micro_f1" and result["metrics"]["test file"] == pytest.approx(expected) and 0.5 < result["value"] < 1
    assert "threat" in captured.err and "confusion" not in captured.err


def test_sweep(model, labelled, said, tmp_path):
    """Micro F1 as `evaluate` has it; what a guarantee bounds is the share of texts with another list of labels."""
    flags = ("--tolerance", "0.95", "--guarantee", "0.5", "--risk", "disagreement")
    printed = said("evaluate", "--model", model, "--data", labelled, "--curve", tmp_path / "sweep", "--points", 4, *flags).out
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert result["metric"] == "micro_f1" and "dense micro_f1" in printed
    first = json.loads(said("evaluate", "--model", model, "--data", labelled, "--threshold=-1e9").out)
    assert result["points"][0]["micro_f1"] == result["dense_value"] == pytest.approx(first["value"], abs=1e-6)
    engine = SkimEngine.from_pretrained(model)
    testing = np.random.default_rng(0).permutation(len(TEXTS))[len(TEXTS) // 4 :]
    for tested in result["guarantee"]["tested"]:
        answers = [engine.predict(TEXTS, threshold=threshold, progress=False) for threshold in (tested["threshold"], -np.inf)]
        others = [answers[0][row].label != answers[1][row].label for row in testing]
        assert tested["risk"] == pytest.approx(np.mean(others)) and 0.1 < tested["risk"] < 0.95


def test_a_guarantee_of_accuracy_is_refused(model, labelled, refused, tmp_path):
    flags = ("--curve", tmp_path / "sweep", "--tolerance", "0.2", "--guarantee", "0.9")
    assert "is scored by micro_f1, not by accuracy: give --risk disagreement" in refused(
        "evaluate", "--model", model, "--data", labelled, *flags
    )


def test_report(model, labelled, said, tmp_path):
    """The answer is the labels with their probabilities; a text is wrong where its labels are others."""
    page = tmp_path / "page.html"
    said("report", "--model", model, "--input", labelled, "--label-column", "label", "--output", page)
    told = re.search(r"const data = (.*);\n", page.read_text(encoding="utf-8"))
    assert told is not None
    records = [json.loads(line) for line in labelled.read_text().splitlines()]
    answers = SkimEngine.from_pretrained(model).predict(TEXTS, progress=False)
    for shown, record, answer in zip(json.loads(told[1])["texts"], records, answers, strict=True):
        assert shown["truth"] == (", ".join(record["label"]) or "no label")
        assert shown["wrong"] == [answer.label != record["label"]]
        expected = ", ".join(f"{name} {100 * answer.probabilities[name]:.0f} %" for name in answer.label)
        assert shown["answers"] == [expected or "no label"]


@pytest.mark.parametrize("script", ["answer_by_graph", "run_exported"])
def test_exports_answer_alone(model, said, tmp_path, script):
    """The example scripts give the engine's labels of a graph, and of compiled programs."""
    folder, texts = tmp_path / "exported", TEXTS[:8]
    scripts = runs.TRAIN_PY.parent / "examples"
    wanted = SkimEngine.from_pretrained(model).predict(texts, progress=False)
    if script == "answer_by_graph":
        export_graph(model, folder)
        assert json.loads((folder / "config.json").read_text())["problem_type"] == CONFIG["problem_type"]
        answers = list(runpy.run_path(str(scripts / "answer_by_graph.py"))["Graph"](folder, "model.onnx")(texts))
        for answer, expected in zip(answers, wanted, strict=True):
            assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    else:
        said("export", "--model", model, "--output", folder, "--platforms", "cpu", "--lengths", 12)
        answers = runpy.run_path(str(scripts / "run_exported.py"))["ExportedModel"](folder)(texts)
    assert [answer["label"] for answer in answers] == [answer.label for answer in wanted]
    assert len({tuple(answer.label) for answer in wanted}) > 2


def test_convert(model, said, tmp_path):
    said("convert", "--model", model, "--output", tmp_path / "again", "--dense")
    saved = config_file.read(tmp_path / "again")
    assert saved.architecture.multi_label and saved.label_names == NAMES
    assert 'any of the labels `"insult"`' in (tmp_path / "again" / "README.md").read_text()


def test_what_is_refused(model, model_folder, labelled, refused, write, tmp_path):
    """Ranking, tasks and dense models with one label a text, and files of another kind: in one line."""
    with pytest.raises(InferenceError, match=r"^rank is of cross-encoders and of classifiers with one label a text, .*: call predict$"):
        SkimEngine.from_pretrained(model).rank("a", ["b"], label="toxic")
    says = refused("evaluate", "--model", model, "--data", labelled, "--curve", tmp_path / "sweep", "--dense", model_folder)
    assert says.startswith(f"{model} gives a text any number of labels, {model_folder} gives it one value or class: problem_type")
    assert "lists of labels in a file" in says
    single = write("single.jsonl", [{"text": "a", "label": "toxic"}])
    assert refused("evaluate", "--model", model, "--data", single) == (
        f"{single}, line 1: column 'label' holds 'toxic', not a list of different labels: [\"a\", \"b\"], or []"
    )
    assert "line 1: column 'label' holds" in refused("evaluate", "--model", model_folder, "--data", labelled)
    unknown = write("unknown.csv", 'text,label\na,"[""rude""]"\n')
    assert refused("evaluate", "--model", model, "--data", unknown).startswith(f"{unknown}, line 2: label 'rude' is none of the labels")


def test_a_reranker_it_is_not(model, refused, write, tmp_path):
    embedder, texts = tmp_path / "embedder", write("texts.jsonl", [{"id": "a", "text": "good film"}, {"id": "b", "text": "bad film"}])
    shutil.copytree(model, embedder)
    flags = ("--queries", texts, "--documents", texts, "--judgements", write("qrels.txt", "a 0 b 1\n"), "--reranker", model)
    says = refused("evaluate", "--model", model, "--pooling", "mean", *flags, "--relevant", "toxic")
    assert says == f"{model} is no cross-encoder: it gives a text any number of labels"
