"""benchmarks/embedders.py on a model in miniature: every contender of the clock reads the same texts."""

import embedders
import numpy as np
import pytest
from cli.test_embedders import ARCH, TEXTS
from flax import nnx

from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer
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
