"""Law: without skimming, heads are those of transformers' PyTorch models, and vectors those of sentence-transformers, to 1e-5."""

import numpy as np
import pytest
from models.quick import program
from models.reference import relative_error

from transkimmer_jax import SkimEngine
from transkimmer_jax.models import heads

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
CONFIG = {
    "vocab_size": 61, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50,
    "max_position_embeddings": 23, "num_labels": 5, "initializer_range": 0.3,
}  # fmt: skip


def make(class_name, folder):
    """A random PyTorch model of activations of order 1, in evaluation and saved."""
    torch.manual_seed(0)
    theirs = getattr(transformers, class_name)(transformers.BertConfig(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return theirs


def make_batch():
    rng = np.random.default_rng(0)
    mask = np.arange(11) < np.array([[11], [1], [7]])
    return {
        "input_ids": rng.integers(0, 61, mask.shape),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": rng.integers(0, 2, mask.shape),
    }


def both(class_name, folder, **options):
    theirs, batch = make(class_name, folder), make_batch()
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(values) for name, values in batch.items()})
    ours = heads.load(folder, **options)
    return (
        ours,
        program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()}),
        expected,
        batch["attention_mask"].astype(bool),
    )


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "fresh predictors that keep everything"])
def test_taggers(tmp_path, dense):
    ours, actual, expected, real = both("BertForTokenClassification", tmp_path, dense=dense)
    assert ours.head == "token_classification"
    assert relative_error(np.asarray(actual.logits)[real], expected.logits.numpy()[real]) < TOLERANCE


def test_question_answering(tmp_path):
    config = CONFIG | {"num_labels": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIG, "num_labels", config["num_labels"])
        ours, actual, expected, real = both("BertForQuestionAnswering", tmp_path, dense=False)
    assert ours.head == "question_answering"
    for name in ("start_logits", "end_logits"):
        assert relative_error(np.asarray(getattr(actual, name))[real], getattr(expected, name).numpy()[real]) < TOLERANCE


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embedders(tmp_path, pooling, normalize):
    theirs, batch = make("BertModel", tmp_path), make_batch()
    with torch.no_grad():
        hidden = theirs(**{name: torch.from_numpy(values) for name, values in batch.items()}).last_hidden_state.numpy()
    mask = batch["attention_mask"][:, :, None]
    expected = (hidden * mask).sum(1) / mask.sum(1) if pooling == "mean" else hidden[:, 0]
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = heads.TranskimmerForSentenceEmbedding.from_pretrained(tmp_path, pooling=pooling, normalize=normalize)
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()})
    assert relative_error(actual.sentence_embedding, expected) < TOLERANCE


@pytest.mark.parametrize("class_name", ["BertForTokenClassification", "BertForQuestionAnswering", "BertModel"])
def test_transformers_read_what_is_written(tmp_path, class_name):
    """A dense model goes out as it came in, bit for bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIG, "num_labels", 2)
        theirs = make(class_name, tmp_path / "theirs")
    head = {"BertModel": "sentence_embedding"}.get(class_name)
    load = heads.HEADS[head].from_pretrained if head else heads.load
    load(tmp_path / "theirs", dense=True).save_pretrained(tmp_path / "ours")
    again, report = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert all("pooler" in name for name in report["missing_keys"]) and not report["unexpected_keys"]
    state = again.state_dict()
    for name, tensor in theirs.state_dict().items():
        if "pooler" not in name and "position_ids" not in name:
            assert torch.equal(state[name], tensor), name


def test_real_embeddings(minilm):
    """Texts of a real model, whose folder gives vectors the length 1, against what sentence-transformers computes."""
    texts = [
        "How do birds fly?",
        "The wings of a bird push air down.",
        "Interest rates rose again in the third quarter, the bank said. " * 3,
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    encoded = tokenizer(texts, padding=True, truncation=False, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.BertModel.from_pretrained(minilm).eval()(**encoded).last_hidden_state.numpy()
    mask = encoded["attention_mask"].numpy()[:, :, None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    ours = heads.TranskimmerForSentenceEmbedding.from_pretrained(minilm, pooling="mean")
    vectors = SkimEngine(ours, tokenizer).encode(texts, show_progress_bar=False)
    assert relative_error(vectors, expected) < TOLERANCE
