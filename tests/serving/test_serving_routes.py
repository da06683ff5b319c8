"""Every route and field says what the engine says."""

import base64
import json
import re

import numpy as np
import pytest
import scipy.special
import transformers
from prometheus_client.parser import text_string_to_metric_families
from serving.served import LABELS, TEXTS, served_model, serving

from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.heads import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification

PAIRS = [("good film", text) for text in TEXTS]
LONG = "good film " * 40
ATOL = 1e-5


def of_labels(answer):
    """Scores in the order of the labels."""
    assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
    scores = {entry["label"]: entry["score"] for entry in answer}
    return [scores[label] for label in LABELS]


@pytest.mark.parametrize("text", [TEXTS[3], ("good", "bad film")], ids=["text", "pair"])
def test_predict_one(server, engines, text):
    """A list of labels; two strings are a pair."""
    expected = engines["classifier"].predict([text], progress=False)[0]
    answer = server.say("/predict", {"inputs": text})
    np.testing.assert_allclose(of_labels(answer), [expected.probabilities[label] for label in LABELS], atol=ATOL)
    raw = server.say("/predict", {"inputs": text, "raw_scores": True})
    np.testing.assert_allclose(of_labels(raw), expected.logits, atol=ATOL)


def test_predict_many(server, engines):
    """A list for every text, in their order."""
    expected = engines["classifier"].predict(TEXTS, progress=False)
    answers = server.say("/predict", {"inputs": [[text] for text in TEXTS]})
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(of_labels(answer), list(wanted.probabilities.values()), atol=ATOL)
    pairs = server.say("/predict", {"inputs": [list(pair) for pair in PAIRS]})
    for answer, wanted in zip(pairs, engines["classifier"].predict(PAIRS, progress=False), strict=True):
        np.testing.assert_allclose(of_labels(answer), list(wanted.probabilities.values()), atol=ATOL)


def test_predict_texts_and_pairs(server, engines):
    """Of a model that reads either, in one request."""
    mixed = [PAIRS[0], TEXTS[0], TEXTS[1], PAIRS[1]]
    answers = server.say("/predict", {"inputs": [[text] if isinstance(text, str) else list(text) for text in mixed]})
    for answer, text in zip(answers, mixed, strict=True):
        (wanted,) = engines["classifier"].predict([text], progress=False)
        np.testing.assert_allclose(of_labels(answer), list(wanted.probabilities.values()), atol=ATOL)


def test_predict_with_parameters(server, engines):
    """The dialect of the Inference API."""
    logits = engines["classifier"].predict([TEXTS[0]], progress=False)[0].logits
    for function, scores in (("none", logits), ("sigmoid", scipy.special.expit(logits)), ("softmax", scipy.special.softmax(logits))):
        (answer,) = server.say("/predict", {"inputs": TEXTS[0], "parameters": {"function_to_apply": function, "top_k": 2}})
        np.testing.assert_allclose([entry["score"] for entry in answer], sorted(scores, reverse=True)[:2], atol=ATOL)


def test_predict_of_a_regressor(server, engines):
    """One score, between 0 and 1 unless it is asked for as it is; by the Inference API it is as it is unless a function is asked for."""
    value = engines["reranker"].predict([TEXTS[0]], progress=False)[0].label
    for raw, expected in ((True, value), (False, scipy.special.expit(value))):
        answer = server.say("/predict", {"inputs": TEXTS[0], "model": "reranker", "raw_scores": raw})
        assert answer == [{"label": "LABEL_0", "score": pytest.approx(expected, abs=ATOL)}]
    for function, expected in ((None, value), ("none", value), ("sigmoid", scipy.special.expit(value))):
        answer = server.say("/predict", {"inputs": TEXTS[0], "model": "reranker", "parameters": {"function_to_apply": function}})
        assert answer == [[{"label": "LABEL_0", "score": pytest.approx(expected, abs=ATOL)}]]


def test_truncation(server, engines):
    """Either end of a text that is too long, and only if that is asked for."""
    tail = " ".join(LONG.split()[-22:])
    expected = {
        "right": engines["classifier"].predict([LONG], progress=False)[0],
        "left": engines["classifier"].predict([tail], progress=False)[0],
    }
    assert abs(expected["right"].logits - engines["classifier"].predict(["good"], progress=False)[0].logits).max() > 1e-3
    longer = "bad " * 30 + LONG  # of which the two ends differ
    expected["right"] = engines["classifier"].predict([longer], progress=False)[0]
    for direction, wanted in expected.items():
        body = {"inputs": longer, "truncate": True, "truncation_direction": direction}
        status, headers, answer = server.ask("/predict", body)
        assert status == 200 and headers["x-compute-tokens"] == "24"
        np.testing.assert_allclose(of_labels(answer), list(wanted.probabilities.values()), atol=ATOL)
    assert server.ask("/predict", {"inputs": LONG})[0] == 422


def test_truncation_as_the_tokenizer_does(folders, tokenizer_folder, tmp_path):
    """Where a request names no end, texts are read as by the engine. A request may still name either one."""
    folder, text, body = tmp_path / "left", "bad " * 30 + LONG, {"inputs": "bad " * 30 + LONG, "truncate": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder, config=transformers.BertConfig(), truncation_side="left")
    model = TranskimmerForSequenceClassification.from_pretrained(folders["classifier"])
    model.save_pretrained(folder, tokenizer=tokenizer, label_names=LABELS)
    engine = SkimEngine.from_pretrained(folder)
    own, beginning = (answer.probabilities for answer in engine.predict([text, "bad " * 30], progress=False))
    with serving([served_model("left", folder)]) as server:
        for direction, wanted in ((None, own), ("left", own), ("right", beginning)):
            answer = server.say("/predict", body | {"truncation_direction": direction})
            np.testing.assert_allclose(of_labels(answer), list(wanted.values()), atol=ATOL)
        np.testing.assert_allclose(of_labels(server.say("/predict", body)), list(own.values()), atol=ATOL)
    assert abs(own["a"] - beginning["a"]) > 1e-3


@pytest.mark.parametrize("asked", [{"threshold": 1.5}, {}], ids=["field", "header"])
def test_thresholds(server, engines, asked):
    """In a field, or in a header."""
    headers = {} if asked else {"x-threshold": "1.5"}
    expected = engines["classifier"].predict([TEXTS[3]], threshold=1.5, progress=False)[0]
    own = engines["classifier"].predict([TEXTS[3]], progress=False)[0]
    status, headers, answer = server.ask("/predict", {"inputs": TEXTS[3]} | asked, headers=headers)
    assert status == 200 and float(headers["x-compute-share"]) == pytest.approx(expected.kept, abs=1e-4) != pytest.approx(
        own.kept, abs=1e-4
    )
    np.testing.assert_allclose(of_labels(answer), list(expected.probabilities.values()), atol=ATOL)


def test_the_runtime_of_accelerators(folders, engines):
    """Compiled programs, which the thread that computes compiles, answer alike."""
    model = served_model("classifier", folders["classifier"], runtime="jax", batch_tokens=64)
    with serving([model], compute_type="tpu") as server:
        status, headers, answer = server.ask("/predict", {"inputs": TEXTS[3]})
        assert status == 200 and headers["x-compute-type"] == "tpu"
        expected = engines["classifier"].predict([TEXTS[3]], progress=False)[0]
        np.testing.assert_allclose(of_labels(answer), list(expected.probabilities.values()), atol=ATOL)
        assert b'transkimmer_overflows{model="classifier"} 0.0' in server.ask("/metrics")[2]


@pytest.mark.parametrize("raw", [False, True])
def test_rerank(server, engines, raw):
    """The re-ranker is found without a name."""
    expected = engines["reranker"].rank("good film", TEXTS, raw_scores=raw)
    answers = server.say("/rerank", {"query": "good film", "texts": TEXTS, "raw_scores": raw})
    assert [answer["index"] for answer in answers] == [entry["corpus_id"] for entry in expected]
    np.testing.assert_allclose([answer["score"] for answer in answers], [entry["score"] for entry in expected], atol=ATOL)
    assert all(set(answer) == {"index", "score"} for answer in answers)


def test_rerank_by_a_label(server, engines):
    """A classifier ranks by one of its labels; texts come back where they are asked for."""
    expected = engines["classifier"].rank("good film", TEXTS, label="b", return_documents=True)
    body = {"query": "good film", "texts": TEXTS, "label": "b", "model": "classifier", "return_text": True}
    assert server.say("/rerank", body) == [
        {"index": entry["corpus_id"], "score": pytest.approx(entry["score"], abs=ATOL), "text": entry["text"]} for entry in expected
    ]


def test_rerank_by_a_label_that_one_model_has(models, engines):
    """It answers, also where another one that ranks stands before it."""
    expected = engines["classifier"].rank("good film", TEXTS, label="b")
    with serving([models["reranker"], models["classifier"]]) as server:
        answers = server.say("/rerank", {"query": "good film", "texts": TEXTS, "label": "b"})
        own = server.say("/rerank", {"query": "good film", "texts": TEXTS, "label": "LABEL_0"})
        assert own == server.say("/rerank", {"query": "good film", "texts": TEXTS})
    assert answers == [{"index": entry["corpus_id"], "score": pytest.approx(entry["score"], abs=ATOL)} for entry in expected]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"normalize_embeddings": True}),
        ({"normalize": False}, {}),
        ({"prompt_name": "query"}, {"prompt_name": "query", "normalize_embeddings": True}),
        ({"dimensions": 5}, {"truncate_dim": 5, "normalize_embeddings": True}),
    ],
    ids=str,
)
def test_embed(server, engines, fields, options):
    """Arguments of `encode`."""
    expected = engines["embedder"].encode(TEXTS, show_progress_bar=False, **options)
    np.testing.assert_allclose(server.say("/embed", {"inputs": TEXTS} | fields), expected, atol=ATOL)
    np.testing.assert_allclose(server.say("/embed", {"inputs": TEXTS[0]} | fields), expected[:1], atol=ATOL)


def test_vectors_are_as_wide_as_the_folder_says(folders, tokenizer_folder, tmp_path):
    """As `encode` gives them, on every route; `dimensions` asks for others, up to all."""
    model = TranskimmerForSentenceEmbedding.from_pretrained(folders["embedder"])
    model.save_pretrained(tmp_path / "narrow", tokenizer=load_tokenizer(tokenizer_folder), settings=Settings(truncate_dim=4))
    engine = SkimEngine.from_pretrained(tmp_path / "narrow")
    expected = engine.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    with serving([served_model("narrow", tmp_path / "narrow")]) as server:
        np.testing.assert_allclose(server.say("/embed", {"inputs": TEXTS}), expected, atol=ATOL)
        assert np.shape(server.say("/embed", {"inputs": TEXTS, "dimensions": 16})) == (len(TEXTS), 16)
        answer = server.say("/v1/embeddings", {"input": TEXTS})
        np.testing.assert_allclose([entry["embedding"] for entry in answer["data"]], expected, atol=ATOL)
        cosines = server.say("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}})
        np.testing.assert_allclose(cosines, expected[1:] @ expected[0], atol=ATOL)


def test_embed_token_ids(server, engines):
    """Ids are those of a text, with special tokens or without them."""
    tokens = [[token["id"] for token in row] for row in server.say("/tokenize", {"inputs": TEXTS[:1] + TEXTS[2:3]})]
    expected = engines["embedder"].encode(TEXTS[:1] + TEXTS[2:3], normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(server.say("/embed", {"inputs": tokens}), expected, atol=ATOL)
    np.testing.assert_allclose(server.say("/embed", {"inputs": tokens[0][1:-1]}), expected[:1], atol=ATOL)
    unknown = ["good \u2665 film", "\u2665"]
    tokens = [[token["id"] for token in row] for row in server.say("/tokenize", {"inputs": unknown})]
    expected = engines["embedder"].encode(unknown, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(server.say("/embed", {"inputs": tokens}), expected, atol=ATOL)


def test_embed_all(server, folders):
    """The final state of every token, of which the mean is the vector."""
    engine = SkimEngine.from_pretrained(folders["embedder"], token_embeddings=True)
    expected = engine.predict_tokenized(engine.tokenize(TEXTS)).by_text("token_embeddings")
    for answer, wanted in zip(server.say("/embed_all", {"inputs": TEXTS}), expected, strict=True):
        np.testing.assert_allclose(answer, wanted, atol=ATOL)
    vectors = server.say("/embed", {"inputs": TEXTS, "normalize": False})
    np.testing.assert_allclose(vectors, [states.mean(axis=0) for states in expected], atol=ATOL)


def test_similarity(server, engines):
    """Cosines."""
    vectors = engines["embedder"].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    np.testing.assert_allclose(server.say("/similarity", body), vectors[1:] @ vectors[0], atol=ATOL)
    prompted = engines["embedder"].encode(TEXTS, prompt_name="query", normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(server.say("/similarity", body | {"parameters": None}), vectors[1:] @ vectors[0], atol=ATOL)
    answer = server.say("/similarity", body | {"parameters": {"prompt_name": "query"}})
    np.testing.assert_allclose(answer, prompted[1:] @ prompted[0], atol=ATOL)
    most = server.service.limits.max_client_batch_size  # beside the source sentence
    assert len(server.say("/similarity", {"inputs": {"source_sentence": "good", "sentences": ["bad"] * most}})) == most


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/models/embedder/v1/embeddings"])
def test_openai(server, engines, path):
    """OpenAI's shape, in numbers and in base64."""
    expected = engines["embedder"].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    answer = server.say(path, {"input": TEXTS, "model": "embedder", "user": "me"})
    assert (answer["object"], answer["model"]) == ("list", "embedder")
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", number) for number in range(len(TEXTS))]
    np.testing.assert_allclose([entry["embedding"] for entry in answer["data"]], expected, atol=ATOL)
    tokens = int(engines["embedder"].tokenize(TEXTS).lengths.sum())
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    coded = server.say(path, {"input": TEXTS[0], "encoding_format": "base64", "dimensions": 3, "model": "embedder"})["data"][0]["embedding"]
    short = engines["embedder"].encode(TEXTS[:1], normalize_embeddings=True, truncate_dim=3, show_progress_bar=False)
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), short[0], atol=ATOL)


def test_tag(server, engines):
    """Words with a label other than the ignored."""
    expected = engines["tagger"].tag(TEXTS, progress=False)
    answers = server.say("/tag", {"inputs": TEXTS, "parameters": {"ignore_labels": []}})
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer == [
            {"entity": tag.label, "score": pytest.approx(tag.score, abs=ATOL), "word": tag.word, "start": tag.start, "end": tag.end}
            for tag in wanted.tags
        ]
    assert {entry["entity"] for answer in answers for entry in answer} == {"O", "b", "c"}
    some = server.say("/tag", {"inputs": TEXTS})
    assert some == [[entry for entry in answer if entry["entity"] != "O"] for answer in answers]
    assert server.say("/tag", {"inputs": TEXTS[0]}) == server.say("/tag", {"inputs": TEXTS[0], "parameters": None}) == some[0]


def test_answer(server, engines):
    """A span, also of a context that is read in windows, which are one text for the numbers; or none."""

    def texts(what):
        return float(re.search(rf"^te_predict_{what} (.*)$", server.ask("/metrics")[2].decode(), re.MULTILINE)[1])

    asked, answered = texts("count"), texts("success")
    context = "the film is bad and " * 12 + "the b is good"
    expected = engines["reader"].answer("bad film", context, max_answer_len=4)
    body = {"inputs": {"question": "bad film", "context": context}, "parameters": {"max_answer_len": 4}}
    assert server.say("/answer", body) == {
        "answer": expected.text, "score": pytest.approx(expected.probability, abs=1e-5), "start": expected.start, "end": expected.end
    }  # fmt: skip
    assert server.say("/answer", body | {"parameters": None})["answer"] == engines["reader"].answer("bad film", context).text
    body["parameters"]["handle_impossible_answer"] = True
    expected = engines["reader"].answer("bad film", context, max_answer_len=4, no_answer_threshold=0.0)
    assert server.say("/answer", body)["answer"] == expected.text
    assert texts("count") - asked == texts("success") - answered == 3


def test_tokenize_and_decode(server, engines):
    """Tokens with their places; back to texts."""
    tokenizer = engines["classifier"].tokenizer
    (plain, *_), ids = server.say("/tokenize", {"inputs": TEXTS}), tokenizer(TEXTS)["input_ids"]
    assert [token["id"] for token in plain] == ids[0]
    assert plain[0] == {"id": ids[0][0], "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert plain[2] == {"id": ids[0][2], "text": "film", "special": False, "start": 4, "stop": 8}
    bare = server.say("/tokenize", {"inputs": TEXTS[0], "add_special_tokens": False})
    assert [token["id"] for token in bare[0]] == ids[0][1:-1]
    prompted = server.say("/tokenize", {"inputs": "good", "prompt_name": "query", "model": "embedder"})
    assert [token["text"] for token in prompted[0]] == ["[CLS]", "the", "good", "[SEP]"]
    assert len(server.say("/tokenize", {"inputs": LONG})[0]) == 82  # not cut
    assert server.say("/decode", {"ids": ids[0]}) == [tokenizer.decode(ids[0], skip_special_tokens=True)]
    assert server.say("/decode", {"ids": ids[:2], "skip_special_tokens": False}) == [tokenizer.decode(row) for row in ids[:2]]


@pytest.mark.parametrize(
    ("model", "body", "route"),
    [
        ("classifier", {"inputs": "good film"}, "/predict"),
        ("reranker", {"query": "good", "texts": TEXTS}, "/rerank"),
        ("reranker", {"inputs": "good film"}, "/predict"),
        ("embedder", {"inputs": TEXTS}, "/embed"),
        ("embedder", {"inputs": {"source_sentence": "good", "sentences": TEXTS}}, "/similarity"),
        ("tagger", {"inputs": "good film"}, "/tag"),
        ("reader", {"inputs": {"question": "good", "context": TEXTS[3]}}, "/answer"),
    ],
)
def test_the_root_does_the_models_task(server, model, body, route):
    """Named in the path, or in the body."""
    expected = server.say(f"/models/{model}{route}", body)
    assert server.say(f"/models/{model}", body) == server.say("/", body | {"model": model}) == expected


def test_headers(server, engines):
    """What a request cost."""
    _, headers, _ = server.ask("/predict", {"inputs": [[text] for text in TEXTS]})
    expected = engines["classifier"].predict(TEXTS, progress=False)
    assert headers["x-compute-type"] == "cpu" and headers["x-compute-characters"] == str(sum(map(len, TEXTS)))
    assert headers["x-compute-tokens"] == str(sum(answer.tokens for answer in expected))
    times = {name: float(headers[f"x-{name}-time"]) for name in ("total", "compute", "tokenization", "queue", "inference")}
    assert times["total"] == times["compute"] >= times["tokenization"] + times["queue"] + times["inference"] > times["inference"] > 0


def test_info_health_and_documentation(server):
    """What the server says of itself."""
    info = server.say("/info", None)
    assert info["model_id"] == "classifier" and info["model_type"]["classifier"]["id2label"] == {"0": "a", "1": "b", "2": "c"}
    limits = server.service.limits
    assert (info["max_concurrent_requests"], info["max_batch_tokens"], info["max_client_batch_size"]) == (512, 16_384, 32)
    assert info["threshold_range"] == list(limits.threshold_range) and info["max_input_length"] == 24
    kinds = {model["model_id"]: next(iter(model["model_type"])) for model in info["models"]}
    assert kinds == {name: {"embedder": "embedding"}.get(name, name) for name in kinds} and len(kinds) == 5
    assert server.say("/models/embedder/info", None)["prompts"] == ["query", "document", "plain"]
    assert all(server.ask(path)[0] == 200 for path in ("/health", "/", "/ping"))
    document = server.say("/openapi.json", None)
    page = server.ask("/docs")[2].decode()
    for path, entry in document["paths"].items():
        assert path in page
        if "post" in entry:
            content = entry["post"]["requestBody"]["content"]["application/json"]
            assert content["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]
            named = {"/decode": {"ids": [2, 5, 3]}}.get(path, content["example"])
            model = {"/predict": "classifier"}.get(path)
            assert server.ask(path, named | ({"model": model} if model else {"model": None}))[0] == 200, path
    assert json.dumps(document)


SECONDS = [1e-5 * 1.5**power for power in range(1, 36)]


def test_metrics(server):
    """The names and buckets of text-embeddings-inference, and what two requests add to them."""

    def read():
        families = list(text_string_to_metric_families(server.ask("/metrics")[2].decode()))
        # The parser gives counters its library's ending.
        values = {
            (sample.name.removesuffix("_total"), *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        return {family.name: family for family in families}, values

    _, before = read()
    server.say("/predict", {"inputs": [["good"], ["bad film"]]})
    server.say("/embed", {"inputs": "good film"})
    server.ask("/predict", b"{")
    families, after = read()
    durations = [
        f"te_{what}_{part}duration" for what in ("request", "embed", "predict") for part in ("", "tokenization_", "queue_", "inference_")
    ]
    for name in durations:
        assert families[name].type == "histogram"
        buckets = [float(sample.labels["le"]) for sample in families[name].samples if sample.name.endswith("_bucket")]
        assert buckets == pytest.approx([*SECONDS, np.inf])
        assert after[(f"{name}_count",)] - before[(f"{name}_count",)] == (2 if "_request_" in name else 1)
        assert after[(f"{name}_sum",)] > before[(f"{name}_sum",)]

    def added(*key):
        return after.get(key, 0) - before.get(key, 0)

    for method in ("single", "batch"):
        assert added("te_request_count", ("method", method)) == added("te_request_success", ("method", method)) == 1
    assert added("te_request_failure", ("err", "malformed")) == 1
    assert added("te_predict_count") == added("te_predict_success") == 2 and added("te_embed_count") == added("te_embed_success") == 1
    assert added("te_request_input_length_count") == 3 and added("te_request_input_length_sum") == 3 + 4 + 4
    assert added("te_batch_next_size_sum") == 3 and added("te_batch_next_tokens_sum") == 11
    assert after[("te_queue_size",)] == 0
    assert added("transkimmer_tokens_in", ("model", "classifier")) == 7 and added("transkimmer_tokens_in", ("model", "embedder")) == 4
    assert 0 < added("transkimmer_tokens_computed", ("model", "classifier")) <= 7
    assert families["te_request_count"].type == families["transkimmer_overflows"].type == "counter"
