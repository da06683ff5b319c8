"""What routes do: from a body to texts, and from predictions to an answer.

An answer that may be long, or takes long to find, is made in a thread, since the event loop has others to answer.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.responses import Response

from transkimmer_jax.inference.answers import answered, tagged
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.vectors import unit
from transkimmer_jax.models.outputs import TOKEN_EMBEDDINGS
from transkimmer_jax.serving import errors, schemas
from transkimmer_jax.serving.exchange import Exchange, json_response


async def predict(exchange: Exchange, body: schemas.PredictRequest) -> Response:
    """Scores of all labels, the highest first."""
    inputs, parameters = body.inputs, body.parameters
    done = await exchange.compute(
        inputs.texts, field="inputs", single=inputs.single, threshold=body.threshold,
        truncate=body.truncate, direction=body.truncation_direction,
    )  # fmt: skip
    function = parameters.function_to_apply if parameters else None
    # To the Inference API the value of a regression, which the folder calls so, is its score.
    is_raw = body.raw_scores or (parameters is not None and exchange.model.is_called_regression)
    scores = _scores(exchange, done.computed.predictions, function or ("none" if is_raw else None))
    most = parameters.top_k if parameters else None
    answers = [_ranked(row, exchange.model.engine.label_texts)[:most] for row in scores]
    # The Inference API has a list for every text, also where there is one; text-embeddings-inference has not.
    return done.response(answers[0] if inputs.single and parameters is None else answers)


async def rerank(exchange: Exchange, body: schemas.RerankRequest) -> Response:
    """Scores of texts with a query, the best first."""
    engine, texts = exchange.model.engine, body.texts
    if body.label is not None and body.label not in engine.label_texts:
        names = ", ".join(map(repr, engine.label_texts))
        raise errors.invalid(f"label must be one of those of {exchange.model.name!r}: {names}")
    column = 0 if body.label is None else engine.label_texts.index(body.label)
    done = await exchange.compute(
        [(body.query, text) for text in texts], field="texts", single=False, threshold=body.threshold,
        truncate=body.truncate, direction=body.truncation_direction,
    )  # fmt: skip
    predictions = done.computed.predictions
    scores = _scores(exchange, predictions, "none" if body.raw_scores else None)[:, column]
    compared = scores if body.raw_scores or engine.arch.multi_label else predictions.odds(column)
    ranked = [{"index": number, "score": scores[number]} for number in np.argsort(-compared, kind="stable").tolist()]
    return done.response([entry | {"text": texts[entry["index"]]} for entry in ranked] if body.return_text else ranked)


async def embed(exchange: Exchange, body: schemas.EmbedRequest) -> Response:
    """One vector a text."""
    _check_dimensions(exchange, body.dimensions)
    done = await exchange.compute(
        body.inputs.texts, field="inputs", single=body.inputs.single, threshold=body.threshold,
        truncate=body.truncate, direction=body.truncation_direction, prompt=exchange.prompt(body.prompt_name),
    )  # fmt: skip
    vectors = exchange.model.engine.vectors(done.computed.predictions, body.dimensions)
    return done.response(unit(vectors) if body.normalize else vectors)


async def embed_all(exchange: Exchange, body: schemas.EmbedAllRequest) -> Response:
    """One vector a token, as it left the encoder."""
    done = await exchange.compute(
        body.inputs.texts, field="inputs", single=body.inputs.single, threshold=body.threshold, truncate=body.truncate,
        direction=body.truncation_direction, prompt=exchange.prompt(body.prompt_name), tokens=True,
    )  # fmt: skip

    def response() -> Response:
        return done.response([np.ascontiguousarray(states) for states in done.computed.predictions.by_text(TOKEN_EMBEDDINGS)])

    return await asyncio.to_thread(response)


async def similarity(exchange: Exchange, body: schemas.SimilarityRequest) -> Response:
    """The cosine of every sentence with the source sentence."""
    asked, parameters = body.inputs, body.parameters or schemas.SimilarityParameters()
    done = await exchange.compute(
        [*asked.sentences, asked.source_sentence], field="inputs.sentences", single=False, threshold=body.threshold,
        truncate=parameters.truncate, direction=parameters.truncation_direction, prompt=exchange.prompt(parameters.prompt_name),
        beside="inputs.source_sentence",
    )  # fmt: skip
    vectors = unit(exchange.model.engine.vectors(done.computed.predictions))
    return done.response(vectors[:-1] @ vectors[-1])


async def openai_embeddings(exchange: Exchange, body: schemas.OpenAIRequest) -> Response:
    """Vectors of length 1, in OpenAI's shape."""
    _check_dimensions(exchange, body.dimensions)
    done = await exchange.compute(
        body.input.texts, field="input", single=body.input.single, threshold=body.threshold, prompt=exchange.prompt(None)
    )
    vectors = unit(exchange.model.engine.vectors(done.computed.predictions, body.dimensions))
    shown = [base64.b64encode(vector.astype("<f4")).decode() for vector in vectors] if body.encoding_format == "base64" else list(vectors)
    return done.response({
        "object": "list",
        "data": [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(shown)],
        "model": exchange.model.name,
        "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
    })  # fmt: skip


async def tag(exchange: Exchange, body: schemas.TagRequest) -> Response:
    """Words with their labels."""
    inputs = body.inputs
    done = await exchange.compute(
        inputs.texts, field="inputs", single=inputs.single, threshold=body.threshold, truncate=body.truncate, how="words"
    )
    words, ignored = done.computed.reading.words, (body.parameters or schemas.TagParameters()).ignore_labels
    assert words is not None

    def response() -> Response:
        answers = [
            [
                {"entity": tag.label, "score": np.float32(tag.score), "word": tag.word, "start": tag.start, "end": tag.end}
                for tag in text.tags
                if tag.label is not None and tag.label not in ignored
            ]
            for text in tagged(done.computed.predictions, words, exchange.model.engine.label_texts)
        ]
        return done.response(answers[0] if inputs.single else answers)

    return await asyncio.to_thread(response)


async def answer(exchange: Exchange, body: schemas.AnswerRequest) -> Response:
    """The span of a context that answers a question."""
    asked, parameters = body.inputs, body.parameters or schemas.AnswerParameters()
    done = await exchange.compute([(asked.question, asked.context)], field="inputs", single=True, threshold=body.threshold, how="questions")
    assert done.computed.reading.windows is not None
    limit = 0.0 if parameters.handle_impossible_answer else None
    windows = done.computed.reading.windows
    (span,) = await asyncio.to_thread(answered, done.computed.predictions, windows, [asked.context], parameters.max_answer_len, limit)
    return done.response({"answer": span.text, "score": span.probability, "start": span.start or 0, "end": span.end or 0})


async def tokenize(exchange: Exchange, body: schemas.TokenizeRequest) -> Response:
    """The tokens of texts."""
    exchange.check(body.inputs.texts, "inputs")
    before = exchange.prompt(body.prompt_name) if body.prompt_name else ""
    texts = [before + text for text in body.inputs.texts]
    return await asyncio.to_thread(json_response, await exchange.read(exchange.model.tokens, texts, body.add_special_tokens))


async def decode(exchange: Exchange, body: schemas.DecodeRequest) -> Response:
    """The texts of tokens."""
    exchange.check(body.ids.texts, "ids")
    return json_response(await exchange.read(exchange.model.texts_of, body.ids.texts, body.skip_special_tokens))


def _scores(exchange: Exchange, predictions: Predictions, function: str | None) -> np.ndarray:
    """Logits, or what a function makes of them, [N, labels] float32. None: the softmax of several labels of which a text has one; sigmoids
    of a multi-label classifier and of a single logit."""
    if function == "none":
        return predictions.logits
    has_sigmoids = predictions.logits.shape[1] == 1 or exchange.model.engine.arch.multi_label
    return predictions.probabilities(function == "sigmoid" or (function is None and has_sigmoids))


def _ranked(scores: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    return [{"score": scores[number], "label": labels[number]} for number in np.argsort(-scores, kind="stable").tolist()]


def _check_dimensions(exchange: Exchange, dimensions: int | None) -> None:
    size = exchange.model.engine.arch.hidden_size
    if dimensions is not None and dimensions > size:
        raise errors.invalid(f"dimensions must be at most {size}, the size of the vectors of {exchange.model.name!r}")
