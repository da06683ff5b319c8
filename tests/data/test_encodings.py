"""Examples of all heads are tokenised in chunks, of which nothing but arrays is left."""

import dataclasses

import numpy as np
import pytest
from data.kinds import CountingTokenizer, tokenizer_of

from transkimmer_jax.data import encodings, pipeline
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.windows import windows
from transkimmer_jax.data.words import tokenize_words

TEXTS = ["the film", "is the plot good? " * 5, "bad", "the film is bad " * 4, "is it", "good film", "the plot is bad " * 6]
READ = {
    "texts": lambda texts, tokenizer: {"examples": pipeline.tokenize(Examples.without_labels(texts), tokenizer, 16)},
    "words": lambda texts, tokenizer: _fields(tokenize_words(texts, tokenizer, 16)),
    "lists of words": lambda texts, tokenizer: _fields(tokenize_words([text.split() for text in texts], tokenizer, 16)),
    # Of questions of several lengths, so that windows overlap by less where there is no room.
    "questions": lambda texts, tokenizer: _fields(windows([text[:20] for text in texts], texts, tokenizer, 16, 4)),
}


def _fields(read):
    return {field.name: getattr(read, field.name) for field in dataclasses.fields(read)}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(encodings, "_CHUNK", 3)
    monkeypatch.setattr(encodings, "_PROGRESS_BAR_FROM", 6)


@pytest.mark.parametrize("kind", ["WordPiece", "ByteLevel"])
@pytest.mark.parametrize("what", READ)
def test_chunks_are_read_as_single_examples(small_chunks, what, kind):
    """Ids and types, and what is said of tokens; windows know their question's number among all."""
    tokenizer = tokenizer_of(kind)
    whole, singles = READ[what](TEXTS, tokenizer), [READ[what]([text], tokenizer) for text in TEXTS]
    for name in ("input_ids", "token_type_ids", "lengths", "truncated"):
        alone = [getattr(single["examples"], name) for single in singles]
        np.testing.assert_array_equal(getattr(whole["examples"], name), np.concatenate(alone), strict=True)
    for name in set(whole) - {"examples", "owner"}:
        of_all = [row for single in singles for row in single[name]]
        assert len(whole[name]) == len(of_all)
        for one, other in zip(whole[name], of_all, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    if what == "questions":
        counts = [len(single["owner"]) for single in singles]
        assert max(counts) > 1 and whole["owner"].tolist() == np.repeat(np.arange(len(TEXTS)), counts).tolist()


@pytest.mark.parametrize("what", READ)
def test_a_tokenizer_without_token_types(what, tokenizer_folder):
    """Its model reads 0 everywhere, also of the second part of a pair."""
    tokenizer = pipeline.load_tokenizer(tokenizer_folder)
    given = READ[what](TEXTS, tokenizer)["examples"].token_type_ids
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    read = READ[what](TEXTS, tokenizer)["examples"].token_type_ids
    assert not read.any() and (read.shape, read.dtype) == (given.shape, given.dtype)
    assert given.any() == (what == "questions")


@pytest.mark.parametrize("what", ["words", "lists of words", "questions"])
def test_no_more_than_a_chunk_is_in_encodings(small_chunks, what, capsys):
    """The tokenizer is never asked for more at once, and a bar shows how far it is where there are many."""
    tokenizer = CountingTokenizer(tokenizer_of("WordPiece"))
    READ[what](TEXTS[:5], tokenizer)
    assert "tokenizing" not in capsys.readouterr().err
    READ[what](TEXTS, tokenizer)
    assert max(map(len, tokenizer.asked)) == 3 and "7/7" in capsys.readouterr().err
