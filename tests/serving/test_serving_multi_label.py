"""A classifier that gives a text any number of labels: its scores are sigmoids, in every dialect, and it ranks nothing."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import scipy.special
from serving.served import LABELS, TEXTS, random_model, served_model, serving

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference.engine import SkimEngine

ATOL = 1e-5


def save(folder, tokenizer_folder, names):
    model = random_model("sequence_classification", len(names))
    model.arch = dataclasses.replace(model.arch, multi_label=True)
    model.save_pretrained(folder, tokenizer=load_tokenizer(tokenizer_folder), label_names=names)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tokenizer_folder, tmp_path_factory):
    return save(tmp_path_factory.mktemp("several") / "model", tokenizer_folder, LABELS)


@pytest.fixture(scope="module")
def server(folder):
    with serving([served_model("several", folder)]) as running:
        yield running


@pytest.fixture(scope="module")
def answers(folder):
    return SkimEngine.from_pretrained(folder).predict(TEXTS, progress=False)


def assert_scores(entries, expected):
    """All labels, the highest score first."""
    assert [entry["score"] for entry in entries] == sorted((entry["score"] for entry in entries), reverse=True)
    assert {entry["label"]: entry["score"] for entry in entries} == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=ATOL)


def test_predict(server, answers):
    """Of one text and of many, with parameters and without; other functions where they are asked for."""
    for text, answer in zip(TEXTS, answers, strict=True):
        sigmoids = scipy.special.expit(answer.logits)
        assert abs(sigmoids.sum() - 1) > 1e-3
        assert_scores(server.say("/predict", {"inputs": text}), sigmoids)
        assert_scores(server.say("/", {"inputs": text}), sigmoids)
        assert_scores(server.say("/predict", {"inputs": text, "raw_scores": True}), answer.logits)
    for entries, answer in zip(server.say("/predict", {"inputs": [[text] for text in TEXTS]}), answers, strict=True):
        assert_scores(entries, scipy.special.expit(answer.logits))
    logits = answers[0].logits
    functions = {None: scipy.special.expit, "sigmoid": scipy.special.expit, "softmax": scipy.special.softmax, "none": np.asarray}
    for function, computed in functions.items():
        (entries,) = server.say("/predict", {"inputs": TEXTS[0], "parameters": {"function_to_apply": function}})
        assert_scores(entries, computed(logits))


def test_rank(server):
    """By no label: one line, as of other models that do not rank."""
    for label in (None, LABELS[0]):
        status, _, body = server.ask("/rerank", {"query": "good", "texts": TEXTS, "label": label})
        assert status == 424 and body["error"] == "no model here answers /rerank: 'several' is of kind classifier"


def test_info(server):
    assert server.say("/info", None)["model_type"]["classifier"]["id2label"] == dict(zip("012", LABELS, strict=True))


def test_one_label(tokenizer_folder, tmp_path):
    """It is a classifier with a probability, and no regressor: the Inference API has its sigmoid as well."""
    folder = save(tmp_path / "one", tokenizer_folder, ("toxic",))
    (answer,) = SkimEngine.from_pretrained(folder).predict(TEXTS[:1], progress=False)
    expected = [{"label": "toxic", "score": pytest.approx(float(scipy.special.expit(answer.logits[0])), abs=ATOL)}]
    with serving([served_model("one", folder)]) as server:
        assert server.say("/predict", {"inputs": TEXTS[0]}) == expected
        assert server.say("/predict", {"inputs": TEXTS[0], "parameters": {}}) == [expected]


@pytest.mark.parametrize("problem", [None, "regression"])
def test_one_value(tokenizer_folder, tmp_path, problem):
    """Its score by the Inference API is a sigmoid, as of transformers' pipelines, unless the folder calls it a regression."""
    folder = save(tmp_path / "one", tokenizer_folder, ("toxic",))
    config = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
    folders.replace_text(pathlib.Path(folder) / "config.json", json.dumps(config | {"problem_type": problem}))
    (answer,) = SkimEngine.from_pretrained(folder).predict(TEXTS[:1], progress=False)
    score = answer.label if problem else float(scipy.special.expit(answer.label))
    with serving([served_model("one", folder)]) as server:
        assert server.say("/predict", {"inputs": TEXTS[0], "parameters": {}}) == [
            [{"label": "toxic", "score": pytest.approx(score, abs=ATOL)}]
        ]
        assert server.say("/info", None)["model_type"]["reranker"]["id2label"] == {"0": "toxic"}
