"""Which shapes compacted programs have: buckets of batches, capacities of layers, ladders of schedules (docs/design.md, section 4.1).

A program is compiled for one schedule, and texts that a schedule's capacities do not hold have to be run again with a wider one.
So capacities are calibrated: batches are drawn from how many tokens each layer kept of a sample of texts.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from transkimmer_jax.analysis import flops
from transkimmer_jax.inference import calibration_file
from transkimmer_jax.inference.calibration_file import CALIBRATION_FILE
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import Stage
from transkimmer_jax.weights import digests

WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
LATER_WIDTHS = (4, 8, *WIDTHS)  # of stages that tokens enter which have been chosen: often two or three of a text
SINGLE_WIDTHS = (*range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, 576, 64))  # of texts alone, with all the rows
_SAMPLE = 1024  # examples that a calibration holds at most
DRAWN_BATCHES = 200
_NEIGHBOURS = 64  # examples that a bucket is calibrated on at least, the longest that fit
_LEAN = (0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the drawn batches for which a layer of the first rung may have rows
_SAFE = 0.97  # share of the drawn batches of which the second rung loses nothing
# Cost of a rung over that of the next, at most, and that of the lean one, which most batches of a stream run.
_WORTH, _LEAN_WORTH = 0.97, 0.99
# Standard deviations between the widest text of the sample and attention's width. A text wider than all of the sample will come, and
# costs a second run.
_WIDTH_HEADROOM = 2.0
# Slots beyond those for texts of the mean length, where attention's part of the cost is small: else they run out before rows do. By how
# much lengths differ, as standard deviation over mean.
_MORE_SLOTS = 0.4
_NARROW = 64
_EXCHANGED = 64  # sequences of a batch, and behind it, which may be exchanged
# Of rungs for batches that keep more than nearly all that were drawn: rows and widths, over those of the safe one.
_HEADROOM = {"snug": 1.05, "roomy": 1.1}
_WIDER = 1.25
RUNGS = ("lean", "safe", "roomy", "halfway")  # kinds, see `ladder`


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The shape of a batch before anything is skimmed.

    sequences: slots B. tokens: rows T for all of them together. width: the most tokens of one.
    """

    sequences: int
    tokens: int
    width: int

    def holds(self, count: float, tokens: float, longest: int) -> bool:
        """Whether a batch of `count` sequences of `tokens` tokens together fits."""
        return count <= self.sequences and tokens <= self.tokens and longest <= self.width

    @property
    def places(self) -> int:
        """Rows of its sequences padded to the width."""
        return self.sequences * self.width

    @property
    def pairs(self) -> int:
        """Of places in a sequence, in all of them."""
        return self.sequences * self.width**2

    @property
    def looks_at(self) -> int:
        """Of how many sequences, the next in order, the next batch is made."""
        return self.sequences + (_EXCHANGED if self.sequences > 1 else 0)

    def fill(self, lengths: np.ndarray) -> np.ndarray:
        """Positions of sequences that fill a batch, among those of the next `looks_at`, which have these lengths.

        The first ones that fit would leave half a sequence's rows empty on average: of a batch of seven a fifteenth. So some of them
        are exchanged for longer ones from behind.
        """
        ends = np.cumsum(lengths[: self.sequences])
        count = int(np.searchsorted(ends, self.tokens, side="right"))
        positions = np.arange(len(lengths))
        taken, behind = positions[:count], positions[count:][:_EXCHANGED]
        room = self.tokens - int(ends[count - 1])
        last = taken[-_EXCHANGED:]
        while room > 0 and len(behind):
            gains = lengths[behind] - lengths[last, None]
            gains[gains > room] = 0
            best = np.unravel_index(gains.argmax(), gains.shape)
            if gains[best] <= 0:
                break
            room -= int(gains[best])
            last[best[0]], behind[best[1]] = behind[best[1]], last[best[0]]
        return taken

    def expected_fill(self, count: float, tokens: float) -> tuple[int, float, float]:
        """How many batches so many sequences of so many tokens are likely to fill, and the sequences and tokens that are left then."""
        full = int(max(tokens / self.tokens, count / self.sequences))
        if tokens * self.sequences >= count * self.tokens:
            left = 1 - full * self.tokens / tokens
            return full, count * left, tokens * left
        # Where slots run out first, sequences are exchanged for longer ones until rows do, too.
        left = count - full * self.sequences
        return full, left, max(left, tokens - full * self.tokens)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A stage of the network, the bucket of its batches, and the (rows, width) behind each of its predictors: all the shapes of one
    program."""

    stage: Stage
    bucket: Bucket
    layers: tuple[tuple[int, int], ...]

    @classmethod
    def full(cls, bucket: Bucket, stage: Stage, layers: int) -> "Schedule":
        """The one that every batch of the bucket fits in, for a network of so many layers."""
        return cls(stage, bucket, ((bucket.tokens, bucket.width),) * len(stage.skims(layers)))

    def flops(self, arch: Architecture) -> float:
        """Operations of the program; its time is near proportional to them."""
        total, (rows, width) = 0.0, (self.bucket.tokens, self.bucket.width)
        behind = iter(self.layers)
        for step in range(self.stage.first, self.stage.stop):
            if step == arch.num_hidden_layers:
                total += flops.per_key(arch) * rows + self.bucket.sequences * flops.head(arch)
                total += (flops.per_query(arch) + flops.per_token_pair(arch) * width) * self.bucket.sequences
            else:
                if step > 0:
                    total += flops.per_token(arch) * rows + flops.per_token_pair(arch) * self.bucket.sequences * width * width
                total += flops.per_predicted_token(arch) * rows
                rows, width = next(behind)
        return total


def buckets(
    rows: Callable[[int], int],
    max_length: int,
    lengths: np.ndarray | None = None,
    widths: Sequence[int] = WIDTHS,
    *,
    mixed: bool = False,
    alone: bool = False,
) -> tuple[Bucket, ...]:
    """The buckets in use, narrowest first. Their number bounds the number of programs.

    Args:
      rows: of a bucket by its width; at least as many as that.
      max_length: the widest bucket's width.
      widths: of the others.
      lengths: of a sample of texts, [N]. A bucket then has the slots that its rows need for texts of the mean length there: empty
        slots cost attention, and a batch of shorter texts leaves some rows empty instead. Without, rows run out before slots do.
      mixed: of buckets in which shorter texts go along.
      alone: of buckets of one sequence.
    """
    found: list[Bucket] = []
    narrower = 0
    for width in (*(width for width in widths if width < max_length), max_length):
        tokens = round_up(max(rows(width), width), 8)
        # The shortest there; of the narrowest bucket's, few are as short as can be.
        mean = float(narrower + 1 if narrower else min(widths[0] // 2, max_length))
        if lengths is not None and ((lengths > narrower) & (lengths <= width)).any():
            inside = lengths[(lengths > narrower) & (lengths <= width)]
            mean = float(inside.mean())
            if width <= _NARROW:
                mean /= 2 if mixed else 1 + _MORE_SLOTS * float(inside.std()) / mean
        found.append(Bucket(1 if alone else max(1, math.ceil(tokens / mean - 1e-9)), tokens, width))
        narrower = width
    return tuple(found)


def default_batch_tokens(platform: str) -> int:
    """Tokens of a batch where nobody says: enough for matrix products at full speed, little enough to answer soon."""
    return 4096 if platform == "cpu" else 16384


def enough_rows(platform: str) -> int | None:
    """Rows beyond which a batch becomes no faster for each; None: as many as it may have.

    Matrix products are as fast with half of these, but every batch costs the host a millisecond or two as well.
    """
    return 2048 if platform == "cpu" else None


def granule(platform: str) -> int:
    """What numbers of rows are rounded up to: rows of a matrix product that a CPU's vector unit, or an accelerator's matrix
    unit, computes together."""
    return 8 if platform == "cpu" else 64


def round_up(count: float, multiple: int) -> int:
    """The next multiple of `multiple`, at least one."""
    return max(1, math.ceil(count / multiple)) * multiple


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many tokens a model kept of a sample of texts.

    lengths: [N] tokens of each. kept: [layers, N] tokens that each layer computed. threshold: of the gates.

    `of_stage` gives that of a part of the network, whose `lengths` are the tokens that enter it.
    """

    lengths: np.ndarray
    kept: np.ndarray
    threshold: float

    @classmethod
    def of(cls, lengths: np.ndarray, kept: np.ndarray, threshold: float, seed: int = 0) -> "Calibration":
        """From the numbers of many examples, of which a few hundred are drawn."""
        rows = np.random.default_rng(seed).permutation(len(lengths))[:_SAMPLE]
        return cls(np.asarray(lengths)[rows].astype(int), np.asarray(kept)[:, rows].astype(int), float(threshold))

    def to_json(self) -> str:
        """As `load` reads it. Raises `CheckpointError` for a threshold that is not finite: nobody serves a model with it."""
        return calibration_file.to_json(self.lengths, self.kept, self.threshold)

    def save(self, folder: str | pathlib.Path) -> None:
        """Write it beside a model's config.json, where an engine finds it.

        Raises:
          CheckpointError: a threshold that is not finite, or digests of the folder that cannot be read.
          TrainingError: the disk is full.
        """
        digests.replace_text(os.path.join(folder, CALIBRATION_FILE), self.to_json())

    @classmethod
    def load(cls, folder: str | pathlib.Path, layers: int) -> "Calibration | None":
        """A model folder's calibration, None where it has none. Raises `CheckpointError` where it does not fit the model."""
        saved = calibration_file.read(pathlib.Path(folder), layers)
        return None if saved is None else cls(*saved)

    @classmethod
    def assumed(cls, layers: int, threshold: float) -> "Calibration":
        """What to expect of a model that nobody has calibrated: all tokens in the first layer, a quarter in the last."""
        lengths = np.repeat(np.arange(4, 516, 4), 4)
        # A spread of half the mean between texts, as trained models have.
        spread = np.tile([0.5, 0.8, 1.2, 1.5], len(lengths) // 4)
        share = np.linspace(1.0, 0.25, layers)[:, None]
        kept = np.maximum(1, np.minimum(lengths, np.round(share * spread * lengths))).astype(int)
        kept[0] = lengths
        return cls(lengths, np.minimum.accumulate(kept, axis=0), threshold)

    def of_dense(self, layers: int) -> "Calibration":
        """The same texts with a dense model of so many layers."""
        return dataclasses.replace(self, kept=np.tile(self.lengths, (layers, 1)))

    def cut(self, max_length: int) -> "Calibration":
        """The same texts cut to so many tokens, of which no more are kept."""
        lengths, kept = (np.minimum(each, max_length) for each in (self.lengths, self.kept))
        return Calibration(lengths, kept, self.threshold)

    def of_stage(self, stage: Stage) -> "Calibration":
        """What enters a stage, and what its predictors keep of it."""
        layers = stage.skims(len(self.kept))
        entering = self.lengths if stage.first == 0 else self.kept[stage.first - 1]
        return Calibration(entering, self.kept[layers.start : layers.stop], self.threshold)

    def draw(self, bucket: Bucket, count: int, seed: int = 0) -> list[np.ndarray]:
        """`count` batches of the bucket as texts like the sample's fill it, each as its texts' `kept` [predictors, b].

        Each is drawn from a resample of the sample, so that the batches differ by what the sample leaves open as well: the sums of
        large batches concentrate, but around a mean that a sample knows only so well.
        """
        rng = np.random.default_rng(seed)
        at_home = np.flatnonzero((self.lengths <= bucket.width) & (self.lengths * bucket.sequences >= bucket.tokens // 2))
        if len(at_home) < _NEIGHBOURS:
            fitting = np.flatnonzero(self.lengths <= bucket.width)
            at_home = fitting[np.argsort(self.lengths[fitting], kind="stable")[-_NEIGHBOURS:]]
        if not len(at_home):
            # Only longer texts were seen: they keep, of a shorter one, as large a share.
            lengths, kept = np.full(len(self.lengths), bucket.width), np.ceil(self.kept * bucket.width / self.lengths).astype(int)
        else:
            lengths, kept = self.lengths[at_home], self.kept[:, at_home]
        batches = []
        for _ in range(count):
            resample = rng.integers(len(lengths), size=len(lengths))
            rows = resample[rng.integers(len(lengths), size=bucket.looks_at)]
            batches.append(kept[:, rows[bucket.fill(lengths[rows])]])
        return batches


def ladder(
    bucket: Bucket, stage: Stage, arch: Architecture, drawn: list[np.ndarray], rows_multiple: int, kinds: Sequence[str] = RUNGS
) -> tuple[Schedule, ...]:
    """Schedules of a stage's bucket, cheapest first, for batches like the `drawn` ones: those of these kinds that pay, and the last, which
    holds every batch.

    'lean' costs least together with what it loses, if that runs again among other texts. 'safe' loses nothing of nearly all batches: for
    calls of few batches, where a lost text would cost a batch of its own. 'snug' has a little headroom above that, 'roomy' some, and
    'halfway' lies between that and the last on a logarithmic scale, for texts that keep more than the sample did.
    """
    full = Schedule.full(bucket, stage, arch.num_hidden_layers)
    if arch.skim is None or not full.layers:
        return (full,)
    totals = np.array([batch.sum(axis=1) for batch in drawn])  # [batches, predictors]
    widest = np.array([batch.max(axis=1) for batch in drawn])
    widths = widest.max(axis=0) + _WIDTH_HEADROOM * np.concatenate(drawn, axis=1).std(axis=1)
    if stage.stop <= arch.num_hidden_layers:
        # What is handed on costs nothing in this stage, so there is room for all of it.
        totals[:, -1], widths[-1] = bucket.tokens, bucket.width

    def holding(share: float) -> Schedule:
        """That in which each layer by itself has rows for so many of the batches."""
        return _rounded(full, np.quantile(totals, share, axis=0), widths, rows_multiple)

    for share in np.linspace(_SAFE, 1.0, 9):
        safe = holding(share)
        if (totals <= np.array(safe.layers)[:, 0]).all(axis=1).mean() >= _SAFE:
            break

    def above_safe(headroom: float) -> Schedule:
        rows, widths = np.array(safe.layers).T
        return _rounded(full, headroom * rows, _WIDER * widths, rows_multiple)

    def of_kind(kind: str) -> Schedule:
        match kind:
            case "lean":
                return min(map(holding, _LEAN), key=lambda each: each.flops(arch) + losses(each, drawn)[1] * full.flops(arch))
            case "safe":
                return safe
            case "snug" | "roomy":
                return above_safe(_HEADROOM[kind])
        rows, widths = np.array(above_safe(_HEADROOM["roomy"]).layers).T
        return _rounded(full, np.sqrt(rows * bucket.tokens), np.sqrt(widths * bucket.width), rows_multiple)

    # What is hardly cheaper than the next is not worth a program.
    found = [full]
    for kind in reversed(kinds):
        rung = of_kind(kind)
        if rung.flops(arch) < (_LEAN_WORTH if kind == "lean" else _WORTH) * found[-1].flops(arch):
            found.append(rung)
    return tuple(reversed(found))


def losses(schedule: Schedule, drawn: list[np.ndarray]) -> tuple[float, float]:
    """How often a batch like the drawn ones loses a text on a schedule, and the mean share of its texts that it loses."""
    texts = np.array([kept.shape[1] for kept in drawn])
    there = np.arange(texts.max()) < texts[:, None]
    counts = np.zeros((len(schedule.layers), *there.shape), int)
    for batch, kept in enumerate(drawn):
        counts[:, batch, : kept.shape[1]] = kept
    for count, (rows, width) in zip(counts, schedule.layers, strict=True):
        there &= count <= width
        there &= np.cumsum(np.where(there, count, 0), axis=1) <= rows
    shares = 1 - there.sum(axis=1) / texts
    return float(np.mean(shares > 0)), float(np.mean(shares))


def _rounded(full: Schedule, rows: np.ndarray, widths: np.ndarray, rows_multiple: int) -> Schedule:
    """Capacities rounded up to the hardware's liking, never above the full ones, never rising with depth."""
    layers = []
    rows_limit, width_limit = full.bucket.tokens, full.bucket.width
    for wanted_rows, wanted_width in zip(rows, widths, strict=True):
        rows_limit = min(rows_limit, round_up(wanted_rows, rows_multiple))
        width_limit = min(width_limit, round_up(wanted_width, 8 if wanted_width > 32 else 4))
        layers.append((rows_limit, width_limit))
    return dataclasses.replace(full, layers=tuple(layers))
