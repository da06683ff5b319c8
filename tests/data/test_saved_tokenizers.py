"""A tokenizer of a folder that this package wrote reads as transformers' own of the same folder, and without importing that."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from transkimmer_jax.checkpoints import folders, tokenizer_files
from transkimmer_jax.data import pipeline
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.saved_tokenizers import SavedTokenizer
from transkimmer_jax.errors import CheckpointError

TEXT = ["The film is good, the films are bad.", "Naïve CAFÉ; 漢字 3.14 %", "an unwatchable re-watch"] * 3
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def word_piece(special):
    backend = Tokenizer(models.WordPiece(unk_token=special[1]))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False))
    return backend.get_vocab()


def byte_pairs():
    """Vocabulary and merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=ROBERTA_SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return backend.get_vocab(), [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]


def pieces():
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(letter, -4.0) for letter in "▁abcdefghijklmnopqrstuvwxyzThNCAFÉï漢字.,;%"]
    return [*special, *letters, ("▁the", -2.0), ("▁film", -2.5), ("ood", -3.0)]


@functools.cache
def made(kind):
    """A folder as this package writes it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="transkimmer-test-tokenizer-"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "bert":
        tokenizer = transformers.BertTokenizer(vocab=word_piece(special), do_lower_case=False)
    elif kind == "mpnet":
        tokenizer = transformers.MPNetTokenizer(vocab=word_piece(["<pad>", "[UNK]", "<s>", "</s>", "<mask>"]))
    elif kind == "roberta":
        vocab, merges = byte_pairs()
        tokenizer = transformers.RobertaTokenizer(vocab=vocab, merges=merges)
    elif kind == "xlm-roberta":
        tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces())
    elif kind == "deberta-v2":
        own = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
        tokenizer = transformers.DebertaV2Tokenizer(vocab=own + pieces()[4:])
    elif kind == "camembert":
        tokenizer = transformers.CamembertTokenizer(vocab=pieces())
    else:
        tokenizer = transformers.BertTokenizer(vocab=word_piece(special), truncation_side="left", split_special_tokens=True)
    tokenizer_files.save(tokenizer, folder)
    folders.write_digests(folder)
    return folder


texts = st.lists(st.one_of(st.sampled_from(TEXT), st.text(max_size=40), st.just("[SEP] </s> <mask>film")), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta", "xlm-roberta", "camembert", "deberta-v2", "with settings of its own"])
@settings(max_examples=30, deadline=None)
@given(texts, st.booleans(), st.integers(5, 30))
def test_it_reads_as_transformers_own(kind, texts, pairs, max_length):
    saved, own = pipeline.load_tokenizer(made(kind)), transformers.AutoTokenizer.from_pretrained(made(kind))
    assert isinstance(saved, SavedTokenizer)
    examples = Examples(texts, texts[::-1] if pairs else None, np.zeros(len(texts), np.int32))
    expected = own(texts, texts[::-1] if pairs else None, truncation="longest_first", max_length=max_length)
    no_types = [[0] * len(ids) for ids in expected["input_ids"]]
    for tokenizer in (saved, own):
        read = pipeline.tokenize(examples, tokenizer, max_length)
        for values, rows in ((read.input_ids, expected["input_ids"]), (read.token_type_ids, expected.get("token_type_ids", no_types))):
            assert [part.tolist() for part in np.split(values, read.offsets[1:-1])] == rows
        assert read.truncated.tolist() == [bool(one.overflowing) for one in expected.encodings]


def test_it_is_transformers_own_for_all_else():
    saved, own = pipeline.load_tokenizer(made("bert")), transformers.AutoTokenizer.from_pretrained(made("bert"))
    assert len(saved) == len(own) and saved.get_vocab() == own.get_vocab() and saved.pad_token_id == own.pad_token_id
    assert saved.decode([10, 11]) == own.decode([10, 11]) and saved.all_special_ids == own.all_special_ids
    for side in ("left", "right"):
        saved.truncation_side = own.truncation_side = side
        assert (
            saved("the film is good", truncation=True, max_length=4)["input_ids"]
            == own("the film is good", truncation=True, max_length=4)["input_ids"]
        )


def test_other_folders_are_left_to_transformers(tmp_path):
    tokenizer_files.save(transformers.AutoTokenizer.from_pretrained(made("bert")), tmp_path)
    assert not isinstance(pipeline.load_tokenizer(tmp_path), SavedTokenizer)  # which anybody may have changed
    (tmp_path / "tokenizer_config.json").write_text("{")
    folders.write_digests(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer can be loaded"):
        pipeline.load_tokenizer(tmp_path)


CONFIGS = {
    "mpnet": {"model_type": "mpnet"},
    "roberta": {"model_type": "transkimmer", "backbone": "roberta"},
    "xlm-roberta": {"model_type": "bert", "tokenizer_class": "XLMRobertaTokenizer"},
    "camembert": {"model_type": "camembert"},
    "deberta-v2": {"model_type": "transkimmer", "backbone": "deberta-v2"},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_says_which_tokenizer_a_folder_has_that_does_not(kind, tmp_path):
    """As of hubs' folders whose tokenizer_config.json has no class: special tokens, padding and inputs are the backbone's."""
    shutil.copy(made(kind) / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[kind]))
    read, own = pipeline.load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(made(kind))
    assert type(read) is type(own) and read.pad_token_id == own.pad_token_id and len(read) == len(own)
    assert read(TEXT, TEXT[::-1]).data == own(TEXT, TEXT[::-1]).data


@pytest.mark.parametrize("backbone", [{"model_type": "modernbert"}, {"model_type": "transkimmer", "backbone": "modernbert"}, {}])
@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_a_class_that_would_make_another_tokenizer(name, backbone, tmp_path):
    """Of ModernBERT, and of byte-level folders that name Llama's class, tokenizer.json is read as it is, as `AutoTokenizer` does."""
    text = " ".join(TEXT)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    trained.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "pad_token": "<pad>", "unk_token": "<unk>"}))
    (tmp_path / "config.json").write_text(json.dumps(backbone or {"model_type": "bert"}))
    read = pipeline.load_tokenizer(tmp_path)
    if backbone.get("model_type") != "transkimmer":  # of which `AutoTokenizer` knows nothing
        assert read(text)["input_ids"] == transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    if backbone or name.startswith("Llama"):
        assert read(text)["input_ids"] == trained.encode(text).ids


def test_vocabularies_of_sentencepiece_need_that_package(monkeypatch, tmp_path):
    """As microsoft/deberta-v3-small has one, of which transformers says without the package that tiktoken is missing."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "spm.model").write_bytes(b"pieces")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    with pytest.raises(CheckpointError) as caught:
        pipeline.load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"the tokenizer in {tmp_path}, which has no tokenizer.json, needs sentencepiece, which is not installed: "
        "pip install 'transkimmer_jax[sentencepiece]'"
    )


PROGRAM = """
import sys
from transkimmer_jax.data.pipeline import load_tokenizer
load_tokenizer(sys.argv[1], 1000)
sys.exit("transformers" in sys.modules)
"""


def test_transformers_is_not_imported():
    subprocess.run([sys.executable, "-c", PROGRAM, str(made("bert"))], check=True)
