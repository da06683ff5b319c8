"""Random models whose predictors decide, and batches for them."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx
from models.quick import quick_jit

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

ARCH = Architecture(
    vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, max_position_embeddings=40,
    num_labels=3, initializer_range=0.3, skim=SkimArchitecture(initial_bias=0.0),
)  # fmt: skip
LAST_TWO = dataclasses.replace(ARCH, skim=SkimArchitecture(initial_bias=0.0, layers=(1, 2)))  # layers have a predictor
MODERN = dataclasses.replace(
    ARCH, backbone="modernbert", type_vocab_size=0, attention_bias=False, feed_forward_bias=False, norm_bias=False, pooler_bias=False,
    local_layers=(1,), local_window=2,
)  # fmt: skip
DISENTANGLED = dataclasses.replace(
    ARCH, backbone="deberta-v2", type_vocab_size=0, position_buckets=6, max_relative_positions=ARCH.max_position_embeddings
)


@functools.cache
def make_model(arch=ARCH, seed=0, spread=40.0):
    """Weights as far from 0 as trained ones; margins spread over several units around 0, so that every threshold skims."""
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(seed))
    for predictor in model.encoder.predictors:
        predictor.decision.kernel[...] = predictor.decision.kernel[...] * spread
    return model


def make_examples(lengths, seed=0, vocab_size=50):
    """Random token ids of examples of `lengths` tokens."""
    rng = np.random.default_rng(seed)
    total = int(np.sum(lengths))
    return TokenizedExamples(
        rng.integers(0, vocab_size, total).astype(np.int32),
        rng.integers(0, 2, total).astype(np.int8),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.zeros(len(lengths), np.int32),
        np.zeros(len(lengths), bool),
    )


@functools.cache
def _masked_program(model, full):
    return quick_jit(lambda *batch, threshold: model(*batch, threshold=threshold, only_logits=not full))


@dataclasses.dataclass(frozen=True)
class Masked:
    """The masked evaluation of one example of n tokens: logits [labels], depth [n], margins [predictors, n], last [n, H] or None."""

    logits: np.ndarray
    depth: np.ndarray
    margin: np.ndarray
    last: np.ndarray | None


def masked(model, examples, threshold, full=False, width=40):
    """The masked evaluation of each example, all padded to one width."""
    lengths = examples.lengths
    real = np.arange(width) < lengths[:, None]
    ids, types = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.int32)
    ids[real], types[real] = examples.input_ids, examples.token_type_ids
    out = jax.device_get(_masked_program(model, full)(ids, real.astype(np.int32), types, threshold=np.float32(threshold)))
    return [
        Masked(
            out.logits[row], out.keep[:, row, :length].sum(axis=0).astype(int), out.margin[:, row, :length],
            out.last_hidden_state[row, :length] if full else None,
        )
        for row, length in enumerate(lengths)
    ]  # fmt: skip


def is_decided(examples, threshold, distance=1e-4):
    """Whether no decision that was asked for is within float noise of the threshold."""
    asked = [example.margin[layer][example.depth >= layer] for example in examples for layer in range(len(example.margin))]
    return min(np.abs(margins - threshold).min() for margins in asked if margins.size) > distance
