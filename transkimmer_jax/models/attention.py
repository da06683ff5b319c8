"""The attention core, for both layouts: under a mask that carries gradients, and over sequences whose tokens form a prefix.

What is fast differs by machine, so platforms have their own forms; all compute the same.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from transkimmer_jax.models.layers import dropout

# exp(score - highest kept score) of a skimmed key appears only in the gradient of its gate. The exact derivative there grows without
# bound with the score, though letting the key in could at most replace the attended value by the key's: w / (1 + w) of the way.
# Bounded so, gradients of gates are of the size of the effects of gates.
_MAX_SKIMMED_LOG_WEIGHT = 0.1  # above 0, where the highest kept key lies, by more than rounding

# Scores of so many (head, query, key) at a time on a CPU: 16 MiB of them stay in its caches. A few times as many are computed at once all
# the same, as the small products of a loop cost more than the memory traffic.
_CPU_CHUNK = 4 * 2**20

_CUDNN_HEAD_SIZE = 128  # the largest that cuDNN's kernel takes on every GPU; some take twice that

Positions = tuple[jax.Array, jax.Array]  # of queries and of keys, int32

# What a score is where the query does not see the key; the highest score that counts is never below a tenth of it.
_HIDDEN_SCORE = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Disentangled:
    """What scores owe to distances as queries and keys see them (He et al., 2021): a query meets the key of its distance from the key, and
    a key the query of that distance.

    keys, queries: [R, heads, head_dim], a layer's keys and queries of R rows of distances.
    rows: [2 * P - 1] int32, the row of each distance; number P - 1 is that of a token and itself, those behind it of later keys.
    """

    keys: jax.Array
    queries: jax.Array
    rows: jax.Array

    def row_of(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        """The row of every pair, [B, Q, K] int32 of positions [B, Q] and [B, K]; B may be 1."""
        distance = key_positions[:, None, :] - query_positions[:, :, None]
        return jnp.take(self.rows, distance + len(self.rows) // 2, axis=0, mode="clip")

    def scores(self, query: jax.Array, key: jax.Array, row: jax.Array) -> jax.Array:
        """To be added to scores, [B, heads, Q, K] float32.

        query: [B, Q, heads, head_dim]. key: [B, K, heads, head_dim]. row: [B or 1, Q, K], see `row_of`.
        """
        query, queries = _scaled(query), _scaled(self.queries)
        row = jnp.broadcast_to(row, (len(query), *row.shape[1:]))
        if query.shape[1] == 1:
            # Of one query each key is at one distance, so all other products of keys would be in vain.
            keys, queries = (jnp.take(table, row[:, 0], axis=0, mode="clip") for table in (self.keys, queries))
            query_terms = jnp.einsum("bhd,bkhd->bhk", query[:, 0], keys, preferred_element_type=jnp.float32)
            return (query_terms + jnp.einsum("bkhd,bkhd->bhk", key, queries, preferred_element_type=jnp.float32))[:, :, None]
        query_terms = jnp.einsum("bqhd,rhd->bqrh", query, self.keys, preferred_element_type=jnp.float32)
        key_terms = jnp.einsum("bkhd,rhd->bkrh", key, queries, preferred_element_type=jnp.float32)
        # All heads of a pair are gathered at once. The batch stays an axis of its own: split over devices, it is gathered where it is.
        for_queries = jax.vmap(jax.vmap(_rows))
        for_keys = jax.vmap(jax.vmap(_rows, in_axes=(0, 1), out_axes=1))
        return (for_queries(query_terms, row) + for_keys(key_terms, row)).transpose(0, 3, 1, 2)


def _rows(table: jax.Array, row: jax.Array) -> jax.Array:
    return jnp.take(table, row, axis=0, mode="clip")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Distances:
    """What scores owe to how far apart query and key were in the text, before anything was skimmed.

    bias: [2 * P - 1, heads] float32, added to scores; row P - 1 is that of a token and itself, those behind it of later keys. None: none.
    disentangled: what queries and keys make of distances. None: nothing.
    window: the furthest distance at which a query sees a key. None: it sees all.
    """

    bias: jax.Array | None = None
    disentangled: Disentangled | None = None
    window: int | None = dataclasses.field(default=None, metadata={"static": True})

    def scores(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array | None:
        """To be added to scores, whatever the query and the key: [B, heads or 1, Q, K] float32 of positions [B, Q] and [B, K], B of them 1
        where all are alike. None: nothing."""
        if self.bias is None and self.window is None:
            return None
        distance = key_positions[:, None, :] - query_positions[:, :, None]
        if self.bias is None:
            scores = jnp.zeros((distance.shape[0], 1, *distance.shape[1:]), jnp.float32)
        else:
            rows = jnp.take(self.bias, distance + self.bias.shape[0] // 2, axis=0, mode="clip")
            scores = rows.transpose(0, 3, 1, 2)
        if self.window is not None:
            scores = jnp.where((jnp.abs(distance) <= self.window)[:, None], scores, _HIDDEN_SCORE)
        return scores


def masked(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    counted: jax.Array,
    kept: jax.Array | None,
    dropout_rate: float,
    dropout_key: jax.Array | None,
    positions: Positions | None = None,
    distances: Distances | None = None,
) -> jax.Array:
    """Attention of every query over the keys that are counted, differentiable in `counted` too (docs/design.md, section 1.4).

    Args:
      query: [B, Q, heads, head_dim]. key, value: [B, S, heads, head_dim].
      counted: [B, S] float32, 0 or 1: weights are counted * exp(score) over their sum.
      kept: [B, S] float32, by which the weights are multiplied after that; None: by nothing.
      dropout_rate, dropout_key: dropout on the weights; no key, no dropout.
      positions: of the queries [1, Q] and of the keys [1, S], alike in all sequences, where `distances` are given.

    Returns:
      [B, Q, heads, head_dim] in the dtype of `value`; zeros where nothing is counted, or seen.
    """
    at_once = functools.partial(_masked, dropout_rate=dropout_rate)
    in_chunks = functools.partial(_masked_in_chunks, dropout_rate=dropout_rate)
    terms = _DistanceTerms.at(positions, distances)
    return jax.lax.platform_dependent(query, key, value, counted, kept, dropout_key, terms, cpu=in_chunks, default=at_once)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _DistanceTerms:
    """`Distances` at certain positions. added: see `Distances.scores`. row: see `Disentangled.row_of`."""

    added: jax.Array | None = None
    disentangled: Disentangled | None = None
    row: jax.Array | None = None

    @classmethod
    def at(cls, positions: Positions | None, distances: Distances | None) -> "_DistanceTerms":
        if positions is None or distances is None:
            return cls()
        disentangled = distances.disentangled
        return cls(distances.scores(*positions), disentangled, None if disentangled is None else disentangled.row_of(*positions))

    def add(self, scores: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
        """Scores [B, heads, Q, K] of queries [B, Q, heads, head_dim] and keys [B, K, heads, head_dim] with what they owe to distances."""
        if self.added is not None:
            scores = scores + self.added
        if self.disentangled is not None and self.row is not None:
            scores = scores + self.disentangled.scores(query, key, self.row)
        return scores


def _masked(query, key, value, counted, kept, dropout_key, terms, dropout_rate, first_row: jax.Array | int = 0):
    scores = terms.add(_scores(query, key), query, key)
    counted = counted[:, None, None, :]
    highest = jnp.max(scores + jnp.where(counted > 0, 0.0, _HIDDEN_SCORE), axis=-1, keepdims=True)
    highest = jnp.maximum(highest, 0.1 * _HIDDEN_SCORE)
    weights = counted * jnp.exp(jnp.minimum(scores - jax.lax.stop_gradient(highest), _MAX_SKIMMED_LOG_WEIGHT))
    total = jnp.sum(weights, axis=-1)
    if kept is not None:
        weights = weights * kept[:, None, None, :]
    start = jnp.uint32(first_row) * jnp.uint32(scores[0].size % 2**32)
    weights = dropout(weights.astype(value.dtype), dropout_rate, dropout_key, start)
    # An example without one real token has no key to attend to: zeros, not NaN.
    return _mixed(weights, value, jnp.where(total > 0, total, 1.0))


def _masked_in_chunks(query, key, value, counted, kept, dropout_key, terms, dropout_rate):
    """`_masked`, a few sequences at a time where all at once would leave the caches; the weights are then computed again for the
    gradient instead of being kept. Not where a mesh may have split the sequences over devices."""
    batch, queries, heads, _ = query.shape
    scores = heads * queries * key.shape[1]
    count = next(count for count in range(max(1, min(batch, _CPU_CHUNK // scores)), 0, -1) if batch % count == 0)
    if batch * scores <= 4 * _CPU_CHUNK or jax.sharding.get_abstract_mesh().size > 1:
        return _masked(query, key, value, counted, kept, dropout_key, terms, dropout_rate)

    @jax.checkpoint
    def chunk(inputs):
        first_row, query, key, value, counted, kept = inputs
        return _masked(query, key, value, counted, kept, dropout_key, terms, dropout_rate, first_row)

    def split(array):
        return array.reshape(batch // count, count, *array.shape[1:])

    first_rows = jnp.arange(0, batch, count, dtype=jnp.uint32)
    attended = jax.lax.map(chunk, (first_rows, *jax.tree.map(split, (query, key, value, counted, kept))))
    return attended.reshape(query.shape)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    lengths: jax.Array,
    positions: Positions | None = None,
    distances: Distances | None = None,
    portable: bool = False,
) -> jax.Array:
    """Softmax attention of every query over the first `lengths` keys of its sequence.

    Args:
      query: [B, Q, heads, head_dim]. key, value: [B, W, heads, head_dim].
      lengths: [B] int32, keys that count.
      positions: of the queries [B, Q] and of the keys [B, W], where `distances` are given.
      portable: trace nothing that `jax.export` refuses: it takes no call of cuDNN's kernel, since a later cuDNN may read it in another
        way, and none can be lowered for several platforms at once.

    Returns:
      [B, Q, heads, head_dim] in the dtype of `value`; finite whatever lies behind the last key, if that is finite.
    """
    cuda = _plain if portable else _fused
    return jax.lax.platform_dependent(query, key, value, lengths, positions, distances, cpu=_chunked, cuda=cuda, default=_plain)


def _plain(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    lengths: jax.Array,
    positions: Positions | None = None,
    distances: Distances | None = None,
) -> jax.Array:
    # Not `_masked`, whose product with the mask carries a gradient: adding a mask to the scores takes XLA's CPU code a part of the time.
    scores = _DistanceTerms.at(positions, distances).add(_scores(query, key), query, key)
    real = jnp.arange(key.shape[1])[None, :] < lengths[:, None]
    scores = scores + jnp.where(real, 0.0, _HIDDEN_SCORE)[:, None, None, :]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return _mixed(weights.astype(value.dtype), value, jnp.sum(weights, axis=-1))


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Scaled products [B, heads, Q, W] float32 of [B, Q, heads, head_dim] and [B, W, heads, head_dim].

    With heads first both products of attention are plain batched ones.
    """
    query, key = _scaled(query).transpose(0, 2, 1, 3), key.transpose(0, 2, 1, 3)
    return jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)


def _scaled(query: jax.Array) -> jax.Array:
    return query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)


def _mixed(weights: jax.Array, value: jax.Array, total: jax.Array) -> jax.Array:
    """Values [B, W, heads, head_dim] mixed by weights [B, heads, Q, W] over their total [B, heads, Q]: [B, Q, heads, head_dim].

    Divided last, so that the weights, the largest arrays of the layer, are written and read once.
    """
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value.transpose(0, 2, 1, 3), preferred_element_type=jnp.float32)
    return (mixed / total[..., None]).astype(value.dtype).transpose(0, 2, 1, 3)


def _chunked(query, key, value, lengths, positions, distances) -> jax.Array:
    """`_plain`, a few sequences at a time, and none behind the last that has a token. Not differentiable."""
    batch, queries, heads, _ = query.shape
    scores = heads * queries * key.shape[1]
    if batch * scores <= 2 * _CPU_CHUNK:
        return _plain(query, key, value, lengths, positions, distances)
    count = max(1, min(_CPU_CHUNK // scores, -(-batch // 8)))

    def one(index, attended):
        start = jnp.minimum(index * count, batch - count)

        def part(array: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(array, start, count)

        some = _plain(part(query), part(key), part(value), part(lengths), jax.tree.map(part, positions), distances)
        return jax.lax.dynamic_update_slice_in_dim(attended, some, start, 0)

    used = jnp.max(jnp.where(lengths > 0, jnp.arange(1, batch + 1), 0))
    return jax.lax.fori_loop(0, (used + count - 1) // count, one, jnp.zeros(query.shape, value.dtype))


def _fused(query, key, value, lengths, positions, distances) -> jax.Array:
    """cuDNN's kernel where it takes the dtype, the size of the heads, more than one query and no distances."""
    # What scores owe to distances it would read as an array of all scores. To write that, of disentangled attention with every query and
    # key in it, is most of what XLA's form does.
    # All platforms' branches are traced everywhere, and tracing this one asks for cuDNN.
    here = jax.default_backend() == "gpu"
    _, queries, _, size = query.shape
    takes_heads = size % 8 == 0 and size <= _CUDNN_HEAD_SIZE
    if not here or query.dtype not in (jnp.bfloat16, jnp.float16) or not takes_heads or queries == 1 or distances is not None:
        return _plain(query, key, value, lengths, positions, distances)
    count = jnp.full(lengths.shape, queries, jnp.int32)
    return jax.nn.dot_product_attention(
        query, key, value, query_seq_lengths=count, key_value_seq_lengths=jnp.maximum(lengths, 1), implementation="cudnn"
    )
