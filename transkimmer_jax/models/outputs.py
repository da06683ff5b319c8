"""What models give: of masked computation one class for each head, with transformers' names; of compacted computation one for all."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class HeadOutput:
    """One array that a head computes, float32.

    shape: of what it says of one text, or of one token. per_token: which of the two.
    """

    name: str
    shape: tuple[int, ...]
    per_token: bool = False


TOKEN_EMBEDDINGS = "token_embeddings"  # what sentence-transformers calls an embedder's final states
LAST_HIDDEN_STATE = "last_hidden_state"  # what transformers and Optimum call them


def with_token_embeddings(outputs: tuple[HeadOutput, ...], hidden_size: int) -> tuple[HeadOutput, ...]:
    """The outputs of an embedder, and the final state of every token beside them."""
    return (*outputs, HeadOutput(TOKEN_EMBEDDINGS, (hidden_size,), per_token=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SkimmerOutput:
    """What every call gives; under `jax.jit` the compiler drops what nobody reads.

    keep: [layers, B, S] float32, cumulative keep decisions; 0 on padding.
    margin: [predictors, B, S] float32, their margins; None for a dense model.
    last_hidden_state: [B, S, H], each token as of the last layer it was kept in; None where only what the head reads was asked for.
    hidden_states: embeddings and each layer's output, layers + 1 of [B, S, H]; without the last where the last layer computed position 0
      alone.
    """

    keep: jax.Array
    margin: jax.Array | None
    last_hidden_state: jax.Array | None
    hidden_states: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassifierOutput(SkimmerOutput):
    """logits: [B, num_labels] float32 (a regression's one logit is the value)."""

    logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceEmbeddingOutput(SkimmerOutput):
    """sentence_embedding: [B, H] float32. The `last_hidden_state` is what sentence-transformers calls token embeddings."""

    sentence_embedding: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassifierOutput(SkimmerOutput):
    """logits: [B, S, num_labels] float32."""

    logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOutput(SkimmerOutput):
    """start_logits, end_logits: [B, S] float32, of the first and the last token of the answer."""

    start_logits: jax.Array
    end_logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CompactedOutput:
    """What compacted computation gives.

    answers: the head's outputs by name (`HeadOutput`), [B, ...] of texts or [T, ...] of tokens, as they lay at the start; leftovers for
      empty slots and behind the last token.
    kept: [layers, B] int32, tokens that each layer computes.
    depth: [T] int32, how many layers computed each token of the input; leftovers behind the last token.
    lost: [B] bool, the sequence did not fit into some layer's capacity: of it nothing here is valid, and it needs wider capacities.
    last_hidden_state: [T, H], each token as of the last layer it was kept in; None where only what the head reads was asked for.
    """

    answers: dict[str, jax.Array]
    kept: jax.Array
    depth: jax.Array
    lost: jax.Array
    last_hidden_state: jax.Array | None

    @property
    def logits(self) -> jax.Array:
        """A classifier's answers."""
        return self.answers["logits"]
