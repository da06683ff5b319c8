"""Retrieval by an embedder, with or without a reranker behind it, scored by judgements."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.evaluation.labelled import Request
from transkimmer_jax.inference.requirements import require_positions

if TYPE_CHECKING:
    from transkimmer_jax.inference.engine import SkimEngine


@dataclasses.dataclass(frozen=True)
class Collection:
    """Files of queries, documents and judgements, and the reranker of the first `top` documents.

    relevant: the label of the reranker whose probability is the score.
    """

    queries: str
    documents: str
    judgements: str
    reranker: str | None = None
    relevant: str | None = None
    top: int = 50


def evaluate_retrieval(request: Request, collection: Collection) -> dict[str, Any]:
    """Measures of the first 50 documents of each query, FLOPs and milliseconds.

    As in BEIR, a query does not find the document of its own id, unless that is judged relevant.
    """
    import numpy as np

    from transkimmer_jax.evaluation import retrieval
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.vectors import nearest
    from transkimmer_jax.progress import tqdm

    if collection.relevant is not None and collection.reranker is None:
        raise ConfigError("--relevant is of a --reranker: give one, or leave it out")
    retrieval.require_scorer()
    queries = retrieval.read_texts(collection.queries)
    documents = retrieval.read_texts(collection.documents)
    judgements = retrieval.read_judgements(collection.judgements, queries, documents)
    judged = {name: queries[name] for name in judgements}
    options = request.runtime_options
    embedder = SkimEngine.from_pretrained(
        request.model, pooling=request.pooling, max_length=request.max_length, threshold=request.threshold, **options
    )
    require_positions(request.model, embedder.arch, request.max_length)
    reranker = None if collection.reranker is None else _reranker(collection.reranker, collection.relevant, options)
    names, texts = list(documents), list(documents.values())

    def encoded(encode: Callable[..., np.ndarray], texts: list[str]) -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        return encode(texts, normalize_embeddings=True), time.perf_counter() - started

    document_vectors, document_seconds = encoded(embedder.encode_document, texts)
    query_vectors, query_seconds = encoded(embedder.encode_query, list(judged.values()))
    # One more than are looked at, since a query's own document goes.
    near = nearest(query_vectors, document_vectors, max(collection.top, retrieval.DEPTH) + 1)
    ranked = retrieval.without_own(list(judged), names, near, judgements)
    result = {
        "precision": request.precision or "float32",
        "model": request.model, "queries": len(judged), "documents": len(documents),
        "retrieval": retrieval.measures(retrieval.run_of(list(judged), names, ranked), judgements),
        "flops_vs_unpadded": embedder.statistics.dense_flops / embedder.statistics.flops,
        "milliseconds_a_query": 1000 * query_seconds / len(judged), "milliseconds_a_document": 1000 * document_seconds / len(documents),
    }  # fmt: skip
    if reranker is not None:
        asked = list(judged.values())
        started = time.perf_counter()
        with tqdm(total=len(asked), desc="reranking", unit=" queries") as bar:

            def score(query: int, numbers: np.ndarray) -> np.ndarray:
                bar.update()
                candidates = [texts[number] for number in numbers]
                entries = reranker.rank(
                    asked[query], candidates, label=collection.relevant, raw_scores=collection.relevant is None, show_progress_bar=False
                )
                places = np.argsort([entry["corpus_id"] for entry in entries])
                return -places.astype(float)  # not the scores, of which many can be 1 where the ranking tells them apart

            again = retrieval.rerank(ranked, score, collection.top)
        seconds = time.perf_counter() - started
        result |= {
            "reranker": collection.reranker, "top": collection.top,
            "reranking": retrieval.measures(retrieval.run_of(list(judged), names, again), judgements),
            "reranking_flops_vs_unpadded": reranker.statistics.dense_flops / reranker.statistics.flops,
            "reranking_milliseconds_a_query": 1000 * seconds / len(judged),
        }  # fmt: skip
    return result


def _reranker(model: str, relevant: str | None, options: dict[str, Any]) -> "SkimEngine":
    """The cross-encoder, before anything is computed. Raises `CheckpointError` and `ConfigError` for one that gives no score."""
    from transkimmer_jax.inference.engine import SkimEngine

    reranker = SkimEngine.from_pretrained(model, **options)
    if reranker.arch.head != "sequence_classification":
        raise CheckpointError(f"{model} is no cross-encoder: its head is {reranker.arch.head.replace('_', ' ')}")
    if reranker.arch.multi_label:
        raise CheckpointError(f"{model} is no cross-encoder: it gives a text any number of labels")
    names = reranker.label_texts
    if relevant is None and reranker.arch.num_labels != 1:
        raise ConfigError(f"{model} has the labels {', '.join(names)}: --relevant says by which it ranks")
    if relevant is not None and relevant not in names:
        raise ConfigError(f"--relevant {relevant} is none of the labels of {model}: {', '.join(names) or 'it gives a score'}")
    return reranker
