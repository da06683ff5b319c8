"""Tokens of all heads are transformers' own, in chunks of arrays."""

import dataclasses
import json
import types

import numpy as np
import pytest
import transformers
from data.kinds import tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.data import encodings, pipeline
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.windows import windows
from transkimmer_jax.data.words import NO_WORD, character_spans, tokenize_words
from transkimmer_jax.errors import CheckpointError

TEXTS = ["the film", "is the plot good? " * 5, "bad", "the film is bad " * 4, "is it", "good film", "the plot is bad " * 6]
READ = {
    "texts": lambda texts, tokenizer: {"examples": pipeline.tokenize(Examples.without_labels(texts), tokenizer, 16)},
    "words": lambda texts, tokenizer: _fields(tokenize_words(texts, tokenizer, 16)),
    "lists of words": lambda texts, tokenizer: _fields(tokenize_words([text.split() for text in texts], tokenizer, 16)),
    # Questions of several lengths: windows overlap by less where there is no room.
    "questions": lambda texts, tokenizer: _fields(windows([text[:20] for text in texts], texts, tokenizer, 16, 4)),
}
# Characters that tokenizers treat in ways of their own: pieces, scripts, combining marks, what normalisation deletes, widens or joins,
# spaces of all kinds, and special tokens, whole and in parts.
ATOMS = [
    "a", "the ", "unaffable", "Film", "x1", "don't", ".", "!?", "=", "電影", "ﾊﾞ", "한국", "\u1112\u1161\u11ab", "नमस्ते", "שלום", "e\u0301",
    "\u0301", "\u0323\u0307", "é", "ß", "İ", "ﬁ", "㍿", "😀", "👨\u200d👩", "\u200b", "\u00ad", "\x00", "\ufeff", "\ufffd", " ", "  ", "\t",
    "\r\n", "\u00a0", "\u3000", "[SEP]", "[SE", "P]", "[MASK]", "<mask>", "<s>", "</", "s>", "▁", "##s",
]  # fmt: skip
RUNS = st.builds(lambda atom, count: atom * count, st.sampled_from(["a", "Z9", "好", "!", "ab ", "☃"]), st.integers(90, 300))
MIXED = st.lists(st.one_of(st.sampled_from(ATOMS), RUNS), max_size=40).map("".join)
NAMES = ("minilm-6l", "e5-small-12l", "camembert", "deberta-v2", "xlm-roberta")


def _with_pieces(make, folder, special, **options):
    """A tokenizer with the steps that transformers gives its kind, and real pieces behind its own special tokens."""
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return make(vocab=[*((token, 0.0) for token in special), *map(tuple, pieces[4:])], **options)


@pytest.fixture(scope="module")
def tokenizers(minilm, e5_small):
    roberta = ("<s>", "<pad>", "</s>", "<unk>")
    mask = transformers.AddedToken("<mask>", lstrip=True, special=True)
    return {
        "minilm-6l": pipeline.load_tokenizer(minilm),
        "e5-small-12l": pipeline.load_tokenizer(e5_small),
        "camembert": _with_pieces(transformers.CamembertTokenizer, e5_small, roberta),
        "deberta-v2": _with_pieces(transformers.DebertaV2Tokenizer, e5_small, ("[PAD]", "[CLS]", "[SEP]", "[UNK]")),
        "xlm-roberta": _with_pieces(transformers.XLMRobertaTokenizer, e5_small, roberta, mask_token=mask),
    }


@pytest.fixture
def short_prefixes(monkeypatch):
    monkeypatch.setattr(encodings, "_LEAST_CHARACTERS", 600)


def _assert_transformers_tokens(tokenizer, text, pair, max_length):
    read = pipeline.tokenize(Examples.without_labels([text], None if pair is None else [pair]), tokenizer, max_length)
    own = tokenizer([text], None if pair is None else [pair], truncation="longest_first", max_length=max_length)
    assert read.input_ids.tolist() == own["input_ids"][0] and read.truncated.tolist() == [bool(own.encodings[0].overflowing)]
    assert read.token_type_ids.tolist() == own.get("token_type_ids", [[0] * len(read.input_ids)])[0]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(text=MIXED, pair=st.none() | MIXED, max_length=st.integers(6, 24))
def test_tokens_are_transformers_own(tokenizers, name, text, pair, max_length):
    if pair is not None:  # transformers keeps every overflowing piece of one text with every piece of the other
        text, pair = text[:300], pair[:300]
    _assert_transformers_tokens(tokenizers[name], text, pair, max_length)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("atom", ["the film ", "電影好", "0af9", "good, bad. ", "😀 ", "a.b/c?d=e&", "\x00good "])
def test_prefix_of_a_long_text_decides_its_tokens(short_prefixes, tokenizers, name, atom):
    tokenizer = tokenizers[name]
    read = pipeline.tokenize(Examples.without_labels([atom * 1000]), tokenizer, 16)
    assert read.input_ids.tolist() == tokenizer(atom * 1000, truncation=True, max_length=16)["input_ids"]
    for pair in ((atom * 400, "the film"), ("the film", atom * 400)):
        read = pipeline.tokenize(Examples.without_labels([pair[0]], [pair[1]]), tokenizer, 16)
        assert read.input_ids.tolist() == tokenizer(*pair, truncation="longest_first", max_length=16)["input_ids"]


MEGABYTES = ["a" * 4_000_000, " " * 4_000_000 + "film", "\x00" * 4_000_000, "good " * 800_000, "e" + "\u0301" * 2_000_000]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", MEGABYTES, ids=["letter", "spaces", "zeros", "words", "accents"])
def test_only_a_prefix_of_megabytes_is_tokenised(tokenizers, name, text, monkeypatch):
    """Texts, pairs and words; the rest counts as truncated."""
    asked, backend = [], encodings.encode
    monkeypatch.setattr(pipeline, "encode", lambda tokenizer, inputs, *rest: asked.extend(inputs) or backend(tokenizer, inputs, *rest))
    for pairs in (None, [text]):
        assert pipeline.tokenize(Examples.without_labels([text], pairs), tokenizers[name], 32).lengths.max() <= 32
    assert max(len(one) for entry in asked for one in (entry if isinstance(entry, tuple) else [entry])) == 32 * 32 + 4096
    assert pipeline.tokenize(Examples.without_labels([text]), tokenizers[name], 32).truncated.all()
    assert tokenize_words([text], tokenizers[name], 32).examples.truncated.all()


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(text=MIXED, max_length=st.integers(4, 24))
def test_words_have_transformers_numbers_and_characters(tokenizers, name, text, max_length):
    tokens = tokenize_words([text], tokenizers[name], max_length)
    [whole] = tokenizers[name]([text], truncation=True, max_length=max_length).encodings
    assert tokens.examples.input_ids.tolist() == whole.ids and tokens.examples.truncated.tolist() == [bool(whole.overflowing)]
    assert tokens.word_of.tolist() == [NO_WORD if word is None else word for word in whole.word_ids]
    places = character_spans(text, [whole.word_to_chars(word) for word in sorted(set(whole.word_ids) - {None})]).tolist()
    assert tokens.words(0) == [(text[start:end], (start, end)) for start, end in places]


def _fields(read):
    return {field.name: getattr(read, field.name) for field in dataclasses.fields(read)}


@pytest.mark.parametrize("kind", ["WordPiece", "ByteLevel"])
@pytest.mark.parametrize("what", READ)
def test_chunks_are_read_as_single_examples(monkeypatch, what, kind):
    """Windows know their question's number among all."""
    monkeypatch.setattr(encodings, "_CHUNK", 3)
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


def test_a_slow_tokenizer_is_refused():
    slow = types.SimpleNamespace(is_fast=False, model_input_names=(), num_special_tokens_to_add=lambda pair: 2, truncation_side="right")
    with pytest.raises(CheckpointError, match="a slow tokenizer"):
        READ["texts"](TEXTS, slow)
