"""Small tokenizers of the kinds that differ in what becomes of the space before a word."""

import functools
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORDS = ("the", "film", "is", "good", "?", "bad", "plot")
_SPECIAL = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}


def _of_bytes(add_prefix_space: bool) -> tuple[models.Model, Any]:
    """Byte-level BPE with a piece for each word, at the front and behind a space."""
    vocabulary = {piece: number for number, piece in enumerate([*_SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = []
    for word in _WORDS:
        joined = [(word[:end], word[end]) for end in range(1, len(word))]
        merges += [*joined, ("Ġ", word)]
        for first, second in merges:
            vocabulary.setdefault(first + second, len(vocabulary))
    return models.BPE(vocabulary, merges), pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)


def _of_pieces(**options: Any) -> tuple[models.Model, Any]:
    """A unigram model."""
    pieces = [*_SPECIAL.values(), *("▁" + word for word in _WORDS), *_WORDS, "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return models.Unigram([(piece, -float(len(piece) < 2)) for piece in pieces], unk_id=3), pre_tokenizers.Metaspace(**options)


def _of_bytes_in_a_sequence() -> tuple[models.Model, Any]:
    model, splitter = _of_bytes(False)
    return model, pre_tokenizers.Sequence([pre_tokenizers.Digits(), splitter])


def _of_words() -> tuple[models.Model, Any]:
    vocabulary = {piece: number for number, piece in enumerate([*_SPECIAL.values(), *_WORDS, "##s"])}
    return models.WordPiece(vocabulary, unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()


_MADE = {
    "WordPiece": _of_words,
    "ByteLevel": lambda: _of_bytes(False),  # RoBERTa's, and ModernBERT's
    "ByteLevel in a Sequence": _of_bytes_in_a_sequence,
    "ByteLevel with a space in front": lambda: _of_bytes(True),
    "Metaspace": _of_pieces,
    "Metaspace without a mark in front": lambda: _of_pieces(prepend_scheme="never"),
}
KINDS = tuple(_MADE)


@functools.cache
def tokenizer_of(kind: str) -> Any:
    """One of `KINDS`. Special tokens are by a template, which leaves offsets as they are: that of a word has the space before it."""
    model, splitter = _MADE[kind]()
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=["input_ids", "token_type_ids"], **_SPECIAL)
