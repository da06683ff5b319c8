"""Every other head on every backbone: loaded by what `config.json` says, it answers as transformers' PyTorch model does to 1e-5 in float32.
And what transformers saved is saved again bit for bit, under its own names and for its own class."""

import copy
import json

import numpy as np
import pytest
import transformers
from backbones import tiny
from models.quick import program
from models.reference import relative_error
from safetensors.numpy import load_file

from transkimmer_jax import SkimEngine, TranskimmerForSequenceClassification
from transkimmer_jax.models import heads

torch = pytest.importorskip("torch")

TOLERANCE = 1e-5
AUTO_CLASSES = {
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "sentence_embedding": transformers.AutoModel,
}
every_head = pytest.mark.parametrize("head", AUTO_CLASSES)
every_backbone = pytest.mark.parametrize("backbone", tiny.BACKBONES)


def make(backbone, head, folder):
    """transformers' own model, in evaluation and saved."""
    config = copy.deepcopy(tiny.torch_model(backbone).config)
    config.num_labels = 2 if head == "question_answering" else 5
    torch.manual_seed(1)
    theirs = tiny.with_random_vectors(AUTO_CLASSES[head].from_config(config))
    theirs.save_pretrained(folder)
    return theirs


def load(head, folder, dense, pooling="mean", normalize=False):
    if head == "sentence_embedding":
        return heads.TranskimmerForSentenceEmbedding.from_pretrained(folder, dense=dense, pooling=pooling, normalize=normalize)
    return heads.load(folder, dense=dense)


def make_batch(config):
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([[9], [1], [6]])
    ids = np.where(mask, rng.integers(5, tiny.VOCABULARY, mask.shape), config.pad_token_id)
    types = {"token_type_ids": rng.integers(0, 2, mask.shape)} if getattr(config, "type_vocab_size", 0) == 2 else {}
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)} | types


def vectors(states, mask, pooling="mean", normalize=False):
    """Of states [B, S, H], as sentence-transformers computes them."""
    mask = mask[:, :, None]
    pooled = (states * mask).sum(axis=1) / mask.sum(axis=1) if pooling == "mean" else states[:, 0]
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled


def assert_parity(theirs, ours, **pooling):
    """Each token's answers, or the vectors."""
    batch = make_batch(theirs.config)
    real = batch["attention_mask"].astype(bool)
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(values) for name, values in batch.items()})
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()})
    if ours.head == "sentence_embedding":
        states = expected.last_hidden_state.numpy()
        assert relative_error(actual.sentence_embedding, vectors(states, batch["attention_mask"], **pooling)) < TOLERANCE
    for output in ours.outputs:
        if output.per_token:
            assert relative_error(np.asarray(getattr(actual, output.name))[real], expected[output.name].numpy()[real]) < TOLERANCE


@every_head
@every_backbone
def test_dense_heads(tmp_path, backbone, head):
    theirs = make(backbone, head, tmp_path / "theirs")
    ours = load(head, tmp_path / "theirs", dense=True)
    assert ours.head == head
    assert_parity(theirs, ours)
    ours.save_pretrained(tmp_path / "ours")
    first, second = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "ours"))
    if head == "sentence_embedding":
        first = {name: tensor for name, tensor in first.items() if not name.startswith("pooler.")}  # which pools nothing there
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor, err_msg=name)
    names = [json.loads((tmp_path / place / "config.json").read_text())["architectures"] for place in ("theirs", "ours")]
    assert names[0] == names[1]


@pytest.mark.parametrize("head", ["token_classification", "question_answering"])
def test_heads_behind_fresh_predictors(tmp_path, head):
    assert_parity(make("bert", head, tmp_path), load(head, tmp_path, dense=False))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embedders_behind_fresh_predictors(tmp_path, pooling, normalize):
    how = {"pooling": pooling, "normalize": normalize}
    assert_parity(make("bert", "sentence_embedding", tmp_path), load("sentence_embedding", tmp_path, dense=False, **how), **how)


def test_real_embeddings(minilm):
    """Texts of a real model, whose folder gives vectors the length 1."""
    texts = [
        "How do birds fly?",
        "The wings of a bird push air down.",
        "Interest rates rose again in the third quarter, the bank said. " * 3,
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    encoded = tokenizer(texts, padding=True, truncation=False, return_tensors="pt")
    with torch.no_grad():
        states = transformers.BertModel.from_pretrained(minilm).eval()(**encoded).last_hidden_state.numpy()
    ours = heads.TranskimmerForSentenceEmbedding.from_pretrained(minilm, pooling="mean")
    expected = vectors(states, encoded["attention_mask"].numpy(), normalize=True)
    assert relative_error(SkimEngine(ours, tokenizer).encode(texts, show_progress_bar=False), expected) < TOLERANCE


@every_head
@every_backbone
def test_the_encoder_of_a_classifier_gets_another_head(backbone, head, tmp_path):
    """A checkpoint of another head gives its encoder; the new head is fresh, and the old one is left out."""
    tiny.dense(backbone).save_pretrained(tmp_path / "first")
    other = heads.HEADS[head].from_pretrained(tmp_path / "first", dense=True)
    np.testing.assert_array_equal(other.embeddings.word.embedding[...], tiny.dense(backbone).embeddings.word.embedding[...])
    other.save_pretrained(tmp_path / "second")
    again = TranskimmerForSequenceClassification.from_pretrained(tmp_path / "second", dense=True, num_labels=tiny.LABELS)
    np.testing.assert_array_equal(again.embeddings.word.embedding[...], other.embeddings.word.embedding[...])
