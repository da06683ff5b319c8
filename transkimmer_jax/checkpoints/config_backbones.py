"""What `config.json` of backbones other than BERT and RoBERTa may hold, in the names of transformers' configs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.checkpoints.config_schema import BackboneConfig, Dropout, Epsilon, Layers, Section, Size
from transkimmer_jax.models.architecture import Architecture

GLOBAL, LOCAL = "full_attention", "sliding_attention"

Theta = Annotated[float, Field(ge=1, le=1e12)]
NoTokenTypes = Annotated[Literal[0], BeforeValidator(lambda _: 0)]  # whatever the file says


def _both_products(value: Any) -> Any:
    names = value.lower().split("|") if isinstance(value, str) else value
    if not isinstance(names, list) or sorted(str(name).strip() for name in names) != ["c2p", "p2c"]:
        raise ValueError("only 'p2c|c2p' is supported")
    return names


class ElectraConfig(BackboneConfig):
    """Embeddings may be narrower than states."""

    embedding_size: Size = 128

    def constants(self) -> dict[str, Any]:
        size = self.embedding_size
        return super().constants() | {"embedding_size": None if size == self.hidden_size else size}

    @classmethod
    def write(cls, arch: Architecture) -> dict[str, Any]:
        return super().write(arch) | {"embedding_size": arch.embedding_size or arch.hidden_size}


class DistilBertConfig(BackboneConfig):
    """BERT's fields under other names."""

    unwritten = ("type_vocab_size", "layer_norm_eps")

    hidden_size: Size = Field(validation_alias="dim")
    num_hidden_layers: Layers = Field(validation_alias="n_layers")
    num_attention_heads: Size = Field(validation_alias="n_heads")
    intermediate_size: Size = Field(validation_alias="hidden_dim")
    hidden_dropout_prob: Dropout = Field(0.1, validation_alias="dropout")
    attention_probs_dropout_prob: Dropout = Field(0.1, validation_alias="attention_dropout")
    hidden_act: Literal["gelu"] = Field("gelu", validation_alias="activation")
    type_vocab_size: NoTokenTypes = 0
    layer_norm_eps: Annotated[float, BeforeValidator(lambda _: 1e-12)] = 1e-12


class MPNetConfig(BackboneConfig):
    """Relative positions beside BERT's."""

    unwritten = ("type_vocab_size",)

    type_vocab_size: NoTokenTypes = 0
    relative_attention_num_buckets: Literal[32] = 32  # `models.encoder.DISTANCE_BUCKETS`


class DebertaConfig(BackboneConfig):
    """Disentangled attention with both products that there may be."""

    unwritten = ("position_embedding_type",)

    type_vocab_size: Literal[0] = 0
    layer_norm_eps: Epsilon = 1e-7
    position_embedding_type: Any = None  # means nothing
    relative_attention: Literal[True]
    pos_att_type: Annotated[Any, AfterValidator(_both_products)]
    share_att_key: Literal[True]
    norm_rel_ebd: Literal["layer_norm"]
    position_biased_input: Literal[False]
    position_buckets: Annotated[int, Field(ge=2, le=2**15)]
    max_relative_positions: Annotated[int, Field(ge=-1, le=2**20)] = -1  # below 1: as many as there are positions
    conv_kernel_size: Literal[0] = 0
    embedding_size: Size | None = None
    attention_head_size: Size | None = None
    pooler_hidden_size: Size | None = None
    pooler_hidden_act: Literal["gelu"] = "gelu"

    @property
    def reach(self) -> int:
        """The largest relative position."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings

    def constants(self) -> dict[str, Any]:
        return super().constants() | {"position_buckets": self.position_buckets, "max_relative_positions": self.reach}

    @classmethod
    def write(cls, arch: Architecture) -> dict[str, Any]:
        reach = arch.max_relative_positions
        return super().write(arch) | {
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "position_buckets": arch.position_buckets,
            "max_relative_positions": -1 if reach == arch.max_position_embeddings else reach,
            "pooler_hidden_size": arch.hidden_size,
            "pooler_hidden_act": "gelu",
            "pooler_dropout": 0,
        }

    def contradictions(self) -> list[str]:
        size, half = self.hidden_size, self.position_buckets // 2
        only = {"embedding_size": size, "pooler_hidden_size": size, "attention_head_size": size // self.num_attention_heads}
        wrong = [
            f"{name}={getattr(self, name)} is not supported, only {value}, as hidden_size is {size}"
            for name, value in only.items()
            if getattr(self, name) not in (None, value)
        ]
        if self.reach - 1 <= half:
            wrong.append(
                f"position_buckets {self.position_buckets} needs distances above {half}, and max_relative_positions is {self.reach}"
            )
        return super().contradictions() + wrong


class _Rope(Section):
    model_config = ConfigDict(extra="forbid")

    rope_type: Literal["default"] = "default"
    rope_theta: Theta | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] = 1


class _RopeOfLayers(Section):
    model_config = ConfigDict(extra="forbid")

    full_attention: _Rope = _Rope()
    sliding_attention: _Rope = _Rope()


class ModernBertConfig(BackboneConfig):
    """Local layers and rotary angles, in the spellings of transformers 4 and 5."""

    unwritten = ("type_vocab_size", "position_embedding_type")

    type_vocab_size: NoTokenTypes = 0
    position_embedding_type: Any = None  # in older files, and means nothing
    layer_norm_eps: Epsilon = Field(1e-5, validation_alias="norm_eps")
    hidden_dropout_prob: Dropout = Field(0.0, validation_alias="mlp_dropout")
    attention_probs_dropout_prob: Dropout = Field(0.0, validation_alias="attention_dropout")
    hidden_act: Literal["gelu"] = Field("gelu", validation_alias="hidden_activation")
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    classifier_bias: bool = False
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_activation: Literal["gelu"] = "gelu"
    local_attention: Size = 2 * Architecture.local_window
    rope_scaling: None = None
    global_rope_theta: Theta = Architecture.rope_theta
    local_rope_theta: Theta = Architecture.local_rope_theta
    global_attn_every_n_layers: Layers = 3
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    rope_parameters: _RopeOfLayers = _RopeOfLayers()

    @model_validator(mode="before")
    @classmethod
    def _null_theta_is_global(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("local_rope_theta", 0) is None:
            return values | {"local_rope_theta": values.get("global_rope_theta")}
        return values

    def constants(self) -> dict[str, Any]:
        rope, every = self.rope_parameters, self.global_attn_every_n_layers
        regular = [LOCAL if number % every else GLOBAL for number in range(self.num_hidden_layers)]
        kinds: list[str] = list(self.layer_types or regular)
        return super().constants() | {
            "attention_bias": self.attention_bias,
            "feed_forward_bias": self.mlp_bias,
            "norm_bias": self.norm_bias,
            "pooler_bias": self.classifier_bias,
            "classifier_pooling": self.classifier_pooling,
            "local_layers": tuple(number for number, kind in enumerate(kinds) if kind == LOCAL),
            "local_window": self.local_attention // 2,
            "rope_theta": rope.full_attention.rope_theta or self.global_rope_theta,
            "local_rope_theta": rope.sliding_attention.rope_theta or self.local_rope_theta,
        }

    @classmethod
    def write(cls, arch: Architecture) -> dict[str, Any]:
        kinds = [LOCAL if number in arch.local_layers else GLOBAL for number in range(arch.num_hidden_layers)]
        every = next((number for number, kind in enumerate(kinds) if number and kind == GLOBAL), len(kinds))
        regular = kinds == [LOCAL if number % every else GLOBAL for number in range(len(kinds))]
        thetas = {GLOBAL: arch.rope_theta, LOCAL: arch.local_rope_theta}
        return super().write(arch) | {
            "attention_bias": arch.attention_bias,
            "mlp_bias": arch.feed_forward_bias,
            "norm_bias": arch.norm_bias,
            "classifier_bias": arch.pooler_bias,
            "classifier_pooling": arch.classifier_pooling,
            "classifier_activation": "gelu",
            "local_attention": 2 * arch.local_window,
            "global_rope_theta": arch.rope_theta,
            "local_rope_theta": arch.local_rope_theta,
            **({"global_attn_every_n_layers": every} if regular else {}),
            "layer_types": kinds,
            "rope_parameters": {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()},
        }

    def contradictions(self) -> list[str]:
        wrong = []
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            wrong.append(f"layer_types names {len(self.layer_types)} layers, but num_hidden_layers is {self.num_hidden_layers}")
        size, heads = self.hidden_size, self.num_attention_heads
        if size % (2 * heads) == heads:
            wrong.append(f"hidden_size {size} over num_attention_heads {heads} is odd: heads are rotated by pairs")
        return super().contradictions() + wrong


_OTHERS: dict[str, type[BackboneConfig]] = {
    "electra": ElectraConfig,
    "distilbert": DistilBertConfig,
    "mpnet": MPNetConfig,
    "deberta-v2": DebertaConfig,
    "modernbert": ModernBertConfig,
}
SCHEMAS = {backbone: _OTHERS.get(backbone, BackboneConfig) for backbone in FORMATS}
