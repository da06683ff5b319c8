"""Budget mode (docs/design.md, section 1.7): a stated share of the unpadded dense model's FLOPs.

The training loss is the task's loss plus a price of the tokens that each predictor keeps: the same for every token of every text, so texts
that need more get more. An embedder that takes a mean pays for shares of texts (`penalised`). The target falls from dense to the plan of
the budget. A controller for each budget and predictor follows it, measured on texts of the validation's lengths. After each step it moves
the predictor's margins, which acts at once. It moves the price slowly: a fast price swings with the margins.
"""

import dataclasses
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np

from transkimmer_jax.config import SkimConfig
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture

logger = logging.getLogger("transkimmer_jax")

_LENGTH_CLASSES = 8
# Of the moving sums, a step. What is measured late makes a controller swing.
_MEMORY = 0.7


@dataclasses.dataclass(frozen=True)
class LengthDistribution:
    """How long the texts are that the budget is of.

    Training texts can be of other lengths (SST-2 trains on phrases and serves sentences), and what they spend is then not what served
    ones would.

    mean: tokens of a served text on average. counts: [longest + 1] float32, for how many served texts a training text of a length
    stands, 1 on average over the training texts. always_kept: of `mean`, tokens that are never skimmed.
    """

    mean: float
    counts: np.ndarray
    always_kept: float = 1.0

    @classmethod
    def like(cls, mean: float, always_kept: float = 1.0) -> "LengthDistribution":
        """Of training texts that are as those served."""
        return cls(mean, np.ones(1, np.float32), always_kept)

    @classmethod
    def from_lengths(cls, served: np.ndarray, training: np.ndarray, always_kept: float = 1.0) -> "LengthDistribution":
        """From the lengths [N] of texts as they will be served, and those [M] of the training texts; `always_kept` as the field.

        Both are counted in classes of length that hold about as many served texts each.
        """
        edges = np.unique(np.quantile(served, np.arange(1, _LENGTH_CLASSES) / _LENGTH_CLASSES, method="lower"))
        edges = edges[edges > served.min()]  # so that there are served texts in every class

        def classes(lengths: np.ndarray) -> np.ndarray:
            return np.searchsorted(edges, lengths, side="right")

        wanted, given = (np.bincount(classes(lengths), minlength=len(edges) + 1) / len(lengths) for lengths in (served, training))
        # A class without training texts is left to the others.
        counts = np.divide(wanted, given, out=np.zeros_like(wanted), where=given > 0)
        counts /= np.sum(counts * given)
        return cls(float(served.mean()), counts[classes(np.arange(max(served.max(), training.max()) + 1))].astype(np.float32), always_kept)

    def counts_at(self, lengths: jax.Array) -> jax.Array:
        """`counts` of texts of these lengths [B]; of a longer one as of the longest."""
        return jnp.asarray(self.counts)[jnp.minimum(lengths.astype(jnp.int32), len(self.counts) - 1)]


def kept_tokens(arch: Architecture, keep: jax.Array) -> jax.Array:
    """Tokens of each text behind each predictor, [predictors, B], differentiable in `keep` [layers, B, S]."""
    return jnp.sum(keep, axis=-1)[jnp.array(arch.predictor_layers)]


def penalised(arch: Architecture, kept: jax.Array, lengths: jax.Array, distribution: LengthDistribution) -> jax.Array:
    """The tokens that a price is paid for, [predictors, B]: all of `kept`, or of an embedder that takes a mean the same share of a text of
    the mean length.

    A token of a long text changes a mean less than one of a short text. At one price for both, the vectors of long texts become the worst
    (docs/ablations.md). lengths: [B] tokens of each text.
    """
    if arch.head != "sentence_embedding" or not arch.reads_every_token:
        return kept
    return kept * jnp.broadcast_to(jnp.float32(distribution.mean) / jnp.maximum(lengths, 1.0), kept.shape)


def require_spendable(skim: SkimConfig, arch: Architecture, mean_length: float) -> None:
    """Raises `ConfigError` where a part of a dense model costs less than the budget as it is. mean_length: tokens of a text."""
    whole, largest = _share(arch, np.full(arch.num_hidden_layers, mean_length), mean_length), skim.targets[0]
    if skim.has_budget and whole < largest:
        name = "skim.target" if largest == skim.target else "skim.levels"
        raise ConfigError(
            f"{name}={largest} is more than the model costs with nothing skimmed, {whole:.3f} of the dense one with all layers and neurons:"
            " lower it, or leave out less"
        )


def least(arch: Architecture, distribution: LengthDistribution) -> float:
    """The share of the FLOPs that is spent where only the tokens are kept that are never skimmed."""
    always, mean = distribution.always_kept, distribution.mean
    return _share(arch, _computed(arch, np.full(len(arch.predictor_layers), always), mean), mean)


def _computed(arch: Architecture, left: np.ndarray, mean_length: float) -> np.ndarray:
    """How many of `mean_length` tokens each layer computes, [layers]. left: behind each predictor, [predictors]."""
    decided = np.searchsorted(_planned(arch), np.arange(arch.num_hidden_layers), side="right")
    return np.concatenate([[mean_length], left])[decided]


def _planned(arch: Architecture) -> tuple[int, ...]:
    """The layers that a goal is for. The state of a dense model's training has goals too, which nobody reads: one for each layer."""
    return arch.predictor_layers or tuple(range(arch.num_hidden_layers))


def _share(arch: Architecture, kept: np.ndarray, mean_length: float) -> float:
    """The share of the FLOPs that a text of `mean_length` tokens costs where layers compute `kept` [layers] of them."""
    length = np.array(mean_length)
    return float(flops.skimmed(arch, kept, length) / flops.dense(arch, length))


def warn_of_unreachable(skim: SkimConfig, arch: Architecture, distribution: LengthDistribution) -> None:
    """Log where what is never skimmed costs more than the smallest budget: all other tokens go then, and the budget is not met."""
    smallest = skim.targets[-1]
    if not skim.has_budget or (floor := least(arch, distribution)) <= smallest:
        return
    share, texts, first = f"{100 * floor:.1f} % of the dense model", f"on texts of {distribution.mean:.0f} tokens", arch.predictor_layers[0]
    if first > 0:
        what = f"all tokens stay before layer {first}, and that alone costs {share} {texts}"
        cure = ", or name an earlier layer in skim.layers"
    elif skim.always_keep is None:
        what, cure = f"position 0 alone costs {share} {texts}", ""
    else:
        kept = f"{distribution.always_kept:.0f} of {distribution.mean:.0f} tokens of a text, which cost {share}"
        what, cure = f"skim.always_keep={skim.always_keep} keeps {kept}", ", or set it to none"
    logger.warning("%s: a budget of %.4g %% cannot be met. Ask for more by skim.target and skim.levels%s", what, 100 * smallest, cure)


def plan(target: float, arch: Architecture, mean_length: float, always_kept: float = 1.0) -> np.ndarray:
    """The share of the tokens that each predictor keeps where the budget `target` is met, [predictors].

    Of a text of `mean_length` tokens the l-th of N predictors keeps those that are never skimmed, and of the others the part
    p ** (l ** steepness), with the p for which the whole costs the budget.
    """
    # A head that reads every token learns hardly more from a token that leaves late, and that token costs more.
    steepness = 0.1 if arch.reads_every_token else 0.5

    def kept(part: float) -> np.ndarray:
        return always_kept + (mean_length - always_kept) * part ** np.arange(1, len(_planned(arch)) + 1) ** steepness

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        spent = _share(arch, _computed(arch, kept(middle), mean_length), mean_length)
        low, high = (middle, high) if spent < target else (low, middle)
    return (kept(low) / mean_length).astype(np.float32)


def price_gain(arch: Architecture) -> float:
    """Change of a price a step, per unit of (measured - planned) share. Losses of heads differ in scale (docs/ablations.md)."""
    if arch.head == "sequence_classification" and not arch.is_regression:
        return 0.03
    return 0.05 if arch.head == "sentence_embedding" else 0.3


def plans(skim: SkimConfig, arch: Architecture, distribution: LengthDistribution) -> np.ndarray:
    """The `plan` of each of a model's budgets, falling: [levels, predictors]."""
    return np.stack([plan(target, arch, distribution.mean, distribution.always_kept) for target in skim.targets])


def target_share(skim: SkimConfig, plans: np.ndarray, step: jax.Array, total_steps: int) -> jax.Array:
    """The share wanted at `step`: 1 during the warm-up, then linearly down to the plans, then constant. [levels, predictors]."""
    progress = step.astype(jnp.float32) / total_steps
    fall = jnp.clip((progress - skim.warmup) / max(skim.anneal, 1.0 / total_steps), 0.0, 1.0)
    return 1.0 - (1.0 - jnp.asarray(plans)) * fall


def gate_noise(skim: SkimConfig, step: jax.Array, total_steps: int) -> jax.Array:
    """How much of their noise the gates have at `step`: all until the target is reached, then linearly less, none from `noise_end` on.

    Noise explores which tokens can go; without any at the end, what is trained is what is evaluated.
    """
    if not skim.has_budget or skim.noise_end is None:
        return jnp.float32(1.0)
    progress = step.astype(jnp.float32) / total_steps
    fall = max(skim.noise_end - skim.warmup - skim.anneal, 1.0 / total_steps)
    return jnp.clip((skim.noise_end - progress) / fall, 0.0, 1.0)


def settles_at(skim: SkimConfig, total_steps: int) -> float:
    """The step from which on predictors no longer learn and nothing is priced; infinity where they always do."""
    return math.inf if skim.settled_from is None else skim.settled_from * total_steps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controller:
    """State of the budgets' controllers; part of the checkpoint.

    price: of a kept token, [levels, predictors]. spent, available: moving sums of kept tokens, of that shape, and of all tokens, [levels].
    Sums, not shares: a batch holds texts of similar length, and short texts keep other shares than long ones.
    """

    price: jax.Array
    spent: jax.Array
    available: jax.Array

    @classmethod
    def start(cls, shape: tuple[int, int]) -> "Controller":
        """Before the first step: nothing is priced, everything is kept."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.ones(shape[:1], jnp.float32))

    @property
    def measured(self) -> jax.Array:
        """The share spent lately; predictors can make it more than 1, which is no reason to skim."""
        return jnp.minimum(self.spent / self.available[:, None], 1.0)

    def update(self, gain: float, target: jax.Array, spent: jax.Array, available: jax.Array) -> tuple["Controller", jax.Array]:
        """After a step that spent `spent` of `available`, both relative to a served text's, a text.

        Returns:
          The new state, and the shift of all margins, [levels, predictors]. Where too much is skimmed the price falls below 0 and the
          margins rise. Neither moves while the target is still that of the dense model.
        """
        sums = [_MEMORY * old + (1 - _MEMORY) * new for old, new in ((self.spent, spent), (self.available, available))]
        seen = Controller(self.price, *sums)
        excess = jnp.where(target < 1.0, seen.measured - target, 0.0)
        return dataclasses.replace(seen, price=self.price + gain * excess), -excess
