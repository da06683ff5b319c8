"""Models with a task head: what users load, train and call."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.bert import BertEmbeddings
from transkimmer_jax.models.encoder import Encoder, Gate, split_key
from transkimmer_jax.models.layers import dropout
from transkimmer_jax.models.layouts import PaddedTokens
from transkimmer_jax.models.skim import GumbelGate, ThresholdGate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceClassifierOutput:
    """What a call gives; under `jax.jit` the compiler drops what nobody reads.

    logits: [B, num_labels] float32 (num_labels 1: the regression value).
    keep: [layers, B, S] float32, cumulative keep decisions; 0 on padding.
    margin: [layers, B, S] float32, predictor margins; None for a dense model.
    last_hidden_state: [B, S, H], each token as of the last layer it was kept in.
    hidden_states: embeddings and each layer's output, layers + 1 of [B, S, H].
    """

    logits: jax.Array
    keep: jax.Array
    margin: jax.Array | None
    last_hidden_state: jax.Array
    hidden_states: tuple[jax.Array, ...]


class TranskimmerForSequenceClassification(nnx.Module):
    """A skimming BERT encoder with BERT's pooler and a linear classifier (or regressor) on top.

    Without `arch.skim` it is BERT, computed by the same code. Load weights with `from_pretrained`.
    """

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(arch.initializer_range)
        self.arch = arch
        self.embeddings = BertEmbeddings(arch, arch.dtype, rngs)
        self.encoder = Encoder(arch, arch.dtype, rngs)
        self.pooler = nnx.Linear(arch.hidden_size, arch.hidden_size, kernel_init=normal, dtype=arch.dtype, rngs=rngs)
        self.classifier = nnx.Linear(arch.hidden_size, arch.num_labels, kernel_init=normal, dtype=jnp.float32, rngs=rngs)

    @classmethod
    def from_pretrained(cls, checkpoint: str | os.PathLike, *, attention_masking: str | None = None, **options: Any):
        """Load a Hugging Face checkpoint: a folder, a hub id or 'packaged:<asset>'.

        Args:
          checkpoint: BERT or Transkimmer weights; a pooler, classifier or predictor that is missing is made fresh.
          attention_masking: 'renormalized' or 'post_softmax'; None takes the checkpoint's, or 'renormalized'.
          **options: see `transkimmer_jax.weights.huggingface.load`.

        Raises:
          CheckpointError: the folder is not a checkpoint, or its weights do not fit its config.json.
        """
        from transkimmer_jax.weights import huggingface

        skim_overrides = options.pop("skim_overrides", {}) | ({} if attention_masking is None else {"attention_masking": attention_masking})
        return huggingface.load(checkpoint, skim_overrides=skim_overrides, **options)

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """Write a Hugging Face checkpoint folder; see `transkimmer_jax.weights.huggingface.save`."""
        from transkimmer_jax.weights import huggingface

        huggingface.save(self, folder, **options)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        *,
        threshold: jax.Array | float | None = None,
        key: jax.Array | None = None,
        gate: Gate | None = None,
    ) -> SequenceClassifierOutput:
        """Masked computation in fixed shapes.

        Args:
          input_ids: [B, S] int.
          attention_mask: [B, S], 1 for real tokens; None: every token is real.
          token_type_ids: [B, S] int; None: all 0.
          threshold: a token is kept where its margin exceeds this; None takes the checkpoint's.
          key: a PRNG key makes this a training step's call: dropout on, gates sampled. None is evaluation.
          gate: replaces the gate that `key` and `threshold` choose.

        Raises:
          ValueError: more positions than the checkpoint has embeddings for.
        """
        if input_ids.shape[1] > self.arch.max_position_embeddings:
            raise ValueError(
                f"{input_ids.shape[1]} positions, but the checkpoint has {self.arch.max_position_embeddings}: truncate the input"
            )
        skim = self.arch.skim or SkimArchitecture()
        if gate is None and key is not None:
            gate = GumbelGate(skim.temperature)
        elif gate is None:
            gate = ThresholdGate(skim.threshold if threshold is None else threshold)
        if attention_mask is None:
            attention_mask = jnp.ones(input_ids.shape, jnp.int32)
        if token_type_ids is None:
            token_type_ids = jnp.zeros(input_ids.shape, jnp.int32)
        embedding_key, encoder_key, head_key = split_key(key, 3)
        embedded = self.embeddings(input_ids, token_type_ids, embedding_key)
        tokens = PaddedTokens.start(embedded, attention_mask, skim.attention_masking)
        out = self.encoder(tokens, gate, encoder_key)
        pooled = jnp.tanh(self.pooler(out.tokens.first()))
        logits = self.classifier(dropout(pooled, self.arch.hidden_dropout, head_key).astype(jnp.float32))
        return SequenceClassifierOutput(logits, out.keep, out.margin, out.tokens.forwarded, out.hidden_states)
