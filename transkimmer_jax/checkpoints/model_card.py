"""The README.md of a model folder: what a hub shows of a model, and how it is loaded."""

import dataclasses
import json
from collections.abc import Mapping

from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.models.architecture import Architecture

_NAMED = 20  # labels in the text
# The hub's names of data sets, by how a task's begins.
_DATASETS = {
    "glue/": "nyu-mll/glue",
    "imdb_reviews": "stanfordnlp/imdb",
    "yelp_polarity_reviews": "fancyzhx/yelp_polarity",
    "squad/v1.1": "rajpurkar/squad",
    "squad/v2.0": "rajpurkar/squad_v2",
}


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as far as whoever saves it knows.

    base_model: a hub id. task: e.g. 'glue/sst2'. metrics: of the validation split, by name. Under which licence a model is given on is for
    its owner to say: the card has none.
    """

    base_model: str | None = None
    task: str | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def model_card(arch: Architecture, label_names: tuple[str, ...] | None, provenance: Provenance, pairs: bool = False) -> str:
    """The card of a model, YAML front matter first; JSON's strings and numbers are YAML's. pairs: whether it reads pairs of texts."""
    kind = _KINDS[arch.head]
    is_reranker = pairs and arch.is_regression
    front = ["library_name: transkimmer_jax", f"pipeline_tag: {'text-ranking' if is_reranker else kind.pipeline_tag}"]
    if provenance.base_model is not None:
        front.append(f"base_model: {json.dumps(provenance.base_model)}")
    front += [f"datasets:\n- {name}" for start, name in _DATASETS.items() if (provenance.task or "").startswith(start)]
    if provenance.metrics:
        front += ["metrics:", *(f"- {json.dumps(name)}" for name in provenance.metrics)]
    trained = "" if provenance.task is None else f", trained on {provenance.task}"
    answer = _described(arch, label_names)
    lines = ["---", *front, "---", "", f"An encoder ({arch.backbone}) of {arch.num_hidden_layers} layers with {answer}{trained}.", ""]
    if provenance.metrics:
        lines += ["On the validation split:", "", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4f} |" for name, value in provenance.metrics.items()] + [""]
    theirs = FORMATS[arch.backbone].class_prefix + kind.theirs
    closing = _SKIMMING if arch.skim is not None else _DENSE
    call = kind.call
    if pairs and arch.head == "sequence_classification":
        call = 'rank("a query", ["a text"])' if is_reranker else 'predict([("a text", "another")])'
    return "\n".join(lines + [line.format(theirs=theirs, call=call) for line in closing])


def _described(arch: Architecture, label_names: tuple[str, ...] | None) -> str:
    """What a model answers with."""
    answer = _KINDS[arch.head].answer
    if answer is not None:
        return answer
    if label_names is None:
        return "one number as its answer (regression)"
    names = [f"`{json.dumps(name)}`" for name in label_names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'any of ' if arch.multi_label else ''}the labels {', '.join(names[:_NAMED])}{more}"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What hubs call a head's task; how it is called; of transformers, the class behind the backbone's name; what it answers with, None for
    labels."""

    pipeline_tag: str
    call: str
    theirs: str
    answer: str | None = None


_KINDS = {
    "sequence_classification": _Kind("text-classification", 'predict(["a text"])', "ForSequenceClassification"),
    "sentence_embedding": _Kind("sentence-similarity", 'encode(["a text"])', "Model", "one vector for a text"),
    "token_classification": _Kind("token-classification", 'tag(["a text"])', "ForTokenClassification"),
    "question_answering": _Kind(
        "question-answering", 'answer("a question", "a text")', "ForQuestionAnswering", "a span of a text as its answer to a question"
    ),
}

_SKIMMING = [
    "Predictors between layers skip tokens (Transkimmer, ACL 2022). **transformers loads this folder as a dense model, which keeps",
    "every token: with a warning by `{theirs}`, while its `Auto` classes refuse it.** Load it with",
    "transkimmer_jax instead:",
    "",
    "```python",
    "from transkimmer_jax import SkimEngine",
    "",
    'SkimEngine.from_pretrained("this/folder").{call}',
    "```",
    "",
]
_DENSE = ["It skips no tokens, so transformers' `{theirs}` computes the same.", ""]
