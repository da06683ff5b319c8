"""The heads of a graph."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from transkimmer_jax.models.heads import (
    Pooler,
    TranskimmerForQuestionAnswering,
    TranskimmerForSentenceEmbedding,
    TranskimmerForSequenceClassification,
    TranskimmerForTokenClassification,
)
from transkimmer_jax.models.layers import LEAST_NORM
from transkimmer_jax.models.outputs import TOKEN_EMBEDDINGS
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.onnx.builder import GraphBuilder
from transkimmer_jax.onnx.products import activation, linear, norm


@dataclasses.dataclass(frozen=True)
class HeadInputs:
    """The states that tokens leave the encoder with: what heads read.

    first: of position 0, [batch, hidden]. The others are of all tokens, and empty where the head reads position 0 alone. every:
    [rows, hidden], those that stayed before the others. places: int64 [rows], where each lies in the flattened batch. mask: int64
    [batch, sequence]. lengths: int64 [batch, 1], tokens of each text.
    """

    first: str
    every: str = ""
    places: str = ""
    mask: str = ""
    lengths: str = ""

    def placed(self, g: GraphBuilder, values: str) -> str:
        """Values [rows, n] of all tokens at their places, [batch, sequence, n]; 0 where there is no token."""
        shape = g.op("Shape", self.mask)
        width = g.op("Shape", values, start=1)
        total = g.op("ReduceProd", shape, keepdims=1)
        none = g.op("Expand", g.constant(0, np.float32), g.op("Concat", total, width, axis=0))
        scattered = g.op("ScatterND", none, g.op("Unsqueeze", self.places, g.constant([1])), values)
        return g.op("Reshape", scattered, g.op("Concat", shape, width, axis=0))

    def mean(self, g: GraphBuilder, placed: str) -> str:
        """Of the placed states of each text's tokens, [batch, hidden]."""
        total = g.op("ReduceSum", placed, g.constant([1]), keepdims=0)
        return g.op("Div", total, g.op("Cast", self.lengths, to=TensorProto.FLOAT))


def classify(g: GraphBuilder, model: TranskimmerForSequenceClassification, states: HeadInputs) -> dict[str, str]:
    """The pooler and the classifier: logits [batch, labels]."""
    state = states.mean(g, states.placed(g, states.every)) if model.arch.classifier_pooling == "mean" else states.first
    return {"logits": linear(g, model.classifier, pooled(g, model.pooler, state), "classifier")}


def pooled(g: GraphBuilder, pooler: Pooler | None, states: str) -> str:
    """What stands before a classifier, of states [any, hidden]; None: nothing does."""
    if pooler is None:
        return states
    states = activation(g, pooler.activation, linear(g, pooler, states, "pooler"))
    return states if pooler.norm is None else norm(g, pooler.norm, states, "pooler.norm")


def pool(g: GraphBuilder, model: TranskimmerForSentenceEmbedding, states: HeadInputs) -> dict[str, str]:
    """sentence_embedding [batch, hidden] and, where they are there, token_embeddings [batch, sequence, hidden]."""
    pooling = model.arch.pooling
    tokens = {TOKEN_EMBEDDINGS: states.placed(g, states.every)} if states.every else {}
    vector = states.mean(g, tokens[TOKEN_EMBEDDINGS]) if pooling.mode == "mean" else states.first
    if pooling.normalize:
        length = g.op("ReduceL2", vector, axes=[1], keepdims=1)
        vector = g.op("Div", vector, g.op("Max", length, g.constant(LEAST_NORM, np.float32)))
    return {"sentence_embedding": vector} | tokens


def tag(g: GraphBuilder, model: TranskimmerForTokenClassification, states: HeadInputs) -> dict[str, str]:
    """logits [batch, sequence, labels]."""
    return {"logits": states.placed(g, linear(g, model.classifier, pooled(g, model.pooler, states.every), "classifier"))}


def mark_span(g: GraphBuilder, model: TranskimmerForQuestionAnswering, states: HeadInputs) -> dict[str, str]:
    """start_logits and end_logits [batch, sequence]."""
    both = states.placed(g, linear(g, model.qa_outputs, pooled(g, model.pooler, states.every), "qa_outputs"))
    start, end = (g.op("Gather", both, g.constant(column), axis=2) for column in (0, 1))
    return {"start_logits": start, "end_logits": end}


HEADS: dict[type[TranskimmerPreTrainedModel], Callable[[GraphBuilder, Any, HeadInputs], dict[str, str]]] = {
    TranskimmerForSequenceClassification: classify,
    TranskimmerForSentenceEmbedding: pool,
    TranskimmerForTokenClassification: tag,
    TranskimmerForQuestionAnswering: mark_span,
}
