"""Texts and lists of words as a tagger reads them."""

import numpy as np
import pytest
from data.kinds import KINDS, tokenizer_of

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
