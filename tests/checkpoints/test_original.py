"""Law: checkpoints of the original Transkimmer give the original's answers, by the names of its files, with the attention of its Eq. 4."""

import json

import numpy as np
import pytest
from checkpoints import original
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from models.quick import program
from models.reference import relative_error

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models import heads

TOLERANCE = 1e-5
LENGTHS, WIDTH = (17, 1, 9, 14), 19
CLASSES = {
    "BertForSequenceClassification": "sequence_classification",
    "BertForQuestionAnswering": "question_answering",
    "RobertaForSequenceClassification": "sequence_classification",
    "RobertaForQuestionAnswering": "question_answering",
}


def made(class_name, seed=2):
    """Config and tensors of a checkpoint as the original saves one: predictors as wide as the states, no word of them in the config but the
    loss's coefficient, and the buffer of positions that transformers had at the time."""
    backbone, _, task = class_name.lower().partition("for")
    config = CONFIG | {"architectures": [class_name], "model_type": backbone, "skim_coefficient": 0.3}
    if backbone == "roberta":
        config |= {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    hidden = config["hidden_size"]
    tensors = random_tensors(config, predictor_size=hidden, seed=seed)
    for layer in range(config["num_hidden_layers"]):  # in every layer some margins on either side
        tensors[f"bert.encoder.skim_predictors.{layer}.predictor.4.bias"] = np.array([-0.5, 0.5], np.float32)
    if task == "questionanswering":
        del config["id2label"]
        tensors = {name: tensor for name, tensor in tensors.items() if "pooler" not in name and not name.startswith("classifier")}
        rng = np.random.default_rng(seed)
        tensors["qa_outputs.weight"] = (rng.standard_normal((2, hidden)) / np.sqrt(hidden)).astype(np.float32)
        tensors["qa_outputs.bias"] = np.array([0.2, -0.1], np.float32)
    if backbone == "roberta":
        tensors = {
            name.replace("classifier", "classifier.out_proj").replace("bert.pooler", "classifier").replace("bert.", "roberta."): tensor
            for name, tensor in tensors.items()
        }
    tensors[f"{backbone}.embeddings.position_ids"] = np.arange(config["max_position_embeddings"])[None]
    return config, tensors


def make_batch(config, seed=2):
    rng = np.random.default_rng(seed)
    mask = (np.arange(WIDTH) < np.array(LENGTHS)[:, None]).astype(np.int32)
    ids = np.where(mask == 1, rng.integers(2, config["vocab_size"], mask.shape), config.get("pad_token_id", 0)).astype(np.int32)
    types = rng.integers(0, config["type_vocab_size"], mask.shape).astype(np.int32)
    return ids, mask, types


def exact(tensors, config, batch):
    """The original's answers; no decision of a real token is within a float's rounding."""
    expected = original.answers(tensors, config, *batch)
    assert np.abs(expected["margin"][:, batch[1] == 1]).min() > 1e-4
    return expected


def assert_same(actual, expected, batch):
    real = batch[1] == 1
    np.testing.assert_array_equal(actual.keep, expected["keep"])
    assert relative_error(np.asarray(actual.margin)[:, real], expected["margin"][:, real]) < TOLERANCE
    if "logits" in expected:
        assert relative_error(actual.logits, expected["logits"], at_least=1.0) < TOLERANCE
    else:
        for name in ("start_logits", "end_logits"):
            assert relative_error(np.asarray(getattr(actual, name))[real], expected[name][real], at_least=1.0) < TOLERANCE


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("seed", [2, 3])
def test_the_originals_answers(tmp_path, class_name, seed):
    """In every row, each with its own padding, and with tokens skimmed by several layers."""
    config, tensors = made(class_name, seed)
    model = heads.load(write_checkpoint(tmp_path, tensors, config), attention_masking="post_softmax")
    assert model.head == CLASSES[class_name] and model.arch.backbone == config["model_type"]
    batch = make_batch(config, seed)
    expected = exact(tensors, config, batch)
    kept = expected["keep"].sum(axis=(1, 2))
    assert sum(LENGTHS) > kept[0] > kept[2] > len(LENGTHS)
    assert_same(program(model)(*batch), expected, batch)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_attention_is_asked_for(tmp_path, class_name):
    """Without the word, the same weights attend to kept tokens alone, which is another answer."""
    config, tensors = made(class_name)
    batch = make_batch(config)
    expected = exact(tensors, config, batch)
    actual = program(heads.load(write_checkpoint(tmp_path, tensors, config)))(*batch)
    name = "logits" if "logits" in expected else "start_logits"
    real = slice(None) if name == "logits" else batch[1] == 1
    assert relative_error(np.asarray(getattr(actual, name))[real], expected[name][real]) > 0.01


@pytest.mark.parametrize("class_name", CLASSES)
def test_saved_anew(tmp_path, class_name):
    """`save_pretrained` says in the config what the file alone told, so that nobody need ask again."""
    config, tensors = made(class_name)
    folder = write_checkpoint(tmp_path / "original", tensors, config)
    heads.load(folder, attention_masking="post_softmax").save_pretrained(tmp_path / "ours")
    again = heads.load(tmp_path / "ours")
    skim = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))["skim"]
    assert (skim["attention_masking"], skim["norm_eps"], skim["predictor_size"]) == ("post_softmax", 1e-5, config["hidden_size"])
    batch = make_batch(config)
    assert_same(program(again)(*batch), exact(tensors, config, batch), batch)


def test_compaction_refuses_it(tmp_path):
    config, tensors = made("RobertaForQuestionAnswering")
    model = heads.load(write_checkpoint(tmp_path, tensors, config), attention_masking="post_softmax")
    with pytest.raises(CheckpointError, match="attention_masking='post_softmax' cannot be compacted"):
        model.require_compactable()
