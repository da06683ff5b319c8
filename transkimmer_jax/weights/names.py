"""Where each of our parameters lies in a Hugging Face checkpoint: one row a parameter.

Adding a backbone is adding a table. Names are written without the `bert.` prefix and with LayerNorm's parameters as
`weight` and `bias`; `normalize` brings what older files say to that form.
"""

import dataclasses
import re

import numpy as np

from transkimmer_jax.models.architecture import Architecture

# Parts that a checkpoint may lack: they are made fresh.
FRESH_PARTS = ("pooler", "classifier", "encoder/predictors")
# Parts of other tasks' checkpoints that this model has no use for.
IGNORED = ("cls.", "qa_outputs.", "embeddings.position_ids")

# The original Transkimmer numbers the predictor's nn.Sequential: LayerNorm, Linear, LayerNorm, (GELU), Linear.
_PREDICTOR = {"input_norm": "0", "dense": "1", "norm": "2", "decision": "4"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter: its path in our model, and the checkpoint's tensors it is made of.

    transposed: PyTorch's Linear stores [out, in], ours [in, out].
    """

    path: tuple[str | int, ...]
    names: tuple[str, ...]
    transposed: bool = False

    @property
    def label(self) -> str:
        return "/".join(map(str, self.path))

    def from_checkpoint(self, tensors: list[np.ndarray]) -> np.ndarray:
        """Our parameter, from the checkpoint's tensors in the order of `names`."""
        parts = [tensor.T if self.transposed else tensor for tensor in tensors]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def to_checkpoint(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """The checkpoint's tensors, from our parameter."""
        parts = np.split(parameter, len(self.names), axis=-1)
        return {name: np.ascontiguousarray(part.T if self.transposed else part) for name, part in zip(self.names, parts, strict=True)}

    def checkpoint_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of each of the checkpoint's tensors, given our parameter's."""
        part = (*shape[:-1], shape[-1] // len(self.names))
        return part[::-1] if self.transposed else part


def normalize(name: str) -> str:
    """A checkpoint's tensor name in this table's form."""
    name = name.removeprefix("bert.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def layer_of(name: str) -> int:
    """The index of the layer that a tensor belongs to, in this table's form of its name; -1 where it belongs to none."""
    match = re.match(r"encoder\.(?:layer|skim_predictors)\.(\d+)\.", name)
    return int(match[1]) if match else -1


def checkpoint_name(name: str) -> str:
    """The name to write, with the prefix that transformers' task models use."""
    return name if name.startswith("classifier.") else f"bert.{name}"


def bert_table(arch: Architecture) -> list[Row]:
    """All rows of a BERT or Transkimmer checkpoint with a sequence-classification head."""

    def linear(path, *names):
        return [
            Row((*path, "kernel"), tuple(f"{name}.weight" for name in names), transposed=True),
            Row((*path, "bias"), tuple(f"{name}.bias" for name in names)),
        ]

    def norm(path, name):
        return [Row((*path, "scale"), (f"{name}.weight",)), Row((*path, "bias"), (f"{name}.bias",))]

    rows = [
        Row(("embeddings", ours, "embedding"), (f"embeddings.{theirs}_embeddings.weight",))
        for ours, theirs in (("word", "word"), ("position", "position"), ("token_type", "token_type"))
    ]
    rows += norm(("embeddings", "norm"), "embeddings.LayerNorm")
    for index in range(arch.num_hidden_layers):
        ours, theirs = ("encoder", "layers", index), f"encoder.layer.{index}"
        rows += linear((*ours, "attention", "query"), f"{theirs}.attention.self.query")
        rows += linear((*ours, "attention", "key_value"), f"{theirs}.attention.self.key", f"{theirs}.attention.self.value")
        rows += linear((*ours, "attention", "out"), f"{theirs}.attention.output.dense")
        rows += norm((*ours, "attention_norm"), f"{theirs}.attention.output.LayerNorm")
        rows += linear((*ours, "up"), f"{theirs}.intermediate.dense")
        rows += linear((*ours, "down"), f"{theirs}.output.dense")
        rows += norm((*ours, "output_norm"), f"{theirs}.output.LayerNorm")
        if arch.skim is not None:
            ours, theirs = ("encoder", "predictors", index), f"encoder.skim_predictors.{index}.predictor"
            for part, number in _PREDICTOR.items():
                rows += (norm if part.endswith("norm") else linear)((*ours, part), f"{theirs}.{number}")
    rows += linear(("pooler",), "pooler.dense")
    rows += linear(("classifier",), "classifier")
    return rows
