"""Answers at the price of the tokens that are kept: `SkimEngine`.

Texts are tokenised, grouped by length and packed into batches of near equal numbers of tokens (`batching.py`), which run through the
network's stages (`call.py`) in compiled programs (`programs.py`). Answers are exact whatever was calibrated.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from transkimmer_jax.compilation import use_compilation_cache
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import ConfigError, InferenceError
from transkimmer_jax.forking import require_own_runtime
from transkimmer_jax.inference import inputs
from transkimmer_jax.inference.batching import Batching, Sizes
from transkimmer_jax.inference.call import IN_FLIGHT, Call, Statistics
from transkimmer_jax.inference.first import FirstMargins
from transkimmer_jax.inference.inputs import Text
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.programs import Programs
from transkimmer_jax.inference.schedule import Calibration, default_batch_tokens, enough_rows, granule
from transkimmer_jax.inference.staging import stages
from transkimmer_jax.models.encoder import Stage
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.progress import tqdm

STREAM_WINDOW = 4096  # texts of a stream that are read, grouped by length and answered together: what is in memory at a time
_CALIBRATION_TEXTS = 512
# What programs need in rows of states (tests/inference/test_memory_law.py). A dense one: for each of its rows, and for each place of its
# sequences padded to the bucket's width, where attention has queries, keys, values and what comes of them. One for chosen tokens at most,
# for each of its rows, beside the states that go in: temporaries and the states that come out, of one layer or of several, and where states
# wait, what is in memory twice for a while when they are taken and copied.
_OF_A_ROW, _OF_A_PLACE = 2, 4
_OF_ONE_LAYER, _OF_LAYERS, _TAKEN = 7, 8.5, 2
_LOOKED_UP, _LOOKED_UP_ALONE = 1 / 8, 1 / 2  # of the memory that is spare, the part for looked-up decisions; and where no states wait


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the engine says of one text.

    label: the class with the highest logit; for regression the value. logits: [num_labels] float32. probabilities: of each
    class by name; None for regression. tokens: of the text as the model read it. kept: share of them that the layers computed,
    averaged over layers. truncated: the text was longer than the model reads.
    """

    label: str | float
    logits: np.ndarray
    probabilities: dict[str, float] | None
    tokens: int
    kept: float
    truncated: bool


class SkimEngine:
    """Compacted inference over texts or token ids. Load with `from_pretrained`.

    Args:
      model: a sequence classifier, skimming or dense.
      tokenizer: a Hugging Face tokenizer; None where only token ids are given.
      label_names: of the classes; None for regression.
      max_length: tokens read of a text; None: as many as the model has positions.
      pairs: whether texts come in pairs; None: either.
      calibration: how many tokens are kept of typical texts; None: an assumption, until `calibrate` is called.
      batch_tokens: tokens of a batch on each device; the default suits a CPU, and accelerators get four times as many.
      batch_size: instead, a batch holds as many tokens as this number of texts of its bucket's greatest length; behind the first decisions,
        where these are looked up, all as many as of the longest texts (of which there are enough for two batches), or half as many as of
        the very longest where states wait between stages, as far as more rows make it faster.
      devices: None: all local ones, each of which computes batches of its own.
      threshold: of the gates; None takes the checkpoint's.
      depths: also report how many layers computed each token.
      rebatch: look up which tokens enter the first layer, and make batches anew behind the layers where texts like the calibration's then
        cost less. The states of those that are left go through the host's memory, which a CPU has them in anyway; None: on a CPU only.

    Raises:
      CheckpointError: a model that cannot be compacted.
      ConfigError: an argument that cannot be meant.
      InferenceError: this process was forked from one that had computed.
    """

    def __init__(
        self,
        model: TranskimmerForSequenceClassification,
        tokenizer: Any = None,
        *,
        label_names: Sequence[str] | None = None,
        max_length: int | None = None,
        pairs: bool | None = None,
        calibration: Calibration | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        devices: list[jax.Device] | None = None,
        threshold: float | None = None,
        depths: bool = False,
        rebatch: bool | None = None,
    ):
        require_own_runtime()
        if not isinstance(model, TranskimmerForSequenceClassification):
            raise ConfigError(f"model must be a loaded model, not {inputs.shown(model)}: SkimEngine.from_pretrained loads a folder")
        if calibration is not None and not isinstance(calibration, Calibration):
            raise ConfigError(f"calibration must be a Calibration, not {inputs.shown(calibration)}: Calibration.load reads a folder's")
        model.require_compactable()
        use_compilation_cache()
        self.arch, self._tokenizer = model.arch, tokenizer
        self.label_names = inputs.checked_label_names(label_names, self.arch.num_labels)
        self.max_length = inputs.checked_max_length(max_length, self.arch.max_position_embeddings)
        self._pairs = inputs.checked_flag(pairs, "pairs")
        self.threshold = inputs.checked_threshold(threshold, self.arch.skim.threshold if self.arch.skim else 0.0)
        devices = inputs.checked_devices(devices) or jax.local_devices()
        self._platform = devices[0].platform
        self._rebatch = self._platform == "cpu" if inputs.checked_flag(rebatch, "rebatch") is None else rebatch
        batch_tokens, batch_size = inputs.checked_batch(batch_tokens, batch_size)
        if batch_tokens is None and batch_size is None:
            batch_tokens = default_batch_tokens(self._platform)
        self._batch_tokens, self._batch_size = batch_tokens, batch_size
        self.programs = Programs(model, devices, depths)
        self._first = FirstMargins(self.programs, self.max_length, 0) if self._rebatch and self.arch.skim is not None else None
        self.statistics = Statistics()
        self.use(calibration)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, dtype: str | None = None, dense: bool | None = None, **options: Any
    ) -> "SkimEngine":
        """An engine for a model folder (or hub id), calibrated if the folder holds a calibration.

        Args:
          folder: what training, or `save_pretrained`, has written.
          dtype: 'float32' or 'bfloat16' for weights and matrix products; norms, softmax and decisions stay float32.
          dense: True leaves skimming out; None does where the checkpoint holds no predictors.
          **options: arguments of `SkimEngine`.

        Raises:
          CheckpointError: a folder that is not a checkpoint, or one that cannot be compacted.
          ConfigError, InferenceError: as `SkimEngine`.
        """
        require_own_runtime()
        folder, dtype = inputs.checked_path(folder), inputs.checked_dtype(dtype)
        inputs.checked_flag(dense, "dense")
        # Here, so that a model in memory and token ids need neither transformers nor safetensors.
        from transkimmer_jax.data import pipeline
        from transkimmer_jax.weights import config_file
        from transkimmer_jax.weights.files import resolve

        path = resolve(folder)
        saved = config_file.read(path)
        model = TranskimmerForSequenceClassification.from_pretrained(path, dense=dense, compute_dtype=dtype)
        if dtype is not None:
            model = cast(model)
        options.setdefault("label_names", saved.label_names)
        options.setdefault("max_length", saved.task.max_length)
        options.setdefault("pairs", saved.task.pairs)
        options.setdefault("calibration", Calibration.load(path, model.arch.num_hidden_layers))
        return cls(model, pipeline.load_tokenizer(path, model.arch.vocab_size), **options)

    def predict(self, texts: Sequence[Text], *, threshold: float | None = None, progress: bool = True) -> list[Answer]:
        """Answers in the order of `texts`: a list, tuple, array or column of strings, or of pairs of strings. None for none.

        Raises:
          DataError: something that is not a string or a pair, or the other of the two than the model was trained on; a single text,
            or an iterator, in place of a list.
          ConfigError: a threshold that is no number.
          InferenceError: logits that are not finite numbers; no tokenizer; a process that was forked from one that had computed.
        """
        return self._predict(inputs.checked_sequence(texts), 0, threshold, progress)

    def predict_stream(self, texts: Iterable[Text], *, threshold: float | None = None, window: int = STREAM_WINDOW) -> Iterator[Answer]:
        """Answers in the order of `texts`, while they are still coming: `window` of them are grouped by length and answered together.

        Raises, at once or when it comes to a text: as `predict`; ConfigError also for a window of no texts.
        """
        stream, window = inputs.checked_stream(texts), inputs.checked_size(window, "window")
        threshold = inputs.checked_threshold(threshold, self.threshold)
        windows = iter(lambda: list(itertools.islice(stream, window)), [])
        return (answer for number, texts in enumerate(windows) for answer in self._predict(texts, number * window, threshold, False))

    def _predict(self, texts: Sequence[Text], first: int, threshold: float | None, progress: bool) -> list[Answer]:
        """first: the number of the first text, for messages."""
        require_own_runtime()
        threshold = inputs.checked_threshold(threshold, self.threshold)
        if not len(texts):
            return []
        tokenized, truncated = self._tokenize(texts, first)
        return self._answers(self.predict_tokenized(tokenized, threshold=threshold, progress=progress), truncated)

    def predict_tokenized(self, examples: TokenizedExamples, *, threshold: float | None = None, progress: bool = False) -> Predictions:
        """Logits and kept tokens of token ids without padding, in their order. Labels are not read.

        Raises:
          DataError: arrays that do not fit each other, or ids that the model has no row for.
          ConfigError: a threshold that is no number.
          InferenceError: an example longer than `max_length`, or logits that are not finite; a process that was forked from one that
            had computed.
        """
        require_own_runtime()
        threshold = inputs.checked_threshold(threshold, self.threshold)
        examples = inputs.checked_tokens(examples, self.arch.vocab_size, self.arch.type_vocab_size, self.max_length)
        lengths = examples.lengths
        with tqdm(total=len(lengths), desc="predicting", unit=" texts", leave=False, disable=not progress) as bar:
            call = Call(self.programs, self.batchings, self._first, self.statistics, examples, threshold, self._waiting_bytes)
            predictions = call.answer(bar.update)
        wrong = np.flatnonzero(~np.isfinite(predictions.logits).all(axis=1))
        if len(wrong):
            others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise InferenceError(f"the logits of example {wrong[0]}{others} are not finite: the weights are damaged")
        return predictions

    def calibrate(self, texts: Sequence[Text] | TokenizedExamples, *, threshold: float | None = None) -> Calibration:
        """Learn from a sample of texts how many tokens to expect, and build the ladders anew; the texts' kept tokens are exact.

        Save it by `calibration.save(folder)`.

        Raises: as `predict`; DataError also for no text at all.
        """
        require_own_runtime()
        threshold = inputs.checked_threshold(threshold, self.threshold)
        examples = texts
        if not isinstance(examples, TokenizedExamples):
            examples = self._tokenize(inputs.checked_sample(texts, _CALIBRATION_TEXTS), 0)[0]
        elif not len(examples.lengths):
            raise inputs.nothing_to_calibrate()
        predictions = self.predict_tokenized(examples, threshold=threshold)
        self.use(Calibration.of(predictions.lengths, predictions.kept, threshold))
        return self.calibration

    def use(self, calibration: Calibration | None) -> None:
        """Build the buckets and ladders anew for texts like those of a calibration; None: for any."""
        self.calibration = calibration or Calibration.assumed(self.arch.num_hidden_layers, self.threshold)
        known = calibration is not None
        sizes = Sizes(self._batch_tokens, self._batch_size, self.max_length, granule(self._platform), enough_rows(self._platform))
        whole = (Stage.whole(self.arch.num_hidden_layers),)
        parts = whole if self._first is None else stages(self.calibration, self.arch, sizes)
        # Stages that share programs have the same buckets.
        lengths: dict[Stage, list[np.ndarray]] = {}
        for stage in parts:
            lengths.setdefault(self.programs.shared(stage), []).append(self.calibration.of_stage(stage).lengths)
        self.batchings = tuple(
            Batching(stage, self.arch, self.calibration, sizes, np.concatenate(lengths[self.programs.shared(stage)]) if known else None)
            for stage in parts
        )
        self._bound_memory(sizes)

    def _bound_memory(self, sizes: Sizes) -> None:
        """Let waiting states and looked-up decisions take what dense inference would need more than the programs do."""
        self._waiting_bytes = 0
        if self._first is None:
            return
        longest, row = int(self.calibration.lengths.max()), self.arch.hidden_size * self.arch.dtype.itemsize
        scores = 4 * self.arch.num_attention_heads
        whole = Batching(Stage.whole(self.arch.num_hidden_layers), self.arch, self.calibration, sizes, self.calibration.lengths)
        dense = whole.used(longest)
        there = IN_FLIGHT * max((_OF_A_ROW * each.tokens + _OF_A_PLACE * each.places) * row + scores * each.pairs for each in dense)
        waits = len(self.batchings) > 1
        rows, of_one = 0, 0.0
        for batching in self.batchings:
            stage = batching.stage
            units = (stage.first > 1) + (_OF_ONE_LAYER if stage.stop - stage.first == 1 else _OF_LAYERS)
            for each in batching.sizes(int(self.calibration.of_stage(stage).lengths.max())):
                rows, of_one = max(rows, each.tokens), max(of_one, units * each.tokens * row + scores * each.pairs)
        needed = IN_FLIGHT * of_one + waits * _TAKEN * rows * row
        # Not less than a batch, which comes and goes.
        spare = int(max(there - needed, max(bucket.tokens for bucket in dense) * row)) * self.programs.device_count
        self._first.room = int(spare * (_LOOKED_UP if waits else _LOOKED_UP_ALONE))
        self._waiting_bytes = spare - self._first.room

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of the network between which batches are made anew."""
        return tuple(batching.stage for batching in self.batchings)

    @property
    def lookup_bytes(self) -> int:
        """Memory that the first decisions take which are looked up."""
        return 0 if self._first is None else self._first.nbytes

    def warm_up(self, lengths: Sequence[int] | None = None, progress: bool = True) -> None:
        """Compile ahead of time every program that texts of these lengths need; None: that any text can need.

        Of texts of these lengths any number of tokens may be left for a stage behind the first decisions: compiled is for what was left
        of the calibration's, and should another number come, its program is compiled then.

        Raises ConfigError for lengths that the engine does not read.
        """
        require_own_runtime()
        lengths = inputs.checked_lengths(lengths, self.max_length)
        schedules = []
        for batching in self.batchings:
            schedules += batching.schedules(None if lengths is None else lengths if batching.stage.first == 0 else batching.expected)
        if self._first is not None:
            self._first.compile()
        self.programs.compile(schedules, progress)

    def _tokenize(self, texts: Sequence[Text], first: int) -> tuple[TokenizedExamples, np.ndarray]:
        """Checked and tokenised; and which texts were cut, [N] bool."""
        from transkimmer_jax.data import pipeline
        from transkimmer_jax.data.examples import Examples

        if self._tokenizer is None:
            raise InferenceError("this engine has no tokenizer: give one, or call predict_tokenized")
        singles, seconds = inputs.checked_texts(texts, self._pairs, first)
        examples = Examples(singles, seconds, np.zeros(len(singles), np.int32))
        tokenized = pipeline.tokenize(examples, self._tokenizer, self.max_length)
        return tokenized, tokenized.truncated

    def _answers(self, predictions: Predictions, truncated: np.ndarray) -> list[Answer]:
        self.statistics.truncated += int(truncated.sum())
        answers = []
        for number, logits in enumerate(predictions.logits):
            probabilities: dict[str, float] | None = None
            if self.label_names is None and self.arch.num_labels == 1:
                label: str | float = float(logits[0])
            else:
                names = self.label_names or tuple(f"LABEL_{index}" for index in range(self.arch.num_labels))
                exponentials = np.exp(logits - logits.max())
                probabilities = dict(zip(names, (exponentials / exponentials.sum()).tolist(), strict=True))
                label = names[int(logits.argmax())]
            length = int(predictions.lengths[number])
            kept = float(predictions.kept[:, number].mean() / length)
            answers.append(Answer(label, logits, probabilities, length, kept, bool(truncated[number])))
        return answers


def cast(model: TranskimmerForSequenceClassification) -> TranskimmerForSequenceClassification:
    """The model with its weights stored in the dtype it computes in: norms, decisions and classifier stay float32."""
    graph, params = nnx.split(model)

    def stored(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf if any(part in name for part in ("norm", "decision", "classifier")) else leaf.astype(model.arch.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(stored, params))
