"""The network as compiled JAX programs of fixed shapes: what a GPU or TPU wants."""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from transkimmer_jax.compilation import use_compilation_cache
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.batching import Batch, by_bucket
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import ENOUGH_TEXTS, RUNGS, hardware
from transkimmer_jax.inference.predictions import Predictions, Statistics
from transkimmer_jax.inference.programs import Programs, cast
from transkimmer_jax.inference.shapes import Bucket, Ladders, Schedule, buckets
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.progress import tqdm


@dataclasses.dataclass(frozen=True)
class Run:
    """A program at work on one batch a device. members: their examples, none of an empty batch."""

    bucket: Bucket
    members: list[np.ndarray]
    rung: int
    outputs: dict[str, jax.Array]


class JaxRuntime:
    """One program for the whole network and each (bucket, rung) in use, compiled when first needed (see `Runtime`).

    Until it is told what to expect, batches have room for all; capacities are then made from the first texts that it has answered.

    Arguments are those of `runtimes.create`.
    """

    name = "jax"

    def __init__(
        self,
        model: TranskimmerPreTrainedModel,
        *,
        max_length: int,
        precision: str | None = None,
        calibration: Calibration | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        devices: list[jax.Device] | None = None,
        depths: bool = False,
        token_embeddings: bool = False,
    ):
        use_compilation_cache()
        model = model if precision is None else cast(model, precision)
        devices = devices or jax.local_devices()
        self.arch, self.statistics = model.arch, Statistics()
        self.programs = Programs(model, devices, depths, token_embeddings)
        self._hardware = hardware(devices[0].platform)
        self.buckets = buckets(self._hardware, max_length, batch_tokens, batch_size, self.arch.num_attention_heads)
        self.ladders = Ladders(self.arch, self._hardware, calibration)
        self._seen: list[Predictions] = []  # while nobody has calibrated
        # One call at a time: the devices are busy with one, and ladders learn from each. Reentrant, as a call may end in `expect`.
        self._calling = threading.RLock()

    def expect(self, calibration: Calibration) -> None:
        """Build the ladders anew for texts like those of a calibration."""
        with self._calling:
            self.ladders = Ladders(self.arch, self._hardware, calibration)
            self._seen = []

    def warm_up(self, lengths: Sequence[int] | None, progress: bool) -> None:
        """Compile every program that texts of these lengths can need."""
        widths = [large.width for large, _ in self.buckets]
        used = self.buckets if lengths is None else [self.buckets[home] for home in np.unique(np.searchsorted(widths, lengths))]
        with self._calling:
            self._compile([rung for sizes in used for bucket in sizes for rung in self.ladders.schedules(bucket)], progress)

    def _cost(self, bucket: Bucket) -> float:
        """FLOPs of a batch with room for all."""
        return Schedule.full(bucket, self.arch.num_hidden_layers).flops(self.arch)

    def _compile(self, schedules: list[Schedule], progress: bool) -> None:
        """Compile what is not there yet."""
        self.programs.compile(schedules, progress)
        self.statistics.programs, self.statistics.compile_seconds = len(self.programs), self.programs.compile_seconds

    def predict(self, examples: TokenizedExamples, threshold: float, progress: bool) -> Predictions:
        """Every example, in their order. Those that a batch loses run again, with others and more room."""
        with self._calling:
            return self._predict(examples, threshold, progress)

    def _predict(self, examples: TokenizedExamples, threshold: float, progress: bool) -> Predictions:
        lengths, count = examples.lengths, len(examples)
        answers = Predictions.empty(self.programs.outputs, self.arch.num_hidden_layers, lengths, self.programs.depths)
        # By the lowest rung that may hold them.
        waiting: list[list[np.ndarray]] = [[np.arange(count)], *([] for _ in RUNGS)]
        with tqdm(total=count, desc="predicting", unit=" texts", leave=False, disable=not progress) as bar:
            for lowest in range(len(RUNGS)):
                members = np.concatenate([np.zeros(0, np.int64), *waiting[lowest]])
                batches = [(bucket, members[batch]) for bucket, batch in by_bucket(lengths[members], self.buckets, self._cost)]
                for run in self._runs(batches, examples, threshold, lowest, progress):
                    lost = self._take(run, examples, threshold, answers)
                    waiting[run.rung + 1].append(lost)
                    self.statistics.again += len(lost)
                    bar.update(sum(map(len, run.members)) - len(lost))
        assert not any(map(len, waiting[-1])), "the last rung holds every batch"
        self.statistics.examples += count
        self._learn(answers, threshold)
        return answers

    def _runs(self, batches: list[Batch], examples: TokenizedExamples, threshold: float, lowest: int, progress: bool) -> Iterator[Run]:
        """Run batches, a few at a time, each on the rung that is likely to be cheapest."""
        started: collections.deque[Run] = collections.deque()
        for bucket, members in _by_device(batches, self.programs.device_count):
            rung = self.ladders.choose(bucket, threshold, lowest, len(batches))
            schedule = self.ladders.schedules(bucket)[rung]
            self._compile([schedule], progress)
            started.append(Run(bucket, members, rung, self.programs.run(schedule, _packed(examples, bucket, members), threshold)))
            if len(started) == self._hardware.in_flight:
                yield started.popleft()
        yield from started

    def _take(self, run: Run, examples: TokenizedExamples, threshold: float, answers: Predictions) -> np.ndarray:
        """Wait for a run, put its answers where they belong, and return the examples that it lost."""
        outputs = {name: np.asarray(array) for name, array in run.outputs.items()}
        lost = []
        for device, members in enumerate(run.members):
            if not len(members):
                continue
            gone = outputs["lost"][device, : len(members)]
            there = members[~gone]
            self.statistics.batches += 1
            self.statistics.overflows += int(gone.any())
            self.ladders.remember(run.bucket, threshold, run.rung, gone)
            lost.append(members[gone])
            for output in self.programs.outputs:
                rows = outputs[output.name][device]
                if output.per_token:
                    is_there = np.repeat(~gone, answers.lengths[members])
                    answers.outputs[output.name][examples.places(there)] = rows[: len(is_there)][is_there]
                else:
                    answers.outputs[output.name][there] = rows[: len(members)][~gone]
            answers.kept[:, there] = outputs["kept"][device, :, : len(members)][:, ~gone]
            if answers.depths is not None:
                ends = np.cumsum(answers.lengths[members])
                for member, depth in zip(members.tolist(), np.split(outputs["depth"][device], ends), strict=False):
                    answers.depths[member] = depth
        return np.concatenate(lost)

    def _learn(self, answers: Predictions, threshold: float) -> None:
        """Make capacities from what was seen, where nobody has calibrated and enough was."""
        if self.arch.skim is None or self.ladders.calibration is not None:
            return
        self._seen.append(answers)
        lengths = np.concatenate([seen.lengths for seen in self._seen])
        if len(lengths) >= ENOUGH_TEXTS:
            self.expect(Calibration.of(lengths, np.concatenate([seen.kept for seen in self._seen], axis=1), threshold))


def _by_device(batches: list[Batch], devices: int) -> Iterator[tuple[Bucket, list[np.ndarray]]]:
    """One batch for every device, all of one bucket; where there are no more of it, the other devices' are empty."""
    for bucket, group in itertools.groupby(batches, key=lambda batch: batch[0]):
        members = [batch for _, batch in group]
        for start in range(0, len(members), devices):
            some = members[start : start + devices]
            yield bucket, some + [np.zeros(0, np.int64)] * (devices - len(some))


def _packed(examples: TokenizedExamples, bucket: Bucket, members: list[np.ndarray]) -> list[np.ndarray]:
    """input_ids and token_type_ids [D, T] of each device's examples, one after the other, and their lengths [D, B]; 0 in what is empty."""
    rows, slots = (len(members), bucket.tokens), (len(members), bucket.sequences)
    input_ids, token_type_ids, lengths = np.zeros(rows, np.int32), np.zeros(rows, np.int32), np.zeros(slots, np.int32)
    for device, batch in enumerate(members):
        counts = examples.lengths[batch]
        total = int(counts.sum())
        lengths[device, : len(batch)] = counts
        places = examples.places(batch)
        input_ids[device, :total], token_type_ids[device, :total] = examples.input_ids[places], examples.token_type_ids[places]
    return [input_ids, token_type_ids, lengths]
