"""Retrieval and reranking: from queries, documents and judgements in files to nDCG, recall and reciprocal rank.

The measures are those of TREC, by pytrec_eval (extra 'evaluation').
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.data.records import column_text, read_example_records, read_records
from transkimmer_jax.errors import DataError

Run = dict[str, dict[str, float]]  # scores of documents by query
Judgements = dict[str, dict[str, int]]  # relevance of documents by query, 0 or more

_IDS = ("id", "_id")  # the latter is BEIR's
_OF_BEIR = {"query": "query-id", "document": "corpus-id", "relevance": "score"}  # its names of the columns of judgements
DEPTH = 50  # documents of a query that are measured
MEASURES = {"ndcg@10": "ndcg_cut_10", "recall@1": "recall_1", "recall@10": "recall_10", "recall@50": "recall_50", "mrr": "recip_rank"}


def read_texts(path: str | pathlib.Path, what: str) -> dict[str, str]:
    """Texts by their ids, of a `.jsonl` or `.csv` file with columns `id` (or BEIR's `_id`) and `text`, and maybe a `title` before it.

    what: 'queries' or 'documents', for messages.

    Raises:
      DataError: as `read_records`; an id that is missing or there twice, or no text at all.
    """
    texts: dict[str, str] = {}
    for where, record in read_example_records(path):
        name = next((record[column] for column in _IDS if column in record), None)
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise DataError(f"{where}: no id: give every one of the {what} a column 'id' of text or integers")
        if str(name) in texts:
            raise DataError(f"{where}: id {str(name)!r:.60} is there twice: rename one")
        title = record.get("title")
        text = column_text(record, "text", where)
        texts[str(name)] = f"{title} {text}" if isinstance(title, str) and title else text
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
        value = _integer(relevance)
        if value is None:
            raise DataError(f"{where}: relevance {relevance!r:.60} is no integer: write 0 for none")
        if judgements.setdefault(query, {}).setdefault(document, value) != value:
            raise DataError(f"{where}: query {query!r:.60} and document {document!r:.60} are judged twice: keep one line")
    if not judgements:
        raise DataError(f"{path}: no judgement: write one a line")
    return judgements


def _integer(relevance: str) -> int | None:
    """What a judgement says, also where it is written as 1.0; None: no integer."""
    try:
        number = float(relevance)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _judged(path: pathlib.Path) -> "Any":
    if path.suffix.lower() in (".jsonl", ".csv"):
        for where, record in read_records(path):
            query, document, relevance = (theirs if theirs in record else ours for ours, theirs in _OF_BEIR.items())
            missing = next((column for column in (query, document) if column not in record), None)
            if missing:
                raise DataError(f"{where}: no column {missing!r}: judgements have 'query', 'document' and maybe 'relevance'")
            yield where, str(record[query]), str(record[document]), str(record.get(relevance, 1))
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
