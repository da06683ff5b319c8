"""Retrieval and reranking: from queries, documents and judgements in files to nDCG, recall and reciprocal rank.

The measures are those of TREC, by pytrec_eval (extra 'evaluation').
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from pydantic import StrictInt, StrictStr, TypeAdapter

from transkimmer_jax import extras
from transkimmer_jax.data.records import Kind, column_text, column_value, read_example_records, read_records
from transkimmer_jax.errors import DataError

Run = dict[str, dict[str, float]]  # scores of documents by query
Judgements = dict[str, dict[str, int]]  # relevance of documents by query, 0 or more

_ID = Kind(TypeAdapter(StrictInt | StrictStr), "an id: a text or an integer")
_RELEVANCE = Kind(TypeAdapter(int), "an integer, 0 for none")
_OF_BEIR = {"query": "query-id", "document": "corpus-id", "relevance": "score"}  # its names of the columns of judgements
DEPTH = 50  # documents of a query that are measured
MEASURES = {"ndcg@10": "ndcg_cut_10", "recall@1": "recall_1", "recall@10": "recall_10", "recall@50": "recall_50", "mrr": "recip_rank"}


def read_texts(path: str | pathlib.Path) -> dict[str, str]:
    """Texts by their ids, of a `.jsonl` or `.csv` file with columns `id` (or BEIR's `_id`) and `text`, and maybe a `title` before it.

    Raises:
      DataError: as `read_records`; an id that is missing or there twice, or no text at all.
    """
    texts: dict[str, str] = {}
    for where, record in read_example_records(path):
        name = str(column_value(record, "_id" if "_id" in record else "id", where, _ID))
        if name in texts:
            raise DataError(f"{where}: id {name!r:.60} is there twice: rename one")
        title = record.get("title")
        text = column_text(record, "text", where)
        texts[name] = f"{title} {text}" if isinstance(title, str) and title else text
    return texts


def read_judgements(path: str | pathlib.Path, queries: Mapping[str, str], documents: Mapping[str, str]) -> Judgements:
    """Which documents answer which queries.

    A `.jsonl` or `.csv` file has columns `query`, `document` and maybe `relevance`, 1 where there is none, or BEIR's names of them. Any
    other file is TREC's, lines of query, a column that nobody reads, document and relevance; or BEIR's, lines of query, document and
    relevance under a header.

    Raises:
      DataError: one line with file, line number and cure: ids that are unknown, a relevance that is no integer, a query or document twice,
        or no judgement.
    """
    judgements: Judgements = {}
    for where, query, document, relevance in _judged(pathlib.Path(path)):
        for name, known, what in ((query, queries, "query"), (document, documents, "document")):
            if name not in known:
                raise DataError(f"{where}: {what} {name!r:.60} is unknown: judge only what the files of queries and documents hold")
        value = column_value({"relevance": relevance}, "relevance", where, _RELEVANCE)
        if judgements.setdefault(query, {}).setdefault(document, value) != value:
            raise DataError(f"{where}: query {query!r:.60} and document {document!r:.60} are judged twice: keep one line")
    if not judgements:
        raise DataError(f"{path}: no judgement: write one a line")
    return judgements


def _judged(path: pathlib.Path) -> Iterator[tuple[str, str, str, str]]:
    """Place, query, document and relevance of each judgement."""
    if path.suffix.lower() in (".jsonl", ".csv"):
        for where, record in read_records(path):
            query, document, relevance = (theirs if theirs in record else ours for ours, theirs in _OF_BEIR.items())
            asked, judged = (str(column_value(record, column, where, _ID)) for column in (query, document))
            yield where, asked, judged, str(record.get(relevance, 1))
        return
    for number, (where, record) in enumerate(read_records(path, format="text")):
        cells = record["text"].split()
        if not cells or (number == 0 and cells[0] == "query-id"):
            continue
        if len(cells) not in (3, 4):
            raise DataError(f"{where}: {len(cells)} columns: write query, 0, document, relevance, as TREC has them")
        yield where, cells[0], cells[-2], cells[-1]


def without_own(queries: Sequence[str], documents: Sequence[str], ranked: Iterable[np.ndarray], judgements: Judgements) -> list[np.ndarray]:
    """Each query's documents without that of the query's own id, as BEIR measures: where queries are documents too, each finds itself.

    One that is judged relevant stays: then ids of queries and of documents are counted apart.
    """
    numbers = {name: number for number, name in enumerate(documents)}
    own = [-1 if judgements.get(name, {}).get(name) else numbers.get(name, -1) for name in queries]
    return [found[found != number] for found, number in zip(ranked, own, strict=True)]


def run_of(names: Sequence[str], documents: Sequence[str], ranked: Iterable[np.ndarray]) -> Run:
    """A run of the first `DEPTH` of rankings, best first. A document's score is minus its rank, so that what is scored is the order."""
    return {
        name: {documents[number]: -float(rank) for rank, number in enumerate(numbers[:DEPTH])}
        for name, numbers in zip(names, ranked, strict=True)
    }


def rerank(ranked: Iterable[np.ndarray], score: Callable[[int, np.ndarray], np.ndarray], top: int) -> list[np.ndarray]:
    """Each query's documents: the first `top` anew by `score(query, documents)`, those behind them as they are."""
    again = []
    for query, numbers in enumerate(ranked):
        best = numbers[:top]
        again.append(np.concatenate([best[np.argsort(-score(query, best), kind="stable")], numbers[top:]]))
    return again


def require_scorer() -> None:
    """Raises `ConfigError` where pytrec_eval is not installed."""
    with extras.needed("evaluation", "measuring retrieval"):
        import pytrec_eval  # noqa: F401


def measures(run: Run, judgements: Judgements) -> dict[str, float]:
    """`MEASURES`, each the mean over the judged queries.

    Raises:
      ConfigError: as `require_scorer`.
    """
    require_scorer()
    import pytrec_eval

    evaluator = pytrec_eval.RelevanceEvaluator(judgements, set(MEASURES.values()))
    results = evaluator.evaluate({query: run.get(query, {}) for query in judgements})
    return {name: float(np.mean([results[query][key] for query in judgements])) for name, key in MEASURES.items()}
