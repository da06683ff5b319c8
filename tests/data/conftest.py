"""A tokenizer small enough to make in a test, and files to read."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["a", "b", "c", "good", "bad", "film", "##s", "the", "is"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL.values(), *WORDS])}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A folder with a WordPiece tokenizer that writes pairs as BERT does."""
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **SPECIAL).save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path: a text as it is, a list as JSON lines."""

    def _write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content), encoding="utf-8")
        return path

    return _write
