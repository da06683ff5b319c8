"""How the batches of one stage are made, and which rung of its bucket's ladder each runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.inference.schedule import (
    DRAWN_BATCHES,
    LATER_WIDTHS,
    SINGLE_WIDTHS,
    WIDTHS,
    Bucket,
    Calibration,
    Schedule,
    buckets,
    ladder,
    losses,
)
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import Stage

# In the choice of rungs: the weight of a batch against the one after it, and how many batches the calibration counts for.
_FORGETTING = 0.95
_TRUST = 2.0
_SMALL = 4  # the part of a batch that a small batch is
# A program costs so many rows more than it has: it reads all weights, and products of few rows are slow.
_ROWS_OF_A_START = 50

Plan = list[tuple[Bucket, np.ndarray]]  # batches: (bucket, members)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large batches are.

    batch_tokens, batch_size, max_length: as of `SkimEngine`, one of the first two None. rows_multiple, enough_rows: see
    `schedule.granule` and `schedule.enough_rows`.
    """

    batch_tokens: int | None
    batch_size: int | None
    max_length: int
    rows_multiple: int
    enough_rows: int | None


class Batching:
    """The batches of one stage.

    Args:
      stage: which.
      calibration: what to expect, of the whole network.
      sizes: of the batches.
      known: whether the calibration is of texts like those to come, or an assumption.
    """

    def __init__(self, stage: Stage, arch: Architecture, calibration: Calibration, sizes: Sizes, known: bool):
        self.stage, self._arch, self._rows_multiple = stage, arch, sizes.rows_multiple
        self._calibration = calibration.of_stage(stage)
        lengths = self._calibration.lengths if known else None
        tokens, size = sizes.batch_tokens, sizes.batch_size
        widths: Sequence[int] = WIDTHS
        if size == 1:
            widths = SINGLE_WIDTHS
        elif stage.first > 0 and known:  # else whole texts may enter it
            # Of one size whatever their width: what enters the stage tells little of how long the texts were.
            tokens, size, widths = tokens or _typical_tokens(calibration, sizes), None, LATER_WIDTHS
            # Small ones, as the last of a call is seldom full.
            tokens = min(tokens, sizes.enough_rows or tokens)
        self.buckets = buckets(tokens, size, sizes.max_length, lengths, widths)
        # For the few texts that a call's batches lose; without them each call that loses one would pay for a whole batch more.
        tokens = None if tokens is None else tokens // _SMALL
        size = None if size is None else max(1, size // _SMALL)
        self.small_buckets = buckets(tokens, size, sizes.max_length, lengths, widths)
        self._ladders: dict[Bucket, tuple[Schedule, ...]] = {}
        self._drawn: dict[Bucket, list[np.ndarray]] = {}
        self._calibrated_losses: dict[tuple[Bucket, int], np.ndarray] = {}
        # By bucket, rung and threshold: how many batches ran of late, and the sums of what they lost.
        self._seen: dict[tuple[Bucket, int, float], tuple[float, np.ndarray]] = {}

    def ladder(self, bucket: Bucket) -> tuple[Schedule, ...]:
        """The schedules in use for a bucket, cheapest first."""
        if bucket not in self._ladders:
            self._drawn[bucket] = self._calibration.draw(bucket, DRAWN_BATCHES)
            self._ladders[bucket] = ladder(bucket, self.stage, self._arch, self._drawn[bucket], self._rows_multiple)
        return self._ladders[bucket]

    @property
    def expected(self) -> list[int]:
        """Numbers of tokens with which the calibration's texts enter the stage."""
        return np.unique(self._calibration.lengths).tolist()

    def schedules(self, lengths: Sequence[int] | None) -> list[Schedule]:
        """Of every program that sequences of these lengths (None: of any) can need here."""
        every = dict.fromkeys((*self.buckets, *self.small_buckets))
        if lengths is not None:
            widths = {bucket.width for bucket, _ in by_bucket(np.array(lengths), self.buckets)}
            every = {bucket: None for bucket in every if bucket.width in widths}
        return [schedule for bucket in every for schedule in self.ladder(bucket)]

    def plan(self, lengths: np.ndarray) -> Plan:
        """Batches of sequences of these lengths, narrowest first; members are positions in `lengths`.

        Rows are computed whether a token is there or not. What does not fill a batch of its bucket goes with the next wider ones where
        that costs less, or into small batches, or else into a batch that stays rather empty.
        """
        found: Plan = []
        carried = np.zeros(0, np.int64)
        homes = by_bucket(lengths, self.buckets)
        for number, (bucket, members) in enumerate(homes):
            batches, rest = filled(bucket, np.concatenate([carried, members]), lengths)
            found += batches
            carried = np.zeros(0, np.int64)
            if len(rest):
                alone = self._rest(bucket, rest, lengths)
                if number + 1 < len(homes) and self._cost(alone) > self._cost_of_carrying(rest, *homes[number + 1], lengths):
                    carried = rest
                else:
                    found += alone
        return found

    def full(self, lengths: np.ndarray) -> Plan:
        """Those batches of `plan` that more sequences would not fill better."""
        return [batch for bucket, members in by_bucket(lengths, self.buckets) for batch in filled(bucket, members, lengths)[0]]

    def _rest(self, bucket: Bucket, members: np.ndarray, lengths: np.ndarray) -> Plan:
        """Batches of what does not fill one of the bucket."""
        small = next(each for each in self.small_buckets if each.width >= bucket.width)
        batches, rest = filled(small, members, lengths)
        batches += [(small, rest)] if len(rest) else []
        whole: Plan = [(bucket, members)]
        return batches if self._cost(batches) < self._cost(whole) else whole

    def _cost_of_carrying(self, carried: np.ndarray, bucket: Bucket, members: np.ndarray, lengths: np.ndarray) -> float:
        """By how much batches of the bucket cost more when they take others with them."""

        def cost(members: np.ndarray) -> float:
            batches, rest = filled(bucket, members, lengths)
            return self._cost(batches + (self._rest(bucket, rest, lengths) if len(rest) else []))

        return cost(np.concatenate([carried, members])) - cost(members)

    def _cost(self, plan: Plan) -> float:
        return sum(
            Schedule.full(bucket, self.stage, self._arch.num_hidden_layers).flops(self._arch) * (1 + _ROWS_OF_A_START / bucket.tokens)
            for bucket, _ in plan
        )

    def choose_rung(self, bucket: Bucket, threshold: float, least: int, batches: int) -> int:
        """The rung, from `least` on, with the least expected cost. What it loses is run again together with what the other `batches`
        of the call lose, on the next rung, and in the end with what was left over, in a small batch if need be."""
        rungs = self.ladder(bucket)
        least = min(least, len(rungs) - 1)
        expected = rungs[-1].flops(self._arch)
        best, best_cost = len(rungs) - 1, expected
        for rung in reversed(range(least, len(rungs) - 1)):
            some, share = self._losses(bucket, rung, threshold)
            expected = rungs[rung].flops(self._arch) + min(1.0, share + some / (_SMALL * batches)) * expected
            if expected <= best_cost:
                best, best_cost = rung, expected
        return best

    def remember(self, bucket: Bucket, rung: int, threshold: float, lost: np.ndarray) -> None:
        """What a batch has lost, [b] bool."""
        key = (bucket, rung, threshold)
        count, seen = self._seen.get(key, (0.0, np.zeros(2)))
        self._seen[key] = (_FORGETTING * count + 1, _FORGETTING * seen + np.array([lost.any(), lost.mean()]))

    def _losses(self, bucket: Bucket, rung: int, threshold: float) -> np.ndarray:
        """How often a batch loses a text on a rung, and which share of its texts: as calibrated, and as seen of late."""
        key = (bucket, rung)
        if key not in self._calibrated_losses:
            self._calibrated_losses[key] = np.array(losses(self.ladder(bucket)[rung], self._drawn[bucket]))
        count, seen = self._seen.get((*key, threshold), (0.0, np.zeros(2)))
        return (_TRUST * self._calibrated_losses[key] + seen) / (_TRUST + count)


def filled(bucket: Bucket, members: np.ndarray, lengths: np.ndarray) -> tuple[Plan, np.ndarray]:
    """Batches of the bucket that are full, and the members that are left.

    Members of all lengths go together: sorted, they would use up a batch's rows before its slots, or the other way round.
    """
    order = members[np.random.default_rng(0).permutation(len(members))] if len(members) > bucket.sequences else members.copy()
    batches: Plan = []
    while len(order):
        chosen = bucket.fill(lengths[order[: bucket.looks_at]])
        batch = order[chosen]
        if len(batch) == len(order) and len(batch) < bucket.sequences and lengths[batch].sum() + bucket.width <= bucket.tokens:
            break
        batches.append((bucket, batch))
        passed_over = np.delete(order[: bucket.looks_at], chosen)
        order = order[len(batch) :]
        order[: len(passed_over)] = passed_over
    return batches, order


def by_bucket(lengths: np.ndarray, among: tuple[Bucket, ...]) -> list[tuple[Bucket, np.ndarray]]:
    """Positions in `lengths` by the narrowest bucket that holds them, without empty ones."""
    home = np.searchsorted([bucket.width for bucket in among], lengths)
    return [(among[number], np.flatnonzero(home == number)) for number in np.unique(home)]


def _typical_tokens(calibration: Calibration, sizes: Sizes) -> int:
    """Rows of the batch that a text of median length begins in."""
    first = buckets(None, sizes.batch_size, sizes.max_length)
    ((bucket, _),) = by_bucket(np.minimum([int(np.median(calibration.lengths))], sizes.max_length), first)
    return bucket.tokens
