"""Shapes and constants of an encoder, in the names of transformers' configs."""

import dataclasses

import jax.numpy as jnp

from transkimmer_jax.models.backbones import BACKBONES, Backbone


@dataclasses.dataclass(frozen=True)
class SkimArchitecture:
    """The skim predictors of a model; stored as the `skim` section of `config.json`."""

    predictor_size: int | None = None  # width P; None is P = hidden size
    layers: tuple[int, ...] | None = None  # before which a predictor decides, rising, from 0; None: before every one
    initial_bias: float = 5.0  # of fresh predictors: +b for keep, -b for skim
    temperature: float = 1.0  # of the Gumbel-softmax gates in training
    threshold: float = 0.0  # keep where margin > threshold in evaluation
    attention_masking: str = "renormalized"  # or 'post_softmax', the paper's Eq. 4
    pinned: str | None = None  # tokens that are never skimmed, beside position 0; 'first_segment': a question's, or a query's
    levels: tuple[float, ...] = ()  # budgets that the model was trained for, falling shares of the dense model's FLOPs; (): one alone
    norm_eps: float | None = None  # of the predictors' norms; None: that of the encoder's
    forwarding: str = "identity"  # what heads that read every token are given of a skimmed one's state: itself, or a 'linear' map of it


def fresh_predictor_size(hidden_size: int) -> int:
    """Width P of the predictors of a model that has none yet: a quarter of the hidden size.

    The paper's are as wide as the hidden size, cost four times as much and skim no better (docs/ablations.md).
    """
    return max(1, hidden_size // 4)


@dataclasses.dataclass(frozen=True)
class PoolingArchitecture:
    """How a sentence's vector is made of its tokens' final states; stored as the `pooling` section of `config.json`."""

    mode: str = "mean"  # over all tokens; or 'cls', position 0 alone
    normalize: bool = False  # to length 1


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Shapes and constants of an encoder with a head."""

    backbone: str = "bert"  # one of `BACKBONES`
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512  # tokens of the longest text
    position_offset: int = 0  # rows of the position table before that of the first token; no token reads them
    type_vocab_size: int = 2  # 0: no token types
    embedding_size: int | None = None  # of the embedding tables, behind which a product makes states; None: hidden_size, and none does
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    # What follows is as here in all backbones but ModernBERT, whose configs choose.
    attention_bias: bool = True  # of the products of attention
    feed_forward_bias: bool = True
    norm_bias: bool = True  # of all norms but the predictors'
    pooler_bias: bool = True  # of the classifier's first product
    classifier_pooling: str = "cls"  # what a sequence classifier reads: position 0, or the 'mean' of all tokens
    local_layers: tuple[int, ...] = ()  # layers, from 0 on, whose tokens see those alone that stand near them in the text
    local_window: int = 64  # the furthest distance that they see
    rope_theta: float = 160_000.0  # base of the angles by which a rotary backbone turns queries and keys
    local_rope_theta: float = 10_000.0  # the same of local layers
    # Of disentangled attention alone.
    position_buckets: int = 256  # rows of distances in either direction; half of them are of one distance each, the others of ranges
    max_relative_positions: int = 512  # the distance up to which these reach; it and those beyond share the last row
    num_labels: int = 2
    # Of a sequence classifier: a text has any number of labels. No product depends on it, so a graph's fingerprint, of `repr`, does not.
    multi_label: bool = dataclasses.field(default=False, repr=False)
    head: str = "sequence_classification"  # one of `heads.HEADS`; a model sets that which it is
    pooling: PoolingArchitecture = PoolingArchitecture()  # of the head 'sentence_embedding'
    skim: SkimArchitecture | None = SkimArchitecture()  # None: the dense model
    # Layers, and the intermediate size, of the dense model that FLOPs are compared with, where this one has less; None: as this one.
    dense_layers: int | None = None
    dense_intermediate: int | None = None
    compute_dtype: str = "float32"
    remat: bool = False

    @property
    def kind(self) -> Backbone:
        """The parts of the encoder."""
        return BACKBONES[self.backbone]

    @property
    def dtype(self):
        """Dtype of activations and matrix products."""
        return jnp.dtype(self.compute_dtype)

    @property
    def predictor_size(self) -> int:
        """Width P of the skim predictors; 0 of the dense model, which has none."""
        return 0 if self.skim is None else self.skim.predictor_size or self.hidden_size

    @property
    def predictor_layers(self) -> tuple[int, ...]:
        """Layers before which a predictor decides who stays, rising. The others compute what is left."""
        if self.skim is None:
            return ()
        return tuple(range(self.num_hidden_layers)) if self.skim.layers is None else self.skim.layers

    @property
    def predictor_norm_eps(self) -> float:
        """Epsilon of the predictors' norms."""
        return self.layer_norm_eps if self.skim is None or self.skim.norm_eps is None else self.skim.norm_eps

    @property
    def is_regression(self) -> bool:
        """Whether a sequence classifier's one logit is a value, as a regressor's and a cross-encoder's."""
        return self.head == "sequence_classification" and self.num_labels == 1 and not self.multi_label

    @property
    def reads_every_token(self) -> bool:
        """Whether the head reads the final states of all tokens, and not that of position 0 alone."""
        if self.head == "sentence_embedding":
            return self.pooling.mode == "mean"
        if self.head == "sequence_classification":
            return self.classifier_pooling == "mean"
        return self.head in ("token_classification", "question_answering")

    @property
    def scores_per_pair(self) -> int:
        """As how many scores a pair of tokens counts where the memory of attention is bounded: one for each head.

        Disentangled attention also has indices and both products with distances. For texts of 512 tokens ONNX Runtime took 5.7 times the
        memory of its scores, OpenVINO 9.4, and for BERT 2.3 and 0.5.
        """
        return self.num_attention_heads * (4 if self.kind.disentangled else 1)

    @property
    def compared(self) -> "Architecture":
        """The dense model that FLOPs are compared with."""
        return dataclasses.replace(
            self,
            skim=None,
            num_hidden_layers=self.dense_layers or self.num_hidden_layers,
            intermediate_size=self.dense_intermediate or self.intermediate_size,
            dense_layers=None,
            dense_intermediate=None,
        )

    @property
    def is_whole(self) -> bool:
        """Whether it has as many layers and neurons as the dense model that FLOPs are compared with."""
        dense = self.compared
        return (self.num_hidden_layers, self.intermediate_size) == (dense.num_hidden_layers, dense.intermediate_size)

    @property
    def maps_forwarded(self) -> bool:
        """Whether there are maps of the states that tokens leave with: a head that reads position 0 alone needs none."""
        return self.skim is not None and self.skim.forwarding == "linear" and self.reads_every_token

    def with_threshold(self, threshold: float) -> "Architecture":
        """The same model, evaluated at another threshold; a dense one is as it is."""
        return self if self.skim is None else dataclasses.replace(self, skim=dataclasses.replace(self.skim, threshold=threshold))


# Of these names the shapes are known without a file (Devlin et al., 2019, section 3).
WELL_KNOWN = {
    "bert-base-uncased": Architecture(skim=None),
    "bert-large-uncased": Architecture(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, skim=None
    ),
}  # fmt: skip
