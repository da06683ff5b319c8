"""What a checkpoint's `config.json` says about an encoder, in the names of transformers' configs."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from transkimmer_jax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class SkimArchitecture:
    """The skim predictors of a model; stored as the `skim` section of `config.json`."""

    predictor_size: int | None = None  # width P; None is P = hidden size
    initial_bias: float = 5.0  # of fresh predictors: +b for keep, -b for skim
    temperature: float = 1.0  # of the Gumbel-softmax gates in training
    threshold: float = 0.0  # keep where margin > threshold in evaluation
    attention_masking: str = "renormalized"  # or 'post_softmax', the paper's Eq. 4


def fresh_predictor_size(hidden_size: int) -> int:
    """Width P of the predictors of a model that has none yet: a quarter of the hidden size.

    The paper's are as wide as the hidden size, cost four times as much and skim no better (docs/ablations.md).
    """
    return max(1, hidden_size // 4)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Shapes and constants of a BERT-style encoder with a classification head."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    num_labels: int = 2
    skim: SkimArchitecture | None = SkimArchitecture()  # None: the dense model
    # Of the dense model that FLOPs are compared with, where this one has only the first of them; None: as many as this one.
    dense_layers: int | None = None
    compute_dtype: str = "float32"
    remat: bool = False

    @property
    def dtype(self):
        """Dtype of activations and matrix products."""
        return jnp.dtype(self.compute_dtype)

    @property
    def predictor_size(self) -> int:
        """Width P of the skim predictors; 0 of the dense model, which has none."""
        return 0 if self.skim is None else self.skim.predictor_size or self.hidden_size

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

_REQUIRED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "type_vocab_size",
)  # fmt: skip


def from_hugging_face(values: dict[str, Any], where: str) -> Architecture:
    """The architecture that the parsed `config.json` of a BERT checkpoint describes.

    Raises:
      CheckpointError: another model type, a missing field, or a feature this encoder does not compute.
    """
    model_type = values.get("model_type", "bert")
    if model_type not in ("bert", "transkimmer"):
        raise CheckpointError(f"{where}: model_type {model_type!r} is not supported; supported: bert")
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise CheckpointError(f"{where}: config.json lacks {', '.join(missing)}")
    for name, supported in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("is_decoder", False)):
        if values.get(name, supported) != supported:
            raise CheckpointError(f"{where}: {name}={values[name]!r} is not supported, only {supported!r}")
    if values["hidden_size"] % values["num_attention_heads"]:
        raise CheckpointError(
            f"{where}: hidden_size {values['hidden_size']} is not a multiple of num_attention_heads {values['num_attention_heads']}"
        )
    skim = None
    if values.get("skim") is not None:
        unknown = set(values["skim"]) - {field.name for field in dataclasses.fields(SkimArchitecture)}
        if unknown:
            raise CheckpointError(f"{where}: unknown fields in the skim section of config.json: {', '.join(sorted(unknown))}")
        skim = SkimArchitecture(**values["skim"])
    labels = values.get("id2label")
    return Architecture(
        **{name: values[name] for name in _REQUIRED},
        layer_norm_eps=values.get("layer_norm_eps", 1e-12),
        initializer_range=values.get("initializer_range", 0.02),
        hidden_dropout=values.get("hidden_dropout_prob", 0.1),
        attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
        num_labels=len(labels) if labels else values.get("num_labels", 2),
        skim=skim,
        dense_layers=values.get("dense_layers"),
    )


def to_hugging_face(arch: Architecture, label_names: tuple[str, ...] | None, pad_token_id: int) -> dict[str, Any]:
    """The inverse of `from_hugging_face`, as the content of `config.json`.

    label_names: None for regression.
    """
    names = label_names or ("LABEL_0",)
    return {
        "architectures": ["TranskimmerForSequenceClassification" if arch.skim else "BertForSequenceClassification"],
        "model_type": "bert",
        **{name: getattr(arch, name) for name in _REQUIRED},
        "layer_norm_eps": arch.layer_norm_eps,
        "initializer_range": arch.initializer_range,
        "hidden_dropout_prob": arch.hidden_dropout,
        "attention_probs_dropout_prob": arch.attention_dropout,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pad_token_id": pad_token_id,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "regression" if label_names is None else "single_label_classification",
        **({"dense_layers": arch.dense_layers} if arch.dense_layers else {}),
        **({"skim": dataclasses.asdict(arch.skim)} if arch.skim else {}),
    }
