"""The models that a server has, what each of them answers, and how they read texts."""

import concurrent.futures
import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.data.windows import Windows
from transkimmer_jax.data.words import TokenizedWords
from transkimmer_jax.errors import CheckpointError, ConfigError, TranskimmerError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.serving import errors

logger = logging.getLogger(__name__)

CLASSIFIER, RERANKER, EMBEDDER, TAGGER, READER = "classifier", "reranker", "embedding", "tagger", "reader"
SIDES = ("left", "right")  # of a text that is cut
_KINDS = {"sentence_embedding": EMBEDDER, "token_classification": TAGGER, "question_answering": READER}


@dataclasses.dataclass(frozen=True)
class Reading:
    """Texts as tokens. words, windows: of a tagger, of a reader."""

    examples: TokenizedExamples
    words: TokenizedWords | None = None
    windows: Windows | None = None


class ServedModel:
    """An engine with a name.

    Only one thread at a time may have it read (a tokenizer is set for each call), and only one have it compute.

    Args:
      name: by which requests ask for it.
      folder: or hub id, that it is from.
      make: an engine for that folder, with further options of `SkimEngine`.
      precision: that it computes in; None: the model's.
    """

    def __init__(self, name: str, folder: str, make: Callable[..., SkimEngine], precision: str | None = None):
        self.name, self.folder, self._make = name, folder, make
        self._files = _files(folder)
        self.engine = make()
        self._token_engine: SkimEngine | None = None
        self._loading: concurrent.futures.Future[str | None] | None = None
        self._start = threading.Lock()
        self.precision = precision or self.engine.arch.compute_dtype
        arch = self.engine.arch
        # As to transformers, which takes another model with one output for a classifier whose score is a sigmoid.
        self.is_called_regression = arch.is_regression and config_file.read(resolve(folder)).values.get("problem_type") == "regression"
        self.kind = _KINDS.get(arch.head) or (RERANKER if arch.is_regression else CLASSIFIER)

    def load_token_engine(self) -> "concurrent.futures.Future[str | None]":
        """Have the engine that gives states of tokens as well, which the first call starts to load. None: it is there; else why it is not.

        A thread of its own loads it, for which neither other requests nor the end of the process wait. A failure stays, since each further
        try would read the whole model again. A folder that holds another model by now is one, since both engines answer for one model.
        """
        with self._start:
            if self._loading is None:
                self._loading = concurrent.futures.Future()
                self._loading.set_running_or_notify_cancel()  # so that no request that gives up can cancel it
                threading.Thread(target=self._load, args=(self._loading,), name="loading", daemon=True).start()
            return self._loading

    def _load(self, loading: "concurrent.futures.Future[str | None]") -> None:
        failure = None
        try:
            engine = self._make(token_embeddings=True)
            if _files(self.folder) != self._files:
                raise CheckpointError(f"{self.folder} has changed since {self.name!r} was loaded: restart the server")
            engine.warm_up(progress=False)  # here, where nobody else waits for what is compiled
            self._token_engine = engine
        except TranskimmerError as error:
            failure = str(error)
        except Exception as error:
            logger.error("an engine did not load", exc_info=error)
            failure = f"the engine of {self.name!r} for tokens did not load: the server's log says why"
        loading.set_result(failure)

    @property
    def is_loading(self) -> bool:
        """Whether the engine that gives states of tokens is being loaded."""
        return self._loading is not None and not self._loading.done()

    def engine_for(self, tokens: bool) -> SkimEngine:
        """The engine, or that which `load_token_engine` has loaded."""
        if not tokens:
            return self.engine
        assert self._token_engine is not None
        return self._token_engine

    def read(self, inputs: Sequence[Any], how: str) -> Reading:
        """Inputs as tokens; `how` as of `jobs.Job`. Raises `TranskimmerError` for what cannot be read."""
        if how == "words":
            words = self.engine.tokenize_words(inputs)
            return Reading(words.examples, words=words)
        if how == "questions":
            windows = self.engine.tokenize_questions([question for question, _ in inputs], [context for _, context in inputs])
            return Reading(windows.examples, windows=windows)
        tokenizer = self.engine.tokenizer
        side = tokenizer.truncation_side
        tokenizer.truncation_side = how if how in SIDES else side
        try:
            return Reading(self._tokenized(inputs))
        finally:
            tokenizer.truncation_side = side

    def _tokenized(self, inputs: Sequence[Any]) -> TokenizedExamples:
        """Texts, pairs, or both of a model that reads either."""
        is_pair = np.array([isinstance(text, tuple) for text in inputs])
        if self.engine.pairs is not None or is_pair.all() or not is_pair.any():
            return self.engine.tokenize(inputs)
        rows = [np.flatnonzero(~is_pair), np.flatnonzero(is_pair)]
        parts = [self.engine.tokenize([inputs[row] for row in part.tolist()]) for part in rows]
        return concatenated(parts).take(np.argsort(np.concatenate(rows)))

    def tokens(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[dict[str, Any]]]:
        """What the tokenizer makes of texts, not cut: id, text, special, start and stop of every token. Raises `RequestError` for a
        tokenizer that does not tell where tokens lie."""
        if not self.engine.tokenizer.is_fast:
            raise errors.other_model(f"{self.name!r} has a slow tokenizer, which does not tell where tokens lie")
        encoded = self.engine.tokenizer(list(texts), add_special_tokens=add_special_tokens, truncation=False)
        answers = []
        for text, one in zip(texts, encoded.encodings, strict=True):
            entries = []
            for number, name, special, (start, stop) in zip(one.ids, one.tokens, one.special_tokens_mask, one.offsets, strict=True):
                place = {"start": None, "stop": None} if special else {"start": start, "stop": stop}
                entries.append({"id": number, "text": name if special else text[start:stop], "special": bool(special), **place})
            answers.append(entries)
        return answers

    def texts_read(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Token ids as the texts that are read of them: without the special tokens around them, which every text gets, but with those
        within, as that of an unknown word. Raises `RequestError` as `texts_of`."""
        tokenizer = self.engine.tokenizer
        around = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        inner = []
        for row in ids:
            places = [place for place, number in enumerate(row) if number not in around]
            inner.append(row[places[0] : places[-1] + 1] if places else [])
        return self.texts_of(inner, False)

    def texts_of(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        """Token ids as texts. Raises `RequestError` for one that is none of the tokenizer's."""
        size = len(self.engine.tokenizer)
        wrong = next((number for row in ids for number in row if not 0 <= number < size), None)
        if wrong is not None:
            raise errors.invalid(f"{wrong} is no token id: they go from 0 to {size - 1}")
        return [self.engine.tokenizer.decode(list(row), skip_special_tokens=skip_special_tokens) for row in ids]

    @property
    def sample(self) -> tuple[Any, str]:
        """A short input, and how it is read."""
        how = {READER: "questions", TAGGER: "words"}.get(self.kind, "texts")
        return ("warm", "up") if self.kind == READER or self.engine.pairs else "warm", how

    def warm_up(self) -> None:
        """Do ahead of time what the first request would wait for."""
        self.engine.warm_up(progress=False)
        self.engine.tokenizer("warm")  # which transformers may have to be imported for
        text, how = self.sample
        self.engine.predict_tokenized(self.read([text], how).examples)

    def described(self) -> dict[str, Any]:
        """The model's part of /info, as text-embeddings-inference has it."""
        arch = self.engine.arch
        if self.kind == EMBEDDER:
            model_type: dict[str, Any] = {EMBEDDER: {"pooling": arch.pooling.mode}}
        elif self.kind == READER:
            model_type = {READER: {}}
        else:
            names = self.engine.label_texts
            by_id = {str(number): name for number, name in enumerate(names)}
            model_type = {self.kind: {"id2label": by_id, "label2id": {name: number for number, name in enumerate(names)}}}
        return {
            "model_id": self.name,
            "model_sha": None,
            "model_dtype": self.precision,
            "model_type": model_type,
            "max_input_length": self.engine.max_length,
            "skims": arch.skim is not None,
            "threshold": self.engine.threshold if arch.skim is not None else None,
            "prompts": list(self.engine.prompt_names),
        }


def _files(folder: str) -> list[tuple[str, int, int, int]]:
    """A folder's config and weights, by what changes where somebody writes them anew: their place, size and time."""
    files = (file for file in resolve(folder).iterdir() if file.name == config_file.CONFIG_FILE or file.suffix in (".safetensors", ".bin"))
    statuses = {file.name: file.stat() for file in sorted(files)}
    return [(name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in statuses.items()]


class Models:
    """All models of a server, in the order of the command line.

    Raises:
      ConfigError: none, or two of one name.
    """

    def __init__(self, models: Sequence[ServedModel]):
        self._by_name = {model.name: model for model in models}
        if not models or len(self._by_name) != len(models):
            raise ConfigError("a server needs models, each with a name of its own: give --model NAME=FOLDER")

    def __iter__(self):
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> ServedModel:
        """The model of that name. Raises `RequestError` where there is none."""
        if name not in self._by_name:
            raise errors.unknown_model(f"no model {name[:60]!r} here: there are {', '.join(map(repr, self._by_name))}")
        return self._by_name[name]

    def choose(self, in_path: str | None, in_body: str | None, answers: Callable[[ServedModel], int], route: str) -> ServedModel:
        """Which model answers a request: of those that do so best the first.

        Args:
          in_path: that the path names. in_body: that the body names; read where there are several, since clients of servers with one send
            any name.
          answers: how well a model answers such a request: 0 not at all.

        Raises:
          RequestError: a model that is not there, or that does not answer such requests.
        """
        name = in_path if in_path is not None else in_body if len(self) > 1 else None
        candidates = list(self) if name is None else [self.named(name)]
        chosen = max(candidates, key=answers)
        if not answers(chosen):
            kinds = ", ".join(f"{model.name!r} is of kind {model.kind}" for model in candidates)
            raise errors.other_model(f"no model here answers {route}: {kinds}")
        return chosen
