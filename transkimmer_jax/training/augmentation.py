"""Texts that nobody has labelled, for a teacher to label: the batch's own with some tokens replaced.

A small task's labels are learned by heart within a few passes, by the teacher too, so on its own training texts it says little more than
they do. What it says about texts it has never seen is new in every pass (Tang et al., 2019, and Jiao et al., 2020, section 3.2, make them
beforehand).
"""

import jax
import jax.numpy as jnp


def with_replaced_tokens(
    input_ids: jax.Array, attention_mask: jax.Array, special_ids: tuple[int, ...], rate: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Half of the texts, drawn by chance, with tokens replaced by tokens of the batch, which are as frequent there as in the task.

    Args:
      input_ids, attention_mask: [B, S].
      special_ids: tokens that are neither replaced nor put in place of others, such as [CLS] and [SEP].
      rate: probability of a token of such a text to be replaced.

    Returns:
      input_ids [B, S], and which texts are as they were, [B] float32.
    """
    texts_key, tokens_key, sources_key = jax.random.split(key, 3)
    ordinary = (attention_mask != 0) & ~jnp.isin(input_ids, jnp.array(special_ids, input_ids.dtype))
    drawn = jax.random.randint(sources_key, input_ids.shape, 0, input_ids.size)
    untouched = jax.random.bernoulli(texts_key, 0.5, input_ids.shape[:1])
    # Where the drawn token is padding or special the old one stays, so that slightly less is replaced in batches of unequal lengths.
    replaced = ~untouched[:, None] & jax.random.bernoulli(tokens_key, rate, input_ids.shape) & ordinary & ordinary.reshape(-1)[drawn]
    return jnp.where(replaced, input_ids.reshape(-1)[drawn], input_ids), untouched.astype(jnp.float32)
