"""Which shapes compacted programs have: buckets of batches, capacities of layers, ladders of schedules (DESIGN section 4).

A program is compiled for one schedule, and a batch that keeps more than the schedule's capacities has to be run again with a
wider one. So capacities are calibrated: from how many tokens each layer kept of a sample of texts, batches are drawn, and the
rungs of the ladder are the schedules that make the expected cost of a batch smallest.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from transkimmer_jax import files
from transkimmer_jax.analysis import flops
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture

CALIBRATION_FILE = "skim_calibration.json"
WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
_SAMPLE = 1024  # examples that a calibration holds at most
_DRAWN_BATCHES = 300
_NEIGHBOURS = 64  # examples that a bucket is calibrated on at least, the longest that fit
_COVERAGES = (0.5, 0.75, 0.9, 0.97, 1.0)  # shares of the drawn batches that a candidate rung holds
# Standard deviations between the widest text of the sample and attention's width. A text wider than all of the sample will come, and
# costs a second run.
_WIDTH_HEADROOM = 2.0
# Of the rung for batches that keep a little more than any that was drawn: rows and widths, relative.
_HEADROOM = (1.1, 1.25)
_MAX_CALIBRATED_RUNGS = 2


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The shape of a batch before anything is skimmed.

    sequences: slots B. tokens: rows T for all of them together. width: the most tokens of one.
    """

    sequences: int
    tokens: int
    width: int

    def holds(self, count: int, tokens: int, longest: int) -> bool:
        """Whether a batch of `count` sequences of `tokens` tokens together fits."""
        return count <= self.sequences and tokens <= self.tokens and longest <= self.width


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A bucket, and the (rows, width) of each layer behind its predictor: all the shapes of one program."""

    bucket: Bucket
    layers: tuple[tuple[int, int], ...]

    @classmethod
    def full(cls, bucket: Bucket, layers: int) -> "Schedule":
        """The one that every batch of the bucket fits in."""
        return cls(bucket, ((bucket.tokens, bucket.width),) * layers)

    def fits(self, kept: np.ndarray) -> bool:
        """Whether a batch fits of which the layers keep `kept` [layers, B] tokens; fewer layers than the model's are its first."""
        return all(row.sum() <= rows and row.max() <= width for row, (rows, width) in zip(kept, self.layers, strict=False))

    def flops(self, arch: Architecture) -> float:
        """Operations of the program; its time is near proportional to them."""
        total, entering = self.bucket.sequences * flops.head(arch), self.bucket.tokens
        for layer, (rows, width) in enumerate(self.layers):
            total += flops.per_predicted_token(arch) * entering
            if layer < len(self.layers) - 1:
                total += flops.per_token(arch) * rows + flops.per_token_pair(arch) * self.bucket.sequences * width * width
            else:
                total += flops.per_key(arch) * rows + flops.per_query(arch) * self.bucket.sequences
            entering = rows
        return total


def buckets(batch_tokens: int | None, batch_size: int | None, max_length: int, lengths: np.ndarray | None = None) -> tuple[Bucket, ...]:
    """The buckets in use, narrowest first. Their number bounds the number of programs.

    Args:
      batch_tokens: rows of every bucket.
      batch_size: instead, rows of so many sequences of the bucket's width.
      max_length: the widest bucket's width.
      lengths: of a sample of texts, [N]. A bucket then has the slots that its rows need for texts of the mean length there: empty
        slots cost attention, and a batch of shorter texts leaves some rows empty instead. Without, rows run out before slots do.
    """
    widths = [width for width in WIDTHS if width < max_length]
    found, previous = [], min(7, max_length - 1)
    for width in (*widths, max_length):
        tokens = batch_size * width if batch_size is not None else max(batch_tokens or 0, width)
        tokens = round_up(tokens, 8)
        slots = tokens // (previous + 1)
        if lengths is not None and ((lengths > previous) & (lengths <= width)).any():
            slots = math.ceil(tokens / lengths[(lengths > previous) & (lengths <= width)].mean() - 1e-9)
        found.append(Bucket(max(1, slots), tokens, width))
        previous = width
    return tuple(found)


def default_batch_tokens(platform: str) -> int:
    """Tokens of a batch where nobody says: enough for matrix products at full speed, little enough to answer soon."""
    return 4096 if platform == "cpu" else 16384


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
    """

    lengths: np.ndarray
    kept: np.ndarray
    threshold: float

    @classmethod
    def of(cls, lengths: np.ndarray, kept: np.ndarray, threshold: float, seed: int = 0) -> "Calibration":
        """From the numbers of many examples, of which a few hundred are drawn."""
        rows = np.random.default_rng(seed).permutation(len(lengths))[:_SAMPLE]
        return cls(np.asarray(lengths)[rows].astype(int), np.asarray(kept)[:, rows].astype(int), float(threshold))

    def save(self, folder: str | pathlib.Path) -> None:
        """Write it beside a model's config.json, where an engine finds it. Raises `TrainingError` where the disk is full."""
        values = {"threshold": self.threshold, "lengths": self.lengths.tolist(), "kept": self.kept.tolist()}
        files.write_text(pathlib.Path(folder) / CALIBRATION_FILE, json.dumps(values) + "\n")

    @classmethod
    def load(cls, folder: str | pathlib.Path, layers: int) -> "Calibration | None":
        """A model folder's calibration, None where it has none. Raises `CheckpointError` where it does not fit the model."""
        path = pathlib.Path(folder) / CALIBRATION_FILE
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = cls(np.array(values["lengths"], int), np.array(values["kept"], int), float(values["threshold"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is not a calibration ({type(error).__name__}: {error}); delete it, or calibrate again"
            ) from error
        if found.lengths.ndim != 1 or not len(found.lengths) or found.kept.shape != (layers, len(found.lengths)):
            raise CheckpointError(f"{path} is not of this model of {layers} layers; delete it, or calibrate again")
        return found

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

    def draw(self, bucket: Bucket, count: int, seed: int = 0) -> list[np.ndarray]:
        """`count` batches of the bucket as texts like the sample's fill it, each as its texts' `kept` [layers, b].

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
            rows = resample[rng.integers(len(lengths), size=bucket.sequences)]
            rows = rows[: max(1, int(np.searchsorted(np.cumsum(lengths[rows]), bucket.tokens, side="right")))]
            batches.append(kept[:, rows])
        return batches


def ladder(bucket: Bucket, arch: Architecture, calibration: Calibration, rows_multiple: int) -> tuple[Schedule, ...]:
    """Schedules of a bucket, cheapest first; the last holds every batch.

    One or two are calibrated, for the least expected cost over drawn batches where one that does not fit is run again with the next
    that holds it. Above these stand one with some headroom, for the rare batch, and one half-way to the last on a logarithmic
    scale, for texts that keep more than the sample did.
    """
    full = Schedule.full(bucket, arch.num_hidden_layers)
    if arch.skim is None:
        return (full,)
    drawn = calibration.draw(bucket, _DRAWN_BATCHES)
    spread = np.concatenate(drawn, axis=1).std(axis=1)
    totals = np.array([batch.sum(axis=1) for batch in drawn])  # [batches, layers]
    widest = np.array([batch.max(axis=1) for batch in drawn])
    widths = widest.max(axis=0) + _WIDTH_HEADROOM * spread
    candidates = [_covering(full, totals, widest, widths, coverage, rows_multiple) for coverage in _COVERAGES]
    candidates = sorted(set(candidates), key=lambda schedule: schedule.flops(arch))
    top = candidates[-1].layers
    roomy = _rounded(full, [(_HEADROOM[0] * rows, _HEADROOM[1] * width) for rows, width in top], rows_multiple)
    mid = _rounded(
        full, [(math.sqrt(rows * bucket.tokens), math.sqrt(width * bucket.width)) for rows, width in roomy.layers], rows_multiple
    )
    above = (roomy, mid, full)
    costs = {schedule: schedule.flops(arch) for schedule in (*candidates, *above)}
    holds = {schedule: _holds(schedule, totals, widest) for schedule in costs}

    def expected_cost(rungs: Sequence[Schedule]) -> float:
        """Mean operations a batch: of the first rung, and of the first that holds it where that is another."""
        first_holding = np.argmax([holds[rung] for rung in rungs], axis=0)
        price = np.array([costs[rung] for rung in rungs])
        return float(np.mean(price[0] + np.where(first_holding > 0, price[first_holding], 0.0)))

    best = min(
        ((*chosen, *above) for count in range(1, _MAX_CALIBRATED_RUNGS + 1) for chosen in itertools.combinations(candidates, count)),
        key=expected_cost,
    )
    # What is hardly cheaper than the next is not worth a program.
    return tuple(rung for rung, after in zip(best, [*best[1:], None], strict=True) if after is None or costs[rung] < 0.97 * costs[after])


def _holds(schedule: Schedule, totals: np.ndarray, widest: np.ndarray) -> np.ndarray:
    """Which of the drawn batches fit, [batches] bool."""
    rows, widths = np.array(schedule.layers).T
    return ((totals <= rows) & (widest <= widths)).all(axis=1)


def _covering(full: Schedule, totals: np.ndarray, widest: np.ndarray, widths: np.ndarray, coverage: float, rows_multiple: int) -> Schedule:
    """The fewest rows, at attention `widths` [layers], that hold a share `coverage` of the drawn batches in all layers at once."""
    for quantile in np.linspace(coverage, 1.0, 9):
        rows = np.quantile(totals, quantile, axis=0)
        schedule = _rounded(full, list(zip(rows, widths, strict=True)), rows_multiple)
        if _holds(schedule, totals, widest).mean() >= coverage:
            break
    return schedule


def _rounded(full: Schedule, capacities: Sequence[tuple[float, float]], rows_multiple: int) -> Schedule:
    """Capacities rounded up to the hardware's liking, never above the full ones, never rising with depth."""
    layers = []
    rows_limit, width_limit = full.bucket.tokens, full.bucket.width
    for rows, width in capacities:
        rows_limit = min(rows_limit, round_up(rows, rows_multiple))
        width_limit = min(width_limit, round_up(width, 8 if width > 32 else 4))
        layers.append((max(rows_limit, 1), width_limit))
    return dataclasses.replace(full, layers=tuple(layers))
