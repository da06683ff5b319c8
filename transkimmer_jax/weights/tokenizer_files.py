"""Tokenizers beside a model's weights, as both major versions of transformers read them."""

import json
import pathlib
from typing import Any

_CONFIG = "tokenizer_config.json"
# transformers 5's name for a tokenizer that is all in tokenizer.json, and the name of that which 4, too, knows.
_NEW_CLASS, _COMMON_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def save(tokenizer: Any, folder: pathlib.Path) -> None:
    """Write a Hugging Face tokenizer's files into a folder."""
    tokenizer.save_pretrained(folder)
    path = folder / _CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == _NEW_CLASS:
        path.write_text(json.dumps(config | {"tokenizer_class": _COMMON_CLASS}, indent=2) + "\n", encoding="utf-8")
