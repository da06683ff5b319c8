"""Where each of our parameters lies in a Hugging Face checkpoint: one row a parameter.

What differs between backbones is the table in `backbones.py`. Names are written without the prefix of models with a head, and with
LayerNorm's parameters as `weight` and `bias`; `normalize` brings what older files say to that form. The skim predictors lie under a prefix
of their own, so that nobody takes them for a part of the encoder.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import DISTANCE_BUCKETS
from transkimmer_jax.weights.backbones import FORMATS

# Parts that a checkpoint may lack: they are made fresh.
POOLER, CLASSIFIER, SPANS, PREDICTORS = ("pooler",), ("classifier",), ("qa_outputs",), ("encoder", "predictors")
_OPTIONAL = (POOLER, CLASSIFIER, SPANS, PREDICTORS)
# Modules of heads, by what their tensors' names begin with: a model with another head has no use for them.
_HEAD_MODULES = {"pooler", "pre_classifier", "classifier", "qa_outputs"}

SKIM_PREFIX = "skim_predictors."
# Where the original Transkimmer has them.
_ORIGINAL_SKIM_PREFIX = "encoder.skim_predictors."


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter: its path in our model, and the checkpoint's tensors it is made of.

    shape: of each of the checkpoint's tensors. transposed: PyTorch's Linear stores [out, in], ours [in, out].
    """

    path: tuple[str | int, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def part(self) -> tuple[str | int, ...] | None:
        """Which of the parts that a checkpoint may lack as a whole this is of, if any."""
        return next((part for part in _OPTIONAL if self.path[: len(part)] == part), None)

    @property
    def module(self) -> str:
        """The head, or the predictor of one layer, that this is a parameter of."""
        return "/".join(map(str, self.path[:3] if self.part == PREDICTORS else self.path[:1]))

    def from_checkpoint(self, tensors: list[np.ndarray]) -> np.ndarray:
        """Our parameter, from the checkpoint's tensors in the order of `names`."""
        parts = [tensor.T if self.transposed else tensor for tensor in tensors]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def to_checkpoint(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """The checkpoint's tensors, from our parameter."""
        parts = np.split(parameter, len(self.names), axis=-1)
        return {name: np.ascontiguousarray(part.T if self.transposed else part) for name, part in zip(self.names, parts, strict=True)}


def normalize(name: str, backbone: str) -> str:
    """A checkpoint's tensor name in this table's form."""
    name = name.removeprefix(FORMATS[backbone].prefix)
    if name.startswith(_ORIGINAL_SKIM_PREFIX):
        name = SKIM_PREFIX + name.removeprefix(_ORIGINAL_SKIM_PREFIX)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def is_ignored(name: str, backbone: str) -> bool:
    """Whether no model here has a use for a tensor, by this table's form of its name."""
    return name.startswith(("embeddings.position_ids", *FORMATS[backbone].ignored))


def layer_of(name: str, backbone: str) -> int:
    """The index of the layer that a tensor belongs to, in this table's form of its name; -1 where it belongs to none."""
    numbered = re.match(rf"(?:{re.escape(FORMATS[backbone].modules['layer'])}|skim_predictors)\.(\d{{1,9}})\.", name)
    return int(numbered[1]) if numbered else -1


def checkpoint_name(name: str, arch: Architecture) -> str:
    """The name to write, with the prefix that transformers' task models use; embedders' encoders stand alone."""
    beside = ("pre_classifier.", "classifier.", "qa_outputs.", SKIM_PREFIX)  # BERT's pooler is a part of the encoder there
    return name if arch.head == "sentence_embedding" or name.startswith(beside) else f"{FORMATS[arch.backbone].prefix}{name}"


def of_other_heads(names: set[str], arch: Architecture) -> set[str]:
    """Those of these tensors that belong to modules that the architecture's head does not have. RoBERTa's sequence classifier has its
    parts below the name that its token classifier has."""
    at = FORMATS[arch.backbone].modules
    own = {name.rpartition(".")[0] for row in head_table(arch) for name in row.names}
    known = {at["pooler"], at["classifier"], "classifier", "qa_outputs"} - own
    roots = _HEAD_MODULES - {module.partition(".")[0] for module in own}
    return {name for name in names if name.rpartition(".")[0] in known or name.partition(".")[0] in roots}


def head_table(arch: Architecture) -> list[Row]:
    """The rows of the head."""
    hidden, at = arch.hidden_size, FORMATS[arch.backbone].modules

    def classifier(name: str) -> list[Row]:
        return _linear(("classifier",), hidden, arch.num_labels, [name])

    return {
        "sequence_classification": [*_linear(("pooler",), hidden, hidden, [at["pooler"]]), *classifier(at["classifier"])],
        "token_classification": classifier("classifier"),
        "question_answering": _linear(("qa_outputs",), hidden, 2, ["qa_outputs"]),
        "sentence_embedding": [],
    }[arch.head]


def _linear(path: tuple[str | int, ...], inputs: int, outputs: int, names: Sequence[str]) -> list[Row]:
    return [
        Row((*path, "kernel"), tuple(f"{name}.weight" for name in names), (outputs, inputs), transposed=True),
        Row((*path, "bias"), tuple(f"{name}.bias" for name in names), (outputs,)),
    ]


def parameter_table(arch: Architecture) -> list[Row]:
    """All rows of a checkpoint, dense or skimming, with the architecture's head."""

    def norm(path: tuple[str | int, ...], size: int, name: str) -> list[Row]:
        return [Row((*path, "scale"), (f"{name}.weight",), (size,)), Row((*path, "bias"), (f"{name}.bias",), (size,))]

    hidden, inner, width, at = arch.hidden_size, arch.intermediate_size, arch.predictor_size, FORMATS[arch.backbone].modules
    tables = {
        "word": arch.vocab_size,
        "position": arch.max_position_embeddings + arch.position_offset,
        "token_type": arch.type_vocab_size,
    }
    rows = [Row(("embeddings", table, "embedding"), (f"{at[table]}.weight",), (size, hidden)) for table, size in tables.items() if size]
    rows += norm(("embeddings", "norm"), hidden, at["embedding_norm"])
    for index in range(arch.num_hidden_layers):
        ours, theirs = ("encoder", "layers", index), f"{at['layer']}.{index}"
        rows += _linear((*ours, "attention", "query"), hidden, hidden, [f"{theirs}.{at['query']}"])
        rows += _linear((*ours, "attention", "key_value"), hidden, hidden, [f"{theirs}.{at['key']}", f"{theirs}.{at['value']}"])
        rows += _linear((*ours, "attention", "out"), hidden, hidden, [f"{theirs}.{at['out']}"])
        rows += norm((*ours, "attention_norm"), hidden, f"{theirs}.{at['attention_norm']}")
        rows += _linear((*ours, "up"), hidden, inner, [f"{theirs}.{at['up']}"])
        rows += _linear((*ours, "down"), inner, hidden, [f"{theirs}.{at['down']}"])
        rows += norm((*ours, "output_norm"), hidden, f"{theirs}.{at['output_norm']}")
        if arch.skim is not None:
            # The original numbers the predictor's nn.Sequential: LayerNorm, Linear, LayerNorm, (GELU), Linear.
            ours, theirs = ("encoder", "predictors", index), f"{SKIM_PREFIX}{index}.predictor"
            rows += norm((*ours, "input_norm"), hidden, f"{theirs}.0")
            rows += _linear((*ours, "dense"), hidden, width, [f"{theirs}.1"])
            rows += norm((*ours, "norm"), width, f"{theirs}.2")
            rows += _linear((*ours, "decision"), width, 2, [f"{theirs}.4"])
    if arch.kind.relative_bias:
        size = (DISTANCE_BUCKETS, arch.num_attention_heads)
        rows.append(Row(("encoder", "relative_bias", "table", "embedding"), (f"{at['relative_bias']}.weight",), size))
    return rows + head_table(arch)
