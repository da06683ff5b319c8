"""Fields of `config.json` that the configs of some backbones have alone, and what they mean to `Architecture`.

Names and meanings are those of transformers' configs; ModernBERT's have the spellings of transformers 4 and 5.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from transkimmer_jax.checkpoints.schema import BOOLEAN, SIZE, Choice, Field, Integer, Kind, Number, Section, Supported, shown
from transkimmer_jax.models.architecture import Architecture

Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Variants:
    """Such fields of one backbone.

    section: what they may hold. read: fields of `Architecture` from all fields of the config, filled, and from the file's content.
    write: the inverse. contradictions: of filled fields that are well by themselves, in words.
    """

    section: Section
    read: Callable[[Fields, Mapping[str, Any]], Fields]
    write: Callable[[Architecture], Fields]
    contradictions: Callable[[Fields], list[str]]


_ELECTRA = Section({"embedding_size": Field(SIZE, 128)})


def _read_electra(fields: Fields, values: Mapping[str, Any]) -> Fields:
    size = fields["embedding_size"]
    return {"embedding_size": None if size == fields["hidden_size"] else size}


def _write_electra(arch: Architecture) -> Fields:
    return {"embedding_size": arch.embedding_size or arch.hidden_size}


@dataclasses.dataclass(frozen=True)
class _BothProducts(Kind):
    """What scores are made of beside products of contents: both that there may be, as a text or a list."""

    def accepts(self, value: Any) -> bool:
        names = value.lower().split("|") if isinstance(value, str) else value
        return isinstance(names, list) and sorted(str(name).strip() for name in names) == ["c2p", "p2c"]

    def problem(self, name: str, value: Any) -> str:
        return f"{name}={shown(value)} is not supported, only {self}"

    def __str__(self) -> str:
        return repr(_BOTH)


_BOTH = "p2c|c2p"

# To transformers, a file that leaves the first ones out is of a model that tells no distances.
_DEBERTA = Section(
    {
        "relative_attention": Field(Supported((True,)), False),
        "pos_att_type": Field(_BothProducts(), []),
        "share_att_key": Field(Supported((True,)), False),
        "norm_rel_ebd": Field(Supported(("layer_norm",)), "none"),
        "position_biased_input": Field(Supported((False,)), True),
        "position_buckets": Field(Integer(2, 2**15), -1),
        "max_relative_positions": Field(Integer(-1, 2**20), -1),  # below 1: as many as there are positions
        "conv_kernel_size": Field(Supported((0,)), 0),
        "type_vocab_size": Field(Supported((0,)), 0),
        "embedding_size": Field(SIZE),
        "attention_head_size": Field(SIZE),
        "pooler_hidden_size": Field(SIZE),
        "pooler_hidden_act": Field(Supported(("gelu",)), "gelu"),
    }
)


def _reach(fields: Fields) -> int:
    said = fields["max_relative_positions"]
    return said if said > 0 else fields["max_position_embeddings"]


def _read_deberta(fields: Fields, values: Mapping[str, Any]) -> Fields:
    return {"position_buckets": fields["position_buckets"], "max_relative_positions": _reach(fields)}


def _write_deberta(arch: Architecture) -> Fields:
    return {
        "relative_attention": True,
        "pos_att_type": _BOTH,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "position_buckets": arch.position_buckets,
        "max_relative_positions": -1 if arch.max_relative_positions == arch.max_position_embeddings else arch.max_relative_positions,
        "type_vocab_size": 0,
        "pooler_hidden_size": arch.hidden_size,
        "pooler_hidden_act": "gelu",
        "pooler_dropout": 0,
    }


def _contradictions_of_deberta(fields: Fields) -> list[str]:
    size, buckets = fields["hidden_size"], fields["position_buckets"]
    sizes = {"embedding_size": size, "pooler_hidden_size": size, "attention_head_size": size // fields["num_attention_heads"]}
    wrong = [
        f"{name}={fields[name]} is not supported, only {only}, as hidden_size is {size}"
        for name, only in sizes.items()
        if fields[name] not in (None, only)
    ]
    if _reach(fields) - 1 <= buckets // 2:
        wrong.append(f"position_buckets {buckets} needs distances above {buckets // 2}, and max_relative_positions is {_reach(fields)}")
    return wrong


_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class _LayerTypes(Kind):
    """Which layers are local, as transformers 5 says it."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list) and all(kind in (_GLOBAL, _LOCAL) for kind in value)

    def __str__(self) -> str:
        return f"a list of {_GLOBAL!r} and {_LOCAL!r}"


_THETA = Number(1, 1e12)
# Other types, of longer texts, have fields of their own.
_ROPE = Section(
    {
        "rope_type": Field(Supported(("default",))),
        "rope_theta": Field(_THETA),
        "partial_rotary_factor": Field(Supported((1, 1.0))),
    },
    closed=True,
)

# What layers are, and their angles, is said by the last two in transformers 5, in 4 by those before.
_MODERNBERT = Section(
    {
        "attention_bias": Field(BOOLEAN, False),
        "mlp_bias": Field(BOOLEAN, False),
        "norm_bias": Field(BOOLEAN, False),
        "classifier_bias": Field(BOOLEAN, False),
        "classifier_pooling": Field(Choice(("cls", "mean")), "cls"),
        "classifier_activation": Field(Supported(("gelu",)), "gelu"),
        "local_attention": Field(SIZE, 2 * Architecture.local_window),
        "rope_scaling": Field(Supported((None,))),
        "global_rope_theta": Field(_THETA, Architecture.rope_theta),
        "local_rope_theta": Field(_THETA),
        "global_attn_every_n_layers": Field(Integer(1, 1000), 3),
        "layer_types": Field(_LayerTypes()),
        "rope_parameters": Field(Section({_GLOBAL: Field(_ROPE), _LOCAL: Field(_ROPE)}, closed=True)),
    }
)


def _read_modernbert(fields: Fields, values: Mapping[str, Any]) -> Fields:
    """values: the file's content, where a null base of local angles is the global one, and none at all is the usual one."""
    rope = {kind: (fields["rope_parameters"] or {}).get(kind) or {} for kind in (_GLOBAL, _LOCAL)}
    everywhere = rope[_GLOBAL].get("rope_theta") or fields["global_rope_theta"]
    local = everywhere if "local_rope_theta" in values else Architecture.local_rope_theta
    return {
        "attention_bias": fields["attention_bias"],
        "feed_forward_bias": fields["mlp_bias"],
        "norm_bias": fields["norm_bias"],
        "pooler_bias": fields["classifier_bias"],
        "classifier_pooling": fields["classifier_pooling"],
        "local_layers": tuple(number for number, kind in enumerate(_layer_types(fields)) if kind == _LOCAL),
        "local_window": fields["local_attention"] // 2,
        "rope_theta": float(everywhere),
        "local_rope_theta": float(rope[_LOCAL].get("rope_theta") or fields["local_rope_theta"] or local),
    }


def _layer_types(fields: Fields) -> list[str]:
    every = fields["global_attn_every_n_layers"]
    return fields["layer_types"] or [_LOCAL if number % every else _GLOBAL for number in range(fields["num_hidden_layers"])]


def _write_modernbert(arch: Architecture) -> Fields:
    """In the spelling of transformers 5 and, where that can say as much, of 4."""
    kinds = [_LOCAL if number in arch.local_layers else _GLOBAL for number in range(arch.num_hidden_layers)]
    every = next((number for number, kind in enumerate(kinds) if number and kind == _GLOBAL), len(kinds))
    regular = kinds == [_LOCAL if number % every else _GLOBAL for number in range(len(kinds))]
    thetas = {_GLOBAL: arch.rope_theta, _LOCAL: arch.local_rope_theta}
    return {
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


def _contradictions_of_modernbert(fields: Fields) -> list[str]:
    wrong = []
    kinds, layers = fields["layer_types"], fields["num_hidden_layers"]
    if kinds is not None and len(kinds) != layers:
        wrong.append(f"layer_types names {len(kinds)} layers, but num_hidden_layers is {layers}")
    size, heads = fields["hidden_size"], fields["num_attention_heads"]
    if size % (2 * heads) == heads:
        wrong.append(f"hidden_size {size} over num_attention_heads {heads} is odd: heads are rotated by pairs")
    return wrong


VARIANTS = {
    "electra": Variants(_ELECTRA, _read_electra, _write_electra, lambda fields: []),
    "deberta-v2": Variants(_DEBERTA, _read_deberta, _write_deberta, _contradictions_of_deberta),
    "modernbert": Variants(_MODERNBERT, _read_modernbert, _write_modernbert, _contradictions_of_modernbert),
}
