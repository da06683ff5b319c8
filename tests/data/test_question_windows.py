"""Questions with their contexts as a reader reads them."""

import numpy as np
import pytest
from data.kinds import KINDS, tokenizer_of

from transkimmer_jax.data.examples import Answers, Examples, objects
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.data.tasks import file_task
from transkimmer_jax.data.windows import windows
from transkimmer_jax.errors import ExampleError
from transkimmer_jax.inference.answers import answered
from transkimmer_jax.inference.predictions import Predictions

QUESTION, CONTEXT = "is the film good?", "the plot is bad  film"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_no_space_in_front(kind):
    """Whatever the tokenizer counts to a word, the answer's characters are those of its words."""
    read = windows([QUESTION], [CONTEXT], tokenizer_of(kind), 32, 0)
    lengths, logits = read.examples.lengths, np.zeros(len(read.examples.input_ids), np.float32)
    for first, last in ((0, 3), (4, 8), (12, 15), (17, 21)):
        token = int(np.flatnonzero(read.is_context[0] & (read.spans[0] == (first, last)).all(axis=1))[0])
        logits[:] = np.arange(len(logits)) == token
        predictions = Predictions({"start_logits": logits, "end_logits": logits}, lengths[None], lengths)
        [answer] = answered(predictions, read, [CONTEXT], 30, None)
        assert (answer.text, answer.start, answer.end) == (CONTEXT[first:last], first, last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["plot is", " plot is", "bad ", "film"])
def test_an_answer_is_trained_at_the_tokens_of_its_words(kind, text):
    """White space around it, or within a token of it, moves neither end."""
    examples = Examples([QUESTION], [CONTEXT], objects([Answers((text,), (CONTEXT.index(text),))]))
    ready = prepare(file_task("question_answering", None, (), None, 32), examples, tokenizer_of(kind), 0)
    [(first, last)], spans = ready.tokens.labels, ready.labels.windows.spans[0]
    assert CONTEXT[spans[first, 0] : spans[last, 1]] == text.strip()
    assert ready.labels.windows.is_context[0][[first, last]].all()


@pytest.mark.parametrize("rest", [" the film", "", "\u200b\n"])
@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("good\u0301", "good\u0301"),  # an accent of its own
        ("good\u064c\u200d\u0301", "good\u064c\u200d\u0301"),
        ("\u200bgood", "good"),
        ("film \u202bgood\u200f\x00 ", "film \u202bgood"),
    ],
)
def test_an_answer_has_characters_that_no_token_has(tokenizer_folder, answer, read, rest):
    """Accents are part of it, and what nobody sees at its ends is not: BERT drops both. Other tokenizers have tokens of them."""
    context = f"is {answer}{rest}"
    examples = Examples([QUESTION], [context], objects([Answers((answer,), (3,))]))
    for tokenizer in (load_tokenizer(tokenizer_folder), tokenizer_of("ByteLevel")):
        ready = prepare(file_task("question_answering", None, (), None, 32), examples, tokenizer, 0)
        [(first, last)], spans = ready.tokens.labels, ready.labels.windows.spans[0]
        assert first > 0 and context[spans[first, 0] : spans[last, 1]] == read


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_of_white_space_holds_no_answer(kind):
    with pytest.raises(ExampleError, match="question 1: its context holds no token"):
        windows([QUESTION, QUESTION], [CONTEXT, "  \n "], tokenizer_of(kind), 32, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_in_windows_is_not_cut(kind):
    """All of it is read, so none of its windows is a text that was longer."""
    read = windows([QUESTION, QUESTION], [CONTEXT * 20, CONTEXT], tokenizer_of(kind), 32, 4)
    assert (read.owner == 0).sum() > 2 and (read.owner == 1).sum() == 1
    assert len(read.examples.truncated) == len(read.owner) and not read.examples.truncated.any()
