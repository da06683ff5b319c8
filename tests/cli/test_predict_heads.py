"""`transkimmer predict` for a model of each head: lines hold what the engine's methods give, and a mistake is one line."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from cli.test_embedders import ARCH
from flax import nnx

from transkimmer_jax import cli
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError, DataError
from transkimmer_jax.inference import hardware
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.heads import HEADS

TEXTS = ["the film is good", "a bad plot", "good", "the plot of the film is bad and the cast is good", "film"]
LONG = "the film is good and the plot is bad " * 6


@pytest.fixture(scope="module")
def folders(tokenizer_folder, tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("heads"), load_tokenizer(tokenizer_folder)
    for name, head, labels in (
        ("embedder", "sentence_embedding", None), ("tagger", "token_classification", ("O", "B", "I")),
        ("reader", "question_answering", None), ("classifier", "sequence_classification", ("no", "yes")),
    ):  # fmt: skip
        model = HEADS[head](dataclasses.replace(ARCH, num_labels=len(labels) if labels else 1), rngs=nnx.Rngs(3))
        settings = Settings({"query": "the ", "document": "a "}, "document") if name == "embedder" else None
        model.save_pretrained(root / name, tokenizer=tokenizer, label_names=labels, settings=settings)
    return root


@pytest.fixture
def predict(capsys):
    """The lines of the command's output."""

    def run(model, path, *more):
        capsys.readouterr()
        with jax.numpy_dtype_promotion("standard"):
            cli.main(["predict", "--model", str(model), "--input", str(path), "--quiet", *map(str, more)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_vectors(folders, predict, write):
    """As `encode` gives them, with the default prompt or a named one; other columns are copied, and a long text is cut."""
    path = write("texts.jsonl", [{"id": number, "text": text} for number, text in enumerate([*TEXTS, LONG])])
    engine = SkimEngine.from_pretrained(folders / "embedder")
    for more, options in (((), {}), (("--prompt-name", "query"), {"prompt_name": "query"}), (("--threshold", "1"), {"threshold": 1.0})):
        lines = predict(folders / "embedder", path, *more)
        assert [list(line) for line in lines] == [["id", "embedding", "tokens", "kept", "truncated"]] * 6
        vectors = engine.encode([*TEXTS, LONG], show_progress_bar=False, **options)
        np.testing.assert_allclose([line["embedding"] for line in lines], vectors, atol=1e-6)
        assert [line["truncated"] for line in lines] == [False] * 5 + [True]
        assert [line["tokens"] for line in lines[:3]] == [len(text.split()) + 3 for text in TEXTS[:3]]
        assert all(0 < line["kept"] <= 1 for line in lines)


def test_vectors_of_an_encoder_with_another_head(folders, predict, write):
    """Pooled as the flag says; a text a line, whatever the head reads."""
    lines = predict(folders / "reader", write("texts.txt", "\n".join(TEXTS)), "--pooling", "cls")
    vectors = SkimEngine.from_pretrained(folders / "reader", pooling="cls").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose([line["embedding"] for line in lines], vectors, atol=1e-6)


@pytest.mark.parametrize("of_words", [False, True])
def test_tags(folders, predict, write, of_words):
    """Of texts, whose words the engine finds, and of lists of words."""
    texts = [text.split() if of_words else text for text in TEXTS]
    expected = SkimEngine.from_pretrained(folders / "tagger").tag(texts, progress=False)
    lines = predict(folders / "tagger", write("texts.jsonl", [{"text": text} for text in texts]))
    assert lines == json.loads(json.dumps([dataclasses.asdict(answer) for answer in expected]))
    assert {tag["label"] for line in lines for tag in line["tags"]} <= {"O", "B", "I"}


def test_answers(folders, predict, write):
    """Columns are question and context if nobody says so; a long context is read in windows."""
    contexts = [*TEXTS[:3], LONG]
    expected = SkimEngine.from_pretrained(folders / "reader").answer(["is it good"] * 4, contexts)
    path = write("questions.csv", "question,context\n" + "".join(f"is it good,{context}\n" for context in contexts))
    for line, answer in zip(predict(folders / "reader", path), expected, strict=True):
        assert (line["answer"], line["start"], line["end"]) == (answer.text, answer.start, answer.end)
        assert (line["tokens"], line["kept"]) == (answer.tokens, answer.kept)
        assert (line["score"], line["no_answer_score"]) == pytest.approx((answer.score, answer.no_answer_score), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "records", "more", "error", "message"),
    [
        ("embedder", [{"a": "good", "b": "bad"}], ("--text-columns", "a", "b"), ConfigError, "an embedder reads one text at a time"),
        ("embedder", [{"text": "good"}], ("--prompt-name", "nobody"), ConfigError, "nobody"),
        ("classifier", [{"text": "good"}], ("--prompt-name", "query"), ConfigError, "--prompt-name is of embedders"),
        ("tagger", [{"a": "good", "b": "bad"}], ("--text-columns", "a", "b"), ConfigError, "a tagger reads one text at a time"),
        ("tagger", [{"text": ["good", 3]}], (), DataError, "line 1: column 'text' holds"),
        ("tagger", [{"text": []}], (), DataError, "line 1: column 'text' holds"),
        ("tagger", [{"text": ["good"]}, {"text": ["\ud800"]}], (), DataError, "line 2: column 'text' holds .*, not a list of texts"),
        ("tagger", [{"text": "good"}, {"text": ["good"]}], (), DataError, "line 2: a list of words among strings: give one or the other"),
        ("reader", [{"text": "good"}], ("--text-columns", "text"), ConfigError, "a reader reads questions and contexts"),
        ("reader", [{"question": "good"}], (), DataError, "line 1: no column 'context'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(folders, predict, write, model, records, more, error, message):
    with pytest.raises(error, match=message):
        predict(folders / model, write("records.jsonl", records), *more)


def test_the_line_of_a_context_without_a_token(folders, predict, write, monkeypatch):
    """Whichever window of the file it stands in."""
    monkeypatch.setattr(hardware, "STREAM_WINDOW", 4)
    records = [{"question": "is it good", "context": "good"}] * 5 + [{"question": "is it good", "context": " "}]
    with pytest.raises(DataError, match=r"records.jsonl, line 6: its context holds no token"):
        predict(folders / "reader", write("records.jsonl", records))


def test_a_text_a_line(folders, predict, write):
    """Is no question with a context."""
    with pytest.raises(ConfigError, match="reads pairs of texts, and the text format has one a line"):
        predict(folders / "reader", write("texts.txt", "good\n"))
    assert len(predict(folders / "tagger", write("texts.txt", "good\nbad film\n"))) == 2
