"""Tokenizers of folders that this package wrote, by the library `tokenizers` alone: importing transformers takes seconds."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tokenizers

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.checkpoints.tokenizer_files import CONFIG_FILE, STATE_FILE


class SavedTokenizer:
    """The attributes that `data.encodings` needs; for all others it loads transformers' tokenizer of the same folder.

    Args:
      backend: the tokenizer of both.
      config: the tokenizer's tokenizer_config.json.
      load: loads transformers' tokenizer.
    """

    is_fast = True

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any], load: Callable[[], Any]):
        self.backend_tokenizer, self._load = backend, load
        self.split_special_tokens = config.get("split_special_tokens", False)
        self.model_input_names = config["model_input_names"]
        self.truncation_side = config.get("truncation_side", "right")
        self.pad_token_id = backend.token_to_id(_text(config["pad_token"]))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens of an example."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self.backend_tokenizer.get_vocab()

    @functools.cached_property
    def _transformers(self) -> Any:
        return self._load()

    def __call__(self, *texts: Any, **options: Any) -> Any:
        self._transformers.truncation_side = self.truncation_side
        return self._transformers(*texts, **options)

    def __len__(self) -> int:
        return len(self._transformers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a half-made copy, which has nothing to load with
            raise AttributeError(name)
        return getattr(self._transformers, name)


def read(folder: pathlib.Path, load: Callable[[], Any]) -> Any:
    """A `SavedTokenizer` where the folder's digests prove that this package wrote its files; else the result of `load`.

    Transformers merges both files by rules that depend on the class. Where it wrote both itself, tokenizer.json is complete.
    """
    if not {STATE_FILE, CONFIG_FILE} <= set(folders.listed_names(folder)):
        return load()
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return SavedTokenizer(tokenizers.Tokenizer.from_file(str(folder / STATE_FILE)), config, load)
    except Exception:  # the library raises nothing more special; transformers then says what is wrong
        return load()


def _text(token: str | dict[str, Any]) -> str:
    """The text of a token, stored with its settings or without."""
    return token if isinstance(token, str) else token["content"]
