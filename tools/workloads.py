"""What is measured: a skimming model on a stream of texts, a task's or random ones."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.models.skim import with_shifted_margins

_CALIBRATION_EXAMPLES = 256  # random ones
_STREAM_TOKENS = 2**15  # of a synthetic stream, as far as four batches are not more


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is measured: a skimming model on a stream of examples.

    examples: in the order in which they come. sample: gives others like them. calibration: what is known of such; None: nothing.
    padded_length: of the padded dense baseline. dense: the baseline; None: the model without its predictors.
    metrics: of logits [N, labels], where labels are known. tokenizing_seconds: what the examples took to be made of texts.
    """

    name: str
    model: TranskimmerForSequenceClassification
    examples: TokenizedExamples
    sample: Callable[[], TokenizedExamples]
    padded_length: int
    threshold: float
    calibration: Calibration | None = None
    dense: TranskimmerForSequenceClassification | None = None
    metrics: Callable[[np.ndarray], dict[str, float]] | None = None
    tokenizing_seconds: float | None = None


def synthetic(
    arch: Architecture, shares: list[float] | None, batch_size: int, length: int, seed: int = 0, examples: int | None = None
) -> Workload:
    """Random weights and random tokens, of which each layer keeps a stated share.

    The predictors are real ones: the bias of each is set so that the share of a sample's margins exceeds it. So decisions differ
    from text to text as a trained model's do, and cost what they cost.

    Args:
      shares: of all tokens, kept by each layer, falling numbers in (0, 1]; None keeps everything.
      examples: texts of the stream; None: some batches. The last batches of every stage are rather empty, which counts for
        less the longer the stream is.
    """
    rng = np.random.default_rng(seed)
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(seed))
    # As many examples as make the shares of the sample those of the stream.
    sample = _random_examples(rng, arch, max(16, -(-4096 // length)), length)
    if shares is not None:
        model = _with_shares(model, sample, shares)
    # One batch alone may be an odd one.
    count = examples or batch_size * max(4, _STREAM_TOKENS // (batch_size * length))
    stream, others = (_random_examples(rng, arch, number, length) for number in (count, _CALIBRATION_EXAMPLES))
    return Workload("synthetic", model, stream, lambda: others, length, 0.0)


def _random_examples(rng: np.random.Generator, arch: Architecture, count: int, length: int) -> TokenizedExamples:
    ids = rng.integers(0, arch.vocab_size, count * length).astype(np.int32)
    zeros = np.zeros(count, np.int32)
    return TokenizedExamples(ids, np.zeros(len(ids), np.int8), np.arange(count + 1) * length, zeros, zeros.astype(bool))


def _with_shares(
    model: TranskimmerForSequenceClassification, sample: TokenizedExamples, shares: list[float]
) -> TranskimmerForSequenceClassification:
    graph, params = nnx.split(model)
    ids = sample.input_ids.reshape(len(sample), -1)

    @jax.jit
    def forward(params, ids):
        out = nnx.merge(graph, params)(ids, only_logits=True, threshold=0.0)
        return out.margin, out.keep

    before = 1.0
    deciding = model.arch.predictor_layers
    for place, layer in enumerate(deciding):
        share = shares[layer]
        margin, keep = jax.device_get(forward(params, ids))
        alive = margin[place][keep[layer - 1] > 0] if layer else margin[place]
        # Just under the lowest where all stay.
        limit = np.quantile(alive, 1 - share / before) if share < before else alive.min() - 1.0
        params = with_shifted_margins(params, jnp.zeros((1, len(deciding)), jnp.float32).at[0, place].set(-limit))
        before = share
    return nnx.merge(graph, params)
