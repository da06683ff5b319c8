"""Where each of our parameters lies in a Hugging Face checkpoint: one row a parameter, or several that share a tensor.

What differs between backbones is the table in `backbones.py`. Names are written without the prefix of models with a head, and with
LayerNorm's parameters as `weight` and `bias`; `normalize` brings what older files say to that form. The skim predictors lie under a prefix
of their own, so that nobody takes them for a part of the encoder.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import DISTANCE_BUCKETS

# Parts that a checkpoint may lack: they are made fresh.
POOLER, CLASSIFIER, SPANS = ("pooler",), ("classifier",), ("qa_outputs",)
PREDICTORS, LEVELS, FORWARDING = ("encoder", "predictors"), ("encoder", "levels"), ("encoder", "forwarding")
_OPTIONAL = (POOLER, CLASSIFIER, SPANS, PREDICTORS, LEVELS, FORWARDING)
# Modules of heads, by what their tensors' names begin with: a model with another head has no use for them.
_HEAD_MODULES = {"pooler", "pre_classifier", "classifier", "qa_outputs"}

SKIM_PREFIX = "skim_predictors."
# Where the original Transkimmer has them.
_ORIGINAL_SKIM_PREFIX = "encoder.skim_predictors."


Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """Parameters of ours and tensors of the checkpoint that hold the same numbers, joined along their outputs. One of the two is one.

    paths: of the parameters in our model. shape: of each of the checkpoint's tensors. transposed: PyTorch's Linear stores [out, in], ours
    [in, out]. splits: outputs before each parameter but the first.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    splits: tuple[int, ...] = ()

    @property
    def part(self) -> Path | None:
        """Which of the parts that a checkpoint may lack as a whole this is of, if any."""
        return next((part for part in _OPTIONAL if self.paths[0][: len(part)] == part), None)

    @property
    def module(self) -> str:
        """The head, or a predictor by its place among them, or what stands beside it, that this is a parameter of."""
        return "/".join(map(str, self.paths[0][: 3 if self.paths[0][0] == "encoder" else 1]))

    def from_checkpoint(self, tensors: list[np.ndarray]) -> dict[Path, np.ndarray]:
        """Our parameters, from the checkpoint's tensors in the order of `names`."""
        joined = _joined([tensor.T if self.transposed else tensor for tensor in tensors])
        return dict(zip(self.paths, np.split(joined, self.splits, axis=-1), strict=True))

    def to_checkpoint(self, parameters: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The checkpoint's tensors, from our parameters in the order of `paths`."""
        parts = np.split(_joined(parameters), len(self.names), axis=-1)
        return {name: np.ascontiguousarray(part.T if self.transposed else part) for name, part in zip(self.names, parts, strict=True)}


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


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


def with_layers(name: str, backbone: str, layers: Sequence[int]) -> str | None:
    """The name that a tensor has in a model of `layers` alone, both in this table's form; None where it is of another layer."""
    numbered = re.match(rf"({re.escape(FORMATS[backbone].modules['layer'])}|{re.escape(SKIM_PREFIX[:-1])})\.(\d{{1,9}})\.", name)
    if numbered is None:
        return name
    number = int(numbered[2])
    return f"{numbered[1]}.{layers.index(number)}.{name[numbered.end() :]}" if number in layers else None


def predicted_layer(name: str) -> int | None:
    """The layer that a tensor of its predictor, or beside that, is of, in this table's form of its name; None of all others."""
    match = re.match(rf"{re.escape(SKIM_PREFIX)}(\d{{1,9}})\.", name)
    return int(match[1]) if match else None


def beside_predictor(name: str) -> str | None:
    """'levels' or 'forwarding' of a tensor that is of these, in this table's form of its name; None of all others."""
    match = re.match(rf"{re.escape(SKIM_PREFIX)}\d{{1,9}}\.(levels|forwarding)\.", name)
    return match[1] if match else None


def checkpoint_name(name: str, arch: Architecture) -> str:
    """The name to write, with the prefix that transformers' task models use; embedders' encoders stand alone."""
    form = FORMATS[arch.backbone]
    beside = ("pre_classifier.", "head.", "classifier.", "qa_outputs.", SKIM_PREFIX, *(() if form.pooler_in_encoder else ("pooler.",)))
    return name if arch.head == "sentence_embedding" or name.startswith(beside) else f"{form.prefix}{name}"


def of_other_heads(names: set[str], arch: Architecture) -> set[str]:
    """Those of these tensors that belong to modules that the architecture's head does not have. RoBERTa's sequence classifier has its
    parts below the name that its token classifier has."""
    at = FORMATS[arch.backbone].modules
    own = {name.rpartition(".")[0] for row in head_table(arch) for name in row.names}
    known = {"classifier", *(at[part] for part in ("pooler", "pooler_norm", "classifier", "qa_outputs") if part in at)} - own
    roots = _HEAD_MODULES - {module.partition(".")[0] for module in own}
    return {name for name in names if name.rpartition(".")[0] in known or name.partition(".")[0] in roots}


def of_other_meaning(arch: Architecture, other: Architecture) -> set[str]:
    """Names of tensors that the two architectures' heads have for parameters of different kinds: ModernBERT's models for classification
    and for question answering both have a `classifier`."""
    ours, theirs = ({name: row.paths for row in head_table(which) for name in row.names} for which in (arch, other))
    return {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}


def head_table(arch: Architecture) -> list[Row]:
    """The rows of the head."""
    hidden, at = arch.hidden_size, FORMATS[arch.backbone].modules

    def classifier(name: str) -> list[Row]:
        return _linear([("classifier",)], hidden, arch.num_labels, [name])

    pooler = _linear([("pooler",)], hidden, hidden, [at["pooler"]], arch.pooler_bias)
    if arch.kind.prediction_head:
        pooler += _norm(("pooler", "norm"), hidden, at["pooler_norm"], arch.norm_bias)
    of_tokens = pooler if arch.kind.prediction_head else []
    return {
        "sequence_classification": [*pooler, *classifier(at["classifier"])],
        "token_classification": [*of_tokens, *classifier("classifier")],
        "question_answering": [*of_tokens, *_linear([("qa_outputs",)], hidden, 2, [at["qa_outputs"]])],
        "sentence_embedding": [],
    }[arch.head]


def _linear(
    paths: Sequence[Path], inputs: int, outputs: int, names: Sequence[str], bias: bool = True, splits: tuple[int, ...] = ()
) -> list[Row]:
    """outputs: of each of the checkpoint's tensors."""

    def row(ours: str, theirs: str, shape: tuple[int, ...], transposed: bool) -> Row:
        return Row(tuple((*path, ours) for path in paths), tuple(f"{name}.{theirs}" for name in names), shape, transposed, splits)

    return [row("kernel", "weight", (outputs, inputs), True), *([row("bias", "bias", (outputs,), False)] if bias else [])]


def _norm(path: Path, size: int, name: str, bias: bool = True) -> list[Row]:
    parts = {"scale": "weight"} | ({"bias": "bias"} if bias else {})
    return [Row(((*path, ours),), (f"{name}.{theirs}",), (size,)) for ours, theirs in parts.items()]


def parameter_table(arch: Architecture) -> list[Row]:
    """All rows of a checkpoint, dense or skimming, with the architecture's head."""
    hidden, inner, width, at = arch.hidden_size, arch.intermediate_size, arch.predictor_size, FORMATS[arch.backbone].modules
    embedded = arch.embedding_size or hidden
    tables = {
        "word": arch.vocab_size,
        "position": arch.max_position_embeddings + arch.position_offset if arch.kind.position_table else 0,
        "token_type": arch.type_vocab_size,
    }
    rows = [
        Row((("embeddings", table, "embedding"),), (f"{at[table]}.weight",), (count, embedded)) for table, count in tables.items() if count
    ]
    rows += _norm(("embeddings", "norm"), embedded, at["embedding_norm"], arch.norm_bias)
    if arch.embedding_size:
        rows += _linear([("embeddings", "projection")], embedded, hidden, [at["embedding_projection"]])
    for index in range(arch.num_hidden_layers):
        ours, theirs = ("encoder", "layers", index), f"{at['layer']}.{index}"
        query, key_value, out = ((*ours, "attention", part) for part in ("query", "key_value", "out"))
        if "query_key_value" in at:
            name = f"{theirs}.{at['query_key_value']}"
            rows += _linear([query, key_value], hidden, 3 * hidden, [name], arch.attention_bias, splits=(hidden,))
        else:
            names = [f"{theirs}.{at[part]}" for part in ("query", "key", "value")]
            rows += _linear([query], hidden, hidden, names[:1], arch.attention_bias)
            rows += _linear([key_value], hidden, hidden, names[1:], arch.attention_bias)
        rows += _linear([out], hidden, hidden, [f"{theirs}.{at['out']}"], arch.attention_bias)
        if index > 0 or not arch.kind.pre_norm:
            rows += _norm((*ours, "attention_norm"), hidden, f"{theirs}.{at['attention_norm']}", arch.norm_bias)
        up = inner * (2 if arch.kind.gated else 1)
        rows += _linear([(*ours, "up")], hidden, up, [f"{theirs}.{at['up']}"], arch.feed_forward_bias)
        rows += _linear([(*ours, "down")], inner, hidden, [f"{theirs}.{at['down']}"], arch.feed_forward_bias)
        rows += _norm((*ours, "output_norm"), hidden, f"{theirs}.{at['output_norm']}", arch.norm_bias)
        if arch.skim is not None and index in arch.predictor_layers:
            # The original numbers the predictor's nn.Sequential: LayerNorm, Linear, LayerNorm, (GELU), Linear.
            beside = f"{SKIM_PREFIX}{index}"
            place = arch.predictor_layers.index(index)
            ours, theirs = ("encoder", "predictors", place), f"{beside}.predictor"
            rows += _norm((*ours, "input_norm"), hidden, f"{theirs}.0")
            rows += _linear([(*ours, "dense")], hidden, width, [f"{theirs}.1"])
            rows += _norm((*ours, "norm"), width, f"{theirs}.2")
            rows += _linear([(*ours, "decision")], width, 2, [f"{theirs}.4"])
            if arch.skim.levels:
                rows.append(Row((("encoder", "levels", place, "knots"),), (f"{beside}.levels.knots",), (len(arch.skim.levels),)))
            if arch.maps_forwarded:
                rows += _linear([("encoder", "forwarding", place)], hidden, hidden, [f"{beside}.forwarding"])
    if arch.kind.relative_bias:
        size = (DISTANCE_BUCKETS, arch.num_attention_heads)
        rows.append(Row((("encoder", "relative_bias", "table", "embedding"),), (f"{at['relative_bias']}.weight",), size))
    if arch.kind.disentangled:
        states, size = ("encoder", "relative_states"), (2 * arch.position_buckets, hidden)
        rows.append(Row(((*states, "table", "embedding"),), (f"{at['relative_states']}.weight",), size))
        rows += _norm((*states, "norm"), hidden, at["relative_states_norm"])
    if arch.kind.pre_norm:
        rows += _norm(("encoder", "final_norm"), hidden, at["final_norm"], arch.norm_bias)
    return rows + head_table(arch)
