"""What the first layer reads: the sum of a token's embeddings, normalised, and made as wide as states."""

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.layers import Linear, dropout, norm, spread


class Embeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, then LayerNorm, dropout and, by `arch.embedding_size`, a product. A backbone
    without token types has no table for them, and one that tells distances in its layers none for positions."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        size = arch.embedding_size or arch.hidden_size
        normal = nnx.initializers.normal(arch.initializer_range)

        def table(rows):
            return nnx.Embed(rows, size, embedding_init=normal, dtype=dtype, rngs=rngs)

        self.word = table(arch.vocab_size)
        self.position = table(arch.max_position_embeddings + arch.position_offset) if arch.kind.position_table else None
        self.position_offset = arch.position_offset
        self.token_type = table(arch.type_vocab_size) if arch.type_vocab_size else None
        self.norm = norm(arch, rngs, size)
        self.projection = Linear(size, arch.hidden_size, kernel_init=normal, dtype=dtype, rngs=rngs) if arch.embedding_size else None
        self.dropout_rate = arch.hidden_dropout

    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array, positions: jax.Array, key: jax.Array | None) -> jax.Array:
        """input_ids, token_type_ids [...], positions [...] or [1, S] for all alike, from 0 on -> [..., H]."""
        embedded = self._rows(self.word, input_ids)
        if self.token_type is not None:
            embedded = embedded + self._of_two(self.token_type, token_type_ids)
        if self.position is not None:
            embedded = embedded + self._rows(self.position, positions + self.position_offset)
        embedded = dropout(self.norm(embedded), self.dropout_rate, key)
        return embedded if self.projection is None else self.projection(embedded)

    def _of_two(self, table: nnx.Embed, index: jax.Array) -> jax.Array:
        """`_rows` of a table that hardly has any: one or two of them are chosen from where they are added, instead of copied."""
        if table.num_embeddings > 2:
            return self._rows(table, index)
        rows = table.embedding[...].astype(table.dtype)  # type: ignore[index]
        first, last = (spread(row, (*index.shape, rows.shape[-1])) for row in (rows[0], rows[-1]))
        return jnp.where((index > 0)[..., None], last, first)

    def _rows(self, table: nnx.Embed, index: jax.Array) -> jax.Array:
        # nnx.Embed writes NaN for an index outside the table, and on a CPU its test of every element takes longer than the
        # copy. Here such an index reads the last row; `data.pipeline.load_tokenizer` refuses a tokenizer that can give one.
        return jnp.take(table.embedding[...], index, axis=0, mode="clip").astype(table.dtype)  # type: ignore[index]
