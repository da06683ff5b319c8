"""One call of the engine: sequences on their way through the network's stages.

A stage's sequences wait until they fill batches. Those of a batch that find no room in its capacities are lost whole and wait again,
with each other and for more room; the others' answers stand.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.batching import Batching, Plan
from transkimmer_jax.inference.first import FirstMargins
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.programs import Programs
from transkimmer_jax.inference.schedule import Bucket
from transkimmer_jax.inference.waiting import WaitingStates

IN_FLIGHT = 2  # programs started before the oldest is waited for, so that the host packs while the device computes
_ALIGNMENT = 64  # bytes


@dataclasses.dataclass
class Statistics:
    """What an engine has done so far: examples answered, batches run, batches that lost texts, texts run again, texts cut."""

    examples: int = 0
    batches: int = 0
    overflows: int = 0
    again: int = 0
    truncated: int = 0


@dataclasses.dataclass(frozen=True)
class _Started:
    """A program that runs: on one batch a device, `group` their examples."""

    bucket: Bucket
    group: list[np.ndarray]
    rung: int
    answers: dict[str, jax.Array]


class Call:
    """Examples to be answered at a threshold. `answer` once.

    waiting_bytes: of states that may wait between stages before batches are run that more of them would fill better.
    """

    def __init__(
        self,
        programs: Programs,
        batchings: tuple[Batching, ...],
        first: FirstMargins | None,
        statistics: Statistics,
        examples: TokenizedExamples,
        threshold: float,
        waiting_bytes: int,
    ):
        self._programs, self._batchings, self._statistics = programs, batchings, statistics
        self._examples, self._threshold = examples, threshold
        self._waiting_bytes = waiting_bytes
        arch, count = programs.arch, len(examples.lengths)
        self._logits = np.zeros((count, arch.num_labels), np.float32)
        self._kept = np.zeros((arch.num_hidden_layers, count), np.int32)
        self._depths: list[np.ndarray] | None = None
        self._entering = examples.lengths.copy()  # tokens of each example that enter its stage
        # What the first stage reads of each token that enters it, and where each example's begin.
        self._tokens: tuple[np.ndarray, ...] = (examples.input_ids, examples.token_type_ids)
        self._offsets = examples.offsets
        self._states = WaitingStates(count)  # of those tokens, behind the first stage
        self._waiting: dict[tuple[int, int], list[np.ndarray]] = {}  # by stage, and how often they were lost there
        self._times = np.zeros(count, np.int64)  # so often each example was lost in its stage
        self._lost_on: dict[int, tuple[Bucket, int]] = {}  # where it was, the last time: bucket and rung
        if batchings[0].stage.first == 1:
            assert first is not None
            self._choose(first)
        self._tokens = tuple(each.astype(np.int32, copy=False) for each in self._tokens)

    def answer(self, update: Callable[[int], object]) -> Predictions:
        """All answers. update: is told of examples as they are answered."""
        self._update = update
        self._wait(0, 0, np.arange(len(self._entering)))
        self._drain(0, last_call=True)
        return Predictions(self._logits, self._kept, self._examples.lengths, self._depths)

    def _choose(self, first: FirstMargins) -> None:
        """Decide which tokens enter the first layer."""
        examples, arch = self._examples, self._programs.arch
        positions = np.arange(len(examples.input_ids)) - np.repeat(examples.offsets[:-1], examples.lengths)
        # Tokens and types out of range are read as the last ones, as the programs do.
        ids, types = (
            np.clip(each, 0, size - 1)
            for each, size in ((examples.input_ids, arch.vocab_size), (examples.token_type_ids, arch.type_vocab_size))
        )
        kept = (first.of(ids, types, positions) > np.float32(self._threshold)) | (positions == 0)
        self._tokens = (ids[kept], types[kept], positions[kept])
        self._offsets = np.concatenate([[0], np.cumsum(kept)])[examples.offsets]
        self._entering = np.diff(self._offsets)
        self._kept[0] = self._entering
        if self._programs.depths:
            self._depths = np.split(kept.astype(np.int32), examples.offsets[1:])[:-1]

    def _wait(self, stage: int, times: int, rows: np.ndarray) -> None:
        self._times[rows] = times
        if len(rows):
            self._waiting.setdefault((stage, times), []).append(rows)

    def _drain(self, from_stage: int, last_call: bool) -> None:
        """Run what waits for a stage or a later one; unless it is the last call, what fills batches."""
        for stage in range(from_stage, len(self._batchings)):
            last = -1
            while lost := [times for waiting, times in self._waiting if waiting == stage and times > last]:
                last = min(lost)
                self._fill(stage, last)
            while last_call and any(waiting == stage for waiting, _ in self._waiting):
                self._finish(stage)

    def _fill(self, stage: int, times: int) -> None:
        """Run full batches of the examples that wait for a stage and were lost there so often; the others wait on."""
        rows = np.concatenate(self._waiting.pop((stage, times)))
        plan = self._batchings[stage].full(self._entering[rows])
        left = np.ones(len(rows), bool)
        for _, members in plan:
            left[members] = False
        self._wait(stage, times, rows[left])
        self._pass(stage, [(bucket, rows[members]) for bucket, members in plan], math.inf)

    def _finish(self, stage: int) -> None:
        """Run all that wait for a stage, however often they were lost: apart from each other they would fill no batch."""
        keys = sorted(key for key in self._waiting if key[0] == stage)
        rows = np.concatenate([each for key in keys for each in self._waiting.pop(key)])
        plan = self._batchings[stage].plan(self._entering[rows])
        self._pass(stage, [(bucket, rows[members]) for bucket, members in plan], len(plan))

    def _pass(self, stage: int, plan: Plan, together: float) -> None:
        """Run the batches of a plan through one stage. together: so many batches' lost texts run again with each other, or, infinite, with
        others that wait."""
        lost = [np.zeros(0, np.int64)]
        for run in self._run(self._batchings[stage], plan, together):
            lost += self._take(stage, run)
            if self._states.nbytes > self._waiting_bytes:
                if stage == 0:
                    self._make_room()
                else:
                    # Sequences go on in another order than they came in, so many a batch is partly gone.
                    self._states.compact(self._entering)
        again = np.concatenate(lost)
        self._statistics.again += len(again)
        times = self._times[again] + 1
        for each in np.unique(times).tolist():
            self._wait(stage, each, again[times == each])

    def _make_room(self) -> None:
        """Run what fills batches behind the first stage, and then all of the stage for which most waits, until few enough states wait."""
        self._drain(1, last_call=False)
        self._states.compact(self._entering)
        while self._states.nbytes > self._waiting_bytes:
            waiting: collections.Counter[int] = collections.Counter()
            for (stage, _), parts in self._waiting.items():
                if stage > 0:
                    waiting[stage] += sum(int(self._entering[rows].sum()) for rows in parts)
            self._finish(waiting.most_common(1)[0][0])

    def _run(self, batching: Batching, plan: Plan, together: float) -> Iterator[_Started]:
        """Run a plan, in groups of one batch a device, each on the rung that is likely to be cheapest."""
        started: collections.deque[_Started] = collections.deque()
        for bucket, group in self._groups(plan):
            rung = batching.choose_rung(bucket, self._threshold, self._least_rung(batching, bucket, group), together)
            schedule = batching.ladder(bucket)[rung]
            answers = self._programs.run(schedule, self._packed(batching, schedule.bucket, group), self._threshold)
            started.append(_Started(bucket, group, rung, answers))
            if len(started) >= IN_FLIGHT:
                yield started.popleft()
        yield from started

    def _least_rung(self, batching: Batching, bucket: Bucket, group: list[np.ndarray]) -> int:
        """Of a group. What was lost on a rung of the bucket needs a higher one there, but may find room in another bucket; what was lost
        twice is to be answered now."""
        rows = np.concatenate(group)
        rows = rows[self._times[rows] > 0]
        if (self._times[rows] > 1).any():
            return len(batching.ladder(bucket)) - 1
        lost_on = [self._lost_on[row] for row in rows.tolist()]
        return max((rung + 1 for lost_in, rung in lost_on if lost_in == bucket), default=0)

    def _groups(self, plan: Plan) -> Iterator[tuple[Bucket, list[np.ndarray]]]:
        """One batch for every device, all in the bucket of the widest; where no more fit, the other devices' are empty."""
        devices = self._programs.device_count
        group: list[np.ndarray] = []
        for number, (bucket, rows) in enumerate(plan):
            group.append(rows)
            # Neighbours rise in width, and a wider bucket has fewer slots.
            if len(group) == devices or number + 1 == len(plan) or not self._fit(plan[number + 1][0], group):
                yield bucket, group + [np.zeros(0, np.int64)] * (devices - len(group))
                group = []

    def _fit(self, bucket: Bucket, group: list[np.ndarray]) -> bool:
        """Whether a bucket no narrower than theirs holds each of these batches."""
        return all(bucket.holds(len(rows), int(self._entering[rows].sum()), bucket.width) for rows in group)

    def _packed(self, batching: Batching, bucket: Bucket, group: list[np.ndarray]) -> list[np.ndarray]:
        """The rows of a group's batches, as a program takes them, and their lengths."""
        devices, arch = len(group), self._programs.arch
        lengths = np.zeros((devices, bucket.sequences), np.int32)
        begins = batching.stage.first <= 1
        shape = (devices, bucket.tokens)
        if begins:
            packed = [_aligned(shape, np.dtype(np.int32)) for _ in self._tokens]
        else:
            packed = [_aligned((*shape, arch.hidden_size), arch.dtype)]
        for device, rows in enumerate(group):
            entering = self._entering[rows]
            total = int(entering.sum())
            lengths[device, : len(rows)] = entering
            if begins:
                places = np.repeat(self._offsets[rows] - (np.cumsum(entering) - entering), entering) + np.arange(total)
                for target, tokens in zip(packed, self._tokens, strict=True):
                    # Of the modes of `take`, the only one that writes in place. All places are there.
                    np.take(tokens, places, out=target[device, :total], mode="clip")
            elif total:
                np.concatenate(self._states.of(rows, entering), out=packed[0][device, :total])
            for target in packed:
                target[device, total:] = 0
        return [*packed, lengths]

    def _take(self, stage: int, run: _Started) -> list[np.ndarray]:
        """Wait for a started group, take what came of it, and return the examples that it lost."""
        batching = self._batchings[stage]
        part, layers = batching.stage, self._programs.arch.num_hidden_layers
        skims, is_last = part.skims(layers), stage == len(self._batchings) - 1
        answers = {name: np.asarray(array) for name, array in run.answers.items()}
        lost = []
        for device, rows in enumerate(run.group):
            if not len(rows):
                continue
            count = len(rows)
            gone = answers["lost"][device, :count]
            self._statistics.batches += 1
            self._statistics.overflows += int(gone.any())
            batching.remember(run.bucket, run.rung, self._threshold, gone)
            lost.append(rows[gone])
            self._lost_on.update(dict.fromkeys(rows[gone].tolist(), (run.bucket, run.rung)))
            kept, there = answers["kept"][device][:, :count], rows[~gone]
            self._kept[skims.start : skims.stop, there] = kept[:, ~gone]
            if "depth" in answers:
                self._take_depths(part.first, rows, gone, answers["depth"][device])
            if is_last:
                self._logits[there] = answers["logits"][device, :count][~gone]
                self._statistics.examples += len(there)
                self._update(len(there))
                self._states.drop(there)
            else:
                # Of lost sequences there are no rows.
                self._entering[there] = kept[-1][~gone]
                self._states.put(there, self._entering[there], answers["states"][device])
                self._wait(stage + 1, 0, there)
        return lost

    def _take_depths(self, first: int, rows: np.ndarray, gone: np.ndarray, depth: np.ndarray) -> None:
        """Of each token that entered a stage which begins at step `first`, how many layers have computed it."""
        self._depths = self._depths or [np.zeros(length, np.int32) for length in self._examples.lengths]
        parts = np.split(depth, np.cumsum(self._entering[rows]))
        for row, part, is_gone in zip(rows, parts, gone, strict=False):
            if not is_gone:
                found = self._depths[row]
                found[found == first] += part


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of anything that begins where XLA's buffers may, so that a program on a CPU reads it where it is; others are copied."""
    size = math.prod(shape) * dtype.itemsize
    block = np.empty(size + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)
