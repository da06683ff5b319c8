"""What is learned: the task's labels, and what a dense teacher says. What computing costs is in `budget.py` and `models/skim.py`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


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
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return jnp.sum(losses * weight)


def distillation_loss(logits: jax.Array, teacher_logits: jax.Array, weight: jax.Array, temperature: float) -> jax.Array:
    """Weighted sum over examples of the divergence from the teacher, or of squared error for regression (one logit).

    Kullback-Leibler at `temperature`, times its square so that the gradient keeps its size (Hinton et al., 2015).
    """
    if logits.shape[-1] == 1:
        return jnp.sum(jnp.square(logits[:, 0] - teacher_logits[:, 0]) * weight)
    student = jax.nn.log_softmax(logits / temperature, axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits / temperature, axis=-1)
    return jnp.sum(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1) * weight) * temperature**2


def state_distillation_loss(states: jax.Array, teacher_states: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted sum over examples of the squared distance between position 0's states and the teacher's, relative to the teacher's
    squared length, averaged over the student's layers.

    A student of fewer layers has the teacher's in equal steps up to its last one: 2, 3, 5 and 6 for four of six.

    Args:
      states: [layers, B, H]. teacher_states: [teacher's layers, B, H]. weight: [B], 0 for padding examples.
    """
    layers, teachers = len(states), len(teacher_states)
    paired = np.array([(layer * teachers - 1) // layers for layer in range(1, layers + 1)])
    states, teacher_states = states.astype(jnp.float32), teacher_states[paired].astype(jnp.float32)
    distance = jnp.sum(jnp.square(states - teacher_states), axis=-1) / jnp.sum(jnp.square(teacher_states), axis=-1)
    return jnp.sum(jnp.mean(distance, axis=0) * weight)
