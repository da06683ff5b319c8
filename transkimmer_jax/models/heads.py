"""Models with a task head: what users load, train and call.

A head reads the final states that tokens leave the encoder with, in any layout: position 0's, their mean, or each token's
(`encoder.EncoderOutput`). A token that was skimmed answers with the state that it was forwarded with (docs/design.md, section 1.5).
"""

import os
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import EncoderOutput
from transkimmer_jax.models.layers import Linear, activation, dropout, norm, unit
from transkimmer_jax.models.outputs import (
    HeadOutput,
    QuestionAnsweringOutput,
    SentenceEmbeddingOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel


class Pooler(Linear):
    """What stands before a classifier: a product, the backbone's activation and, in a prediction head, a norm."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        super().__init__(arch.hidden_size, arch.hidden_size, use_bias=arch.pooler_bias, kernel_init=normal, dtype=arch.dtype, rngs=rngs)
        self.activation = arch.kind.pooled_by
        self.norm = norm(arch, rngs) if arch.kind.prediction_head else None

    def pool(self, states: jax.Array) -> jax.Array:
        """[..., H] of states [..., H]."""
        pooled = activation(self.activation)(self(states))
        return pooled if self.norm is None else self.norm(pooled)


class TranskimmerForSequenceClassification(TranskimmerPreTrainedModel[SequenceClassifierOutput]):
    """The backbone's pooler and a linear classifier, or regressor, on position 0 or, by `arch.classifier_pooling`, on the mean of all
    tokens. A regressor of pairs is a cross-encoder."""

    head = "sequence_classification"
    output_class = SequenceClassifierOutput

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        super().__init__(arch, rngs=rngs)
        self.pooler = Pooler(arch, rngs)
        self.classifier = _linear(arch, arch.num_labels, rngs)

    @property
    def outputs(self) -> tuple[HeadOutput, ...]:
        """See `TranskimmerPreTrainedModel`."""
        return (HeadOutput("logits", (self.arch.num_labels,)),)

    def answer(self, states: EncoderOutput, key: jax.Array | None) -> dict[str, jax.Array]:
        """logits [B, num_labels]."""
        state = states.mean_state().astype(self.arch.dtype) if self.arch.classifier_pooling == "mean" else states.first
        return {"logits": self.classifier(dropout(self.pooler.pool(state), self.arch.hidden_dropout, key).astype(jnp.float32))}


class TranskimmerForSentenceEmbedding(TranskimmerPreTrainedModel[SentenceEmbeddingOutput]):
    """One vector a text, as sentence-transformers pools it: the mean of the tokens' final states, or that of position 0."""

    head = "sentence_embedding"
    output_class = SentenceEmbeddingOutput

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | os.PathLike, *, pooling: str | None = None, normalize: bool | None = None, **options: Any
    ) -> Self:
        """As `TranskimmerPreTrainedModel.from_pretrained`, also of a folder of sentence-transformers.

        pooling: 'mean' or 'cls'. normalize: vectors to length 1. None takes what the folder says; a bare encoder's tokens are averaged.
        """
        given = {name: value for name, value in (("mode", pooling), ("normalize", normalize)) if value is not None}
        return super().from_pretrained(checkpoint, pooling_overrides=given, **options)

    @property
    def outputs(self) -> tuple[HeadOutput, ...]:
        """See `TranskimmerPreTrainedModel`."""
        return (HeadOutput("sentence_embedding", (self.arch.hidden_size,)),)

    def answer(self, states: EncoderOutput, key: jax.Array | None) -> dict[str, jax.Array]:
        """sentence_embedding [B, H]."""
        pooling = self.arch.pooling
        vector = states.mean_state() if pooling.mode == "mean" else states.first.astype(jnp.float32)
        return {"sentence_embedding": unit(vector) if pooling.normalize else vector}


class TranskimmerForTokenClassification(TranskimmerPreTrainedModel[TokenClassifierOutput]):
    """A linear classifier on every token's final state, behind the backbone's prediction head where it has one."""

    head = "token_classification"
    output_class = TokenClassifierOutput

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        super().__init__(arch, rngs=rngs)
        self.pooler = Pooler(arch, rngs) if arch.kind.prediction_head else None
        self.classifier = _linear(arch, arch.num_labels, rngs)

    @property
    def outputs(self) -> tuple[HeadOutput, ...]:
        """See `TranskimmerPreTrainedModel`."""
        return (HeadOutput("logits", (self.arch.num_labels,), per_token=True),)

    def answer(self, states: EncoderOutput, key: jax.Array | None) -> dict[str, jax.Array]:
        """logits [..., num_labels]."""
        hidden = dropout(_pooled(self.pooler, states.final_states()), self.arch.hidden_dropout, key)
        return {"logits": self.classifier(hidden.astype(jnp.float32))}


class TranskimmerForQuestionAnswering(TranskimmerPreTrainedModel[QuestionAnsweringOutput]):
    """The logits of every token to be the first, and to be the last, of the answer to a question."""

    head = "question_answering"
    output_class = QuestionAnsweringOutput

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        super().__init__(arch, rngs=rngs)
        self.pooler = Pooler(arch, rngs) if arch.kind.prediction_head else None
        self.qa_outputs = _linear(arch, 2, rngs)

    @property
    def outputs(self) -> tuple[HeadOutput, ...]:
        """See `TranskimmerPreTrainedModel`."""
        return HeadOutput("start_logits", (), per_token=True), HeadOutput("end_logits", (), per_token=True)

    def answer(self, states: EncoderOutput, key: jax.Array | None) -> dict[str, jax.Array]:
        """start_logits and end_logits [...]."""
        logits = self.qa_outputs(_pooled(self.pooler, states.final_states()).astype(jnp.float32))
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


HEADS: dict[str, type[TranskimmerPreTrainedModel]] = {
    model_class.head: model_class
    for model_class in (
        TranskimmerForSequenceClassification,
        TranskimmerForSentenceEmbedding,
        TranskimmerForTokenClassification,
        TranskimmerForQuestionAnswering,
    )
}


def load(checkpoint: str | os.PathLike, *, pooling: str | None = None, **options: Any) -> TranskimmerPreTrainedModel:
    """A checkpoint as the model that its `config.json` names, with the options of `weights.huggingface.load`.

    pooling: 'mean' or 'cls' makes it an embedder, whatever it names.

    Raises:
      CheckpointError: as `from_pretrained`.
    """
    # Here, so that a model of fresh weights needs no safetensors.
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.checkpoints.locations import resolve

    folder = resolve(os.fspath(checkpoint))
    if pooling is not None:
        return TranskimmerForSentenceEmbedding.from_pretrained(folder, pooling=pooling, **options)
    return HEADS[config_file.read(folder).architecture.head].from_pretrained(folder, **options)


def _pooled(pooler: Pooler | None, states: jax.Array) -> jax.Array:
    """What a classifier of tokens reads, [..., H]; None: the states as they are."""
    return states if pooler is None else pooler.pool(states)


def _linear(arch: Architecture, outputs: int, rngs: nnx.Rngs) -> Linear:
    """A head's last product, in float32 whatever the compute dtype."""
    normal = nnx.initializers.normal(arch.initializer_range)
    return Linear(arch.hidden_size, outputs, kernel_init=normal, dtype=jnp.float32, rngs=rngs)
