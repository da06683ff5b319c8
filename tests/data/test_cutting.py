"""The law of `data/cutting.py`: the tokens that are read of a cut text are those of the whole text."""

import io
import json
import random

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transkimmer_jax.data import cutting
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.words import NO_WORD, character_spans, tokenize_words
from transkimmer_jax.errors import DataError

# What tokenizers treat in ways of their own: words, pieces of words, punctuation, ideographs, scripts, combining marks in and out of order,
# what normalisation deletes, widens, joins or makes spaces of, spaces of all kinds, and added tokens, whole and in parts.
ATOMS = [
    "a", "the", "unaffable", "Film", "x1", "don't", ".", "!?", "-", "=", "好", "電影", "こん", "カ", "ﾊﾞ", "한국", "\u1112\u1161\u11ab",
    "привет",
    "ไทย", "नमस्ते", "שלום", "e\u0301", "\u0301", "\u0323\u0307", "=\u0338", "é", "ß", "İ", "ﬁ", "①", "㍿", "ﷺ", "\u00a8", "😀", "👨\u200d👩",
    "\u200b", "\u00ad", "\x00", "\x1b", "\ufeff", "\ufffd", "\u0378", "\u0600", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028",
    "[SEP]", "[SE", "P]", "[MASK]", "<mask>", "<ma", "<s>", "\uff1cs\uff1e", "</", "s>", "▁", "##s", "🄰",
]  # fmt: skip
RUNS = st.builds(
    lambda atom, count: atom * count,
    st.sampled_from(["a", "Z9", "é", "好", " ", "\n", "!", "\x00", "☃", "ab", "\u0301"]),
    st.integers(90, 300),
)
TEXTS = st.lists(st.one_of(st.sampled_from(ATOMS), st.sampled_from(["a ", "the ", "film "]), RUNS), max_size=60).map("".join)
NAMES = ("minilm-6l", "e5-small-12l", "camembert", "deberta-v2")


def with_pieces(make, folder, special, **options):
    """A tokenizer with the steps that transformers gives its kind, and real pieces behind its own special tokens."""
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return make(vocab=[*((token, 0.0) for token in special), *map(tuple, pieces[4:])], **options)


@pytest.fixture(scope="module")
def tokenizers(minilm, e5_small):
    return {
        "minilm-6l": load_tokenizer(minilm),
        "e5-small-12l": load_tokenizer(e5_small),
        "camembert": with_pieces(transformers.CamembertTokenizer, e5_small, ("<s>", "<pad>", "</s>", "<unk>")),
        "deberta-v2": with_pieces(transformers.DebertaV2Tokenizer, e5_small, ("[PAD]", "[CLS]", "[SEP]", "[UNK]")),
    }


@pytest.fixture(scope="module")
def sentencepiece_table():
    """What SentencePiece makes of characters in XLM-R and CamemBERT."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers.convert_slow_tokenizer import import_protobuf

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the film is good"] * 9), model_writer=written, vocab_size=16, normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = import_protobuf().ModelProto()
    model.ParseFromString(written.getvalue())
    return model.normalizer_spec.precompiled_charsmap


@pytest.fixture(scope="module")
def xlm_roberta(sentencepiece_table, e5_small):
    special, mask = ("<s>", "<pad>", "</s>", "<unk>"), transformers.AddedToken("<mask>", lstrip=True, special=True)
    return with_pieces(transformers.XLMRobertaTokenizer, e5_small, special, mask_token=mask, _spm_precompiled_charsmap=sentencepiece_table)


@pytest.fixture(autouse=True, scope="module")
def small_prefixes():
    """Texts are cut that are short enough to be generated."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_FIRST_PREFIX": 1, "_GROWTH": 2, "_NEVER_CUT": 0, "_NEVER_CUT_TOKENS": 0, "_DIVIDED_FROM": 32}.items():
            patch.setattr(cutting, name, value)
        yield


def read(tokenizer, text, pair, max_length):
    encoded = tokenizer([text], None if pair is None else [pair], truncation="longest_first", max_length=max_length)
    return encoded["input_ids"], encoded.get("token_type_ids"), bool(encoded.encodings[0].overflowing)


def assert_same(tokenizer, text, pair, max_length):
    """The prefixes, having compared what is read of them."""
    texts, pairs = cutting.Cutter(tokenizer, max_length).cut([text], None if pair is None else [pair])
    cut = texts[0], None if pairs is None else pairs[0]
    assert read(tokenizer, *cut, max_length) == read(tokenizer, text, pair, max_length)
    return cut


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(text=TEXTS, max_length=st.integers(4, 24))
def test_single_texts(tokenizers, name, text, max_length):
    assert_same(tokenizers[name], text, None, max_length)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS, pair=TEXTS, max_length=st.integers(6, 24))
@example(text="aatheunaffableunaffablea " + "a" * 168, pair="a" * 90 + "ﾊﾞa unaffablea " + "a" * 90, max_length=6)
def test_pairs(tokenizers, name, text, pair, max_length):
    """Also which of two long ones gets the odd token."""
    assert_same(tokenizers[name], text, pair, max_length)


@settings(deadline=None, max_examples=60)
@given(text=TEXTS, pair=st.none() | TEXTS, max_length=st.integers(6, 24))
def test_characters_as_sentencepiece_reads_them(xlm_roberta, text, pair, max_length):
    assert_same(xlm_roberta, text, pair, max_length)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(text=TEXTS, max_length=st.integers(4, 24))
def test_words_lie_where_they_lie_in_the_whole_text(tokenizers, name, text, max_length):
    """Which a tagger tells, so nothing within a text is shortened."""
    tokens = tokenize_words([text], tokenizers[name], max_length)
    [whole] = tokenizers[name]([text], truncation=True, max_length=max_length).encodings
    assert tokens.examples.input_ids.tolist() == whole.ids and tokens.examples.truncated.tolist() == [bool(whole.overflowing)]
    assert tokens.word_of.tolist() == [NO_WORD if word is None else word for word in whole.word_ids]
    places = character_spans(text, [whole.word_to_chars(word) for word in sorted(set(whole.word_ids) - {None})]).tolist()
    assert tokens.words(0) == [(text[start:end], (start, end)) for start, end in places]


@pytest.mark.parametrize("name", NAMES)
def test_prefixes_are_short(tokenizers, name):
    """However long the text, and whatever it is made of: else the law would hold for a cutter that cuts nothing."""
    rng = random.Random(0)
    kinds = {
        "words": "".join(rng.choice(["the film ", "is good, ", "and very long. "]) for _ in range(2000)),
        "ideographs": "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(5000)),
        "one letter": 5000 * "a",
        "lines": 2000 * "good film\n",
        "spaces": 20000 * " " + 200 * "good film " + 20000 * " ",
        "blob": "good " + 2000 * "0af9" + 200 * " film good",
    }
    for kind, text in kinds.items():
        cut, _ = assert_same(tokenizers[name], text, None, 16)
        if name == "minilm-6l" or kind != "one letter":  # of which no piece is certain before the last
            assert len(cut) < 2500, kind
    for first in ("words", "ideographs"):
        for second in ("words", "ideographs"):
            [cut], others = cutting.Cutter(tokenizers[name], 17).cut([kinds[first]], [kinds[second]])
            assert others is not None and len(cut) + len(others[0]) < 5000, (first, second)
            # Shorter ones, as a tokenizer makes all pairs of what overflows: of the whole ones many gigabytes.
            assert_same(tokenizers[name], kinds[first][:800], kinds[second][:800], 17)


def test_a_tokenizer_with_other_steps_reads_texts_whole(tokenizers, tokenizer_folder):
    from tokenizers import normalizers, pre_tokenizers

    text = 1000 * "good film "
    for change in (
        {"normalizer": normalizers.Prepend("x")},
        {"normalizer": normalizers.Replace("d f", "x")},
        {"pre_tokenizer": pre_tokenizers.Metaspace(split=False)},
        {"pre_tokenizer": pre_tokenizers.Digits()},
    ):
        tokenizer = load_tokenizer(tokenizer_folder)
        ((name, step),) = change.items()
        setattr(tokenizer.backend_tokenizer, name, step)
        assert cutting.Cutter(tokenizer, 8).cut([text], None) == ([text], None)
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.truncation_side = "left"
    assert cutting.Cutter(tokenizer, 8).cut([text], None) == ([text], None)
    tokenizer.truncation_side = "right"
    tokenizer.add_tokens(["good film"])
    assert cutting.Cutter(tokenizer, 8).cut([text], None) == ([text], None), "a token with a space in it"


def test_millions_of_characters_without_a_token(tokenizers, monkeypatch):
    monkeypatch.setattr(cutting, "_MOST", 5000)
    for text in (6000 * "\x00", 6000 * "é"):
        with pytest.raises(DataError, match=r"a text of 6,000 characters that begins with '.* has fewer tokens than are read in 5,000"):
            cutting.Cutter(tokenizers["minilm-6l"], 8).cut([text], None)
