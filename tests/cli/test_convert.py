"""Checkpoints in and out, and what the report says of them."""

import json

import jax
import numpy as np
import pytest
import transformers
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from checkpoints.test_original import assert_same, exact, made, make_batch
from cli.saved import save_model
from models.quick import program
from safetensors.numpy import load_file, save_file
from training import runs

from transkimmer_jax import cli
from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models import heads

TINY = CONFIG | {"vocab_size": 60, "architectures": ["BertForSequenceClassification"], "task": {"max_length": 12}}


@pytest.fixture
def source(tmp_path, tokenizer_folder):
    """A folder of transformers with a tensor of another head in it."""
    tensors = random_tensors(TINY)
    folder = tmp_path / "source"
    write_checkpoint(folder, tensors, TINY)
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {"cls.predictions.bias": np.zeros(60, np.float32)}, folder / "model.safetensors", metadata={"format": "pt"})
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def convert(*arguments):
    with jax.numpy_dtype_promotion("standard"):
        cli.main(["convert", *map(str, arguments)])


def test_round_trip(source, tmp_path, capsys):
    """Every tensor but that of the other head is there again, bit for bit, under its own name, and so is what the config says."""
    convert("--model", source, "--output", tmp_path / "first", "--tensors")
    said = capsys.readouterr().out
    assert "left out: cls.predictions.bias" in said and "read back bit for bit" in said and "dense bert for sequence classification" in said
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "first" / "model.safetensors")
    assert set(before) - set(after) == {"cls.predictions.bias"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name])
        assert f"{name} -> " in said
    convert("--model", tmp_path / "first", "--output", tmp_path / "second")
    second = load_file(tmp_path / "second" / "model.safetensors")
    assert set(second) == set(after) and all(np.array_equal(second[name], after[name]) for name in after)
    assert '"max_length": 12' in (tmp_path / "second" / "config.json").read_text(encoding="utf-8")


def test_a_calibration_goes_along(source, tmp_path):
    """Of a skimming model, so that an engine starts with capacities that fit."""
    model = heads.load(source, skim_overrides={"predictor_size": 4})
    model.save_pretrained(tmp_path / "skimming", tokenizer=load_tokenizer(source))
    Calibration.of_shares([0.5] * model.arch.num_hidden_layers, 12, 0.0).save(tmp_path / "skimming")
    convert("--model", tmp_path / "skimming", "--output", tmp_path / "converted")
    convert("--model", tmp_path / "skimming", "--output", tmp_path / "dense", "--dense")
    files = [tmp_path / name / "skim_calibration.json" for name in ("skimming", "converted", "dense")]
    assert files[0].read_text() == files[1].read_text() and not files[2].exists()
    assert Calibration.load(tmp_path / "converted", model.arch.num_hidden_layers) is not None, "and its digest is right"


def test_in_place(source, tmp_path, capsys):
    """A folder of ours is replaced by what it becomes; what is said of its tensors is said of those that were read."""
    model = heads.load(source, skim_overrides={"predictor_size": 4})
    folder = tmp_path / "model"
    model.save_pretrained(folder, tokenizer=load_tokenizer(source))
    Calibration.of_shares([0.5] * model.arch.num_hidden_layers, 12, 0.0).save(folder)
    convert("--model", folder, "--output", folder)
    assert Calibration.load(folder, model.arch.num_hidden_layers) is not None
    capsys.readouterr()
    convert("--model", folder, "--output", folder, "--dense")
    assert "left out: skim_predictors.0." in capsys.readouterr().out
    assert not any(name.startswith("skim_predictors.") for name in load_file(folder / "model.safetensors"))


def test_a_bare_encoder_becomes_an_embedder(source, tmp_path, capsys):
    """The classifier is left out."""
    convert("--model", source, "--output", tmp_path / "embedder", "--pooling", "cls")
    said = capsys.readouterr().out
    assert "classifier.weight" in said and "for sentence embedding" in said
    model = heads.load(tmp_path / "embedder", dense=None)
    assert model.arch.head == "sentence_embedding" and model.arch.pooling.mode == "cls" and model.arch.skim is None
    assert (tmp_path / "embedder" / "modules.json").exists()


def test_a_head_that_was_never_trained(tmp_path, tokenizer_folder):
    """A fresh one would look trained in the new folder. As an embedder the encoder needs none."""
    bare = runs.write_model(tmp_path / "bare", tokenizer_folder)
    with pytest.raises(CheckpointError, match="has no trained classifier, and can neither answer nor teach"):
        convert("--model", bare, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert("--model", bare, "--output", tmp_path / "out", "--pooling", "mean")
    assert (tmp_path / "out" / "modules.json").exists()


@pytest.mark.parametrize("flags", [(), ("--dense",)])
def test_the_attention_of_a_dense_model(source, tmp_path, flags):
    """It has one kind alone."""
    complaint = f"^--attention-masking is of skimming models, and {source} is a dense one: leave it out$"
    with pytest.raises(ConfigError, match=complaint):
        convert("--model", source, "--output", tmp_path / "out", "--attention-masking", "post_softmax", *flags)
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint(tmp_path):
    """One line, and nothing is written."""
    with pytest.raises(CheckpointError):
        convert("--model", tmp_path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_the_original(tmp_path, tokenizer_folder, capsys):
    """Its attention, which no file of its own names, stands in the new folder's config."""
    config, tensors = made("RobertaForQuestionAnswering")
    folder = write_checkpoint(tmp_path / "original", tensors, config)
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    convert("--model", folder, "--output", tmp_path / "ours", "--attention-masking", "post_softmax")
    said = capsys.readouterr().out
    assert "left out: roberta.embeddings.position_ids" in said and "skimming roberta for question answering" in said
    batch = make_batch(config)
    assert_same(program(heads.load(tmp_path / "ours"))(*batch), exact(tensors, config, batch), batch)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_the_one_output_of_a_classifier(tokenizer_folder, tmp_path, problem):
    """It keeps its name, and stays a value or a score: transformers' own pipeline says the same of both folders."""
    pytest.importorskip("torch")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40,
        num_labels=1, id2label={0: "toxicity"}, label2id={"toxicity": 0}, problem_type=problem,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "source")
    load_tokenizer(tokenizer_folder).save_pretrained(tmp_path / "source")
    convert("--model", tmp_path / "source", "--output", tmp_path / "converted")
    said = [transformers.pipeline("text-classification", str(tmp_path / name))("a good film") for name in ("source", "converted")]
    assert said[0] == said[1] and said[0][0]["label"] == "toxicity"
    engine = SkimEngine.from_pretrained(tmp_path / "converted")
    assert engine.label_texts == ("toxicity",) and isinstance(engine.predict(["a good film"])[0].label, float)
    assert engine.rank("good", ["a film"], label="toxicity") == engine.rank("good", ["a film"])


def test_a_model_of_pairs_becomes_an_embedder(tokenizer_folder, tmp_path):
    """It reads single texts, at once and as a folder of its own; the other head's columns are none of its task."""
    model = save_model(tmp_path, tokenizer_folder, text_columns=("question", "sentence"))
    pooled = SkimEngine.from_pretrained(model, pooling="mean")
    vectors = pooled.encode(["good film", "bad"])
    assert vectors.shape == (2, pooled.arch.hidden_size)
    convert("--model", model, "--output", tmp_path / "embedder", "--pooling", "mean")
    task = json.loads((tmp_path / "embedder" / "config.json").read_text(encoding="utf-8"))["task"]
    assert task == {"name": "files", "max_length": 12}
    np.testing.assert_array_equal(SkimEngine.from_pretrained(tmp_path / "embedder").encode(["good film", "bad"]), vectors)
    convert("--model", model, "--output", tmp_path / "same")
    assert config_file.read(tmp_path / "same").task == config_file.read(model).task, "it has the same head"
