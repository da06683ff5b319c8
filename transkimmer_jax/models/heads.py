"""Models with a task head: what users load, train and call."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.forking import require_own_runtime
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.arguments import require_token_arrays
from transkimmer_jax.models.bert import BertEmbeddings
from transkimmer_jax.models.encoder import Encoder, Gate, split_key
from transkimmer_jax.models.layers import dropout
from transkimmer_jax.models.layouts import PackedTokens, PaddedTokens
from transkimmer_jax.models.skim import GumbelGate, ThresholdGate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceClassifierOutput:
    """What a call gives; under `jax.jit` the compiler drops what nobody reads.

    logits: [B, num_labels] float32 (num_labels 1: the regression value).
    keep: [layers, B, S] float32, cumulative keep decisions; 0 on padding.
    margin: [layers, B, S] float32, predictor margins; None for a dense model.
    last_hidden_state: [B, S, H], each token as of the last layer it was kept in; None where only logits were asked for.
    hidden_states: embeddings and each layer's output, layers + 1 of [B, S, H]; without the last where only logits were asked for.
    first_states: [layers, B, H], position 0 after each layer; of the last, what the pooler reads.
    """

    logits: jax.Array
    keep: jax.Array
    margin: jax.Array | None
    last_hidden_state: jax.Array | None
    hidden_states: tuple[jax.Array, ...]
    first_states: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CompactedOutput:
    """What compacted computation gives.

    logits: [B, num_labels] float32; leftovers for empty slots.
    kept: [layers, B] int32, tokens that each layer computes.
    depth: [T] int32, how many layers computed each token of the input; leftovers behind the last token.
    lost: [B] bool, the sequence did not fit into some layer's capacity: of it nothing here is valid, and it needs wider capacities.
    last_hidden_state: [T, H], each token as of the last layer it was kept in; None where only logits were asked for.
    """

    logits: jax.Array
    kept: jax.Array
    depth: jax.Array
    lost: jax.Array
    last_hidden_state: jax.Array | None

    @property
    def overflow(self) -> jax.Array:
        """Whether some sequence was lost, bool."""
        return jnp.any(self.lost)


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
        # Here, so that a model of fresh weights needs no safetensors.
        from transkimmer_jax.weights import huggingface

        skim_overrides = options.pop("skim_overrides", {}) | ({} if attention_masking is None else {"attention_masking": attention_masking})
        return huggingface.load(cls, checkpoint, skim_overrides=skim_overrides, **options)

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
        only_logits: bool = False,
    ) -> SequenceClassifierOutput:
        """Masked computation in fixed shapes.

        Args:
          input_ids: [B, S] int.
          attention_mask: [B, S], 1 for real tokens; None: every token is real.
          token_type_ids: [B, S] int; None: all 0.
          threshold: a token is kept where its margin exceeds this; None takes the checkpoint's.
          key: a PRNG key makes this a training step's call: dropout on, gates sampled. None is evaluation.
          gate: replaces the gate that `key` and `threshold` choose.
          only_logits: the last layer computes position 0 alone, as the pooler reads nothing else. The logits are the same.

        Raises:
          DataError: more positions than the checkpoint has embeddings for; arrays that do not fit each other, or ids outside of the
            vocabulary (which are not looked at under `jax.jit`).
          InferenceError: this process was forked from one that had computed.
        """
        require_own_runtime()
        require_token_arrays(self.arch, input_ids, attention_mask, token_type_ids)
        skim = self.arch.skim or SkimArchitecture()
        if gate is None:
            gate = GumbelGate(skim.temperature) if key is not None else self._threshold_gate(threshold)
        if attention_mask is None:
            attention_mask = jnp.ones(input_ids.shape, jnp.int32)
        if token_type_ids is None:
            token_type_ids = jnp.zeros(input_ids.shape, jnp.int32)
        embedding_key, encoder_key, head_key = split_key(key, 3)
        embedded = self.embeddings(input_ids, token_type_ids, jnp.arange(input_ids.shape[1])[None], embedding_key)
        tokens = PaddedTokens.start(embedded, attention_mask, skim.attention_masking)
        out = self.encoder(tokens, gate, encoder_key, only_logits)
        return SequenceClassifierOutput(
            logits=self._classify(out.first, head_key),
            keep=jnp.stack(out.kept),
            margin=jnp.stack(out.margins) if out.margins else None,
            last_hidden_state=None if only_logits else out.tokens.forwarded,
            hidden_states=out.hidden_states,
            first_states=jnp.stack([*(state[:, 0] for state in out.hidden_states[1 : self.arch.num_hidden_layers]), out.first]),
        )

    def compacted(
        self,
        input_ids: jax.Array,
        token_type_ids: jax.Array,
        lengths: jax.Array,
        width: int,
        capacities: tuple[tuple[int, int], ...],
        *,
        threshold: jax.Array | float | None = None,
        only_logits: bool = True,
    ) -> CompactedOutput:
        """Compacted computation: each layer computes the tokens it keeps and no others (docs/design.md, section 3.1). Evaluation only.

        Args:
          input_ids, token_type_ids: [T] int, the tokens of all sequences one after the other; anything behind the last.
          lengths: [B] int32, tokens of each sequence; 0 for an empty slot.
          width: the most tokens of one sequence, a constant of the compiled program.
          capacities: (rows, width) of each layer behind its predictor, constants too; see `inference.shapes`. A dense model
            ignores them.
          threshold: a token is kept where its margin exceeds this; None takes the checkpoint's.
          only_logits: as in `__call__`.

        Raises:
          CheckpointError: the model attends as the paper's Eq. 4 says, over skimmed tokens too.
        """
        self.require_compactable()
        starts = jnp.cumsum(lengths, dtype=jnp.int32) - lengths
        positions = jnp.arange(len(input_ids)) - jnp.repeat(starts, lengths, total_repeat_length=len(input_ids))
        embedded = self.embeddings(input_ids, token_type_ids, jnp.minimum(positions, self.arch.max_position_embeddings - 1), None)
        tokens = PackedTokens.start(embedded, lengths, width, capacities)
        out = self.encoder(tokens, self._threshold_gate(threshold), None, only_logits)
        return CompactedOutput(
            logits=self._classify(out.first, None),
            kept=jnp.stack(out.kept),
            depth=out.tokens.depth(),
            lost=out.tokens.lost,
            last_hidden_state=None if only_logits else out.tokens.forwarded(),
        )

    @classmethod
    def abstract(cls, arch: Architecture) -> "TranskimmerForSequenceClassification":
        """A model of shapes alone, for what is compiled, or filled with weights, without making any."""
        return nnx.eval_shape(lambda: cls(arch, rngs=nnx.Rngs(0)))

    def require_compactable(self) -> None:
        """Raises `CheckpointError` where leaving skimmed tokens out would change the answer."""
        if self.arch.skim is not None and self.arch.skim.attention_masking != "renormalized":
            raise CheckpointError(
                f"attention_masking={self.arch.skim.attention_masking!r} cannot be compacted: its softmax runs over the skimmed "
                "tokens too (docs/design.md, section 1.4); evaluate it with --mode masked, or train with 'renormalized'"
            )

    def _threshold_gate(self, threshold: jax.Array | float | None) -> ThresholdGate:
        skim = self.arch.skim or SkimArchitecture()
        return ThresholdGate(skim.threshold if threshold is None else threshold)

    def _classify(self, first: jax.Array, key: jax.Array | None) -> jax.Array:
        """Position 0 [B, H] -> logits [B, num_labels] float32."""
        pooled = jnp.tanh(self.pooler(first))
        return self.classifier(dropout(pooled, self.arch.hidden_dropout, key).astype(jnp.float32))
