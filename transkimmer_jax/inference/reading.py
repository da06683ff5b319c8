"""Tokenization of an engine's inputs, one thread at a time."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.windows import Windows, windows
from transkimmer_jax.data.words import TokenizedWords, tokenize_words
from transkimmer_jax.errors import InferenceError


class Reader:
    """A tokenizer that threads share: its settings are its own, and each way of reading sets them anew.

    tokenizer: None: every call raises `InferenceError`. max_length: tokens read of a text.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        self._tokenizer, self._max_length = tokenizer, max_length
        self._lock = threading.Lock()

    def tokenize(self, texts: list[str], seconds: list[str] | None, prompt: str) -> TokenizedExamples:
        """Texts, or pairs of texts, behind a prompt. Raises `InferenceError` without a tokenizer."""
        from transkimmer_jax.data import pipeline
        from transkimmer_jax.data.examples import Examples

        if self._tokenizer is None:
            raise InferenceError("this engine has no tokenizer: give one, or call predict_tokenized")
        examples = Examples(texts, seconds, np.zeros(len(texts), np.int32)).behind(prompt)
        with self._lock:
            return pipeline.tokenize(examples, self._tokenizer, self._max_length)

    def tokenize_words(self, texts: list[Any]) -> TokenizedWords:
        """Strings or lists of words. Raises `InferenceError` for a tokenizer that is not a fast one."""
        tokenizer = self._fast_tokenizer()
        with self._lock:
            return tokenize_words(texts, tokenizer, self._max_length)

    def tokenize_questions(self, questions: Sequence[str], contexts: Sequence[str], stride: int) -> Windows:
        """Questions with windows of their contexts, which share `stride` tokens. Raises as `tokenize_words`."""
        tokenizer = self._fast_tokenizer()
        with self._lock:
            return windows(questions, contexts, tokenizer, self._max_length, stride)

    def _fast_tokenizer(self) -> Any:
        if self._tokenizer is None or not self._tokenizer.is_fast:
            raise InferenceError("words and spans need a fast tokenizer, which tells where tokens lie: give one, of a tokenizer.json")
        return self._tokenizer
