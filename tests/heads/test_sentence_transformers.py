"""sentence-transformers reads what this package writes, and this package what sentence-transformers writes."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from transkimmer_jax import cli
from transkimmer_jax.checkpoints.sentence_transformers import SETTINGS_FILE, Settings, read_settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.evaluation.similarity import embed
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture
from transkimmer_jax.models.heads import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification

torch = pytest.importorskip("torch")

ARCH = Architecture(
    vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16,
    initializer_range=0.3, skim=None,
)  # fmt: skip
TEXTS = ["the film is good", "a bad plot", "good", "the plot of the film is bad and the cast is good"]
PROMPTS = Settings({"query": "the film ", "document": "a "}, "document")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize("pooling", [PoolingArchitecture("mean", False), PoolingArchitecture("cls", True)])
def test_embedders_in_and_out(sentence_transformers_library, tokenizer_folder, tmp_path, pooling):
    """The same vectors for every prompt, of our folder and of the one that sentence-transformers makes of it."""
    model = TranskimmerForSentenceEmbedding(dataclasses.replace(ARCH, pooling=pooling), rngs=nnx.Rngs(0))
    task = {"name": "texts", "max_length": 8, "text_columns": ["text"], "label_column": "label"}
    model.save_pretrained(tmp_path / "ours", tokenizer=load_tokenizer(tokenizer_folder), settings=PROMPTS, extra_config={"task": task})
    theirs = sentence_transformers_library.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert theirs.max_seq_length == 8
    assert {name: theirs.prompts[name] for name in PROMPTS.prompts} == PROMPTS.prompts and theirs.default_prompt_name == "document"
    theirs.save(str(tmp_path / "theirs"))
    for folder in ("ours", "theirs"):
        engine = SkimEngine.from_pretrained(tmp_path / folder)
        assert engine.arch.pooling == pooling and engine.max_length == theirs.max_seq_length
        for prompt in (None, "query"):
            expected = theirs.encode(TEXTS, prompt_name=prompt, show_progress_bar=False)
            np.testing.assert_allclose(engine.encode(TEXTS, prompt_name=prompt, show_progress_bar=False), expected, atol=2e-5)


@pytest.mark.parametrize("prompts", [{}, {"query": "the film ", "passage": "a "}, {"document": "a "}], ids=str)
def test_prompts_of_queries_and_documents(sentence_transformers_library, tokenizer_folder, tmp_path, prompts):
    """Stand before them as in the library, to which every embedder has a prompt 'query' and a prompt 'document'."""
    model = TranskimmerForSentenceEmbedding(ARCH, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path, tokenizer=load_tokenizer(tokenizer_folder), settings=Settings(prompts, next(iter(prompts), "query")))
    theirs, engine = sentence_transformers_library.SentenceTransformer(str(tmp_path), device="cpu"), SkimEngine.from_pretrained(tmp_path)
    assert dict(zip(engine.prompt_names, map(engine.prompt_text, engine.prompt_names), strict=True)) == theirs.prompts
    for name, options in (
        ("encode", {}), ("encode", {"prompt_name": "query"}), ("encode", {"prompt_name": "document"}), ("encode_query", {}),
        ("encode_document", {}),
    ):  # fmt: skip
        expected, vectors = (getattr(one, name)(TEXTS, show_progress_bar=False, **options) for one in (theirs, engine))
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_a_converted_embedder(sentence_transformers_library, tokenizer_folder, tmp_path):
    """Reads as much of a text as the folder of sentence-transformers that it was made of, which cuts and compares its vectors as before."""
    model = TranskimmerForSentenceEmbedding(dataclasses.replace(ARCH, skim=None), rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "ours", tokenizer=load_tokenizer(tokenizer_folder), settings=PROMPTS)
    options = {"similarity_fn_name": "dot", "truncate_dim": 4}
    theirs = sentence_transformers_library.SentenceTransformer(str(tmp_path / "ours"), device="cpu", **options)
    theirs.max_seq_length = 9
    theirs.save(str(tmp_path / "theirs"))
    cli.main(["convert", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "converted"), "--pooling", "mean"])
    again = sentence_transformers_library.SentenceTransformer(str(tmp_path / "converted"), device="cpu")
    assert (again.max_seq_length, again.similarity_fn_name, dict(again.prompts)) == (9, "dot", dict(theirs.prompts))
    engine, long = SkimEngine.from_pretrained(tmp_path / "converted"), [TEXTS[0] * 5]
    assert engine.max_length == 9 and engine.encode(long, show_progress_bar=False).shape == (1, 4)
    assert engine.encode(long, truncate_dim=16, show_progress_bar=False).shape == (1, 16) and embed(engine, long).values.shape == (1, 4)
    np.testing.assert_allclose(engine.encode(long, show_progress_bar=False), theirs.encode(long, show_progress_bar=False), atol=2e-5)
    np.testing.assert_allclose(again.encode(long, show_progress_bar=False), theirs.encode(long, show_progress_bar=False), atol=2e-5)


def test_scores_that_are_logits(sentence_transformers_library, tokenizer_folder, tmp_path):
    """Of a cross-encoder whose folder asks for them, also when it has been converted."""
    model = TranskimmerForSequenceClassification(dataclasses.replace(ARCH, skim=None, num_labels=1), rngs=nnx.Rngs(1))
    asks = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}}
    model.save_pretrained(tmp_path / "ours", tokenizer=load_tokenizer(tokenizer_folder), extra_config=asks)
    cli.main(["convert", "--model", str(tmp_path / "ours"), "--output", str(tmp_path / "converted")])
    for name in ("ours", "converted"):
        theirs = sentence_transformers_library.CrossEncoder(str(tmp_path / name), device="cpu", max_length=16)
        expected = theirs.rank("is the film good", TEXTS, show_progress_bar=False)
        engine = SkimEngine.from_pretrained(tmp_path / name)
        ranked = engine.rank("is the film good", TEXTS, show_progress_bar=False)
        np.testing.assert_allclose([entry["score"] for entry in ranked], [entry["score"] for entry in expected], atol=2e-5)
        sigmoids = engine.rank("is the film good", TEXTS, show_progress_bar=False, raw_scores=False)
        assert all(0 < entry["score"] < 1 for entry in sigmoids)


@pytest.mark.parametrize("default", ["question", None])
def test_a_cross_encoder_that_the_library_saved(sentence_transformers_library, tokenizer_folder, tmp_path, default):
    """Its scores, its prompt and its length, which stand in files of their own, are those of the engine, and of what is converted."""
    model = TranskimmerForSequenceClassification(dataclasses.replace(ARCH, num_labels=1), rngs=nnx.Rngs(1))
    model.save_pretrained(tmp_path / "ours", tokenizer=load_tokenizer(tokenizer_folder))
    options = {"activation_fn": torch.nn.Identity(), "max_length": 12, "default_prompt_name": default}
    prompts = {"question": "the film "} if default else None
    theirs = sentence_transformers_library.CrossEncoder(str(tmp_path / "ours"), device="cpu", prompts=prompts, **options)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert "Identity" not in (tmp_path / "theirs" / "config.json").read_text(encoding="utf-8"), "where the test is of no use"
    cli.main(["convert", "--model", str(tmp_path / "theirs"), "--output", str(tmp_path / "converted")])
    again = sentence_transformers_library.CrossEncoder(str(tmp_path / "converted"), device="cpu")
    assert again.max_seq_length == 12 and again.default_prompt_name == default
    expected = theirs.rank("is the film good", TEXTS, show_progress_bar=False)
    for name in ("theirs", "converted"):
        engine = SkimEngine.from_pretrained(tmp_path / name)
        assert engine.max_length == 12
        for ranked in (engine.rank("is the film good", TEXTS, show_progress_bar=False), again.rank("is the film good", TEXTS)):
            assert [entry["corpus_id"] for entry in ranked] == [entry["corpus_id"] for entry in expected]
            np.testing.assert_allclose([entry["score"] for entry in ranked], [entry["score"] for entry in expected], atol=2e-5)


def test_settings_of_another_kind_of_model(tokenizer_folder, tmp_path):
    """An embedder's prompts are none of a classifier made from it, nor those of a cross-encoder of an embedder; a tagger has none."""
    for name, made in (("embedder", TranskimmerForSentenceEmbedding), ("cross-encoder", TranskimmerForSequenceClassification)):
        model = made(dataclasses.replace(ARCH, num_labels=1), rngs=nnx.Rngs(1))
        model.save_pretrained(tmp_path / name, tokenizer=load_tokenizer(tokenizer_folder), settings=PROMPTS)
    saved = {name: tmp_path / name / SETTINGS_FILE for name in ("embedder", "cross-encoder")}
    own, other = (read_settings(path.parent, "sentence_embedding", {}) for path in saved.values())
    assert own == PROMPTS and other == Settings({"query": "", "document": ""})
    own, other = (read_settings(path.parent, "sequence_classification", {}) for path in reversed(saved.values()))
    assert own == PROMPTS and other == Settings()
    assert all(read_settings(path.parent, "token_classification", {}) == Settings() for path in saved.values())


@pytest.mark.parametrize("width", ["16", 0, 1.5])
def test_a_width_that_cannot_be_meant(tmp_path, write, width):
    write(SETTINGS_FILE, json.dumps({"truncate_dim": width}))
    with pytest.raises(CheckpointError, match="config_sentence_transformers.json: truncate_dim"):
        read_settings(tmp_path, "sentence_embedding", {})


def test_a_cross_encoder(sentence_transformers_library, tokenizer_folder, tmp_path):
    """The same order and scores, and the same of logits as they are."""
    model = TranskimmerForSequenceClassification(dataclasses.replace(ARCH, num_labels=1), rngs=nnx.Rngs(1))
    model.save_pretrained(tmp_path / "ours", tokenizer=load_tokenizer(tokenizer_folder))
    theirs = sentence_transformers_library.CrossEncoder(str(tmp_path / "ours"), device="cpu", max_length=16)
    engine = SkimEngine.from_pretrained(tmp_path / "ours")
    for raw, options in ((False, {}), (True, {"activation_fn": torch.nn.Identity()})):
        expected = theirs.rank("is the film good", TEXTS, 3, True, show_progress_bar=False, **options)
        ranked = engine.rank("is the film good", TEXTS, 3, True, show_progress_bar=False, raw_scores=raw)
        assert [entry | {"score": 0} for entry in ranked] == [entry | {"score": 0} for entry in expected]
        np.testing.assert_allclose([entry["score"] for entry in ranked], [entry["score"] for entry in expected], atol=2e-5)
