"""`evaluate` of embedders and their retrieval, and of a cross-encoder behind one, against what the engine says."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from transkimmer_jax import cli
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError, TranskimmerError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS

ARCH = Architecture(
    vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16,
    initializer_range=0.3, skim=SkimArchitecture(predictor_size=4, initial_bias=0.0), pooling=PoolingArchitecture("mean", False),
)  # fmt: skip
TEXTS = ["the film is good", "a bad plot", "good", "the plot of the film is bad and the cast is good", "film", "bad"]


@pytest.fixture(scope="module")
def models(tokenizer_folder, tmp_path_factory):
    """Folders by head."""
    tokenizer, made = load_tokenizer(tokenizer_folder), {}
    for name, head, labels in (
        ("embedder", "sentence_embedding", 2), ("reranker", "sequence_classification", 1), ("classifier", "sequence_classification", 3),
        ("tagger", "token_classification", 3), ("certain", "sequence_classification", 3),
    ):  # fmt: skip
        model = HEADS[head](dataclasses.replace(ARCH, num_labels=labels), rngs=nnx.Rngs(3))
        if name == "certain":  # all probabilities are 0 or 1
            model.classifier.kernel[...] = 1000.0 * model.classifier.kernel[...]
        made[name] = str(tmp_path_factory.mktemp(name) / "model")
        names = None if labels < 3 else ("a", "b", "c")
        settings = Settings({"query": "the ", "document": ""}) if name == "embedder" else None
        model.save_pretrained(made[name], tokenizer=tokenizer, label_names=names, settings=settings)
    return made


def said(capsys, *arguments):
    with jax.numpy_dtype_promotion("standard"):
        cli.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_similarity(models, write, capsys):
    """The correlation of scores with the cosines of what `encode` gives."""
    pairs = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    scores = [0.5, 3.0, 1.0, 4.0, 2.0, 2.5]
    records = [{"sentence1": a, "sentence2": b, "score": score} for (a, b), score in zip(pairs, scores, strict=True)]
    result = said(capsys, "evaluate", "--model", models["embedder"], "--data", write("pairs.jsonl", records))
    vectors = SkimEngine.from_pretrained(models["embedder"]).encode(TEXTS, normalize_embeddings=True)
    cosines = np.sum(vectors * np.roll(vectors, -1, axis=0), axis=1)
    assert result["value"] == pytest.approx(scipy.stats.spearmanr(scores, cosines).statistic)
    assert result["metrics"]["test file"]["pearson"] == pytest.approx(scipy.stats.pearsonr(scores, cosines).statistic, abs=1e-5)
    cut = said(capsys, "evaluate", "--model", models["embedder"], "--data", write("pairs.jsonl", records), "--max-length", 3)
    assert cut["value"] != result["value"]
    with pytest.raises(CheckpointError, match="^17 tokens are more than the 16 positions of .*: give a lower --max-length$"):
        said(capsys, "evaluate", "--model", models["embedder"], "--data", write("pairs.jsonl", records), "--max-length", 17)
    assert result["examples"] == {"test file": 6} and 0 < result["kept_tokens"] <= 1
    engine = SkimEngine.from_pretrained(models["embedder"])
    engine.encode(TEXTS)
    assert result["flops_vs_unpadded"] == pytest.approx(engine.statistics.dense_flops / engine.statistics.flops)


@pytest.fixture
def collection(write):
    """Queries, documents and judgements, by the flags that name them."""
    return {
        "--queries": write("queries.jsonl", [{"id": f"q{number}", "text": text} for number, text in enumerate(TEXTS[:3])]),
        "--documents": write("documents.jsonl", [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]),
        "--judgements": write("qrels.txt", "q0 0 d3 1\nq0 0 d4 1\nq1 0 d5 1\n"),
    }


@pytest.mark.parametrize(("kind", "label"), [("reranker", None), ("classifier", "b"), *(("certain", label) for label in "abc")])
def test_retrieval(models, collection, capsys, kind, label):
    """Ranks by cosine with the prompts of both sides, then by the cross-encoder; q2 is not judged and not asked."""
    flags = [part for flag in collection.items() for part in flag]
    more = ["--reranker", models[kind], "--top", 4, *(["--relevant", label] if label else [])]
    result = said(capsys, "evaluate", "--model", models["embedder"], *flags, *more)
    assert (result["queries"], result["documents"]) == (2, 6)
    engine = SkimEngine.from_pretrained(models["embedder"])
    documents = engine.encode(TEXTS, prompt_name="document", normalize_embeddings=True)
    queries = engine.encode(TEXTS[:2], prompt_name="query", normalize_embeddings=True)
    orders = [list(np.argsort(-(documents @ query), kind="stable")) for query in queries]
    first = [1 / (1 + min(orders[0].index(3), orders[0].index(4))), 1 / (1 + orders[1].index(5))]
    assert result["retrieval"]["mrr"] == pytest.approx(np.mean(first))
    reranker, again = SkimEngine.from_pretrained(models[kind]), []
    for query, wanted in ((0, (3, 4)), (1, (5,))):
        near = orders[query][:4]
        ranked = [near[entry["corpus_id"]] for entry in reranker.rank(TEXTS[query], [TEXTS[number] for number in near], label=label)]
        ranked += orders[query][4:]
        again.append(max(1 / (1 + ranked.index(number)) for number in wanted))
    assert result["flops_vs_unpadded"] == pytest.approx(engine.statistics.dense_flops / engine.statistics.flops)
    assert result["reranking_flops_vs_unpadded"] == pytest.approx(reranker.statistics.dense_flops / reranker.statistics.flops)
    assert result["reranking"]["mrr"] == pytest.approx(np.mean(again))
    assert result["reranking"]["recall@50"] == result["retrieval"]["recall@50"] == 1.0


def test_queries_that_are_documents(models, write, capsys):
    """No query finds itself, neither by vectors nor by the reranker: with one other document, that is first for both."""
    texts = [{"id": name, "text": text} for name, text in (("a", TEXTS[0]), ("b", TEXTS[1]))]
    flags = ["--queries", write("texts.jsonl", texts), "--documents", write("texts.jsonl", texts)]
    flags += ["--judgements", write("qrels.txt", "a 0 b 1\nb 0 a 1\n"), "--reranker", models["reranker"]]
    result = said(capsys, "evaluate", "--model", models["embedder"], *flags)
    assert result["retrieval"]["mrr"] == result["reranking"]["mrr"] == result["retrieval"]["recall@1"] == 1.0


def test_threshold_is_the_embedders(models, collection, capsys):
    """The reranker keeps its own."""
    flags = [part for flag in collection.items() for part in flag]
    arguments = ["evaluate", "--model", models["embedder"], *flags, "--reranker", models["reranker"]]
    own = said(capsys, *arguments)
    embedder = said(capsys, *arguments, "--threshold", 1e9)
    shorter = said(capsys, *arguments, "--max-length", 3)
    savings = ("flops_vs_unpadded", "reranking_flops_vs_unpadded")
    assert embedder[savings[0]] > 1.2 * own[savings[0]] and embedder[savings[1]] == own[savings[1]]
    assert shorter["flops_vs_unpadded"] != own["flops_vs_unpadded"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"--judgements": "q9 0 d1 1\n"}, DataError, "query 'q9' is unknown"),
        ({"--judgements": "\n"}, DataError, "no judgement"),
        ({"--queries": "\n"}, DataError, "no example"),
        ({"--model": "classifier"}, TranskimmerError, "call predict"),
        ({"--reranker": "embedder"}, CheckpointError, "is no cross-encoder: its head is sentence embedding"),
        ({"--relevant": "yes"}, ConfigError, "--relevant is of a --reranker: give one"),
        ({"--reranker": "classifier"}, ConfigError, "has the labels .*: --relevant says by which it ranks"),
        ({"--reranker": "classifier", "--relevant": "nobody"}, ConfigError, "--relevant nobody is none of the labels of"),
    ],
)
def test_retrieval_that_cannot_be_meant(models, collection, write, monkeypatch, changes, error, message):
    """One line each, before a text is embedded."""
    if "--model" not in changes:
        monkeypatch.setattr(SkimEngine, "predict_texts", lambda *_, **__: pytest.fail("texts were embedded"))
    flags = {"--model": "embedder"} | collection | changes
    arguments = []
    for flag, value in flags.items():
        if flag in ("--model", "--reranker"):
            value = models[value]
        elif isinstance(value, str) and flag in collection:
            value = write(f"changed{collection[flag].suffix}", value)
        arguments += [flag, str(value)]
    with pytest.raises(error, match=message), jax.numpy_dtype_promotion("standard"):
        cli.main(["evaluate", *arguments])


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("embedder", ["--task", "glue/sst2"], DataError, "an embedder is evaluated on pairs of texts with a score"),
        ("embedder", ["--task", "glue/stsb", "--mode", "masked"], ConfigError, "is evaluated by cosines alone"),
        ("tagger", ["--task", "glue/sst2"], CheckpointError, "is for token classification, glue/sst2 for sequence classification"),
    ],
)
def test_evaluations_that_cannot_be_meant(models, model, options, error, message):
    """A task that the head does not do."""
    with pytest.raises(error, match=message), jax.numpy_dtype_promotion("standard"):
        cli.main(["evaluate", "--model", models[model], *options])
