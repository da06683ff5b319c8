"""Answers at the price of the tokens that are kept: `SkimEngine`.

Texts are tokenised, put into batches with others of about their length (`batching.py`), and computed by a runtime (`runtimes.py`). Answers
are exact, whatever the runtime and whatever was calibrated.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.checkpoints.config_file import default_label_names
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.windows import Windows
from transkimmer_jax.data.words import TokenizedWords
from transkimmer_jax.errors import ConfigError, DataError
from transkimmer_jax.forking import require_own_runtime
from transkimmer_jax.inference import inputs as arguments
from transkimmer_jax.inference import ranking
from transkimmer_jax.inference.answers import LONGEST_ANSWER, Answer, SpanAnswer, TaggedText, answered, classified, tagged
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import CALIBRATION_TEXTS, STREAM_WINDOW
from transkimmer_jax.inference.inputs import Text
from transkimmer_jax.inference.predictions import CostCounter, Predictions, Statistics
from transkimmer_jax.inference.reading import Reader
from transkimmer_jax.inference.runtimes import create
from transkimmer_jax.inference.vectors import unit
from transkimmer_jax.models.arguments import require_gates
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel


class SkimEngine:
    """Compacted inference over texts or token ids. Load with `from_pretrained`. Threads may share an engine.

    Args:
      model: skimming or dense, with any of `models.heads`.
      tokenizer: a Hugging Face tokenizer; None where only token ids are given.
      label_names: of the classes, or of a regression's value; None: LABEL_0 and so on.
      max_length: tokens read of a text; None: as many as the model has positions.
      pairs: whether texts come in pairs; None: either.
      settings: of sentence-transformers: an embedder's prompts and columns, a cross-encoder's prompts and scores; None: the defaults.
      doc_stride: of a reader, tokens that two windows of a context share.
      calibration: how many tokens are kept of typical texts at its threshold; None: the runtime finds out, or need not know.
      threshold: of the gates; None takes the checkpoint's, and a dense model has none.
      **options: which runtime computes, and how: see `runtimes.create`.

    Raises:
      CheckpointError: a model that cannot be compacted.
      ConfigError: an argument that cannot be meant, a threshold of a dense model, or options that do not go together.
      InferenceError: this process was forked from one that had computed.
    """

    def __init__(
        self,
        model: TranskimmerPreTrainedModel,
        tokenizer: Any = None,
        *,
        label_names: Sequence[str] | None = None,
        max_length: int | None = None,
        pairs: bool | None = None,
        settings: Settings | None = None,
        doc_stride: int = DataConfig.doc_stride,
        calibration: Calibration | None = None,
        threshold: float | None = None,
        **options: Any,
    ):
        require_own_runtime()
        if not isinstance(model, TranskimmerPreTrainedModel):
            raise ConfigError(f"model must be a loaded model, not {arguments.shown(model)}: SkimEngine.from_pretrained loads a folder")
        self.arch, self.tokenizer = model.arch, tokenizer
        names = arguments.checked_label_names(label_names, self.arch.num_labels)
        self.label_names = None if self.arch.is_regression else names
        self.label_texts = names or default_label_names(self.arch.num_labels)
        self.max_length = arguments.checked_max_length(max_length, self.arch.max_position_embeddings)
        self._reader = Reader(tokenizer, self.max_length)
        self._settings = (settings or Settings()).for_head(self.arch.head)
        self._doc_stride = arguments.checked_size(doc_stride, "doc_stride", 0)
        self.pairs = pairs
        require_gates(self.arch, "this model", threshold)
        self.threshold = arguments.checked_threshold(threshold, self.arch.skim.threshold if self.arch.skim else 0.0)
        self.runtime = create(model, max_length=self.max_length, calibration=calibration, **options)
        self._costs = CostCounter(self.arch, self.runtime.statistics)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, dense: bool | None = None, pooling: str | None = None, **options: Any
    ) -> "SkimEngine":
        """An engine for a model folder (or hub id), calibrated if the folder holds a calibration, with the folder's graph if it holds one.

        Args:
          folder: what training, or `save_pretrained`, has written.
          dense: True leaves skimming out; None does where the checkpoint holds no predictors.
          pooling: 'mean' or 'cls' makes a bare encoder an embedder; None takes what the folder says.
          **options: arguments of `SkimEngine`.

        Raises:
          CheckpointError: a folder that is not a checkpoint, one without a trained head, or one that cannot be compacted.
          ConfigError, InferenceError: as `SkimEngine`.
        """
        require_own_runtime()
        # Here, so that a model in memory and token ids need neither transformers nor safetensors.
        from transkimmer_jax.inference.loading import load

        model, tokenizer, saved = load(folder, dense, pooling, options.get("threshold"), options.get("max_length"))
        return cls(model, tokenizer, **saved | options | {"max_length": saved["max_length"]})

    def predict(self, texts: Sequence[Text], *, threshold: float | None = None, progress: bool = True) -> list[Answer]:
        """A classifier's answers in the order of `texts`: a list, tuple, array or column of strings, or of pairs of strings. None for none.

        Raises:
          DataError: something that is not a string or a pair, or the other of the two than the model was trained on; a single text,
            or an iterator, in place of a list.
          ConfigError: a threshold that is no number, or of a dense model.
          InferenceError: logits that are not finite numbers; no tokenizer; a process that was forked from one that had computed.
        """
        return self._predict(arguments.checked_sequence(texts), 0, threshold, progress)

    def predict_stream(self, texts: Iterable[Text], *, threshold: float | None = None, window: int = STREAM_WINDOW) -> Iterator[Answer]:
        """Answers in the order of `texts`, while they are still coming: `window` of them are grouped by length and answered together.

        Raises, at once or when it comes to a text: as `predict`; ConfigError also for a window of no texts.
        """
        arguments.require_head(self.arch.head, "sequence_classification", "predict_stream")
        stream, window = arguments.checked_stream(texts, self.pairs), arguments.checked_size(window, "window")
        self._threshold(threshold)  # now, not when the first text comes
        windows = iter(lambda: list(itertools.islice(stream, window)), [])
        return (answer for number, texts in enumerate(windows) for answer in self._predict(texts, number * window, threshold, False))

    def encode(
        self,
        inputs: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        threshold: float | None = None,
    ) -> np.ndarray:
        """An embedder's vectors in the order of `inputs`, [N, H] float32, of one text [H]; arguments are those of sentence-transformers.

        Args:
          inputs: a list, tuple, array or column of strings, or one.
          prompt_name: of the folder's prompts, that which stands before each text; None: its default, if it has one.
          prompt: instead, that text itself.
          batch_size: not looked at, since the engine cuts batches by their tokens.
          normalize_embeddings: vectors to length 1, also of a model that does not do so by itself.
          truncate_dim: the first so many columns only; None: as many as the folder says, or all.
          show_progress_bar: None shows one where the logger "transkimmer_jax" shows what is of level INFO, as in the commands.
          convert_to_numpy: True, since vectors are arrays of NumPy.
          convert_to_tensor: False, for the same reason.

        Raises: as `predict`; ConfigError also for a prompt that the folder has not, a dimension that is no size, or tensors.
        """
        threshold = self._begin("sentence_embedding", "encode", threshold)
        before = self.prompt_text(prompt_name, prompt)
        progress = arguments.shows_progress(show_progress_bar)
        columns = self.vector_size if truncate_dim is None else arguments.checked_size(truncate_dim, "truncate_dim")
        if convert_to_tensor or not convert_to_numpy:
            raise ConfigError("encode gives arrays of NumPy: leave convert_to_numpy and convert_to_tensor out, and call torch.from_numpy")
        singles, _ = arguments.checked_texts([inputs] if isinstance(inputs, str) else arguments.checked_sequence(inputs, "inputs"), False)
        if not singles:
            return np.zeros((0, min(columns, self.arch.hidden_size)), np.float32)
        predictions, _ = self.predict_texts([before + text for text in singles], threshold=threshold, progress=progress)
        vectors = self.vectors(predictions, columns)
        if normalize_embeddings:
            vectors = unit(vectors)
        return vectors[0] if isinstance(inputs, str) else vectors

    def encode_query(self, inputs: str | Sequence[str], **options: Any) -> np.ndarray:
        """`encode` behind the prompt 'query', unless another is given. Without such a prompt there is none, not even the default one."""
        return self.encode(inputs, **_behind("query", options))

    def encode_document(self, inputs: str | Sequence[str], **options: Any) -> np.ndarray:
        """`encode` behind the prompt 'document', as `encode_query`. A prompt of another name, as 'passage', has to be given: to
        sentence-transformers every embedder has a prompt 'document', '' where the folder says nothing."""
        return self.encode(inputs, **_behind("document", options))

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        raw_scores: bool | None = None,
        label: str | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Documents by the score that a cross-encoder, a regressor of pairs, gives each with the query, the best first; arguments, fields
        and scores are those of sentence-transformers' cross-encoders.

        Args:
          top_k: the best so many; None: all.
          return_documents: with their texts.
          batch_size: as in `encode`.
          show_progress_bar: as in `encode`.
          raw_scores: logits as they are, which are a regression's values, as text-embeddings-inference has it; None: where the folder asks
            sentence-transformers for them, and there is no label.
          label: of a classifier, the label whose probability is the score.

        Returns:
          corpus_id, the document's number; score, the sigmoid of the one logit or the label's probability, or a raw one; and text where it
          is asked for.

        Raises:
          DataError: as `predict`; also no documents.
          ConfigError: as `predict`; also a label that the model has not.
          InferenceError: as `predict`; also a multi-label classifier, a model that does not give one score, without a label, or one whose
            folder asks for scores that are neither sigmoids nor logits, without raw_scores.
        """
        threshold = self._begin("sequence_classification", "rank", threshold)
        column = ranking.score_column(self.arch, self.label_texts, label)
        if not isinstance(query, str):
            raise DataError(f"query must be a text, not {arguments.shown(query)}")
        documents = arguments.checked_sequence(documents, "documents")
        if not len(documents):
            raise DataError("documents is empty: give at least one to rank")
        most = len(documents) if top_k is None else arguments.checked_size(top_k, "top_k")
        if raw_scores is None and label is None:
            raw_scores = ranking.saved_raw_scores(self._settings)
        progress = arguments.shows_progress(show_progress_bar)
        texts, _ = arguments.checked_texts(documents, False)
        predictions, _ = self.predict_texts([(query, text) for text in texts], threshold=threshold, progress=progress)
        return ranking.ranked(predictions, column, bool(raw_scores), most, texts if return_documents else None)

    def tag(
        self, texts: Sequence[str] | Sequence[Sequence[str]], *, threshold: float | None = None, progress: bool = True
    ) -> list[TaggedText]:
        """A tagger's tags in the order of `texts`: strings, which are divided into words, or lists of words. None for none.

        Of a list of words every word has its tag; one that the model did not read has none.

        Raises: as `predict`; DataError also for words that are no list of strings; InferenceError for a tokenizer that is not a fast one.
        """
        threshold = self._begin("token_classification", "tag", threshold)
        words = self.tokenize_words(texts)
        predictions = self.predict_tokenized(words.examples, threshold=threshold, progress=progress)
        self.runtime.statistics.add(truncated=int(words.examples.truncated.sum()))
        return tagged(predictions, words, self.label_texts)

    def answer(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        doc_stride: int | None = None,
        max_answer_len: int = LONGEST_ANSWER,
        no_answer_threshold: float | None = None,
        threshold: float | None = None,
        progress: bool = False,
    ) -> SpanAnswer | list[SpanAnswer]:
        """The span of a context that answers a question; of two lists of the same length, one answer each. Contexts are read whole, in
        overlapping windows.

        Args:
          doc_stride: tokens that two windows share; None: as many as in training, or 128.
          max_answer_len: tokens of an answer at most.
          no_answer_threshold: there is no answer where that has a score larger by more than this; None: there always is one.

        Raises:
          DataError: as `predict`; also lists of different lengths, a question that leaves no room for a context, a context without a token.
          InferenceError: as `predict`; also a tokenizer that is not a fast one.
        """
        threshold = self._begin("question_answering", "answer", threshold)
        most = arguments.checked_size(max_answer_len, "max_answer_len")
        limit = None if no_answer_threshold is None else arguments.checked_threshold(no_answer_threshold, 0.0, "no_answer_threshold")
        questions, contexts = arguments.checked_questions(question, context)
        read = self.tokenize_questions(questions, contexts, doc_stride=doc_stride)
        predictions = self.predict_tokenized(read.examples, threshold=threshold, progress=progress)
        results = answered(predictions, read, contexts, most, limit)
        return results[0] if isinstance(question, str) else results

    def _begin(self, head: str, method: str, threshold: float | None) -> float:
        """The threshold of a method's call. Raises what all of them raise: another head, a forked process, no threshold."""
        require_own_runtime()
        arguments.require_head(self.arch.head, head, method)
        return self._threshold(threshold)

    def _threshold(self, threshold: float | None) -> float:
        """That of a call; None takes the engine's. Raises `ConfigError` for no number, and for any of a dense model."""
        checked = arguments.checked_threshold(threshold, self.threshold)
        require_gates(self.arch, "this model", threshold)
        return checked

    def _predict(self, texts: Sequence[Text], first: int, threshold: float | None, progress: bool) -> list[Answer]:
        """first: the number of the first text, for messages."""
        threshold = self._begin("sequence_classification", "predict", threshold)
        if not len(texts):
            return []
        predictions, truncated = self.predict_texts(texts, first, threshold=threshold, progress=progress)
        return classified(predictions, truncated, self.label_names, self.arch.multi_label)

    def predict_texts(
        self, texts: Sequence[Text], first: int = 0, *, threshold: float | None = None, progress: bool = False
    ) -> tuple[Predictions, np.ndarray]:
        """What the network says of texts, and which of them were cut, [N] bool. first: the number of the first text, for messages.

        Raises: as `predict`.
        """
        tokenized = self.tokenize(texts, first)
        self.runtime.statistics.add(truncated=int(tokenized.truncated.sum()))
        predictions = self.predict_tokenized(tokenized, threshold=threshold, progress=progress)
        return predictions, tokenized.truncated

    def predict_tokenized(self, examples: TokenizedExamples, *, threshold: float | None = None, progress: bool = False) -> Predictions:
        """Logits and kept tokens of token ids without padding, in their order. Labels are not read.

        Raises:
          DataError: arrays that do not fit each other, or ids that the model has no row for.
          ConfigError: a threshold that is no number, or another than the engine's own of a dense model.
          InferenceError: an example longer than `max_length`, or logits that are not finite; a process that was forked from one that
            had computed.
        """
        require_own_runtime()
        threshold = arguments.checked_threshold(threshold, self.threshold)
        if threshold != self.threshold:
            require_gates(self.arch, "this model", threshold)
        examples = arguments.checked_tokens(examples, self.arch.vocab_size, self.arch.type_vocab_size, self.max_length)
        predictions = self.runtime.predict(examples, threshold, progress)
        self._costs.add(predictions)
        predictions.require_finite()
        return predictions

    def calibrate(self, texts: Sequence[Text] | TokenizedExamples, *, threshold: float | None = None) -> Calibration:
        """Learn from a sample of texts how many tokens to expect at a threshold. Save it by `calibration.save(folder)`.

        Raises: as `predict`; DataError also for no text at all.
        """
        require_own_runtime()
        threshold = self._threshold(threshold)
        sample = texts
        if not isinstance(sample, TokenizedExamples):
            sample = list(itertools.islice(arguments.checked_sequence(texts), CALIBRATION_TEXTS))
        if not len(sample):
            raise DataError("texts is empty: a calibration needs at least one text, better a few hundred")
        examples = sample if isinstance(sample, TokenizedExamples) else self.tokenize(sample)
        predictions = self.predict_tokenized(examples, threshold=threshold)
        calibration = Calibration.of(predictions.lengths, predictions.kept, threshold)
        self.runtime.set_calibration(calibration)
        return calibration

    def warm_up(self, lengths: Sequence[int] | None = None, progress: bool = True) -> None:
        """Do ahead of time what the first texts of these numbers of tokens would wait for, at any threshold; None: of any numbers.

        Raises ConfigError for lengths that the engine does not read.
        """
        require_own_runtime()
        self.runtime.warm_up(arguments.checked_lengths(lengths, self.max_length), progress)

    @property
    def default_prompt(self) -> str:
        """What stands before every text of an embedder that is asked without a prompt, or every first text of a cross-encoder; '' for
        nothing."""
        return self.prompt_text()

    def prompt_text(self, prompt_name: str | None = None, prompt: str | None = None) -> str:
        """What stands before a text that is encoded with these arguments of `encode`; '' for nothing.

        Raises ConfigError for a prompt that the folder has not.
        """
        return arguments.checked_prompt(prompt_name, prompt, self._settings.prompts, self._settings.default_prompt)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """Of the folder's prompts."""
        return tuple(self._settings.prompts)

    @property
    def vector_size(self) -> int:
        """Columns of an embedder's vector, where `encode` is not asked for fewer."""
        return min(self._settings.truncate_dim or self.arch.hidden_size, self.arch.hidden_size)

    def vectors(self, predictions: Predictions, columns: int | None = None) -> np.ndarray:
        """An embedder's vectors [N, K] in its predictions: of so many columns, or of as many as the folder says."""
        return np.ascontiguousarray(predictions.outputs["sentence_embedding"][:, : columns or self.vector_size])

    @property
    def statistics(self) -> Statistics:
        """What was answered so far."""
        self._costs.flush()
        return self.runtime.statistics

    def tokenize(self, texts: Sequence[Text], first: int = 0) -> TokenizedExamples:
        """Texts as the engine reads them, for `predict_tokenized`; of a cross-encoder behind its default prompt. first: the number of the
        first text, for messages.

        Raises: as `predict`.
        """
        singles, seconds = arguments.checked_texts(texts, self.pairs, first)
        return self._reader.tokenize(singles, seconds, self.default_prompt if self.arch.head == "sequence_classification" else "")

    def tokenize_words(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> TokenizedWords:
        """Texts as a tagger reads them, for `predict_tokenized`. Arguments and errors are those of `tag`."""
        return self._reader.tokenize_words(arguments.checked_words(arguments.checked_sequence(texts)))

    def tokenize_questions(self, questions: Sequence[str], contexts: Sequence[str], *, doc_stride: int | None = None) -> Windows:
        """Questions with windows of their contexts, as a reader reads them, for `predict_tokenized`. Arguments and errors are those of
        `answer`."""
        stride = self._doc_stride if doc_stride is None else arguments.checked_size(doc_stride, "doc_stride", 0)
        return self._reader.tokenize_questions(questions, contexts, stride)


def _behind(prompt_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`encode`'s options with this prompt, where they name none."""
    is_given = options.get("prompt_name") is not None or options.get("prompt") is not None
    return options if is_given else options | {"prompt_name": prompt_name}
