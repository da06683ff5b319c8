"""BERT's embeddings (Devlin et al., 2019). Its layers are `encoder.EncoderLayer` as they stand."""

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.layers import LayerNorm, dropout


class BertEmbeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, then LayerNorm and dropout."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        def table(rows):
            return nnx.Embed(rows, arch.hidden_size, embedding_init=nnx.initializers.normal(arch.initializer_range), dtype=dtype, rngs=rngs)

        self.word = table(arch.vocab_size)
        self.position = table(arch.max_position_embeddings)
        self.token_type = table(arch.type_vocab_size)
        self.norm = LayerNorm(arch.hidden_size, epsilon=arch.layer_norm_eps, rngs=rngs)
        self.dropout_rate = arch.hidden_dropout

    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array, positions: jax.Array, key: jax.Array | None) -> jax.Array:
        """input_ids, token_type_ids [...], positions [...] or [1, S] for all alike -> [..., H]."""
        embedded = self._rows(self.word, input_ids) + self._of_two(self.token_type, token_type_ids) + self._rows(self.position, positions)
        return dropout(self.norm(embedded), self.dropout_rate, key)

    def _of_two(self, table: nnx.Embed, index: jax.Array) -> jax.Array:
        """`_rows` of a table that hardly has any: one or two of them are chosen from where they are added, instead of copied."""
        if table.num_embeddings > 2:
            return self._rows(table, index)
        rows = table.embedding[...].astype(table.dtype)  # type: ignore[index]
        return jnp.where((index > 0)[..., None], rows[-1], rows[0])

    def _rows(self, table: nnx.Embed, index: jax.Array) -> jax.Array:
        # nnx.Embed writes NaN for an index outside the table, and on a CPU its test of every element takes longer than the
        # copy. Here such an index reads the last row; `data.pipeline.load_tokenizer` refuses a tokenizer that can give one.
        return jnp.take(table.embedding[...], index, axis=0, mode="clip").astype(table.dtype)  # type: ignore[index]
