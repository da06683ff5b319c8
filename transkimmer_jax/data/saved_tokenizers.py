"""Tokenizers of folders that this package wrote, by the library `tokenizers` alone: to import transformers takes longer than all that a
short command does with one."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tokenizers

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.checkpoints.tokenizer_files import CONFIG_FILE, STATE_FILE


class SavedTokenizer:
    """What `pipeline.tokenize` asks of a tokenizer; for all else it is transformers' tokenizer of the same folder, which is loaded then.

    Args:
      backend: what both of them read texts with.
      config: the tokenizer's tokenizer_config.json.
      load: gives transformers' tokenizer.
    """

    is_fast = True

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any], load: Callable[[], Any]):
        self.backend_tokenizer, self._load = backend, load
        self.split_special_tokens = config.get("split_special_tokens", False)
        self.model_input_names = config["model_input_names"]
        self.truncation_side = config.get("truncation_side", "right")
        self.pad_token_id = backend.token_to_id(_text(config["pad_token"]))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Tokens of an example that are none of its texts'."""
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
    """A `SavedTokenizer` of a folder whose digests say that its files are as this package wrote them; of any other folder, and of files
    that only transformers may understand, what `load` gives.

    Transformers makes a tokenizer of both files, and which of them says what depends on the class. Where it has written both itself, and
    nobody has changed them, tokenizer.json is the whole of what reads texts.
    """
    if not {STATE_FILE, CONFIG_FILE} <= set(folders.listed_names(folder)):
        return load()
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return SavedTokenizer(tokenizers.Tokenizer.from_file(str(folder / STATE_FILE)), config, load)
    except Exception:  # the library raises nothing more special; transformers then says what is wrong
        return load()


def _text(token: str | dict[str, Any]) -> str:
    """Of a token that is stored with its settings, or without."""
    return token if isinstance(token, str) else token["content"]
