"""Clients that exist work unchanged."""

import base64

import huggingface_hub
import numpy as np
import openai
import pytest
import requests
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from serving.served import TEXTS

ATOL = 1e-5


@pytest.fixture(scope="module")
def client(server):
    """OpenAI's."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai_embeddings(client, engines, encoding):
    """In numbers, and as the package asks by itself."""
    expected = engines["embedder"].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="embedder", input=TEXTS, **options)
    vectors = [entry.embedding for entry in answer.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    np.testing.assert_allclose(vectors, expected, atol=ATOL)
    tokens = int(engines["embedder"].tokenize(TEXTS).lengths.sum())
    assert answer.model == "embedder" and answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    ids = engines["embedder"].tokenizer(TEXTS[0])["input_ids"]
    assert client.embeddings.create(model="embedder", input=ids, dimensions=4).data[0].embedding == pytest.approx(
        engines["embedder"].encode(TEXTS[:1], truncate_dim=4, normalize_embeddings=True, show_progress_bar=False)[0].tolist(), abs=ATOL
    )


def test_openai_errors(client):
    """Become the package's own, with our words."""
    with pytest.raises(openai.UnprocessableEntityError, match="more than 24 tokens"):
        client.embeddings.create(model="embedder", input="good film " * 40)
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.embeddings.create(model="other", input="good")


@pytest.fixture
def online(monkeypatch):
    """Tests ask no hub, for which a variable is set that the client hears, too."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def inference_client(server, model):
    return InferenceClient(model=f"{server.url}/models/{model}", token="any")


def test_hub_classification(server, engines, online):
    """Labels with their scores."""
    expected = engines["classifier"].predict([TEXTS[3]], progress=False)[0].probabilities
    answer = inference_client(server, "classifier").text_classification(TEXTS[3])
    assert {entry.label: entry.score for entry in answer} == pytest.approx(expected, abs=ATOL)
    best = inference_client(server, "classifier").text_classification(TEXTS[3], top_k=1)
    assert [entry.label for entry in best] == [max(expected, key=expected.get)]
    with pytest.raises(HfHubHTTPError, match="422"):
        inference_client(server, "classifier").text_classification("good film " * 40)


def test_hub_embeddings(server, engines, online):
    """Vectors and cosines."""
    client = inference_client(server, "embedder")
    expected = engines["embedder"].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(client.feature_extraction(TEXTS[0]), expected[:1], atol=ATOL)
    raw = engines["embedder"].encode(TEXTS[:1], prompt_name="query", show_progress_bar=False)
    np.testing.assert_allclose(client.feature_extraction(TEXTS[0], normalize=False, prompt_name="query"), raw, atol=ATOL)
    long = client.feature_extraction("good film " * 40, truncate=True, truncation_direction="Left")
    assert long.shape == (1, 16)
    np.testing.assert_allclose(client.sentence_similarity(TEXTS[0], TEXTS[1:]), expected[1:] @ expected[0], atol=ATOL)


def test_hub_tags_and_answers(server, engines, online):
    """Words and spans."""
    tags = inference_client(server, "tagger").token_classification(TEXTS[3])
    expected = [tag for tag in engines["tagger"].tag([TEXTS[3]], progress=False)[0].tags if tag.label != "O"]
    assert (
        [(tag.word, tag.start, tag.end, tag.entity) for tag in tags]
        == [(tag.word, tag.start, tag.end, tag.label) for tag in expected]
        != []
    )
    span = inference_client(server, "reader").question_answering(question="a bad film", context=TEXTS[3])
    wanted = engines["reader"].answer("a bad film", TEXTS[3])
    assert (span.answer, span.start, span.end) == (wanted.text, wanted.start, wanted.end) and 0 < span.score < 1
    same = inference_client(server, "reader").question_answering(question="a bad film", context=TEXTS[3], top_k=1, align_to_words=False)
    assert same == span
    for unfollowed in ({"top_k": 2}, {"doc_stride": 4}):
        with pytest.raises(HfHubHTTPError, match="422"):
            inference_client(server, "reader").question_answering(question="a bad film", context=TEXTS[3], **unfollowed)
    with pytest.raises(HfHubHTTPError, match="422"):
        inference_client(server, "tagger").token_classification(TEXTS[3], aggregation_strategy="simple")


def test_requests(server, engines):
    """Re-ranking, on a connection that is kept."""
    expected = engines["reranker"].rank("good film", TEXTS)
    with requests.Session() as session:
        for _ in range(3):
            response = session.post(f"{server.url}/rerank", json={"query": "good film", "texts": TEXTS}, timeout=60)
            response.raise_for_status()
            assert [entry["index"] for entry in response.json()] == [entry["corpus_id"] for entry in expected]
            scores = [entry["score"] for entry in expected]
            np.testing.assert_allclose([entry["score"] for entry in response.json()], scores, atol=ATOL)
        large = session.post(f"{server.url}/rerank", json={"query": "a" * 10_000_000, "texts": ["b"]}, timeout=60)
        assert large.status_code == 413 and "bytes" in large.json()["error"]
