"""Files of queries, documents and judgements; search and rerank against brute force; TREC's measures by hand."""

import math

import numpy as np
import pytest

from transkimmer_jax.errors import DataError
from transkimmer_jax.evaluation import retrieval
from transkimmer_jax.inference.vectors import nearest, neighbours, unit

TEXTS = {"a": "one", "b": "two", "7": "three"}


def test_texts(write):
    """By id, of both spellings, with a title before the text."""
    records = [{"id": "a", "text": "one"}, {"_id": "b", "title": "Two", "text": "2"}, {"id": 7, "title": "", "text": "three"}]
    assert retrieval.read_texts(write("q.jsonl", records)) == {"a": "one", "b": "Two 2", "7": "three"}
    assert retrieval.read_texts(write("q.csv", "id,text\nx,some text\n")) == {"x": "some text"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "one"}], "line 1: no column 'id'"),
        ([{"id": 1.5, "text": "one"}], "line 1: column 'id' holds 1.5, not an id"),
        ([{"id": "a", "text": "one"}, {"id": "a", "text": "two"}], "line 2: id 'a' is there twice"),
        ([{"id": "a"}], "no column 'text'"),
        ([{"id": "a", "text": 3}], "holds 3, not text"),
    ],
)
def test_texts_that_cannot_be_meant(write, records, message):
    """One line that names the place and the cure."""
    with pytest.raises(DataError, match=message):
        retrieval.read_texts(write("q.jsonl", records))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("j.jsonl", [{"query": "a", "document": "b"}, {"query": "a", "document": "7", "relevance": 0}]),
        ("j.csv", "query,document,relevance\na,b,1\na,7,0\n"),
        ("qrels.txt", "a 0 b 1\na 0 7 0\n\n"),
        ("test.tsv", "query-id\tcorpus-id\tscore\na\tb\t1\na\t7\t0.0\n"),
        ("mteb.jsonl", [{"query-id": "a", "corpus-id": "b", "score": 1.0}, {"query-id": "a", "corpus-id": "7", "score": 0}]),
    ],
)
def test_judgements(write, name, content):
    """Spellings of one file."""
    assert retrieval.read_judgements(write(name, content), TEXTS, TEXTS) == {"a": {"b": 1, "7": 0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 0 x 1\n", "line 1: document 'x' is unknown"),
        ("a 0 b 1\nz 0 b 1\n", "line 2: query 'z' is unknown"),
        ("a 0 b much\n", "'relevance' holds 'much', not an integer"),
        ("a 0 b 0.5\n", "'relevance' holds '0.5', not an integer"),
        ("a 0 b 1\na 0 b 0\n", "line 2: query 'a' and document 'b' are judged twice"),
        ("a b\n", "2 columns: write query, 0, document, relevance"),
        ("\n", "no judgement"),
    ],
)
def test_judgements_that_cannot_be_meant(write, content, message):
    """One line that names the place and the cure."""
    with pytest.raises(DataError, match=message):
        retrieval.read_judgements(write("qrels.txt", content), TEXTS, TEXTS)


@pytest.mark.parametrize(("queries", "documents", "top"), [(1, 1, 5), (3, 40, 5), (600, 30, 30)])
def test_search(queries, documents, top):
    """The best first, in parts of queries, never more than there are."""
    rng = np.random.default_rng(0)
    asked, held = rng.normal(size=(queries, 4)).astype(np.float32), rng.normal(size=(documents, 4)).astype(np.float32)
    best = nearest(asked, held, top)
    assert len(best) == queries
    for query, numbers in enumerate(best):
        assert numbers.tolist() == np.argsort(-(held @ asked[query]), kind="stable")[:top].tolist()


def test_neighbours_of_copies():
    """A vector among more copies of itself than are asked for has others for neighbours, and never itself."""
    vectors = unit(np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0]], np.float32))
    near = neighbours(vectors, 3)
    assert near.shape == (7, 3) and (near != np.arange(7)[:, None]).all()
    assert (near[:6] < 6).all() and neighbours(vectors[:1], 3).shape == (1, 0) and neighbours(vectors[:3], 5).shape == (3, 2)


def test_rerank():
    """The first by the new score; those behind them keep their places, so that recall counts them."""
    best = retrieval.rerank([np.array([4, 2, 9, 7]), np.array([1])], lambda query, numbers: numbers * (1.0 if query == 0 else -1.0), 3)
    assert [numbers.tolist() for numbers in best] == [[9, 4, 2, 7], [1]]


def test_a_querys_own_document():
    """Is left out of its ranking alone, and stays where it is judged relevant."""
    ranked = np.array([[0, 1, 2], [2, 1, 0], [2, 0, 1], [1, 0, 2]])
    judgements = {"a": {"b": 1, "a": 0}, "b": {"a": 1}, "c": {"c": 1}, "x": {"a": 1}}
    left = retrieval.without_own(list(judgements), ["a", "b", "c"], ranked, judgements)
    assert [numbers.tolist() for numbers in left] == [[1, 2], [2, 0], [2, 0, 1], [1, 0, 2]]


def test_measures_are_of_as_many_documents_whatever_is_reranked():
    """A relevant document behind the fiftieth is none that was found."""
    documents = [f"d{number}" for number in range(80)]
    for place, found in ((49, 1 / 50), (50, 0.0)):
        run = retrieval.run_of(["a"], documents, [np.arange(80)])
        assert retrieval.measures(run, {"a": {f"d{place}": 1}})["mrr"] == pytest.approx(found)


def test_measures():
    """By hand: the relevant documents of the first query are first and third, that of the second is second, the third finds nothing."""
    run = retrieval.run_of(["a", "b", "c"], ["d0", "d1", "d2", "d3"], [np.array([0, 1, 2]), np.array([3, 1]), np.array([0])])
    judgements = {"a": {"d0": 1, "d2": 1}, "b": {"d1": 1}, "c": {"d3": 1}}
    measured = retrieval.measures(run, judgements)
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert measured["ndcg@10"] == pytest.approx((first + 1 / math.log2(3) + 0) / 3)
    assert measured["mrr"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert measured["recall@1"] == pytest.approx(0.5 / 3) and measured["recall@10"] == pytest.approx(2 / 3)
