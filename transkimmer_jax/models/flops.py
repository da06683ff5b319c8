"""Floating-point operations of one example, counted exactly (docs/design.md, section 2.2).

A multiply and an add are two operations. Counted are the matrix products: projections, attention scores and mixing (quadratic
in the kept tokens), feed-forward, predictors, maps of skimmed tokens' states (one for each, as the ONNX graph computes them), the product
behind narrow embeddings, pooler and classifier. What is elementwise (LayerNorm, softmax, GELU) is left out, as in the literature: by XLA's
count of the dense forward it is 3.3 % at H=384 and 1.6 % at H=768, most of it the polynomial that stands for GELU's error function
(tests/analysis/test_flops.py).
Disentangled attention multiplies each query and each key with the rows of all distances that its text may have, and all of that is counted.
What layers make of these rows is not: it is the same for all texts, computed once a batch, and of a graph once for all.
A local layer computes the scores of all pairs and leaves out those that are too far apart, so all are counted, in the dense model too.

The functions take NumPy or JAX arrays and give the same kind; they are differentiable in the token counts.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.distances import row_counts

Array = Any  # numpy.ndarray or jax.Array


def per_token(arch: Architecture) -> float:
    """Operations of one layer for each kept token, attention's quadratic part aside."""
    hidden, intermediate = arch.hidden_size, arch.intermediate_size
    return 2.0 * (4 * hidden * hidden + (3 if arch.kind.gated else 2) * hidden * intermediate)


def per_token_pair(arch: Architecture) -> float:
    """Operations of one layer for each (query, key) pair of kept tokens."""
    return 2.0 * 2 * arch.hidden_size


def per_token_distance(arch: Architecture, lengths: Array) -> Array:
    """Operations of one layer for each kept token of examples of `lengths` [B] tokens, skimmed ones counted, with distances: those of its
    query with the keys of all that there may be, and of its key with their queries. 0 where attention is not disentangled."""
    if not arch.kind.disentangled:
        return 0.0
    counts = row_counts(arch.max_position_embeddings, arch.position_buckets, arch.max_relative_positions)
    kind: Any = jnp if isinstance(lengths, jax.Array) else np
    rows = kind.asarray(counts, float)[kind.minimum(kind.asarray(lengths).astype(int), len(counts) - 1)]
    return 2.0 * 2 * arch.hidden_size * rows


def per_key_distance(arch: Architecture) -> float:
    """The same of a layer with one query: both products of each key with its own distance."""
    return 2.0 * 2 * arch.hidden_size if arch.kind.disentangled else 0.0


def per_key(arch: Architecture) -> float:
    """The part of `per_token` that every token needs which is attended to: key and value."""
    return 2.0 * 2 * arch.hidden_size * arch.hidden_size


def per_query(arch: Architecture) -> float:
    """The rest of it, which only tokens need whose state is read."""
    return per_token(arch) - per_key(arch)


def per_predicted_token(arch: Architecture) -> float:
    """Operations of one skim predictor for each token that enters it; 0 for a dense model."""
    return 2.0 * (arch.hidden_size + 1) * arch.predictor_size


def embedding_per_token(arch: Architecture) -> float:
    """Operations of the product that makes a state of each token's embedding, skimmed or not; 0 where there is none."""
    return 2.0 * (arch.embedding_size or 0) * arch.hidden_size


def head(arch: Architecture) -> float:
    """Operations of the head once an example: of a sequence classifier's pooler and classifier."""
    if arch.head != "sequence_classification":
        return 0.0
    return 2.0 * (arch.hidden_size * arch.hidden_size + arch.hidden_size * arch.num_labels)


def head_per_token(arch: Architecture) -> float:
    """Operations of the head for each token, skimmed or not."""
    columns = {"token_classification": arch.num_labels, "question_answering": 2}.get(arch.head, 0)
    if columns and arch.kind.prediction_head:
        columns += arch.hidden_size
    return 2.0 * arch.hidden_size * columns


def last_layer(arch: Architecture, count: Array, lengths: Array) -> Array:
    """Operations of the last layer behind its predictor, of examples with `count` kept ones of `lengths` tokens: of all of these, or of
    position 0 alone, which attends to them, where the head reads nothing else."""
    if arch.reads_every_token:
        return (per_token(arch) + per_token_distance(arch, lengths)) * count + per_token_pair(arch) * count * count
    return (per_key(arch) + per_key_distance(arch)) * count + per_query(arch) + per_token_pair(arch) * count


def skimmed(arch: Architecture, kept: Array, lengths: Array) -> Array:
    """Operations [B] of examples of which layer l computes `kept[l]` tokens.

    The last layer computes what the head reads, in the dense model as in this one.

    Args:
      kept: [layers, B] tokens kept by each layer.
      lengths: [B] real tokens of each example. A predictor sees those that the layer before it computed.
    """
    *inner, last = kept
    tokens, pairs = sum(inner), sum(count * count for count in inner)
    predicted = sum([lengths, *inner][number] for number in arch.predictor_layers)
    total = _computed(arch, tokens, pairs, last, lengths) + per_predicted_token(arch) * predicted
    if arch.maps_forwarded:
        total = total + 2.0 * arch.hidden_size * arch.hidden_size * (lengths - last)
    return total


def dense(arch: Architecture, lengths: Array) -> Array:
    """Operations [B] of the dense model (no predictors) on examples of `lengths` [B] tokens.

    Of a model that has only a part of a dense one: that one as a whole.
    """
    whole = arch.compared
    inner = whole.num_hidden_layers - 1
    return _computed(whole, inner * lengths, inner * lengths * lengths, lengths, lengths)


def _computed(arch: Architecture, tokens: Array, pairs: Array, last: Array, lengths: Array) -> Array:
    """Operations [B] of layers and head. tokens, pairs: [B], summed over the layers before the last, which computes `last` [B] tokens."""
    inner = (per_token(arch) + per_token_distance(arch, lengths)) * tokens + per_token_pair(arch) * pairs
    layers = inner + last_layer(arch, last, lengths)
    return layers + (lengths * (embedding_per_token(arch) + head_per_token(arch)) + head(arch))
