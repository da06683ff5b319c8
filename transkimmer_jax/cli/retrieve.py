"""`retrieve`: an embedder, and maybe a cross-encoder behind it, on queries and documents with judgements."""

import argparse
import json
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import runtime
from transkimmer_jax.cli.threshold import add_threshold
from transkimmer_jax.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transkimmer_jax.inference.engine import SkimEngine


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "retrieve",
        help="nDCG, recall and MRR of an embedder, and of a reranker behind it",
        description="Search documents by the cosine of vectors, rank the first of them anew by a cross-encoder if there is one, and "
        "measure the first 50 by judgements: JSON on standard output. As in BEIR, a query does not find the document of its own id; here "
        "it does where that is judged relevant. Queries and documents are .jsonl or .csv files with columns 'id' and 'text'; judgements "
        "are TREC's or BEIR's, or .jsonl or .csv files with columns 'query', 'document' and 'relevance'.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="folder or hub id of an embedder")
    parser.add_argument("--queries", required=True, metavar="FILE")
    parser.add_argument("--documents", required=True, metavar="FILE")
    parser.add_argument("--judgements", required=True, metavar="FILE")
    parser.add_argument("--reranker", metavar="DIR", help="folder or hub id of a cross-encoder: a regressor of pairs, or a classifier")
    parser.add_argument("--relevant", metavar="LABEL", help="of a reranker with labels: the one whose probability is the score")
    parser.add_argument(
        "--top", type=int, default=50, help="documents of each query that are ranked anew, before all others (default: %(default)s)"
    )
    parser.add_argument("--query-prompt", help="name of the embedder's prompt for queries (default: 'query')")
    parser.add_argument("--document-prompt", help="the same for documents (default: 'document')")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="of a folder that does not say how it pools")
    parser.add_argument("--max-length", type=int, help="tokens read of a query and of a document (default: the model's)")
    add_threshold(parser, "the embedder's")
    add_threshold(parser, "the reranker's", "--reranker-threshold")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    runtime.add_arguments(parser)
    parser.set_defaults(command=_retrieve)


def _retrieve(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    import numpy as np

    from transkimmer_jax.evaluation import retrieval
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.vectors import nearest
    from transkimmer_jax.progress import tqdm

    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, not {args.top}")
    for name in ("relevant", "reranker_threshold"):
        if getattr(args, name) is not None and args.reranker is None:
            raise ConfigError(f"--{name.replace('_', '-')} is of a --reranker: give one, or leave it out")
    retrieval.require_scorer()
    queries = retrieval.read_texts(args.queries)
    documents = retrieval.read_texts(args.documents)
    judgements = retrieval.read_judgements(args.judgements, queries, documents)
    judged = {name: queries[name] for name in judgements}
    options = runtime.options(args)
    embedder = SkimEngine.from_pretrained(args.model, pooling=args.pooling, max_length=args.max_length, threshold=args.threshold, **options)
    runtime.require_positions(args.model, embedder.arch, args.max_length)
    reranker = None if args.reranker is None else _reranker(args, options)
    names, texts = list(documents), list(documents.values())

    def encoded(encode: Callable[..., np.ndarray], texts: list[str], prompt: str | None) -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        return encode(texts, prompt_name=prompt, normalize_embeddings=True), time.perf_counter() - started

    document_vectors, document_seconds = encoded(embedder.encode_document, texts, args.document_prompt)
    query_vectors, query_seconds = encoded(embedder.encode_query, list(judged.values()), args.query_prompt)
    # One more than are looked at, since a query's own document goes.
    near = nearest(query_vectors, document_vectors, max(args.top, retrieval.DEPTH) + 1)
    ranked = retrieval.without_own(list(judged), names, near, judgements)
    result = {
        "command": shlex.join(["transkimmer", *args.arguments]), "precision": args.precision or "float32",
        "model": args.model, "queries": len(judged), "documents": len(documents),
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
                    asked[query], candidates, label=args.relevant, raw_scores=args.relevant is None, show_progress_bar=False
                )
                places = np.argsort([entry["corpus_id"] for entry in entries])
                return -places.astype(float)  # not the scores, of which many can be 1 where the ranking tells them apart

            again = retrieval.rerank(ranked, score, args.top)
        seconds = time.perf_counter() - started
        result |= {
            "reranker": args.reranker, "top": args.top,
            "reranking": retrieval.measures(retrieval.run_of(list(judged), names, again), judgements),
            "reranking_flops_vs_unpadded": reranker.statistics.dense_flops / reranker.statistics.flops,
            "reranking_milliseconds_a_query": 1000 * seconds / len(judged),
        }  # fmt: skip
    if args.json:
        files.write_json(args.json, result)
    print(json.dumps(result, indent=2))


def _reranker(args: argparse.Namespace, options: dict[str, Any]) -> "SkimEngine":
    """The cross-encoder, before anything is computed. Raises `CheckpointError` and `ConfigError` for one that gives no score."""
    from transkimmer_jax.inference.engine import SkimEngine

    reranker = SkimEngine.from_pretrained(args.reranker, threshold=args.reranker_threshold, **options)
    if reranker.arch.head != "sequence_classification":
        raise CheckpointError(f"{args.reranker} is no cross-encoder: its head is {reranker.arch.head.replace('_', ' ')}")
    if reranker.arch.multi_label:
        raise CheckpointError(f"{args.reranker} is no cross-encoder: it gives a text any number of labels")
    names = reranker.label_texts
    if args.relevant is None and reranker.arch.num_labels != 1:
        raise ConfigError(f"{args.reranker} has the labels {', '.join(names)}: --relevant says by which it ranks")
    if args.relevant is not None and args.relevant not in names:
        raise ConfigError(f"--relevant {args.relevant} is none of the labels of {args.reranker}: {', '.join(names) or 'it gives a score'}")
    return reranker
