"""Multi-label classifiers of transformers, on every backbone: logits are those of its PyTorch model to 1e-5 in float32, answers those of
its pipeline, and what is saved again is the same model for transformers."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import transformers
from backbones import tiny
from models.quick import program
from models.reference import relative_error

from transkimmer_jax import SkimEngine
from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.checkpoints.model_card import Provenance, model_card
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.models import heads

torch = pytest.importorskip("torch")

TOLERANCE = 1e-5
NAMES = ("toxic", "insult", "threat", "obscene")
MULTI_LABEL = "multi_label_classification"


def make(backbone, folder):
    """transformers' own model, in evaluation and saved."""
    config = copy.deepcopy(tiny.torch_model(backbone).config)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: number for number, name in enumerate(NAMES)}
    config.problem_type = MULTI_LABEL
    torch.manual_seed(1)
    theirs = tiny.with_random_vectors(transformers.AutoModelForSequenceClassification.from_config(config))
    theirs.save_pretrained(folder)
    return theirs


def make_batch(config):
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([[9], [1], [6]])
    ids = np.where(mask, rng.integers(5, tiny.VOCABULARY, mask.shape), config.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_logits_and_round_trip(tmp_path, backbone):
    theirs = make(backbone, tmp_path / "theirs")
    ours, saved = heads.load(tmp_path / "theirs", dense=True), config_file.read(tmp_path / "theirs")
    assert ours.arch.multi_label and ours.head == "sequence_classification" and saved.label_names == NAMES
    batch = make_batch(theirs.config)
    given = {name: torch.from_numpy(values) for name, values in batch.items()}
    with torch.no_grad():
        expected = theirs(**given).logits
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()}).logits
    assert relative_error(actual, expected.numpy()) < TOLERANCE
    ours.save_pretrained(tmp_path / "ours", label_names=saved.label_names)
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert values["problem_type"] == MULTI_LABEL and tuple(values["id2label"].values()) == NAMES
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert again.config.problem_type == MULTI_LABEL
    with torch.no_grad():
        assert torch.equal(again(**given).logits, expected)


@pytest.mark.parametrize("labels", [4, 1])
def test_answers_of_the_pipeline(tmp_path, tokenizer_folder, labels):
    """Scores are sigmoids; labels are those at or above a half. Also of a model that knows one label, which is no regression."""
    config = copy.deepcopy(tiny.torch_model("bert").config)
    config.id2label, config.problem_type = dict(enumerate(NAMES[:labels])), MULTI_LABEL
    torch.manual_seed(1)
    theirs = tiny.with_random_vectors(transformers.BertForSequenceClassification(config))
    texts = ["the film is good", "a bad film", "b c the good films", "c", "is the is the is bad"]
    with torch.no_grad():  # so that each label is some texts'
        given = load_tokenizer(tokenizer_folder)(texts, padding=True, return_tensors="pt")
        theirs.classifier.bias.sub_(theirs(**given).logits.mean(dim=0))
    theirs.save_pretrained(tmp_path)
    shutil.copytree(tokenizer_folder, tmp_path, dirs_exist_ok=True)
    pipeline = transformers.pipeline("text-classification", model=theirs, tokenizer=load_tokenizer(tokenizer_folder), top_k=None)
    engine = SkimEngine.from_pretrained(tmp_path)
    answers = engine.predict(texts, progress=False)
    assert len({tuple(answer.label) for answer in answers}) > 1, "else every answer could be right"
    for answer, wanted in zip(answers, pipeline(texts), strict=True):
        scores = {entry["label"]: entry["score"] for entry in wanted}
        assert answer.probabilities == pytest.approx(scores, abs=1e-5)
        assert answer.label == [name for name in NAMES[:labels] if scores[name] >= 0.5]


def test_the_encoder_gets_another_head(tmp_path):
    """A pooled encoder, or a classifier with one label a text, is not multi-label for having been."""
    make("bert", tmp_path)
    pooled = heads.load(tmp_path, dense=True, pooling="mean")
    assert pooled.head == "sentence_embedding" and not pooled.arch.multi_label
    single = heads.TranskimmerForSequenceClassification.from_pretrained(tmp_path, dense=True, multi_label=False)
    single.save_pretrained(tmp_path / "single", label_names=NAMES)
    assert json.loads((tmp_path / "single" / "config.json").read_text())["problem_type"] == "single_label_classification"


def test_one_label_of_pairs_is_no_ranking():
    """The card of a model says what it is for."""
    arch = dataclasses.replace(tiny.dense("bert").arch, num_labels=1)
    for multi_label, tag in ((True, "text-classification"), (False, "text-ranking")):
        card = model_card(dataclasses.replace(arch, multi_label=multi_label), ("toxic",) if multi_label else None, Provenance(), pairs=True)
        assert f"pipeline_tag: {tag}" in card and ('any of the labels `"toxic"`' in card) == multi_label


def test_a_graph_does_not_depend_on_what_its_logits_mean():
    """An exported graph is of an architecture by its `repr`: folders of older versions keep theirs."""
    arch = tiny.dense("bert").arch
    several = dataclasses.replace(arch, multi_label=True)
    assert several != arch and repr(several) == repr(arch) and "multi_label" not in repr(arch)
