"""Law: without skimming, this is BERT: on the same weights, every layer's hidden states and the logits equal those of
transformers' PyTorch model to 1e-5 in float32."""

import numpy as np
import pytest
from models.quick import program
from models.reference import relative_error

from transkimmer_jax import TranskimmerForSequenceClassification

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5


def assert_parity(theirs, ours, batch):
    """Hidden states of all real tokens after the embeddings and after every layer, and logits."""
    with torch.no_grad():
        expected = theirs.eval()(**{name: torch.from_numpy(values) for name, values in batch.items()}, output_hidden_states=True)
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()})
    real = batch.get("attention_mask", np.ones_like(batch["input_ids"])).astype(bool)
    assert len(actual.hidden_states) == len(expected.hidden_states)
    for layer, (a, b) in enumerate(zip(actual.hidden_states, expected.hidden_states, strict=True)):
        assert relative_error(np.asarray(a)[real], b.numpy()[real]) < TOLERANCE, f"hidden state {layer}"
    assert relative_error(np.asarray(actual.last_hidden_state)[real], expected.hidden_states[-1].numpy()[real]) < TOLERANCE
    assert relative_error(actual.logits, expected.logits.numpy()) < TOLERANCE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random BERT with activations of order 1, as PyTorch and as ours, loaded from what `save_pretrained` wrote."""
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # biases and LayerNorms are born as zeros and ones, which would hide a swapped name
                parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return theirs, folder


def tiny_batch(rows=4, width=12):
    rng = np.random.default_rng(0)
    return {"input_ids": rng.integers(0, 100, (rows, width)), "token_type_ids": rng.integers(0, 2, (rows, width))}


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "fresh predictors that keep everything"])
@pytest.mark.parametrize("lengths", [None, (12, 1, 7, 3)], ids=["full", "padded"])
def test_random_weights(tiny, dense, lengths):
    theirs, folder = tiny
    ours = TranskimmerForSequenceClassification.from_pretrained(folder, dense=dense)
    batch = tiny_batch()
    if lengths is not None:
        batch["attention_mask"] = (np.arange(12) < np.array(lengths)[:, None]).astype(np.int64)
    assert_parity(theirs, ours, batch)


def test_one_label_is_regression(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=1,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    theirs = transformers.BertForSequenceClassification(config)
    theirs.save_pretrained(tmp_path)
    ours = TranskimmerForSequenceClassification.from_pretrained(tmp_path)
    assert ours(np.ones((1, 3), np.int32)).logits.shape == (1, 1)
    assert_parity(theirs, ours, tiny_batch())


def test_a_skimming_folder_is_no_hindrance_to_transformers(tiny, tmp_path):
    """What we save with predictors, PyTorch's BERT computes as the dense model: the predictors are only left over."""
    theirs, folder = tiny
    TranskimmerForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "ours", label_names=("a", "b", "c"))
    reloaded, report = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert report["unexpected_keys"]
    assert all("skim_predictors" in name for name in report["unexpected_keys"])
    batch = {name: torch.from_numpy(values) for name, values in tiny_batch().items()}
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(**batch).logits, theirs.eval()(**batch).logits)


@pytest.fixture(scope="module")
def real(minilm, tmp_path_factory):
    """Real weights with a seeded classifier, so that there are logits to compare."""
    folder = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification.from_pretrained(minilm, num_labels=3)
    theirs.save_pretrained(folder)
    return theirs, TranskimmerForSequenceClassification.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(minilm)


SENTENCES = [
    "A gorgeous, witty, seductive movie.",
    "The plot is so thin that you can see through it, and none of the actors seems to have noticed.",
    "It never comes to life.",
]
QUESTIONS = ["Who wrote it?", "How many tokens does a transformer need to read before it knows the answer?", "Why?"]


@pytest.mark.parametrize("texts", [(SENTENCES,), (QUESTIONS, SENTENCES)], ids=["single", "pair"])
def test_real_weights(real, texts):
    theirs, ours, tokenizer = real
    batch = dict(tokenizer(*texts, padding="max_length", max_length=48, return_tensors="np"))
    assert not batch["attention_mask"].all()
    assert batch["token_type_ids"].any() == (len(texts) == 2)
    assert_parity(theirs, ours, batch)
