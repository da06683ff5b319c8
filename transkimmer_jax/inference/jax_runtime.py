"""The network as compiled JAX programs of fixed shapes: what a GPU or TPU wants."""

import collections
import dataclasses
import itertools
import math
import threading
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from transkimmer_jax.compilation import use_compilation_cache
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.batching import Batch, by_bucket
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import (
    ENOUGH_TEXTS,
    ENOUGH_TEXTS_OF_A_THRESHOLD,
    MOST_CALIBRATIONS,
    RUNGS,
    THRESHOLD_ROUNDING,
    THRESHOLD_STEP,
    hardware,
)
from transkimmer_jax.inference.predictions import Predictions, Statistics
from transkimmer_jax.inference.programs import Programs, cast
from transkimmer_jax.inference.shapes import Bucket, Ladders, Schedule, buckets
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.progress import predicting

# Steps of thresholds whose texts are remembered, the oldest going first: a server's clients choose thresholds freely.
_MOST_SEEN = 64


@dataclasses.dataclass(frozen=True)
class Run:
    """A program at work on one batch a device. members: their examples, none of an empty batch."""

    bucket: Bucket
    members: list[np.ndarray]
    rung: int
    outputs: dict[str, jax.Array]


class JaxRuntime:
    """One program for the whole network and each (bucket, rung) in use, compiled when first needed (see `Runtime`).

    A calibration serves thresholds from its own on, since a higher one keeps fewer tokens. At a lower threshold than all known ones batches
    have room for all. Where no calibration is near, capacities are made from the texts that were answered, once these are enough.

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
        self.buckets = buckets(self._hardware, max_length, batch_tokens, batch_size, self.arch.scores_per_pair)
        # One call at a time: the devices are busy with one, and ladders learn from each. Reentrant, as a call may end in `set_calibration`.
        self._calling = threading.RLock()
        # By the threshold from which on they serve. Those at -inf have room for all.
        self._ladders = {-math.inf: Ladders(self.arch, self._hardware, None)}
        # Lengths and kept tokens of the texts that were answered, by step of thresholds, where no calibration is near.
        self._seen: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {}
        if calibration is not None:
            self.set_calibration(calibration)

    def set_calibration(self, calibration: Calibration) -> None:
        """Build ladders for texts like those of a calibration, from its threshold on. They replace those of the same threshold."""
        made_for, ladders = calibration.threshold, Ladders(self.arch, self._hardware, calibration)
        with self._calling:
            others = {known: its for known, its in self._ladders.items() if abs(known - made_for) > THRESHOLD_ROUNDING}
            self._ladders = others | {made_for: ladders}
            self.programs.free(lambda rung: any(rung in its.schedules(rung.bucket) for its in self._ladders.values()))
            self.statistics.programs = len(self.programs)

    def ladders(self, threshold: float) -> Ladders:
        """Those of the nearest known threshold at or below, which keeps at least as many tokens."""
        return self._ladders[max(known for known in self._ladders if known <= threshold + THRESHOLD_ROUNDING)]

    def warm_up(self, lengths: Sequence[int] | None, progress: bool) -> None:
        """Compile every program that texts of these lengths can need, at any threshold, until further calibrations are told or learned."""
        widths = [large.width for large, _ in self.buckets]
        used = self.buckets if lengths is None else [self.buckets[home] for home in np.unique(np.searchsorted(widths, lengths))]
        with self._calling:
            every_ladder = itertools.product(self._ladders.values(), itertools.chain.from_iterable(used))
            self._compile([rung for ladders, bucket in every_ladder for rung in ladders.schedules(bucket)], progress)

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
        with predicting(count, progress) as bar:
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
        ladders = self.ladders(threshold)
        for bucket, members in _by_device(batches, self.programs.device_count):
            rung = ladders.choose(bucket, threshold, lowest, len(batches))
            schedule = ladders.schedules(bucket)[rung]
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
            self.ladders(threshold).remember(run.bucket, threshold, run.rung, gone)
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
        """Make capacities from what was seen at thresholds near this one, where no calibration is near and enough was."""
        step = threshold // THRESHOLD_STEP * THRESHOLD_STEP
        nearest = self.ladders(threshold).calibration
        # At an infinite threshold nothing is learned: what is kept there is all, or one token of a text.
        if self.arch.skim is None or not math.isfinite(step) or (nearest is not None and nearest.threshold >= step):
            return
        known = len(self._ladders) - 1  # but for those that have room for all
        if known >= MOST_CALIBRATIONS:
            self._seen.clear()
            return
        seen = self._seen.setdefault(step, [])
        seen.append((answers.lengths, answers.kept))
        if sum(len(lengths) for lengths, _ in seen) >= (ENOUGH_TEXTS_OF_A_THRESHOLD if known else ENOUGH_TEXTS):
            lengths, kept = zip(*self._seen.pop(step), strict=True)
            self.set_calibration(Calibration.of(np.concatenate(lengths), np.concatenate(kept, axis=1), step))
        elif len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]


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
