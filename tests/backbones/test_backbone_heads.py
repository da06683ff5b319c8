"""Every other head on every backbone, against transformers' PyTorch models, loaded by what `config.json` says."""

import copy

import numpy as np
import pytest
import transformers
from backbones import tiny
from models.quick import program
from models.reference import relative_error

from transkimmer_jax.models import heads

torch = pytest.importorskip("torch")

TOLERANCE = 1e-5
AUTO_CLASSES = {
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "sentence_embedding": transformers.AutoModel,
}


def make_batch(config):
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([[9], [1], [6]])
    ids = np.where(mask, rng.integers(5, tiny.VOCABULARY, mask.shape), config.pad_token_id)
    types = {"token_type_ids": rng.integers(0, 2, mask.shape)} if getattr(config, "type_vocab_size", 0) == 2 else {}
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)} | types


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_heads(tmp_path, backbone, head):
    config = copy.deepcopy(tiny.torch_model(backbone).config)
    config.num_labels = 2 if head == "question_answering" else 5
    torch.manual_seed(1)
    theirs = AUTO_CLASSES[head].from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    if head == "sentence_embedding":
        ours = heads.TranskimmerForSentenceEmbedding.from_pretrained(tmp_path, dense=True, pooling="mean")
    else:
        ours = heads.load(tmp_path, dense=True)
    assert ours.head == head
    batch = make_batch(config)
    real = batch["attention_mask"].astype(bool)
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(values) for name, values in batch.items()})
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()})
    if head == "sentence_embedding":
        weights = real[:, :, None] / real.sum(axis=1)[:, None, None]
        assert relative_error(actual.sentence_embedding, (expected.last_hidden_state.numpy() * weights).sum(axis=1)) < TOLERANCE
    for output in ours.outputs:
        if output.per_token:
            assert relative_error(np.asarray(getattr(actual, output.name))[real], expected[output.name].numpy()[real]) < TOLERANCE
