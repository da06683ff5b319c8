"""How the batches of one stage are made, and which rung of its bucket's ladder each runs."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.inference.schedule import (
    DRAWN_BATCHES,
    LATER_WIDTHS,
    RUNGS,
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
# The parts of a batch that smaller ones are, for what fills no batch. What is left of a call is seldom a half or a quarter of one, and
# several small batches cost much more than one that fits.
_PARTS = (1, 7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
_MOST_SLOTS = 1.2  # of a small batch, over a large one's
_RUNGS_OF_SMALL = ("snug",)  # beside the last
_LOST_TOGETHER = 4  # batches whose lost texts fill a batch
_LEAST_ROWS = 32  # fewer cost as much
_ENOUGH_TEXTS = 16  # of the longest, that a batch holds at least where it may: few long ones leave more of its rows empty
# A program costs so many rows more than it has: it reads all weights, products of few rows are slow, and the host packs.
_ROWS_OF_A_START = 80
# The parts of that, of a batch of many rows: it reads all weights, and the host packs, starts and takes. And for each element of a state
# that goes from one stage to the next, which is written, read, and written and read in another place.
_ROWS_OF_A_FULL_START = 30
_OPERATIONS_OF_A_START = 1.8e8
_OPERATIONS_OF_A_STATE = 240
# Of batches drawn: how many are too few to calibrate a bucket by; how many streams hold for each that is asked for of one bucket, as
# there are several buckets; and how many a stream is likely to hold, as powers of 2.
_FEW_DRAWN = 16
_DRAWN_IN_STREAMS = 4
_BATCHES_OF_STREAMS = (-1.0, 3.5)

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

    def most_tokens(self, longest: int) -> int:
        """Rows of the batch that texts begin in of which the longest has so many tokens. What is left of any texts lies in one of as many
        at most, and where states wait between stages, of half as many: no batch of so many rows needs more memory than that one."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        assert self.batch_size is not None
        return self.batch_size * min(width for width in (*WIDTHS, self.max_length) if width >= min(longest, self.max_length))


class Batching:
    """The batches of one stage.

    Args:
      stage: which.
      calibration: what to expect, of the whole network.
      sizes: of the batches.
      lengths: numbers of tokens with which texts enter this stage, or this one and others that share its programs; None: any.
      drawn: of how many batches a bucket's ladder is made.
    """

    def __init__(
        self,
        stage: Stage,
        arch: Architecture,
        calibration: Calibration,
        sizes: Sizes,
        lengths: np.ndarray | None,
        drawn: int = DRAWN_BATCHES,
    ):
        self._draw_count = drawn
        self.stage, self._arch, self._rows_multiple = stage, arch, sizes.rows_multiple
        self._calibration = calibration.of_stage(stage)
        by_width = _sizes_by_width(stage, arch, sizes, lengths, calibration.lengths)
        self.buckets = tuple(each[0] for each in by_width)
        self._sizes = {each[0]: each for each in by_width}  # each bucket's, largest first
        # Of each smaller size, where texts go that its program has no room for.
        self._last = {size: last for each in by_width for size, last in _last_of(each).items()}
        self._costs = {size: self._cost(size) for each in by_width for size in each}
        skimmed_inside = len(stage.skims(arch.num_hidden_layers)) - (stage.stop <= arch.num_hidden_layers)
        self._loses_none = arch.skim is None or skimmed_inside == 0
        self._ladders: dict[Bucket, tuple[Schedule, ...]] = {}
        self._drawn: dict[Bucket, list[np.ndarray]] = {}
        self._of_streams: dict[Bucket, list[np.ndarray]] | None = None
        self._rung_costs: dict[Bucket, list[float]] = {}
        self._calibrated_losses: dict[tuple[Bucket, int], tuple[float, float]] = {}
        # By bucket, rung and threshold: how many batches ran of late, and the sums of `losses` of them.
        self._seen: dict[tuple[Bucket, int, float], tuple[float, float, float]] = {}

    def ladder(self, bucket: Bucket) -> tuple[Schedule, ...]:
        """The schedules in use for a bucket, cheapest first. The last, which has room for all, may be of a larger one."""
        if bucket in self._ladders:
            return self._ladders[bucket]
        if self._loses_none:
            self._ladders[bucket] = (Schedule.full(bucket, self.stage, self._arch.num_hidden_layers),)
        else:
            last = self._last.get(bucket)
            kinds = RUNGS if last is None else _RUNGS_OF_SMALL
            rungs = ladder(bucket, self.stage, self._arch, self.drawn(bucket), self._rows_multiple, kinds)
            if last is not None and len(rungs) > 1:
                rungs = (*rungs[:-1], Schedule.full(last, self.stage, self._arch.num_hidden_layers))
            self._ladders[bucket] = rungs
        return self._ladders[bucket]

    def used(self, longest: int) -> tuple[Bucket, ...]:
        """The buckets that texts of up to so many tokens need."""
        return self.buckets[: 1 + sum(bucket.width < longest for bucket in self.buckets)]

    def sizes(self, longest: int) -> list[Bucket]:
        """Those, and the smaller ones that what does not fill them runs in."""
        return [size for bucket in self.used(longest) for size in self._sizes[bucket]]

    def drawn(self, bucket: Bucket) -> list[np.ndarray]:
        """Batches of the bucket, each as its texts' `kept` [predictors, b]: as they come of streams of texts like the sample's, or where
        that is too seldom, of texts that would fit."""
        if bucket not in self._drawn:
            if self._of_streams is None:
                self._of_streams = self._streams()
            found = self._of_streams.get(bucket, [])
            self._drawn[bucket] = found if len(found) >= _FEW_DRAWN else self._calibration.draw(bucket, self._draw_count)
        return self._drawn[bucket]

    def _streams(self) -> dict[Bucket, list[np.ndarray]]:
        """Batches of each bucket, of calls of half a batch to a dozen. What fills whole batches, and what is left then, are texts of
        other lengths than all of a bucket's together."""
        found: dict[Bucket, list[np.ndarray]] = {}
        rng = np.random.default_rng(0)
        calibration = self._calibration.cut(self.buckets[-1].width)
        lengths, count, most = calibration.lengths, 0, max(bucket.tokens for bucket in self.buckets)
        while count < _DRAWN_IN_STREAMS * self._draw_count:
            # Each of a resample of the sample, so that they differ by what the sample leaves open as well.
            resample = rng.integers(len(lengths), size=len(lengths))
            tokens = most * 2.0 ** rng.uniform(*_BATCHES_OF_STREAMS)
            rows = resample[rng.integers(len(lengths), size=math.ceil(tokens / lengths.mean()))]
            for bucket, members in self.plan(lengths[rows]):
                found.setdefault(bucket, []).append(calibration.kept[:, rows[members]])
                count += 1
        return found

    @property
    def expected(self) -> list[int]:
        """Numbers of tokens with which the calibration's texts enter the stage."""
        return np.unique(self._calibration.lengths).tolist()

    def schedules(self, lengths: Sequence[int] | None) -> list[Schedule]:
        """Of every program that sequences of these lengths (None: of any) can need here."""
        used = self.buckets if lengths is None else [bucket for bucket, _ in by_bucket(np.array(lengths), self.buckets)]
        return [schedule for bucket in used for each in self._sizes[bucket] for schedule in self.ladder(each)]

    def plan(self, lengths: np.ndarray) -> Plan:
        """Batches of sequences of these lengths, narrowest first; members are positions in `lengths`.

        Rows are computed whether a token is there or not. What does not fill a batch of its bucket goes with the next wider ones where
        that costs less, or into small batches, or else into a batch that stays rather empty.
        """
        found: Plan = []
        carried = np.zeros(0, np.int64)
        homes = by_bucket(lengths, self.buckets)
        for number, (bucket, members) in enumerate(homes):
            members = np.concatenate([carried, members])
            sizes = self._best_from(self._sizes[bucket], len(members), int(lengths[members].sum()))[1]
            batches, rest = filled(sizes[0], members, lengths)
            found += batches
            carried = np.zeros(0, np.int64)
            if len(rest):
                if number + 1 < len(homes) and self._goes_along(sizes, rest, *homes[number + 1], lengths):
                    carried = rest
                else:
                    found += self._rest(sizes, rest, lengths)
        return found

    def full(self, lengths: np.ndarray) -> Plan:
        """Those batches of `plan` that more sequences would not fill better."""
        return [batch for bucket, members in by_bucket(lengths, self.buckets) for batch in filled(bucket, members, lengths)[0]]

    def _rest(self, sizes: tuple[Bucket, ...], members: np.ndarray, lengths: np.ndarray) -> Plan:
        """Batches of what does not fill one of the first of these sizes: one batch, as small as may be, or full ones of the next
        smaller size and what is left then."""
        count, tokens = len(members), int(lengths[members].sum())
        sizes = _fitting(sizes, count, tokens)
        if len(sizes) == 1 or self._costs[sizes[0]] <= self._expected_cost(sizes[1:], count, tokens):
            return [(sizes[0], members)]
        batches, rest = filled(sizes[1], members, lengths)
        return batches + (self._rest(sizes[1:], rest, lengths) if len(rest) else [])

    def _goes_along(self, sizes: tuple[Bucket, ...], rest: np.ndarray, wider: Bucket, members: np.ndarray, lengths: np.ndarray) -> bool:
        """Whether what fills no batch of the first of these sizes costs less among these members of a wider bucket."""
        count, tokens, more, more_tokens = len(rest), int(lengths[rest].sum()), len(members), int(lengths[members].sum())
        there = self._sizes[wider]
        along = self._expected_cost(there, count + more, tokens + more_tokens) - self._expected_cost(there, more, more_tokens)
        return along < self._expected_rest(sizes, count, tokens)

    def _expected_cost(self, sizes: tuple[Bucket, ...], count: float, tokens: float) -> float:
        """Of batches of these sizes. Making the batches would tell more exactly, but takes several times as long, for plans that are hardly
        better."""
        return self._best_from(sizes, count, tokens)[0]

    def _best_from(self, sizes: tuple[Bucket, ...], count: float, tokens: float) -> tuple[float, tuple[Bucket, ...]]:
        """That cost, and these sizes from the one whose full batches, and what is left then, cost least: the first, unless its slots are
        used up by texts that leave many of its rows empty."""
        full, left, left_tokens = sizes[0].expected_fill(count, tokens)
        cost = full * self._costs[sizes[0]] + (self._expected_rest(sizes, left, left_tokens) if left else 0.0)
        if not full or len(sizes) == 1 or tokens >= full * sizes[0].tokens:
            return cost, sizes
        return min((cost, sizes), self._best_from(sizes[1:], count, tokens), key=lambda each: each[0])

    def _expected_rest(self, sizes: tuple[Bucket, ...], count: float, tokens: float) -> float:
        """Of what `_rest` would make of so many sequences of so many tokens."""
        sizes = _fitting(sizes, count, tokens)
        cost = self._costs[sizes[0]]
        return cost if len(sizes) == 1 else min(cost, self._expected_cost(sizes[1:], count, tokens))

    def _cost(self, bucket: Bucket) -> float:
        """Of one batch, in operations, its program's start among them."""
        operations = Schedule.full(bucket, self.stage, self._arch.num_hidden_layers).flops(self._arch)
        return operations * (1 + _ROWS_OF_A_START / bucket.tokens)

    def choose_rung(self, bucket: Bucket, threshold: float, least: int, batches: float) -> int:
        """The rung, from `least` on, with the least expected cost. What it loses is run again together with what the other `batches`
        of the call lose, in a small batch if need be, or with others that wait (`math.inf`)."""
        return self._best_rung(bucket, threshold, least, batches)[0]

    def _best_rung(self, bucket: Bucket, threshold: float, least: int, batches: float) -> tuple[int, float]:
        """That rung, and its expected operations."""
        if bucket not in self._rung_costs:
            self._rung_costs[bucket] = [rung.flops(self._arch) for rung in self.ladder(bucket)]
        costs = self._rung_costs[bucket]
        least = min(least, len(costs) - 1)
        expected = costs[-1]
        best, best_cost = len(costs) - 1, expected
        for rung in reversed(range(least, len(costs) - 1)):
            some, share = self._losses(bucket, rung, threshold)
            expected = costs[rung] + min(1.0, share + some / (_LOST_TOGETHER * batches)) * expected
            if expected <= best_cost:
                best, best_cost = rung, expected
        return best, best_cost

    def remember(self, bucket: Bucket, rung: int, threshold: float, lost: np.ndarray) -> None:
        """What a batch has lost, [b] bool."""
        if self._loses_none:
            return
        key = (bucket, rung, threshold)
        count, some, share = self._seen.get(key, (0.0, 0.0, 0.0))
        number = int(np.count_nonzero(lost))
        self._seen[key] = (_FORGETTING * count + 1, _FORGETTING * some + (number > 0), _FORGETTING * share + number / len(lost))

    def _losses(self, bucket: Bucket, rung: int, threshold: float) -> tuple[float, float]:
        """How often a batch loses a text on a rung, and which share of its texts: as calibrated, and as seen of late."""
        key = (bucket, rung)
        if key not in self._calibrated_losses:
            self._calibrated_losses[key] = losses(self.ladder(bucket)[rung], self.drawn(bucket))
        often, part = self._calibrated_losses[key]
        count, some, share = self._seen.get((*key, threshold), (0.0, 0.0, 0.0))
        return (_TRUST * often + some) / (_TRUST + count), (_TRUST * part + share) / (_TRUST + count)

    @property
    def expected_cost(self) -> float:
        """Of the stage for the sample's texts, as a part of a long stream of such, in operations."""
        lengths = self._calibration.lengths
        tokens = {bucket: int(lengths[members].sum()) for bucket, members in by_bucket(lengths, self.buckets)}
        # In the bucket that most of them go through.
        bucket = max(tokens, key=lambda each: tokens[each])
        operations = self._best_rung(bucket, self._calibration.threshold, 0, math.inf)[1]
        # However few rows are left for a layer, it reads its weights.
        operations += _ROWS_OF_A_FULL_START * self.ladder(bucket)[-1].flops(self._arch) / bucket.tokens + _OPERATIONS_OF_A_START
        per_token = operations / bucket.tokens
        if self.stage.stop <= self._arch.num_hidden_layers:
            per_token += _OPERATIONS_OF_A_STATE * self._arch.hidden_size
        return per_token * float(lengths.sum())


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


def _sizes_by_width(
    stage: Stage, arch: Architecture, sizes: Sizes, lengths: np.ndarray | None, texts: np.ndarray
) -> list[tuple[Bucket, ...]]:
    """The buckets of a stage, narrowest first, each with those of its smaller batches behind it. texts: lengths of a sample's at the
    start."""
    alone = sizes.batch_size == 1
    widths: Sequence[int] = SINGLE_WIDTHS if alone else LATER_WIDTHS if stage.first > 0 else WIDTHS
    whole = stage.stop - stage.first == arch.num_hidden_layers
    # Where no states wait, the longest of which there are enough for two batches, as two run one behind the other.
    enough_long = min(len(texts), 2 * (sizes.batch_size or 1)) if whole else 1
    most = sizes.most_tokens(int(np.sort(texts)[-enough_long]))

    def rows(width: int, part: float) -> int:
        if sizes.batch_size is not None and (alone or stage.first == 0):
            return max(1, round(sizes.batch_size * part)) * width
        enough = most
        if stage.first > 0 and sizes.enough_rows is not None:
            # Where states wait there is to be memory for them: batches are half as large as dense ones at most.
            limit = most if whole else most // 2
            enough = max(width, min(limit, max(sizes.enough_rows, _ENOUGH_TEXTS * width)))
        return max(min(_LEAST_ROWS, enough), round(enough * part))

    def of_part(part: float) -> tuple[Bucket, ...]:
        # Shorter texts go along in small batches.
        return buckets(lambda width: rows(width, part), sizes.max_length, lengths, widths, mixed=part < 1, alone=alone)

    def distinct(found: tuple[Bucket, ...]) -> tuple[Bucket, ...]:
        """One of each number of rows, and none that attends to many more places than the largest."""
        most_slots = math.ceil(_MOST_SLOTS * found[0].sequences)
        of_rows = {each.tokens: dataclasses.replace(each, sequences=min(each.sequences, most_slots)) for each in found[1:]}
        return (found[0], *(each for tokens, each in of_rows.items() if tokens < found[0].tokens))

    return [distinct(found) for found in zip(*map(of_part, _PARTS), strict=True)]


def _last_of(sizes: tuple[Bucket, ...]) -> dict[Bucket, Bucket]:
    """For each but the first of these sizes of batches, one of every third's rows that holds what it does: few programs that nothing is
    lost in, as they are seldom used."""
    rows = {size: min(each.tokens for each in sizes[::3] if each.tokens >= size.tokens) for size in sizes[1:]}
    slots = {tokens: max(size.sequences for size in rows if rows[size] == tokens) for tokens in rows.values()}
    return {size: Bucket(slots[tokens], tokens, size.width) for size, tokens in rows.items()}


def _fitting(sizes: tuple[Bucket, ...], count: float, tokens: float) -> tuple[Bucket, ...]:
    """From the smallest of these sizes that holds so many sequences of so many tokens together."""
    while len(sizes) > 1 and sizes[1].holds(count, tokens, 0):
        sizes = sizes[1:]
    return sizes


def by_bucket(lengths: np.ndarray, among: tuple[Bucket, ...]) -> list[tuple[Bucket, np.ndarray]]:
    """Positions in `lengths` by the narrowest bucket that holds them, without empty ones."""
    home = np.searchsorted([bucket.width for bucket in among], lengths)
    return [(among[number], np.flatnonzero(home == number)) for number in np.unique(home)]
