"""Scores of tags and of answers, by hand and by the definition of SQuAD's official script."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.data.batches import NO_LABEL
from transkimmer_jax.data.prepared import TagLabels
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation import retrieval, scores, squad
from transkimmer_jax.evaluation.metrics import require_scorer

TAGS = ("O", "B-A", "I-A", "B-B")
WORDS = st.lists(st.sampled_from(["the", "a", "cat", "Cat.", "an", "dog's", "dog", "!", "42"]), max_size=5).map(" ".join)


def plain_words(text):
    """As the official script reads an answer: lower case, no punctuation, no articles."""
    kept = "".join(character for character in text.lower() if character not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def plain_f1(answer, wanted):
    """Words in common, each counted as often as both have it."""
    first, second = plain_words(answer), plain_words(wanted)
    if not first or not second:
        return float(first == second)
    left, common = list(second), 0
    for word in first:
        if word in left:
            left.remove(word)
            common += 1
    return 2 * common / (len(first) + len(second))


@settings(max_examples=300, deadline=None)
@given(WORDS, st.lists(WORDS, max_size=3))
def test_answers_are_scored_as_by_the_official_script(answer, wanted):
    """Normalisation, words in common, and what there is to say of no answer."""
    texts = [text for text in wanted if plain_words(text)] or [""]
    measured = squad.scores([answer], [wanted])
    assert measured["exact_match"] == max(float(plain_words(text) == plain_words(answer)) for text in texts)
    assert measured["f1"] == pytest.approx(max(plain_f1(answer, text) for text in texts))


def test_made_answers():
    """By hand: a whole match, half of the words, nothing said where nothing is asked for, something said there."""
    given_, wanted = ["The cat!", "cat dog", "", "cat"], [["a cat"], ["dog bird"], [], []]
    assert squad.scores(given_, wanted) == {"f1": pytest.approx((1 + 0.5 + 1 + 0) / 4), "exact_match": 0.5}


def tag_labels(rows):
    flat = [label for row in rows for label in row]
    return TagLabels(np.array(flat, np.int32), np.cumsum([0] + [len(row) for row in rows]))


def test_entities():
    """One of two entities is right in kind and ends: words that were not read, and later pieces, count nowhere."""
    labels = tag_labels([[NO_LABEL, 1, 2, NO_LABEL, 0, NO_LABEL], [NO_LABEL, 3, NO_LABEL]])
    predicted = np.array([0, 1, 2, 3, 0, 3, 3, 1, 3])
    measured = scores.tag_metrics(np.eye(4)[predicted], labels, TAGS)
    assert measured == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 3 / 4})


def test_entities_of_single_words_and_last_ones():
    """In BILOU: two persons side by side are none of one person of two words."""
    names = ("O", "U-PER", "B-PER", "L-PER", "B-ORG", "L-ORG")
    predicted = np.array([2, 3, 0, 4, 5])
    measured = scores.tag_metrics(np.eye(6)[predicted], tag_labels([[1, 1, 0, 4, 5]]), names)
    assert measured["recall"] == pytest.approx(1 / 3) and measured["precision"] == pytest.approx(1 / 2)


def test_tags_of_single_words():
    """Accuracy alone, without seqeval."""
    measured = scores.tag_metrics(np.eye(2)[[0, 1, 1]], tag_labels([[0, 1, 0]]), ("DET", "NOUN"))
    assert measured == {"accuracy": pytest.approx(2 / 3)}


def test_a_missing_scorer_is_told_before_anything_is_computed(monkeypatch):
    """Of entities, and of rankings; single words and classes need neither."""
    for package in ("seqeval", "pytrec_eval"):
        monkeypatch.setitem(sys.modules, package, None)
    tagger = Task("tags", ("tokens",), ("O", "B-X", "I-X"), 16, head="token_classification")
    with pytest.raises(ConfigError, match="scoring entities needs seqeval, which is not installed"):
        require_scorer(tagger)
    with pytest.raises(ConfigError, match="measuring retrieval needs pytrec_eval, which is not installed"):
        retrieval.require_scorer()
    require_scorer(dataclasses.replace(tagger, label_names=("O", "X")))
    require_scorer(dataclasses.replace(tagger, judge="teacher"))
    require_scorer(Task("files", ("text",), ("B-X", "I-X"), 16))
