"""Texts and lists of words as a tagger reads them."""

import numpy as np
import pytest
from data.kinds import KINDS, tokenizer_of

from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.words import NO_WORD, tokenize_words

WORDS = ["the", "film", "is", "good"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_words_is_read_as_its_text(kind):
    """A word has the tokens that it has behind a space, and keeps its number."""
    tokenizer = tokenizer_of(kind)
    listed, joined = tokenize_words([WORDS], tokenizer, 16), tokenize_words([" ".join(WORDS)], tokenizer, 16)
    np.testing.assert_array_equal(listed.examples.input_ids, joined.examples.input_ids)
    assert listed.word_of.tolist() == joined.word_of.tolist() == [NO_WORD, 0, 1, 2, 3, NO_WORD]
    assert listed.words(0) == [(word, None) for word in WORDS]
    assert joined.words(0) == [("the", (0, 3)), ("film", (4, 8)), ("is", (9, 11)), ("good", (12, 16))]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_words_have_no_token(kind):
    """So they have no tag, and the words behind them keep theirs."""
    read = tokenize_words([["the", "", "film", " good"]], tokenizer_of(kind), 16)
    assert set(read.word_of.tolist()) == {NO_WORD, 0, 2, 3} and len(read.word_of) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_list_is_cut(kind):
    """All words have their place in the answer; words without tokens use up nothing of what is read."""
    read = tokenize_words([WORDS * 5000], tokenizer_of(kind), 16)
    assert read.word_of.tolist() == [NO_WORD, *range(14), NO_WORD] and read.examples.truncated.all() and len(read.words(0)) == 20000
    read = tokenize_words([[""] * 30 + WORDS, WORDS], tokenizer_of(kind), 16)
    assert read.word_of.tolist() == [NO_WORD, 30, 31, 32, 33, NO_WORD, NO_WORD, 0, 1, 2, 3, NO_WORD]
    assert not read.examples.truncated.any()


@pytest.mark.parametrize("give", [" ".join, list])
def test_a_tokenizer_that_reads_the_end_of_a_text(monkeypatch, give):
    """Whose first words do not tell what is read."""
    tokenizer = tokenizer_of("WordPiece")
    monkeypatch.setattr(tokenizer, "truncation_side", "left")
    read = tokenize_words([give(WORDS * 1000)], tokenizer, 16)
    assert read.word_of.tolist() == [NO_WORD, *range(3986, 4000), NO_WORD]


def test_a_word_keeps_accents_that_the_tokenizer_drops(tokenizer_folder):
    """And not the white space and zero-width characters around it."""
    text = "\u200bgood\u0301\u200b the\u200b film\u064c"
    words = tokenize_words([text], load_tokenizer(tokenizer_folder), 16).words(0)
    assert words == [("good\u0301", (1, 6)), ("the", (8, 11)), ("film\u064c", (13, 18))]
