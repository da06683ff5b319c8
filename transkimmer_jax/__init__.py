"""Transkimmer in JAX: a BERT-style encoder that learns which tokens it need not compute."""

from transkimmer_jax.inference.engine import Answer, SkimEngine
from transkimmer_jax.models.heads import SequenceClassifierOutput, TranskimmerForSequenceClassification

__all__ = ["Answer", "SequenceClassifierOutput", "SkimEngine", "TranskimmerForSequenceClassification"]
