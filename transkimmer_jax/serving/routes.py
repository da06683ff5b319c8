"""Which routes there are: what each takes, who answers it, and what comes back."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response

from transkimmer_jax.serving import handlers, schemas
from transkimmer_jax.serving.exchange import Exchange
from transkimmer_jax.serving.models import CLASSIFIER, EMBEDDER, READER, RERANKER, TAGGER, ServedModel


@dataclasses.dataclass(frozen=True)
class Route:
    """A POST route.

    Args:
      paths: its names.
      summary: for the documentation.
      body: what it takes.
      answer: what comes back, for the documentation.
      handler: that answers.
      answers: how well a model answers a body: 0 not at all.
      counted: for the numbers, 'embed' or 'predict', or neither.
      example: a body.
    """

    paths: tuple[str, ...]
    summary: str
    body: type[schemas.ModelRequest]
    answer: Any
    handler: Callable[[Exchange, Any], Awaitable[Response]]
    answers: Callable[[ServedModel, Any], int]
    counted: str | None
    example: Mapping[str, Any]


def _of(*kinds: str) -> Callable[[ServedModel, Any], int]:
    return lambda model, body: model.kind in kinds


def _ranks(model: ServedModel, body: schemas.RerankRequest) -> int:
    """A classifier ranks where a label is named, best by a label of its own. Without one a re-ranker does, and a multi-label one never."""
    engine, kinds = model.engine, (RERANKER,) if body.label is None else (RERANKER, CLASSIFIER)
    if engine.pairs is False or engine.arch.multi_label or model.kind not in kinds:
        return 0
    return 1 + (body.label in engine.label_texts)


ROUTES = (
    Route(
        ("/predict",), "Scores of a classifier's labels, the highest first", schemas.PredictRequest,
        list[schemas.Prediction] | list[list[schemas.Prediction]], handlers.predict, _of(CLASSIFIER, RERANKER), "predict",
        {"inputs": "A gorgeous, witty film."},
    ),
    Route(
        ("/rerank",), "Texts by their score with a query, the best first", schemas.RerankRequest, list[schemas.Rank],
        handlers.rerank, _ranks, "predict", {"query": "Who wrote Emma?", "texts": ["Jane Austen wrote it.", "It is a film."]},
    ),
    Route(
        ("/embed",), "A vector for every text", schemas.EmbedRequest, list[list[float]], handlers.embed, _of(EMBEDDER), "embed",
        {"inputs": ["Who wrote Emma?", "Jane Austen wrote it."]},
    ),
    Route(
        ("/embed_all",), "A vector for every token", schemas.EmbedAllRequest, list[list[list[float]]], handlers.embed_all,
        _of(EMBEDDER), "embed", {"inputs": "Who wrote Emma?"},
    ),
    Route(
        ("/similarity",), "The cosine of each sentence with one", schemas.SimilarityRequest, list[float], handlers.similarity,
        _of(EMBEDDER), "embed", {"inputs": {"source_sentence": "Who wrote Emma?", "sentences": ["Jane Austen wrote it."]}},
    ),
    Route(
        ("/v1/embeddings", "/embeddings"), "OpenAI's embeddings", schemas.OpenAIRequest, schemas.OpenAIResponse,
        handlers.openai_embeddings, _of(EMBEDDER), "embed", {"input": "Who wrote Emma?", "model": "any"},
    ),
    Route(
        ("/tag",), "The words of a text that have a label", schemas.TagRequest, list[schemas.Word] | list[list[schemas.Word]],
        handlers.tag, _of(TAGGER), "predict", {"inputs": "Ada lives in London."},
    ),
    Route(
        ("/answer",), "The span of a context that answers a question", schemas.AnswerRequest, schemas.Span, handlers.answer,
        _of(READER), "predict", {"inputs": {"question": "Who wrote Emma?", "context": "Jane Austen wrote Emma."}},
    ),
    Route(
        ("/tokenize",), "The tokens of texts", schemas.TokenizeRequest, list[list[schemas.Token]], handlers.tokenize,
        lambda model, body: True, None, {"inputs": "Who wrote Emma?"},
    ),
    Route(
        ("/decode",), "The texts of token ids", schemas.DecodeRequest, list[str], handlers.decode, lambda model, body: True, None,
        {"ids": [101, 2040, 102]},
    ),
)  # fmt: skip
_BY_PATH = {path: route for route in ROUTES for path in route.paths}


def route_at(path: str) -> Route:
    """The route of that name."""
    return _BY_PATH[path]


def task_of(model: ServedModel, body: Mapping[str, Any]) -> Route:
    """What `POST /` does: the model's task, by the shape of the body, as clients of the Inference API expect."""
    if model.kind == RERANKER and "query" in body:
        return route_at("/rerank")
    if model.kind == EMBEDDER and isinstance(body.get("inputs"), dict):
        return route_at("/similarity")
    paths = {CLASSIFIER: "/predict", RERANKER: "/predict", EMBEDDER: "/embed", TAGGER: "/tag", READER: "/answer"}
    return route_at(paths[model.kind])
