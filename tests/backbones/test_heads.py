"""Every head on every backbone: what transformers saved is saved again bit for bit, under its own names and for its own class."""

import json

import numpy as np
import pytest
import transformers
from backbones import tiny
from safetensors.numpy import load_file

from transkimmer_jax import (
    TranskimmerForQuestionAnswering,
    TranskimmerForSentenceEmbedding,
    TranskimmerForSequenceClassification,
    TranskimmerForTokenClassification,
)

HEADS = {
    "token classification": (transformers.AutoModelForTokenClassification, TranskimmerForTokenClassification),
    "question answering": (transformers.AutoModelForQuestionAnswering, TranskimmerForQuestionAnswering),
    "sentence embedding": (transformers.AutoModel, TranskimmerForSentenceEmbedding),
}


def config_of(backbone, **changes):
    config = tiny.torch_model(backbone).config.to_dict() | changes
    return type(tiny.torch_model(backbone).config).from_dict(config)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_round_trip(backbone, head, tmp_path):
    theirs_class, ours_class = HEADS[head]
    config = config_of(backbone, **({"num_labels": 2} if head == "question answering" else {}))
    theirs_class.from_config(config).save_pretrained(tmp_path / "theirs")
    ours_class.from_pretrained(tmp_path / "theirs", dense=True).save_pretrained(tmp_path / "ours")
    first = load_file(tmp_path / "theirs" / "model.safetensors")
    if head == "sentence embedding":
        first = {name: tensor for name, tensor in first.items() if not name.startswith("pooler.")}  # which pools nothing there
    second = load_file(tmp_path / "ours" / "model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor, err_msg=name)
    names = [json.loads((tmp_path / place / "config.json").read_text())["architectures"] for place in ("theirs", "ours")]
    assert names[0] == names[1]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_the_encoder_of_a_classifier_gets_another_head(backbone, head, tmp_path):
    """A checkpoint of another head gives its encoder; the new head is fresh, and the old one is left out."""
    _, ours_class = HEADS[head]
    tiny.dense(backbone).save_pretrained(tmp_path / "first")
    other = ours_class.from_pretrained(tmp_path / "first", dense=True)
    np.testing.assert_array_equal(other.embeddings.word.embedding[...], tiny.dense(backbone).embeddings.word.embedding[...])
    other.save_pretrained(tmp_path / "second")
    again = TranskimmerForSequenceClassification.from_pretrained(tmp_path / "second", dense=True, num_labels=tiny.LABELS)
    np.testing.assert_array_equal(again.embeddings.word.embedding[...], other.embeddings.word.embedding[...])
