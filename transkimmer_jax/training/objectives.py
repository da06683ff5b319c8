"""What is learned: the task's labels, and what a dense teacher says. What computing costs is in `budget.py` and `models/skim.py`.

Each head has an objective, of two losses: one from labels, one from a teacher's outputs. Both are sums over examples with a weight each, so
that a batch may be divided.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from transkimmer_jax import extras
from transkimmer_jax.config import DistillConfig
from transkimmer_jax.data.batches import NO_LABEL
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.layers import unit

with extras.needed("train", "training"):
    import chex
    import optax

Outputs = Mapping[str, jax.Array]  # a head's, by name
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a head learns.

    from_labels: (outputs, batch, weight [B]) -> loss; None where nobody labels what the head says. from_teacher: (outputs, the teacher's,
    batch, weight [B], config) -> loss.
    """

    from_labels: Callable[[Outputs, Batch, jax.Array], jax.Array] | None
    from_teacher: Callable[[Outputs, Outputs, Batch, jax.Array, DistillConfig], jax.Array]


def task_loss(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over examples of cross-entropy, or of squared error where labels are floats.

    Args:
      logits: [B, num_labels] float32. labels: [B] int or float. weight: [B], 0 for padding examples.
    """
    # Of [B, 1] and [B] a squared error would silently become [B, B].
    chex.assert_rank([logits, labels, weight], [2, 1, 1])
    chex.assert_equal_shape_prefix([logits, labels, weight], 1)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        losses = jnp.square(logits[:, 0] - labels)
    else:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses * weight)


def label_set_loss(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over examples of the mean binary cross-entropy of their labels, which is what transformers' models learn.

    Args:
      logits: [B, num_labels] float32. labels: the same, 1 of a label that the text has, else 0. weight: [B].
    """
    chex.assert_equal_shape([logits, labels])
    return jnp.sum(jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, labels), axis=-1) * weight)


def label_set_distillation_loss(logits: jax.Array, teacher: jax.Array, weight: jax.Array, temperature: float) -> jax.Array:
    """Weighted sum over examples of the mean divergence of their labels from the teacher's, as `distillation_loss`.

    A label is said, or it is not: Kullback-Leibler of these two. logits, teacher: [B, num_labels].
    """
    chex.assert_equal_shape([logits, teacher])
    given, wanted = logits / temperature, teacher / temperature
    soft = jax.nn.sigmoid(wanted)
    cross_entropy, entropy = (optax.losses.sigmoid_binary_cross_entropy(values, soft) for values in (given, wanted))
    return jnp.sum(jnp.mean(cross_entropy - entropy, axis=-1) * weight) * temperature**2


def distillation_loss(logits: jax.Array, teacher_logits: jax.Array, weight: jax.Array, temperature: float) -> jax.Array:
    """Weighted sum over examples of the divergence from the teacher, or of squared error for regression (one logit).

    Kullback-Leibler at `temperature`, times its square so that the gradient keeps its size (Hinton et al., 2015).
    """
    if logits.shape[-1] == 1:
        return jnp.sum(jnp.square(logits[:, 0] - teacher_logits[:, 0]) * weight)
    return jnp.sum(_divergence(logits / temperature, teacher_logits / temperature) * weight) * temperature**2


def _divergence(logits: jax.Array, teacher: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Kullback-Leibler, of the softmax of logits [..., n] from that of the teacher's, [...]. where: [..., n], what counts; None: all."""
    given, wanted = (jax.nn.log_softmax(values, axis=-1) for values in (logits, teacher))
    return optax.losses.kl_divergence_with_log_targets(given, wanted, where=where)


def embedding_loss(vectors: jax.Array, teacher: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over texts of the squared distance of the student's and the teacher's vector at length 1: twice one minus the cosine.

    Args:
      vectors, teacher: [B, H] float32. weight: [B], 0 for padding examples.
    """
    given, wanted = (unit(values.astype(jnp.float32)) for values in (vectors, teacher))
    return jnp.sum(jnp.sum(jnp.square(given - wanted), axis=-1) * weight)


def tagging_loss(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over texts of the mean cross-entropy of their labelled tokens.

    Args:
      logits: [B, S, num_labels] float32. labels: [B, S] int, `NO_LABEL` where there is none. weight: [B].
    """
    chex.assert_rank([logits, labels, weight], [3, 2, 1])
    has_label = labels != NO_LABEL
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(has_label, labels, 0))
    return jnp.sum(_mean_of_tokens(losses, has_label) * weight)


def tag_distillation_loss(
    logits: jax.Array, teacher: jax.Array, attention_mask: jax.Array, weight: jax.Array, temperature: float
) -> jax.Array:
    """Weighted sum over texts of the mean divergence from the teacher over their tokens, as `distillation_loss`.

    logits, teacher: [B, S, num_labels].
    """
    divergence = _divergence(logits / temperature, teacher / temperature) * temperature**2
    return jnp.sum(_mean_of_tokens(divergence, attention_mask != 0) * weight)


def _mean_of_tokens(values: jax.Array, counted: jax.Array) -> jax.Array:
    """[B, S] -> [B]; 0 where no token counts."""
    total = jnp.sum(jnp.where(counted, values, 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(counted.astype(jnp.float32), axis=-1), 1.0)


def span_loss(logits: jax.Array, places: jax.Array, attention_mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over texts of the cross-entropy of a place among the text's tokens: logits [B, S] float32, places [B] int."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(_of_real_tokens(logits, attention_mask), places)
    return jnp.sum(losses * weight)


def span_distillation_loss(
    logits: jax.Array, teacher: jax.Array, attention_mask: jax.Array, weight: jax.Array, temperature: float
) -> jax.Array:
    """Weighted sum over texts of the divergence from the teacher's distribution over places, as `distillation_loss`; logits [B, S]."""
    given, wanted = (_of_real_tokens(values, attention_mask) / temperature for values in (logits, teacher))
    return jnp.sum(_divergence(given, wanted, attention_mask != 0) * weight) * temperature**2


def _of_real_tokens(logits: jax.Array, attention_mask: jax.Array) -> jax.Array:
    return jnp.where(attention_mask != 0, logits, -1e9)


def _of_both_ends(loss: Callable[[str, int], jax.Array]) -> jax.Array:
    """The mean of a loss of where the answer starts, and of where it ends."""
    return (loss("start_logits", 0) + loss("end_logits", 1)) / 2


OBJECTIVES = {
    "sequence_classification": Objective(
        lambda outputs, batch, weight: task_loss(outputs["logits"], batch["labels"], weight),
        lambda outputs, teacher, batch, weight, distill: distillation_loss(
            outputs["logits"], teacher["logits"], weight, distill.temperature
        ),
    ),
    "sentence_embedding": Objective(
        None,
        lambda outputs, teacher, batch, weight, distill: embedding_loss(
            outputs["sentence_embedding"], teacher["sentence_embedding"], weight
        ),
    ),
    "token_classification": Objective(
        lambda outputs, batch, weight: tagging_loss(outputs["logits"], batch["labels"], weight),
        lambda outputs, teacher, batch, weight, distill: tag_distillation_loss(
            outputs["logits"], teacher["logits"], batch["attention_mask"], weight, distill.temperature
        ),
    ),
    "question_answering": Objective(
        lambda outputs, batch, weight: _of_both_ends(
            lambda name, column: span_loss(outputs[name], batch["labels"][:, column], batch["attention_mask"], weight)
        ),
        lambda outputs, teacher, batch, weight, distill: _of_both_ends(
            lambda name, _: span_distillation_loss(outputs[name], teacher[name], batch["attention_mask"], weight, distill.temperature)
        ),
    ),
}
LABEL_SETS = Objective(
    lambda outputs, batch, weight: label_set_loss(outputs["logits"], batch["labels"], weight),
    lambda outputs, teacher, batch, weight, distill: label_set_distillation_loss(
        outputs["logits"], teacher["logits"], weight, distill.temperature
    ),
)


def objective_of(arch: Architecture) -> Objective:
    """What a model learns: its head's objective, or that of a classifier whose texts have any number of labels."""
    return LABEL_SETS if arch.multi_label else OBJECTIVES[arch.head]
