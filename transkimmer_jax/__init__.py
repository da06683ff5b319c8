"""Transkimmer in JAX: a BERT-style encoder that learns which tokens it need not compute."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transkimmer_jax.inference.engine import Answer, SkimEngine
    from transkimmer_jax.models.heads import (
        TranskimmerForQuestionAnswering,
        TranskimmerForSentenceEmbedding,
        TranskimmerForSequenceClassification,
        TranskimmerForTokenClassification,
    )
    from transkimmer_jax.models.outputs import SequenceClassifierOutput

__all__ = [
    "Answer",
    "SequenceClassifierOutput",
    "SkimEngine",
    "TranskimmerForQuestionAnswering",
    "TranskimmerForSentenceEmbedding",
    "TranskimmerForSequenceClassification",
    "TranskimmerForTokenClassification",
]

_MODULES = {
    "Answer": "inference.engine",
    "SkimEngine": "inference.engine",
    "SequenceClassifierOutput": "models.outputs",
    "TranskimmerForQuestionAnswering": "models.heads",
    "TranskimmerForSentenceEmbedding": "models.heads",
    "TranskimmerForSequenceClassification": "models.heads",
    "TranskimmerForTokenClassification": "models.heads",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: jax takes seconds, and --help and a SIGTERM shall be answered at once.
    if name in _MODULES:
        return getattr(importlib.import_module(f"transkimmer_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
