"""Transkimmer in JAX: a BERT-style encoder that learns which tokens it need not compute."""

from typing import Any

from transkimmer_jax.models.heads import SequenceClassifierOutput, TranskimmerForSequenceClassification

__all__ = ["Answer", "SequenceClassifierOutput", "SkimEngine", "TranskimmerForSequenceClassification"]


def __getattr__(name: str) -> Any:
    # The engine is imported when asked for, so that --help answers at once.
    if name in ("Answer", "SkimEngine"):
        from transkimmer_jax.inference import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
