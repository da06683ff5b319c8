"""Tokenizers beside a model's weights, as both major versions of transformers read them."""

import json
import pathlib
from typing import Any

STATE_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
# transformers 5's name for a tokenizer that is all in tokenizer.json, and the name of that which 4, too, knows.
_NEW_CLASS, _COMMON_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def save(tokenizer: Any, folder: pathlib.Path, **entries: Any) -> None:
    """Write a Hugging Face tokenizer's files into a folder. entries: of its config, in place of the tokenizer's own.

    The config also says which inputs the tokenizer gives, which its class tells otherwise (`data.saved_tokenizers` knows none)."""
    tokenizer.save_pretrained(folder)
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8")) | {"model_input_names": list(tokenizer.model_input_names)} | entries
    if config.get("tokenizer_class") == _NEW_CLASS:
        config["tokenizer_class"] = _COMMON_CLASS
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
