"""What a user may hand to a command for a model of each head by mistake: one line that names it and says what to do."""

import dataclasses
import json

import jax
import pytest
from cli.test_embedders import ARCH, TEXTS
from flax import nnx

from transkimmer_jax import cli
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError
from transkimmer_jax.models.heads import HEADS


@pytest.fixture(scope="module")
def folders(tokenizer_folder, tmp_path_factory):
    """A model of each head, and a second embedder whose tokenizer takes one word for another."""
    root, tokenizer = tmp_path_factory.mktemp("heads"), load_tokenizer(tokenizer_folder)
    for name, head, labels in (
        ("embedder", "sentence_embedding", None), ("reranker", "sequence_classification", None), ("reader", "question_answering", None),
        ("classifier", "sequence_classification", ("no", "yes")), ("tagger", "token_classification", ("O", "B-X")),
        ("other", "sentence_embedding", None),
    ):  # fmt: skip
        model = HEADS[head](
            dataclasses.replace(ARCH, num_labels=len(labels) if labels else 1, max_position_embeddings=400), rngs=nnx.Rngs(0)
        )
        model.save_pretrained(root / name, tokenizer=tokenizer, label_names=labels)
    file = root / "other" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    ids = content["model"]["vocab"]
    ids["good"], ids["bad"] = ids["bad"], ids["good"]
    file.write_text(json.dumps(content), encoding="utf-8")
    (root / "other" / "SHA256SUMS").unlink()
    return root


QUESTION = {"question": "is it good", "context": "the film is good", "answers": {"text": ["good"], "answer_start": [12]}}
TWO = [{"id": "q1", "text": "good"}, {"id": "q2", "text": "bad"}]
FILES = {
    "empty.txt": "",
    "empty.jsonl": "",
    "tags.jsonl": [{"tokens": ["good", "film"], "tags": ["O", "B-X"]}, {"tokens": ["good", "film"], "tags": ["O"]}],
    "unknown.jsonl": [{"tokens": ["good"], "tags": ["I-Y"]}],
    "long.jsonl": [QUESTION, QUESTION | {"question": "is it good " * 9}],
    "blank.jsonl": [QUESTION, QUESTION | {"context": " ", "answers": {"text": [], "answer_start": []}}],
    "elsewhere.jsonl": [QUESTION | {"answers": {"text": ["good"], "answer_start": [3]}}],
    "queries.jsonl": TWO,
    "documents.jsonl": [{"id": "d1", "text": "a film"}],
    "judged.txt": "q1 0 d1 1\n",
    "no_query.txt": "q1 0 d1 1\nq3 0 d1 1\n",
    "no_document.txt": "q1 0 d1 1\nq2 0 d7 1\n",
    "texts.txt": "".join(f"{text} {other}\n" for text in TEXTS for other in TEXTS),
    "scores.jsonl": [{"sentence1": "good", "sentence2": "bad"}],
}  # fmt: skip
_RETRIEVE = ("evaluate", "--model", "embedder", "--queries", "queries.jsonl", "--documents", "documents.jsonl", "--judgements")
_TAGS, _QUESTIONS = (("evaluate", "--model", model, "--data") for model in ("tagger", "reader"))
_DISTIL = ("distil", "--output", "run", "--texts")
_PRETRAINED = "--config.model.pretrained"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        # No texts.
        ((*_DISTIL, "empty.txt", "--teacher", "embedder"), DataError, "empty.txt: the file holds no example"),
        ((*_DISTIL, "empty.jsonl", "--teacher", "tagger"), DataError, "empty.jsonl: the file holds no example"),
        (("evaluate", "--model", "embedder", "--data", "empty.jsonl"), DataError, "empty.jsonl: the file holds no example"),
        ((*_TAGS, "empty.jsonl"), DataError, "empty.jsonl: the file holds no example"),
        ((*_QUESTIONS, "empty.jsonl"), DataError, "empty.jsonl: the file holds no example"),
        (("report", "--model", "classifier", "--input", "empty.txt", "--output", "r.html"), DataError, "empty.txt.* no "),
        # A query without documents.
        ((*_RETRIEVE, "judged.txt", "--documents", "empty.jsonl"), DataError, "empty.jsonl: the file holds no example"),
        # Judgements of unknown ids.
        ((*_RETRIEVE, "no_query.txt"), DataError, "no_query.txt, line 2: query 'q3' is unknown"),
        ((*_RETRIEVE, "no_document.txt"), DataError, "no_document.txt, line 2: document 'd7' is unknown"),
        # More tokens than it has positions.
        ((*_RETRIEVE, "judged.txt", "--max-length", "4096"), CheckpointError, "4096 tokens are more than the .* of embedder: give a lower"),
        # Pairs for who reads single texts, and one text for who reads two.
        ((*_TAGS, "tags.jsonl", "--text-columns", "a", "b"), ConfigError, "a tagger reads one text at a time"),
        ((*_QUESTIONS, "blank.jsonl", "--text-columns", "a"), ConfigError, "a reader reads questions and contexts"),
        # Tags that do not match words.
        ((*_TAGS, "tags.jsonl"), DataError, "tags.jsonl, line 2: 2 words and 1 tags"),
        ((*_TAGS, "unknown.jsonl"), DataError, "line 1: tag 'I-Y' is none of the tags trained on"),
        # Contexts.
        ((*_QUESTIONS, "long.jsonl", "--max-length", "12"), DataError, "question 1: 'is .* leaves no room"),
        ((*_QUESTIONS, "blank.jsonl"), DataError, "blank.jsonl, line 2: column 'context' holds no text to look for the answer in"),
        ((*_QUESTIONS, "elsewhere.jsonl"), DataError, "line 1: answer 'good' does not stand at character 3"),
        # Scores.
        (("evaluate", "--model", "embedder", "--data", "scores.jsonl"), DataError, "line 1: no column 'score'"),
        # A teacher whose tokenizer differs.
        ((*_DISTIL, "texts.txt", "--teacher", "other", f"{_PRETRAINED}=embedder"), CheckpointError, "=other reads texts otherwise"),
        ((*_DISTIL, "texts.txt", "--teacher", "tagger", f"{_PRETRAINED}=other"), CheckpointError, "=tagger reads texts otherwise"),
    ],
)  # fmt: skip
def test_one_line(folders, write, tmp_path, monkeypatch, arguments, error, message):
    """And nothing is written."""
    for name, content in FILES.items():
        write(name, content)
    for folder in folders.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(error, match=message) as caught, jax.numpy_dtype_promotion("standard"):
        cli.main(list(arguments))
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before
