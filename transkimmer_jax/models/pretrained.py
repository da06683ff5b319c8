"""What all models with a head have in common: loading, saving, masked and compacted computation."""

import abc
import dataclasses
import os
from typing import Any, ClassVar, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.forking import require_own_runtime
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.arguments import require_token_arrays
from transkimmer_jax.models.embeddings import Embeddings
from transkimmer_jax.models.encoder import Encoder, EncoderOutput, Gate, split_key
from transkimmer_jax.models.layouts import PaddedTokens
from transkimmer_jax.models.outputs import CompactedOutput, HeadOutput, SkimmerOutput
from transkimmer_jax.models.packed_tokens import PackedTokens
from transkimmer_jax.models.skim import GumbelGate, ThresholdGate

Output = TypeVar("Output", bound=SkimmerOutput)


class TranskimmerPreTrainedModel(nnx.Module, Generic[Output]):
    """A skimming encoder with a head. A head is a subclass: it adds modules, names its outputs and computes them in `answer`.

    Without `arch.skim` it is the dense encoder, computed by the same code. Load weights with `from_pretrained`.

    head: its name in `Architecture.head`. output_class: what a call gives.
    """

    head: ClassVar[str]
    output_class: ClassVar[type[SkimmerOutput]]

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        self.arch = dataclasses.replace(arch, head=self.head)
        self.embeddings = Embeddings(self.arch, arch.dtype, rngs)
        self.encoder = Encoder(self.arch, arch.dtype, rngs)

    @property
    @abc.abstractmethod
    def outputs(self) -> tuple[HeadOutput, ...]:
        """What `answer` gives."""

    def outputs_of(self, out: SkimmerOutput) -> dict[str, jax.Array]:
        """The head's outputs by name, of what a call gave."""
        return {output.name: getattr(out, output.name) for output in self.outputs}

    @abc.abstractmethod
    def answer(self, states: EncoderOutput, key: jax.Array | None) -> dict[str, jax.Array]:
        """The head: its outputs by name, of what leaves the encoder in any layout. key: drives dropout; None in evaluation."""

    @classmethod
    def from_pretrained(cls, checkpoint: str | os.PathLike, *, attention_masking: str | None = None, **options: Any) -> Self:
        """Load a Hugging Face checkpoint: a folder, a hub id or 'packaged:<asset>'.

        Args:
          checkpoint: BERT or Transkimmer weights; a head or predictor that is missing is made fresh.
          attention_masking: 'renormalized' or 'post_softmax'; None takes the checkpoint's, or 'renormalized'.
          **options: see `transkimmer_jax.checkpoints.huggingface.load`.

        Raises:
          CheckpointError: the folder is not a checkpoint, or its weights do not fit its config.json.
        """
        # Here, so that a model of fresh weights needs no safetensors.
        from transkimmer_jax.checkpoints import huggingface

        skim_overrides = options.pop("skim_overrides", {}) | ({} if attention_masking is None else {"attention_masking": attention_masking})
        return huggingface.load(cls, checkpoint, skim_overrides=skim_overrides, **options)

    def save_pretrained(self, folder: str | os.PathLike, **options: Any) -> None:
        """Write a Hugging Face checkpoint folder; see `transkimmer_jax.checkpoints.huggingface.save`."""
        from transkimmer_jax.checkpoints import huggingface

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
        level: jax.Array | None = None,
        only_logits: bool = False,
    ) -> Output:
        """Masked computation in fixed shapes.

        Args:
          input_ids: [B, S] int.
          attention_mask: [B, S], 1 for real tokens; None: every token is real.
          token_type_ids: [B, S] int; None: all 0.
          threshold: a token is kept where its margin exceeds this; None takes the checkpoint's.
          key: a PRNG key makes this a training step's call: dropout on, gates sampled. None is evaluation.
          gate: replaces the gate that `key` and `threshold` choose.
          level: [B] int, see `Encoder`.
          only_logits: nothing is computed that the head does not read: where that is position 0 alone, the last layer computes no other
            token. The answers are the same.

        Raises:
          DataError: more positions than the checkpoint has embeddings for; arrays that do not fit each other, or ids outside of the
            vocabulary (which are not looked at under `jax.jit`).
          InferenceError: this process was forked from one that had computed.
        """
        require_own_runtime()
        require_token_arrays(self.arch, input_ids, attention_mask, token_type_ids)
        skim = self.arch.skim or SkimArchitecture()
        if gate is None:
            gate = GumbelGate() if key is not None else self._threshold_gate(threshold)
        if attention_mask is None:
            attention_mask = jnp.ones(input_ids.shape, jnp.int32)
        if token_type_ids is None:
            token_type_ids = jnp.zeros(input_ids.shape, jnp.int32)
        embedding_key, encoder_key, head_key = split_key(key, 3)
        embedded = self.embeddings(input_ids, token_type_ids, jnp.arange(input_ids.shape[1])[None], embedding_key)
        tokens = PaddedTokens.start(embedded, attention_mask, skim.attention_masking, self._pinned(token_type_ids))
        out = self.encoder(tokens, gate, encoder_key, only_logits and not self.arch.reads_every_token, level)
        return self.output_class(  # type: ignore[return-value]
            **self.answer(out, head_key),
            keep=jnp.stack(out.kept),
            margin=jnp.stack(out.margins) if out.margins else None,
            last_hidden_state=None if only_logits else out.final_states(),
            hidden_states=out.hidden_states,
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
        portable: bool = False,
    ) -> CompactedOutput:
        """Compacted computation: each layer computes the tokens it keeps and no others (docs/design.md, section 3.1). Evaluation only.

        Args:
          input_ids: [T] int, the tokens of all sequences one after the other; anything behind the last.
          token_type_ids: [T] int, of these tokens.
          lengths: [B] int32, tokens of each sequence; 0 for an empty slot.
          width: the most tokens of one sequence, a constant of the compiled program.
          capacities: (rows, width) of each layer, constants too; see `inference.shapes`. Those of layers without a predictor are
            ignored.
          threshold: a token is kept where its margin exceeds this; None takes the checkpoint's.
          only_logits: as in `__call__`.
          portable: for `jax.export`, see `attention.attend`.

        Raises:
          CheckpointError: the model attends as the paper's Eq. 4 says, over skimmed tokens too.
        """
        self.require_compactable()
        starts = jnp.cumsum(lengths, dtype=jnp.int32) - lengths
        positions = jnp.arange(len(input_ids)) - jnp.repeat(starts, lengths, total_repeat_length=len(input_ids))
        embedded = self.embeddings(input_ids, token_type_ids, jnp.minimum(positions, self.arch.max_position_embeddings - 1), None)
        predictor_layers = self.arch.predictor_layers
        capacities = tuple(capacities[number] for number in predictor_layers)
        tokens = PackedTokens.start(embedded, lengths, width, capacities, self._pinned(token_type_ids), portable)
        out = self.encoder(tokens, self._threshold_gate(threshold), None, only_logits and not self.arch.reads_every_token)
        return CompactedOutput(
            answers=self.answer(out, None),
            kept=jnp.stack(out.kept),
            depth=jnp.array([*predictor_layers, self.arch.num_hidden_layers], jnp.int32)[out.tokens.skims()],
            lost=out.tokens.lost,
            last_hidden_state=None if only_logits else out.final_states(),
        )

    @classmethod
    def abstract(cls, arch: Architecture) -> Self:
        """A model of shapes alone, for what is compiled, or filled with weights, without making any."""
        return nnx.eval_shape(lambda: cls(arch, rngs=_OneKey()))  # type: ignore[arg-type]

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

    def _pinned(self, token_type_ids: jax.Array) -> jax.Array | None:
        """Tokens that no gate skims, bool; None: no others than position 0."""
        if self.arch.skim is None or self.arch.skim.pinned is None:
            return None
        return token_type_ids == 0


class _OneKey:
    """Stands for `nnx.Rngs` where only shapes are asked for: what that does for a key of its own for each parameter takes longer to trace
    than all else."""

    def __init__(self) -> None:
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key
