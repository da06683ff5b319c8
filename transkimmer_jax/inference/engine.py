"""Answers at the price of the tokens that are kept: `SkimEngine`.

Texts are tokenised, sorted by length and packed into batches of near equal numbers of tokens. Each batch runs the rung of
its bucket's ladder that is likely to be cheapest. Texts that find no room there are lost whole and run again, with each other and
with more room; the others' answers stand. So answers are exact whatever was calibrated.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import DataError, InferenceError
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.programs import PackedBatch, Programs, use_compilation_cache
from transkimmer_jax.inference.schedule import (
    DRAWN_BATCHES,
    Bucket,
    Calibration,
    Schedule,
    buckets,
    default_batch_tokens,
    granule,
    ladder,
    losses,
)  # fmt: skip
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.progress import tqdm

Text = str | tuple[str, str]

STREAM_WINDOW = 4096  # texts of a stream that are read, sorted by length and answered together: what is in memory at a time
_CALIBRATION_TEXTS = 512
_IN_FLIGHT = 2  # batches started before the oldest is read, so that the host packs while the device computes
# In the choice of rungs: the weight of a batch against the one after it, and how many batches the calibration counts for.
_FORGETTING = 0.95
_TRUST = 2.0
_SMALL = 8  # the part of a batch that a small batch is
# Of a batch's rows, the most that small batches may have which replace it: each costs a start and multiplies fewer rows at a time.
_RATHER_EMPTY = 0.75


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


@dataclasses.dataclass
class Statistics:
    """What an engine has done so far: examples answered, batches run, batches that lost texts, texts run again, texts cut."""

    examples: int = 0
    batches: int = 0
    overflows: int = 0
    again: int = 0
    truncated: int = 0


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
      batch_size: instead, a batch holds as many tokens as this number of texts of its bucket's greatest length.
      devices: None: all local ones, each of which computes batches of its own.
      threshold: of the gates; None takes the checkpoint's.
      depths: also report how many layers computed each token.

    Raises:
      CheckpointError: a model that cannot be compacted.
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
    ):
        model.require_compactable()
        use_compilation_cache()
        self.arch, self._tokenizer = model.arch, tokenizer
        self.label_names = None if label_names is None else tuple(label_names)
        self.max_length = min(max_length or self.arch.max_position_embeddings, self.arch.max_position_embeddings)
        self._pairs = pairs
        self.threshold = threshold if threshold is not None else (self.arch.skim.threshold if self.arch.skim else 0.0)
        devices = devices or jax.local_devices()
        self._rows_multiple = granule(devices[0].platform)
        if batch_tokens is None and batch_size is None:
            batch_tokens = default_batch_tokens(devices[0].platform)
        self._batch_tokens, self._batch_size = batch_tokens, batch_size
        self.programs = Programs(model, devices, depths)
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
        """
        # Here, so that a model in memory and token ids need neither transformers nor safetensors.
        from transkimmer_jax.data import pipeline
        from transkimmer_jax.weights import huggingface
        from transkimmer_jax.weights.files import read_config, resolve

        path = resolve(os.fspath(folder))
        saved = read_config(path)
        task = saved.get("task", {})
        model = huggingface.load(path, dense=dense, compute_dtype=dtype)
        if dtype is not None:
            model = cast(model)
        if saved.get("problem_type") == "regression":
            options.setdefault("label_names", None)
        else:
            names = saved.get("id2label", {})
            options.setdefault("label_names", [names.get(str(index), f"LABEL_{index}") for index in range(model.arch.num_labels)])
        options.setdefault("max_length", task.get("max_length"))
        options.setdefault("pairs", len(task["text_columns"]) == 2 if "text_columns" in task else None)
        options.setdefault("calibration", Calibration.load(path, model.arch.num_hidden_layers))
        return cls(model, pipeline.load_tokenizer(path, model.arch.vocab_size), **options)

    def predict(self, texts: Sequence[Text], *, threshold: float | None = None, progress: bool = True) -> list[Answer]:
        """Answers in the order of `texts`: strings, or pairs of strings. None for none.

        Raises:
          DataError: something that is not a string or a pair, or the other of the two than the model was trained on.
          InferenceError: logits that are not finite numbers.
        """
        if not len(texts):
            return []
        tokenized, truncated = self._tokenize(texts)
        return self._answers(self.predict_tokenized(tokenized, threshold=threshold, progress=progress), truncated)

    def predict_stream(self, texts: Iterable[Text], *, threshold: float | None = None, window: int = STREAM_WINDOW) -> Iterator[Answer]:
        """Answers in the order of `texts`, while they are still coming: `window` of them are sorted and answered together."""
        stream = iter(texts)
        while chunk := list(itertools.islice(stream, window)):
            yield from self.predict(chunk, threshold=threshold, progress=False)

    def predict_tokenized(self, examples: TokenizedExamples, *, threshold: float | None = None, progress: bool = False) -> Predictions:
        """Logits and kept tokens of token ids without padding, in their order. Labels are not read.

        Raises:
          InferenceError: an example longer than `max_length`, or logits that are not finite.
        """
        threshold = self.threshold if threshold is None else float(threshold)
        lengths = examples.lengths
        if len(lengths) and lengths.max() > self.max_length:
            raise InferenceError(f"an example has {lengths.max()} tokens, more than the engine's max_length of {self.max_length}")
        logits = np.zeros((len(lengths), self.arch.num_labels), np.float32)
        kept = np.zeros((self.arch.num_hidden_layers, len(lengths)), np.int32)
        depths: list[np.ndarray] | None = None
        waiting, least_rung = np.arange(len(lengths)), 0
        with tqdm(total=len(lengths), desc="predicting", unit=" texts", leave=False, disable=not progress) as bar:
            while len(waiting):
                lost = [np.zeros(0, np.int64)]
                highest_rung = least_rung
                for run, answers in self._run(examples, waiting, least_rung, threshold):
                    highest_rung = max(highest_rung, run.rung)
                    for device, rows in enumerate(run.group):
                        answered = ~answers["lost"][device, : len(rows)]
                        lost.append(rows[~answered])
                        logits[rows[answered]] = answers["logits"][device, : len(rows)][answered]
                        kept[:, rows[answered]] = answers["kept"][device][:, : len(rows)][:, answered]
                        if "depth" in answers:
                            depths = depths or [np.zeros(0, np.int32)] * len(lengths)
                            parts = np.split(answers["depth"][device], np.cumsum(lengths[rows]))
                            for row, depth, valid in zip(rows, parts, answered, strict=False):
                                if valid:
                                    depths[row] = depth
                        bar.update(int(answered.sum()))
                # What did not fit waits for the others that did not, and takes more room.
                waiting, least_rung = np.concatenate(lost), highest_rung + 1
                self.statistics.again += len(waiting)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(wrong):
            raise InferenceError(f"the logits of example {wrong[0]} and {len(wrong) - 1} others are not finite: the weights are damaged")
        return Predictions(logits, kept, lengths, depths)

    def calibrate(self, texts: Sequence[Text] | TokenizedExamples, *, threshold: float | None = None) -> Calibration:
        """Learn from a sample of texts how many tokens to expect, and build the ladders anew; the texts' kept tokens are exact.

        Save it by `calibration.save(folder)`.
        """
        examples = texts if isinstance(texts, TokenizedExamples) else self._tokenize(texts[:_CALIBRATION_TEXTS])[0]
        threshold = self.threshold if threshold is None else float(threshold)
        predictions = self.predict_tokenized(examples, threshold=threshold)
        self.use(Calibration.of(predictions.lengths, predictions.kept, threshold))
        return self.calibration

    def use(self, calibration: Calibration | None) -> None:
        """Build the buckets and ladders anew for texts like those of a calibration; None: for any."""
        self.calibration = calibration or Calibration.assumed(self.arch.num_hidden_layers, self.threshold)
        lengths = None if calibration is None else calibration.lengths
        self.buckets = buckets(self._batch_tokens, self._batch_size, self.max_length, lengths)
        # For the few texts that a call's batches lose; without them each call that loses one would pay for a whole batch more.
        tokens = None if self._batch_tokens is None else self._batch_tokens // _SMALL
        size = None if self._batch_size is None else max(1, self._batch_size // _SMALL)
        self.small_buckets = buckets(tokens, size, self.max_length, lengths)
        self._ladders: dict[Bucket, tuple[Schedule, ...]] = {}
        self._drawn: dict[Bucket, list[np.ndarray]] = {}
        self._calibrated_losses: dict[tuple[Bucket, int], np.ndarray] = {}
        # By bucket, rung and threshold: how many batches ran of late, and the sums of what they lost.
        self._seen: dict[tuple[Bucket, int, float], tuple[float, np.ndarray]] = {}

    def ladder(self, bucket: Bucket) -> tuple[Schedule, ...]:
        """The schedules in use for a bucket, cheapest first."""
        if bucket not in self._ladders:
            self._drawn[bucket] = self.calibration.draw(bucket, DRAWN_BATCHES)
            self._ladders[bucket] = ladder(bucket, self.arch, self._drawn[bucket], self._rows_multiple)
        return self._ladders[bucket]

    def warm_up(self, lengths: Sequence[int] | None = None, progress: bool = True) -> None:
        """Compile ahead of time every program that texts of these lengths (None: of any) can need."""
        every = (*self.buckets, *self.small_buckets)
        used = [bucket for bucket in dict.fromkeys(every) if lengths is None or self._bucket_used(bucket, lengths)]
        self.programs.compile([schedule for bucket in used for schedule in self.ladder(bucket)], progress)

    def _bucket_used(self, bucket: Bucket, lengths: Sequence[int]) -> bool:
        return any(self._bucket(length, self.buckets).width == bucket.width for length in set(lengths))

    @staticmethod
    def _bucket(length: int, among: tuple[Bucket, ...]) -> Bucket:
        return next(bucket for bucket in among if length <= bucket.width)

    def _plan(self, lengths: np.ndarray, among: tuple[Bucket, ...]) -> list[tuple[Bucket, np.ndarray]]:
        """Batches of neighbours by length: (the bucket of the longest, its examples' positions)."""
        order = np.argsort(lengths, kind="stable")
        plan: list[tuple[Bucket, np.ndarray]] = []
        start, tokens = 0, 0
        for end, row in enumerate(order):
            length = int(lengths[row])
            if end > start and not self._bucket(length, among).holds(end + 1 - start, tokens + length, length):
                plan.append((self._bucket(int(lengths[order[end - 1]]), among), order[start:end]))
                start, tokens = end, 0
            tokens += length
        if len(order):
            plan.append((self._bucket(int(lengths[order[-1]]), among), order[start:]))
        return plan

    def _thrifty_plan(self, lengths: np.ndarray) -> list[tuple[Bucket, np.ndarray]]:
        """`_plan`, with small batches for what would leave a batch rather empty: rows are computed whether a token is there or not."""
        plan: list[tuple[Bucket, np.ndarray]] = []
        for bucket, members in self._plan(lengths, self.buckets):
            most, small = _RATHER_EMPTY * bucket.tokens, []
            if lengths[members].sum() <= most:
                small = [(each, members[part]) for each, part in self._plan(lengths[members], self.small_buckets)]
            fewer = small and sum(each.tokens for each, _ in small) <= most
            plan += small if fewer else [(bucket, members)]
        return plan

    def _run(
        self, examples: TokenizedExamples, rows: np.ndarray, least_rung: int, threshold: float
    ) -> Iterator[tuple["_Started", dict[str, np.ndarray]]]:
        """Run the examples at `rows`, in groups of one batch a device, on rungs from `least_rung` on; and what came of it."""
        lengths = examples.lengths
        plan = [(bucket, rows[members]) for bucket, members in self._thrifty_plan(lengths[rows])]
        started: collections.deque[_Started] = collections.deque()
        for bucket, group in self._groups(plan, lengths):
            packed = [_pack(examples, members, bucket) for members in group]
            rung = self._choose_rung(bucket, threshold, least_rung, len(plan))
            started.append(_Started(bucket, group, rung, self.programs.run(self.ladder(bucket)[rung], packed, threshold)))
            if len(started) >= _IN_FLIGHT:
                yield self._finish(started.popleft(), threshold)
        while started:
            yield self._finish(started.popleft(), threshold)

    def _groups(self, plan: list[tuple[Bucket, np.ndarray]], lengths: np.ndarray) -> Iterator[tuple[Bucket, list[np.ndarray]]]:
        """One batch for every device, all in the bucket of the widest; where no more fit, the other devices' are empty."""
        devices = self.programs.device_count
        group: list[np.ndarray] = []
        for number, (bucket, rows) in enumerate(plan):
            group.append(rows)
            following = plan[number + 1][0] if number + 1 < len(plan) else None
            # Neighbours rise in width, and a wider bucket has fewer slots.
            fit = following is not None and all(following.holds(len(each), int(lengths[each].sum()), following.width) for each in group)
            if len(group) == devices or not fit:
                yield bucket, group + [np.zeros(0, np.int64)] * (devices - len(group))
                group = []

    def _choose_rung(self, bucket: Bucket, threshold: float, least: int, batches: int) -> int:
        """The rung with the least expected cost. What it loses is run again together with what the other `batches` of the call lose,
        on the next rung, in a small batch if need be."""
        rungs = self.ladder(bucket)
        least = min(least, len(rungs) - 1)
        expected = rungs[-1].flops(self.arch)
        best, best_cost = len(rungs) - 1, expected
        for rung in reversed(range(least, len(rungs) - 1)):
            some, share = self._losses(bucket, rung, threshold)
            expected = rungs[rung].flops(self.arch) + min(1.0, share + some / (_SMALL * batches)) * expected
            if expected <= best_cost:
                best, best_cost = rung, expected
        return best

    def _losses(self, bucket: Bucket, rung: int, threshold: float) -> np.ndarray:
        """How often a batch loses a text on a rung, and which share of its texts: as calibrated, and as seen of late."""
        key = (bucket, rung)
        if key not in self._calibrated_losses:
            self._calibrated_losses[key] = np.array(losses(self.ladder(bucket)[rung], self._drawn[bucket]))
        count, seen = self._seen.get((*key, threshold), (0.0, np.zeros(2)))
        return (_TRUST * self._calibrated_losses[key] + seen) / (_TRUST + count)

    def _finish(self, run: "_Started", threshold: float) -> tuple["_Started", dict[str, np.ndarray]]:
        """Wait for a started group, and remember what it lost."""
        arrays = jax.device_get(run.answers)
        for device, rows in enumerate(run.group):
            if len(rows):
                lost = arrays["lost"][device, : len(rows)]
                self.statistics.batches += 1
                self.statistics.overflows += int(lost.any())
                self.statistics.examples += int((~lost).sum())
                key = (run.bucket, run.rung, threshold)
                count, seen = self._seen.get(key, (0.0, np.zeros(2)))
                self._seen[key] = (_FORGETTING * count + 1, _FORGETTING * seen + np.array([lost.any(), lost.mean()]))
        return run, arrays

    def _tokenize(self, texts: Sequence[Text]) -> tuple[TokenizedExamples, np.ndarray]:
        """Checked and tokenised; and which texts were cut, [N] bool."""
        from transkimmer_jax.data import pipeline
        from transkimmer_jax.data.sources import Examples

        if self._tokenizer is None:
            raise InferenceError("this engine has no tokenizer: give one, or call predict_tokenized")
        pairs = [_is_pair(number, text) for number, text in enumerate(texts)]
        expected = pairs[0] if self._pairs is None else self._pairs
        wrong = next((number for number, pair in enumerate(pairs) if pair != expected), None)
        if wrong is not None:
            found, wanted = ("a pair", "single texts") if pairs[wrong] else ("a single text", "pairs")
            raise DataError(f"text {wrong} is {found}, expected {wanted}")
        # Either every text is a string or every text is a pair, which the checker cannot see.
        first: list[Any] = [text[0] if expected else text for text in texts]
        second: list[Any] | None = [text[1] for text in texts] if expected else None
        tokenized = pipeline.tokenize(Examples(first, second, np.zeros(len(texts), np.int32)), self._tokenizer, self.max_length)
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


@dataclasses.dataclass(frozen=True)
class _Started:
    """A program that runs: on one batch a device, `group` their examples."""

    bucket: Bucket
    group: list[np.ndarray]
    rung: int
    answers: dict[str, jax.Array]


def cast(model: TranskimmerForSequenceClassification) -> TranskimmerForSequenceClassification:
    """The model with its weights stored in the dtype it computes in: norms, decisions and classifier stay float32."""
    graph, params = nnx.split(model)

    def stored(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf if any(part in name for part in ("norm", "decision", "classifier")) else leaf.astype(model.arch.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(stored, params))


def _pack(examples: TokenizedExamples, rows: np.ndarray, bucket: Bucket) -> PackedBatch:
    """The examples at `rows` in a row."""
    ids, types = np.zeros(bucket.tokens, np.int32), np.zeros(bucket.tokens, np.int32)
    lengths = np.zeros(bucket.sequences, np.int32)
    lengths[: len(rows)] = examples.lengths[rows]
    if len(rows):
        spans = [slice(examples.offsets[row], examples.offsets[row + 1]) for row in rows]
        count = int(lengths.sum())
        ids[:count] = np.concatenate([examples.input_ids[span] for span in spans])
        types[:count] = np.concatenate([examples.token_type_ids[span] for span in spans])
    return PackedBatch(ids, types, lengths)


def _is_pair(number: int, text: Any) -> bool:
    if isinstance(text, str):
        return False
    if isinstance(text, tuple | list) and all(isinstance(part, str) for part in text):
        if len(text) == 2:
            return True
        raise DataError(f"text {number} has {len(text)} parts, expected a string or a pair of strings")
    raise DataError(f"text {number} is not a string or a pair of strings but {text!r:.60}")
