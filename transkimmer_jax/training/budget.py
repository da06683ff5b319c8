"""Budget mode (docs/design.md, section 1.7): a stated share of the unpadded dense model's FLOPs, or tokens.

The share is of texts as they will be served.

What is minimised is the task's loss and a price of all that is computed, the same for every token of every text: so texts that need more
get more. An embedder that takes a mean pays for shares of texts (`priced`). The share wanted falls from dense to the budget, and a
controller has what texts of the served lengths spend follow it, by two means. After each step it moves the predictors' margins, all
tokens' alike, which acts at once; and it moves the price, slowly, since a fast one swings with the margins. Either the model as a whole has
one price, or each predictor one of its own for the tokens that it keeps.
A model for several budgets has a controller for each, which sees the texts that are skimmed at its level.
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
class ServedLengths:
    """How long the texts are that the budget is of.

    Training texts can be of other lengths (SST-2 trains on phrases and serves sentences), and what they spend is then not what served
    ones would.

    mean: tokens of a served text on average. counts: [longest + 1] float32, for how many served texts a training text of a length
    stands, 1 on average over the training texts. pinned: of `mean`, tokens that are never skimmed: position 0, or what `skim.pinned` names.
    """

    mean: float
    counts: np.ndarray
    pinned: float = 1.0

    @classmethod
    def like(cls, mean: float, pinned: float = 1.0) -> "ServedLengths":
        """Of training texts that are as those served."""
        return cls(mean, np.ones(1, np.float32), pinned)

    @classmethod
    def from_lengths(cls, served: np.ndarray, training: np.ndarray, pinned: float = 1.0) -> "ServedLengths":
        """From the lengths [N] of texts as they will be served, and those [M] of the training texts; `pinned` as the field.

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
        return cls(float(served.mean()), counts[classes(np.arange(max(served.max(), training.max()) + 1))].astype(np.float32), pinned)

    def counts_at(self, lengths: jax.Array) -> jax.Array:
        """`counts` of texts of these lengths [B]; of a longer one as of the longest."""
        return jnp.asarray(self.counts)[jnp.minimum(lengths.astype(jnp.int32), len(self.counts) - 1)]


def available(skim: SkimConfig, arch: Architecture, lengths: jax.Array) -> jax.Array:
    """What the dense model spends on texts of these lengths [B], without padding: FLOPs, or tokens a layer. [B]."""
    return flops.dense(arch, lengths) if skim.allocation == "learned" and skim.target_kind == "flops" else lengths


def spent(skim: SkimConfig, arch: Architecture, keep: jax.Array, lengths: jax.Array) -> jax.Array:
    """What is priced of each text, in the unit of `available`, differentiable in `keep` [layers, B, S].

    What is left behind each predictor, [predictors, B], or [B] where one price is for the model as a whole, predictors included.
    """
    kept = jnp.sum(keep, axis=-1)
    if skim.allocation == "geometric":
        return kept[jnp.array(arch.predictor_layers)]
    return flops.skimmed(arch, kept, lengths) if skim.target_kind == "flops" else jnp.mean(kept, axis=0)


def priced(skim: SkimConfig, arch: Architecture, spent: jax.Array, lengths: jax.Array, served: ServedLengths) -> jax.Array:
    """What a price is paid for, of the shape of `spent` [..., B]: all of it, or the same share of a served text.

    It is shares of an embedder that takes the mean of its tokens. A token of a long text changes that less than one of a short text, so at
    one price for both the vectors of long texts become the worst ones (docs/ablations.md). lengths: [B] tokens of each text.
    """
    if arch.head != "sentence_embedding" or not arch.reads_every_token:
        return spent
    of_served = available(skim, arch, jnp.float32(served.mean)) / available(skim, arch, jnp.maximum(lengths, 1.0))
    return spent * jnp.broadcast_to(of_served, spent.shape)


def require_spendable(skim: SkimConfig, arch: Architecture, mean_length: float) -> None:
    """Raises `ConfigError` where a part of a dense model costs less than the budget as it is. mean_length: tokens of a text."""
    whole, largest = _share(skim, arch, np.full(arch.num_hidden_layers, mean_length), mean_length), skim.targets[0]
    if skim.has_budget and skim.target_kind == "flops" and whole < largest:
        name = "skim.target" if largest == skim.target else "skim.levels"
        raise ConfigError(
            f"{name}={largest} is more than the model costs with nothing skimmed, {whole:.3f} of the dense one with all layers and neurons:"
            " lower it, or leave out less"
        )


def least(skim: SkimConfig, arch: Architecture, served: ServedLengths) -> float:
    """The share of the budget's unit that texts spend of which nothing but pinned tokens is kept."""
    return _share(skim, arch, _computed(arch, np.full(len(arch.predictor_layers), served.pinned), served.mean), served.mean)


def _computed(arch: Architecture, left: np.ndarray, mean_length: float) -> np.ndarray:
    """How many of `mean_length` tokens each layer computes, [layers]. left: behind each predictor, [predictors]."""
    decided = np.searchsorted(_planned(arch), np.arange(arch.num_hidden_layers), side="right")
    return np.concatenate([[mean_length], left])[decided]


def _planned(arch: Architecture) -> tuple[int, ...]:
    """The layers that a goal is for. The state of a dense model's training has goals too, which nobody reads: one for each layer."""
    return arch.predictor_layers or tuple(range(arch.num_hidden_layers))


def _share(skim: SkimConfig, arch: Architecture, kept: np.ndarray, mean_length: float) -> float:
    """The share of the budget's unit that a text of `mean_length` tokens spends where the layers compute so many of them, [layers]."""
    if skim.target_kind == "tokens":
        return float(kept.mean() / mean_length)
    length = np.array(mean_length)
    return float(flops.skimmed(arch, kept, length) / flops.dense(arch, length))


def warn_of_unreachable(skim: SkimConfig, arch: Architecture, served: ServedLengths) -> None:
    """Log where what is never skimmed costs more than the smallest budget: all other tokens go then, and the budget is not met."""
    smallest = skim.targets[-1]
    if not skim.has_budget or (floor := least(skim, arch, served)) <= smallest:
        return
    share, texts, first = f"{100 * floor:.1f} % of the dense model", f"on texts of {served.mean:.0f} tokens", arch.predictor_layers[0]
    if first > 0:
        what = f"all tokens stay before layer {first}, and that alone costs {share} {texts}"
        cure = ", or name an earlier layer in skim.layers"
    elif skim.pinned is None:
        what, cure = f"position 0 alone costs {share} {texts}", ""
    else:
        kept = f"{served.pinned:.0f} of {served.mean:.0f} tokens of a text, which cost {share}"
        what, cure = f"skim.pinned={skim.pinned} keeps {kept}", ", or pin nothing"
    logger.warning("%s: a budget of %.4g %% cannot be met. Ask for more by skim.target and skim.levels%s", what, 100 * smallest, cure)


def goal(skim: SkimConfig, arch: Architecture, mean_length: float, pinned: float = 1.0) -> np.ndarray:
    """The share of `available` to be spent in the end: the budget itself, or what it leaves to each predictor, [predictors].

    Of texts of `mean_length` tokens the l-th of N predictors then keeps the `pinned` ones, and of the others the part
    p ** (l ** steepness), with the p for which the whole costs the budget; none where the pinned ones alone cost more.
    """
    if skim.allocation == "learned":
        return np.array(skim.target, np.float32)
    # A token that leaves late tells a head that reads it hardly more than one that leaves early, and costs more.
    steepness = skim.steepness if skim.steepness is not None else (0.1 if arch.reads_every_token else 0.5)

    def kept(part: float) -> np.ndarray:
        return pinned + (mean_length - pinned) * part ** np.arange(1, len(_planned(arch)) + 1) ** steepness

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        spent = _share(skim, arch, _computed(arch, kept(middle), mean_length), mean_length)
        low, high = (middle, high) if spent < skim.target else (low, middle)
    return (kept(low) / mean_length).astype(np.float32)


def with_gain(skim: SkimConfig, arch: Architecture) -> SkimConfig:
    """`skim` with the price's gain for a head whose loss is on a scale of its own, where none is given (docs/ablations.md)."""
    if skim.controller_gain is not None:
        return skim
    classifies = arch.head == "sequence_classification" and not arch.is_regression
    others = 0.05 if arch.head == "sentence_embedding" else 0.3
    return dataclasses.replace(skim, controller_gain=0.03 if classifies else others)


def goals(skim: SkimConfig, arch: Architecture, served: ServedLengths) -> np.ndarray:
    """The `goal` of each of a model's budgets, falling: [levels] or [levels, predictors]."""
    return np.stack([goal(dataclasses.replace(skim, target=target), arch, served.mean, served.pinned) for target in skim.targets])


def target_share(skim: SkimConfig, goal: np.ndarray, step: jax.Array, total_steps: int) -> jax.Array:
    """The share wanted at `step`: 1 during the warm-up, then linearly down to the goal, then constant."""
    progress = step.astype(jnp.float32) / total_steps
    fall = jnp.clip((progress - skim.warmup) / max(skim.anneal, 1.0 / total_steps), 0.0, 1.0)
    return 1.0 - (1.0 - jnp.asarray(goal)) * fall


def gate_noise(skim: SkimConfig, step: jax.Array, total_steps: int) -> jax.Array:
    """How much of their noise the gates have at `step`: all until the target is reached, then linearly less, none from `noise_end` on.

    Noise explores which tokens can go; without any at the end, what is trained is what is evaluated.
    """
    if skim.objective != "budget" or skim.noise_end is None:
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

    price: of what is spent, of the shape of `goals`. spent, available: moving sums, of that shape and of [levels]. Of sums, since a batch
    holds texts of one length or so, and the short ones keep other shares than the long ones.
    """

    price: jax.Array
    spent: jax.Array
    available: jax.Array

    @classmethod
    def start(cls, shape: tuple[int, ...] = ()) -> "Controller":
        """Before the first step: nothing is priced, everything is kept."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), jnp.ones(shape[:1], jnp.float32))

    @property
    def measured(self) -> jax.Array:
        """The share spent lately; predictors can make it more than 1, which is no reason to skim."""
        available = jnp.expand_dims(self.available, range(self.available.ndim, self.spent.ndim))
        return jnp.minimum(self.spent / available, 1.0)

    def update(self, skim: SkimConfig, target: jax.Array, spent: jax.Array, available: jax.Array) -> tuple["Controller", jax.Array]:
        """After a step that spent `spent` of `available`, both relative to a served text's, a text.

        Returns:
          The new state, and what is to be added to the margins of all tokens, of the shape of `goals`. Where too much is skimmed the
          price falls below 0 and the margins rise. Neither moves while the target is still that of the dense model.
        """
        assert skim.controller_gain is not None, "see `with_gain`"
        sums = [_MEMORY * old + (1 - _MEMORY) * new for old, new in ((self.spent, spent), (self.available, available))]
        seen = Controller(self.price, *sums)
        excess = jnp.where(target < 1.0, seen.measured - target, 0.0)
        return dataclasses.replace(seen, price=self.price + skim.controller_gain * excess), -skim.controller_shift * excess
