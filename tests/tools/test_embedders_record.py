"""tools/embedders.py on a model in miniature: every contender of the clock reads the same texts."""

import numpy as np
import pytest
from cli.test_embedders import ARCH, TEXTS
from flax import nnx

from tools import embedders
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.heads import TranskimmerForSentenceEmbedding


@pytest.fixture
def timed(sentence_transformers_library, tokenizer_folder, tmp_path, monkeypatch):
    """By contender, what it is given, of a run with a prompt. Tokens stand for this engine's texts."""
    given = {}
    TranskimmerForSentenceEmbedding(ARCH, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "dense", tokenizer=load_tokenizer(tokenizer_folder))
    documents = {f"d{number}": text for number, text in enumerate(TEXTS)}
    monkeypatch.setattr(embedders, "collection", lambda: ({"q0": "good"}, documents, {"q0": {"d0": 1}}))
    monkeypatch.setattr(embedders, "load_split", lambda *_: Examples(TEXTS, TEXTS[::-1], np.arange(len(TEXTS), dtype=np.float32)))

    def library(folder, pooling, max_length, texts, batch_size):
        given["sentence-transformers"] = texts
        return lambda _: None

    def tokenize(engine, texts, first=0):
        given["engine"] = texts
        return original(engine, texts, first)

    original = SkimEngine.tokenize
    monkeypatch.setattr(embedders, "by_sentence_transformers", library)
    monkeypatch.setattr(SkimEngine, "tokenize", tokenize)
    options = ["--prompt", "the plot ", "--max-length", "16", "--precisions", "float32", "--timed", "3", "--repeats", "1"]
    monkeypatch.setattr(
        "sys.argv", ["embedders.py", "--name", "tiny", "--dense", str(tmp_path / "dense"), "--output", str(tmp_path), *options]
    )
    embedders.main()
    return given


def test_all_contenders_read_the_prompt(timed):
    assert timed["sentence-transformers"] == timed["engine"] and len(timed["engine"]) == 3
    assert all(text.startswith("the plot ") for text in timed["engine"])


@pytest.fixture
def environment(tmp_path):
    """An executable that stands for Python, of these lines of a shell."""

    def make(lines):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_onnx_backend_encodes_its_texts_once_a_round(environment, tmp_path):
    python = environment(f'echo "$@" > {tmp_path}/flags; while read line; do echo "$line" >> {tmp_path}/lines; echo done; done')
    with embedders.onnx_backend(python, "folder", None, 16, ["a b", "c"], 32, "int8") as encode:
        encode(0)
        encode(1)
    assert (tmp_path / "lines").read_text().splitlines() == ['["a b", "c"]', "again", "again"]
    flags = "folder --pooling mean --max-length 16 --batch-size 32 --precision int8"
    assert (tmp_path / "flags").read_text().endswith(f"library_onnx.py {flags}\n")


def test_an_environment_without_the_onnx_backend(environment):
    backend = embedders.onnx_backend(environment("exit 1"), "folder", "mean", 16, ["a"], 32, "int8")
    said = "^--onnx-python .* cannot run library_onnx.py: its text says how to make the environment$"
    with pytest.raises(ConfigError, match=said), backend:
        pass
