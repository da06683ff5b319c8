"""The README.md of a model folder: what a hub shows of a model, and how it is loaded."""

import dataclasses
import json
from collections.abc import Mapping

from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.weights.backbones import FORMATS

CARD_FILE = "README.md"
_NAMED = 20  # labels in the text


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as far as whoever saves it knows.

    base_model: a hub id. task: e.g. 'glue/sst2'. metrics: of the validation split, by name.
    """

    base_model: str | None = None
    task: str | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def model_card(arch: Architecture, label_names: tuple[str, ...] | None, provenance: Provenance) -> str:
    """The card of a sequence classifier, YAML front matter first; JSON's strings and numbers are YAML's."""
    front = ["library_name: transkimmer_jax", "pipeline_tag: text-classification"]
    if provenance.base_model is not None:
        front.append(f"base_model: {json.dumps(provenance.base_model)}")
    if provenance.metrics:
        front += ["metrics:", *(f"- {json.dumps(name)}" for name in provenance.metrics)]
    names = [] if label_names is None else [f"`{json.dumps(name)}`" for name in label_names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    labels = f"the labels {', '.join(names[:_NAMED])}{more}" if names else "one number as its answer (regression)"
    trained = "" if provenance.task is None else f", trained on {provenance.task}"
    lines = ["---", *front, "---", "", f"An encoder ({arch.backbone}) of {arch.num_hidden_layers} layers with {labels}{trained}.", ""]
    if provenance.metrics:
        lines += ["On the validation split:", "", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4f} |" for name, value in provenance.metrics.items()] + [""]
    theirs = FORMATS[arch.backbone].class_prefix
    return "\n".join(lines + [line.format(theirs=theirs) for line in (_SKIMMING if arch.skim is not None else _DENSE)])


_SKIMMING = [
    "Each layer has a predictor that skips tokens (Transkimmer, ACL 2022). **transformers loads this folder as a dense model, which keeps",
    "every token: with a warning by `{theirs}ForSequenceClassification`, while its `Auto` classes refuse it.** Load it with",
    "transkimmer_jax instead:",
    "",
    "```python",
    "from transkimmer_jax import SkimEngine",
    "",
    'SkimEngine.from_pretrained("this/folder").predict(["a text"])',
    "```",
    "",
]
_DENSE = ["It skips no tokens, so transformers' `{theirs}ForSequenceClassification` computes the same.", ""]
