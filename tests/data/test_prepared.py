"""Labels of taggers and readers at their tokens."""

import json

import numpy as np
import pytest

from transkimmer_jax.data.batches import NO_LABEL, collate
from transkimmer_jax.data.examples import Answers
from transkimmer_jax.data.files import read_questions, read_tags
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.data.tasks import file_task

TAGS = ("O", "B-X", "I-X")
CONTEXT = "the film is good and the plot is bad"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)


def test_the_first_token_of_a_word_has_its_tag(write, tokenizer):
    """Of words in several pieces the others have none, nor have special tokens; a batch's padding neither."""
    words = [["films", "bad"], ["a", "filming", "plot", "films"]]
    path = write("t.jsonl", [{"tokens": text, "tags": ["B-X"] + ["I-X"] * (len(text) - 1)} for text in words])
    task = file_task("token_classification", TAGS, (), None, 8)
    ready = prepare(task, read_tags(path, "tokens", "tags", TAGS), tokenizer, 0)
    tokens = ready.tokens
    for number, text in enumerate(words):
        ids = tokens.input_ids[tokens.offsets[number] : tokens.offsets[number + 1]]
        expected, place = [NO_LABEL], 0
        for position, word in enumerate(text):
            pieces = len(tokenizer(word, add_special_tokens=False)["input_ids"])
            expected += [1 if position == 0 else 2] + [NO_LABEL] * (pieces - 1)
            place += pieces
        expected = [*expected[: len(ids) - 1], NO_LABEL]
        assert tokens.token_labels[tokens.offsets[number] : tokens.offsets[number + 1]].tolist() == expected
    batch = collate(tokens, np.array([1, 0]), 10, 0, np.ones(2, np.float32))
    assert batch["labels"].shape == (2, 10) and (batch["labels"][batch["attention_mask"] == 0] == NO_LABEL).all()
    taken = tokens.take(np.array([1]))
    assert taken.token_labels.tolist() == tokens.token_labels[tokens.offsets[1] :].tolist()


def test_answers_are_places_of_windows(write, tokenizer):
    """The tokens of the answer where a window holds all of it; position 0 where it does not, and where there is no answer."""
    records = [
        {"question": "is it", "context": CONTEXT, "answers": {"text": ["the plot"], "answer_start": [CONTEXT.index("the plot")]}},
        {"question": "is it", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
    ]
    examples = read_questions(write("q.jsonl", records), ("question", "context"), "answers")
    assert examples.labels.tolist() == [Answers(("the plot",), (21,)), Answers((), ())]
    task = file_task("question_answering", None, (), None, 9)
    ready = prepare(task, examples, tokenizer, 2)
    windows, places = ready.labels.windows, ready.tokens.labels
    assert places.shape == (len(windows.owner), 2) and len(windows.owner) > 4
    holding = 0
    for window, (first, last) in enumerate(places):
        spans, inside = windows.spans[window], windows.is_context[window]
        start, end = spans[inside].min(), spans[inside].max()
        whole = windows.owner[window] == 0 and start <= 21 and end >= 29
        assert bool(first) == bool(last) == whole
        if whole:
            holding += 1
            assert CONTEXT[spans[first, 0] : spans[last, 1]] == "the plot"
    assert holding >= 1
    assert json.dumps(places.tolist())  # plain integers
