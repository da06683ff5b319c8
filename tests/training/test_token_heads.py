"""A tagger and a reader, trained and evaluated from files to the end."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training import runs

from transkimmer_jax import cli
from transkimmer_jax.config import DataConfig, MeshConfig, override
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.training import inputs
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_task

KINDS = {"good": "B-GOOD", "bad": "B-BAD"}


def make_tags(count, seed):
    """Which words are good and which are bad."""
    records = [{"tokens": record["text"].split()} for record in runs.make_reviews(count, seed)]
    return [record | {"tags": [KINDS.get(word, "O") for word in record["tokens"]]} for record in records]


def make_questions(count, seed):
    """Where the word is that decides; a sixth of the contexts has none."""
    rng, records = np.random.default_rng(seed), []
    for record in runs.make_reviews(count, seed):
        context = record["text"] if rng.integers(6) else "the film"
        word = next((word for word in KINDS if word in context.split()), None)
        start = [] if word is None else [context.index(word)]
        answers = {"text": [] if word is None else [word], "answer_start": start}
        records.append({"question": "is the", "context": context, "answers": answers})
    return records


DATA = {
    "tags": (make_tags, {"task": "tags", "text_columns": ("tokens",), "label_column": "tags"}),
    "questions": (make_questions, {"task": "questions", "text_columns": ("question", "context"), "label_column": "answers"}),
}


@pytest.mark.parametrize("kind", DATA)
def test_from_files_to_a_model(checkpoint, tmp_path, capsys, caplog, kind):
    """It learns what can be learned and skims; its folder says the same by `evaluate`, on both ways to compute it."""
    make, options = DATA[kind]
    files = {
        name: str(runs.write_jsonl(tmp_path / f"{name}.jsonl", make(count, seed)))
        for name, count, seed in (("train", 200, 0), ("test", 60, 1))
    }
    config = runs.make_config(checkpoint, files["train"], files["train"])
    length = {"max_length": 12, "length_buckets": (12,), "batch_size": 16, "eval_batch_size": 16, "doc_stride": 2}
    data = DataConfig(train_file=files["train"], validation_file=files["test"], **options, **length)
    config = dataclasses.replace(config, data=data)
    config = override(
        config,
        {
            "train.steps": "150",
            "train.eval_every": "150",
            "train.save_every": "none",
            "skim.target": "0.8",
        },
    )
    result = train_and_evaluate(config, tmp_path / "run")
    assert result["metric"] == "f1" and result["value"] > 0.8 and result["kept_tokens"] < 0.97
    assert result["examples"] == {"validation": 60}, "texts, and not windows"
    with jax.numpy_dtype_promotion("standard"):
        for mode in ("compacted", "masked"):
            cli.main(["evaluate", "--model", str(tmp_path / "run" / "model"), "--data", files["test"], "--mode", mode])
            said = json.loads(capsys.readouterr().out)
            assert said["value"] == pytest.approx(result["value"], abs=1e-6) and said["examples"] == {"test file": 60}
            assert said["flops_vs_unpadded"] == pytest.approx(result["flops_vs_unpadded"], rel=1e-6)
            assert said["truncated"] == {"test file": 0}, "windows hold all of a context"
    engine = SkimEngine.from_pretrained(tmp_path / "run" / "model")
    if kind == "tags":
        (text,) = engine.tag([["the", "film", "is", "good"]])
        assert [tag.label for tag in text.tags] == ["O", "O", "O", "B-GOOD"]
        assert not [message for message in caplog.messages if "longer than" in message]
        with jax.numpy_dtype_promotion("standard"):
            cli.main(["evaluate", "--model", str(tmp_path / "run" / "model"), "--data", files["test"], "--max-length", "6"])
        cut = json.loads(capsys.readouterr().out)["truncated"]["test file"]
        assert f"{cut} of 60 texts of the test file are longer than --max-length=6: the rest of each is not read" in caplog.messages[-1]
        task = load_task(config)
        texts, tokenizer = inputs.load_examples(config, task), load_tokenizer(config.model.pretrained)
        inputs.tokenize(config, dataclasses.replace(task, max_length=6), texts, tokenizer, Placement.create(MeshConfig()))
        assert f"{cut} of 60 texts of the validation are longer than data.max_length=6: the rest of each is not read" in caplog.messages[-1]
    else:
        assert engine.answer("is the", "a film is bad", no_answer_threshold=0.0).text == "bad"
