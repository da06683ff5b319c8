"""What cannot be answered is told in one line, and nobody else is hurt."""

import http.client
import json
import re
import socket
import struct
import threading
import time

import pytest
from serving.served import TEXTS, serving

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.serving import app
from transkimmer_jax.serving import server as serving_server
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.models import Models
from transkimmer_jax.serving.protocol import guarded

MANY = ["good"] * 33
LONG = "good film " * 40
QUESTION = {"inputs": {"question": "a", "context": "b"}}


def refused(server, path, body, headers=None):
    """Status, kind and message."""
    status, _, content = server.ask(path, body, headers=headers)
    openai = path.endswith("embeddings")
    assert set(content) == ({"message", "code", "type"} if openai else {"error", "error_type"}), content
    if openai:
        assert content["code"] == status
    message = content["message" if openai else "error"]
    assert "\n" not in message and "Traceback" not in message and len(message) < 300
    return status, content["type" if openai else "error_type"], message


def failures(server, label):
    """Requests that were refused so."""
    found = re.search(rf'^te_request_failure{{err="{label}"}} (.*)$', server.ask("/metrics")[2].decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/predict", b"", 400, "Validation", "the body is no JSON"),
        ("/predict", b"{", 400, "Validation", "the body is no JSON"),
        ("/predict", b'{"inputs": "\xff"}', 400, "Validation", "the body is no JSON"),
        ("/predict", b'{"inputs": "\\ud800"}', 400, "Validation", "the body is no JSON"),
        ("/predict", b"[" * 100_000, 400, "Validation", "the body is no JSON"),
        ("/", b"[" * 100_000, 400, "Validation", "the body is no JSON"),
        ("/", b"[]", 422, "Validation", "must be a JSON object"),
        ("/predict", [], 422, "Validation", "object"),
        ("/predict", {}, 422, "Validation", "inputs: Field required"),
        ("/predict", {"inputs": 3}, 422, "Validation", "inputs: must be a text, a pair"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "inputs: must be a text, a pair"),
        ("/predict", {"inputs": [["a"], "b"]}, 422, "Validation", "inputs: must be a text, a pair"),
        ("/predict", {"inputs": [["a"], []]}, 422, "Validation", "inputs: must be a text, a pair"),
        ("/predict", {"inputs": "a", "truncate": "yes"}, 422, "Validation", "truncate:"),
        ("/predict", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "truncation_direction:"),
        ("/predict", {"inputs": "a", "parameters": {"top_k": 0}}, 422, "Validation", "parameters.top_k:"),
        ("/", {"inputs": "a", "parameters": {"candidate_labels": ["x", "y"]}}, 422, "Validation", "candidate_labels: this server does not"),
        ("/predict", {"inputs": []}, 400, "Empty", "inputs is empty"),
        ("/predict", {"inputs": ""}, 422, "Validation", "inputs: text 0 is empty"),
        ("/predict", {"inputs": [["a"], [""]]}, 422, "Validation", "inputs: text 1 is empty"),
        ("/predict", {"inputs": [[text] for text in MANY]}, 413, "Validation", "33 texts, more than the 32"),
        ("/predict", {"inputs": LONG}, 422, "Validation", "text 0 has more than 24 tokens"),
        ("/predict", {"inputs": [["a"], [LONG]]}, 422, "Validation", "text 1 has more than 24 tokens"),
        ("/predict", {"inputs": "a", "threshold": 3}, 422, "Validation", "from -2 to 2"),
        ("/predict", b'{"inputs": "a", "threshold": NaN}', 422, "Validation", "from -2 to 2"),
        ("/predict", {"inputs": "a", "threshold": "1"}, 422, "Validation", "threshold:"),
        ("/predict", {"inputs": "a", "model": "nobody"}, 404, "Validation", "no model 'nobody' here"),
        ("/models/nobody/predict", {"inputs": "a"}, 404, "Validation", "no model 'nobody' here"),
        ("/predict", {"inputs": "a", "model": "embedder"}, 424, "Backend", "no model here answers /predict: 'embedder' is"),
        ("/models/classifier/embed", {"inputs": "a"}, 424, "Backend", "no model here answers /embed"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty", "texts is empty"),
        ("/rerank", {"query": "a", "texts": "b"}, 422, "Validation", "texts:"),
        ("/rerank", {"query": "a", "texts": MANY}, 413, "Validation", "33 texts"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "classifier"}, 424, "Backend", "no model here answers /rerank"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "classifier", "label": "x"}, 422, "Validation", "'a', 'b', 'c'"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "reranker", "label": "b"}, 422, "Validation", "of 'reranker': 'LABEL_0'"),
        ("/models/reranker", {"query": "a", "texts": ["b"], "label": "b"}, 422, "Validation", "of 'reranker': 'LABEL_0'"),
        ("/embed", {"inputs": [1, "a"]}, 422, "Validation", "inputs: must be a text, a list of texts, or token ids"),
        ("/embed", {"inputs": [999]}, 422, "Validation", "999 is no token id: they go from 0 to 12"),
        ("/embed", {"inputs": [-1]}, 422, "Validation", "-1 is no token id"),
        ("/embed", {"inputs": [2, 3]}, 422, "Validation", "text 0 is empty"),
        ("/embed", {"inputs": "a", "prompt_name": "nobody"}, 422, "Validation", "none of the model's prompts"),
        ("/embed", {"inputs": "a", "dimensions": 17}, 422, "Validation", "dimensions must be at most 16"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation", "dimensions:"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "inputs.sentences is empty"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": MANY}}, 413, "Validation", "33 texts"),
        ("/similarity", {"inputs": {"sentences": ["a"]}}, 422, "Validation", "inputs.source_sentence:"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["a"]}}, 422, "Validation", "inputs.source_sentence:"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", ""]}}, 422, "Validation", "sentences: text 1 is empty"),
        ("/similarity", {"inputs": {"source_sentence": LONG, "sentences": ["b"]}}, 422, "Validation", "source_sentence has more than"),
        ("/v1/embeddings", b"{", 400, "Validation", "the body is no JSON"),
        ("/v1/embeddings", {"input": []}, 400, "Empty", "input is empty"),
        ("/v1/embeddings", {"input": MANY}, 413, "Validation", "33 texts"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 422, "Validation", "encoding_format:"),
        ("/v1/embeddings", {"input": "a", "model": "nobody"}, 404, "Validation", "no model 'nobody' here"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "inputs is empty"),
        ("/tokenize", {"inputs": [3]}, 422, "Validation", "must be a text or a list of texts"),
        ("/decode", {"ids": ["a"]}, 422, "Validation", "must be a list of token ids"),
        ("/decode", {"ids": [99]}, 422, "Validation", "99 is no token id"),
        ("/tag", {"inputs": "bad " * 40}, 422, "Validation", "more than 24 tokens"),
        ("/tag", {"inputs": "a", "parameters": {"aggregation_strategy": "simple"}}, 422, "Validation", 'leave it out or give "none"'),
        ("/tag", {"inputs": "a", "parameters": {"stride": 4}}, 422, "Validation", "parameters.stride: this server does not follow it"),
        ("/answer", QUESTION | {"parameters": {"top_k": 2}}, 422, "Validation", "parameters.top_k: this server does not follow it"),
        ("/answer", QUESTION | {"parameters": {"top_k": True}}, 422, "Validation", "leave it out or give 1"),
        ("/answer", QUESTION | {"parameters": {"doc_stride": 8}}, 422, "Validation", "parameters.doc_stride: this server does not follow"),
        ("/answer", QUESTION | {"parameters": {"align_to_words": True}}, 422, "Validation", "leave it out or give false"),
        ("/answer", {"inputs": {"question": "bad " * 40, "context": "a"}}, 422, "Tokenizer", "leaves no room"),
        ("/answer", {"inputs": {"question": "a", "context": " "}}, 422, "Tokenizer", "holds no token"),
        ("/nowhere", {"inputs": "a"}, 404, "Validation", "no such route"),
        ("/info", {"inputs": "a"}, 405, "Validation", "another method"),
        ("/v1/embeddings", None, 405, "Validation", "another method"),
        ("/nowhere/embeddings", {"input": "a"}, 404, "Validation", "no such route"),
    ],
)  # fmt: skip
def test_refusals(server, path, body, status, kind, message):
    """By table."""
    told = refused(server, path, body)
    assert told[:2] == (status, kind) and message in told[2], told
    assert server.ask("/health")[0] == 200


def test_headers_that_cannot_be_meant(server):
    """A threshold that is none."""
    told = refused(server, "/predict", {"inputs": "a"}, {"x-threshold": "much"})
    assert told[0] == 422 and "from -2 to 2" in told[2]


def test_large_bodies(server):
    """Ten megabytes, announced or in chunks: refused, and not kept."""
    assert refused(server, "/predict", {"inputs": "a" * 10_000_000})[0] == 413
    assert refused(server, "/v1/embeddings", {"input": "a" * 10_000_000})[:2] == (413, "Validation")

    before = failures(server, "payload")
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    with server.send(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n") as connection:
        try:
            for _ in range(4000):
                connection.sendall(chunk)
            assert connection.recv(100).startswith(b"HTTP/1.1 413")  # where the system has taken all of it
        except OSError:  # closed while more was coming
            pass
    assert failures(server, "payload") == before + 1


def test_a_hundred_thousand_words(models, engines):
    """Cut where that is asked for, in no time; refused otherwise."""
    text = "good film bad " * 33_333
    with serving([models["classifier"]], Limits(max_input_characters=500_000)) as server:
        started = time.perf_counter()
        answer = server.say("/predict", {"inputs": text, "truncate": True, "raw_scores": True})
        assert time.perf_counter() - started < 5
        logits = engines["classifier"].predict([text], progress=False)[0].logits
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(dict(zip("abc", logits, strict=True)), abs=1e-5)
        assert refused(server, "/predict", {"inputs": text})[0] == 422
        assert "characters, more than 500000" in refused(server, "/predict", {"inputs": text + text, "truncate": True})[2]
        assert refused(server, "/predict", {"inputs": "a", "threshold": 0.5})[2].startswith("this server has one threshold")
        assert server.ask("/predict", {"inputs": "a", "model": "any", "threshold": 0})[0] == 200  # its own


def test_auto_truncate(models):
    """Where a request does not say."""
    with serving([models["classifier"]], Limits(auto_truncate=True)) as server:
        assert server.ask("/predict", {"inputs": LONG})[0] == 200
        assert server.ask("/predict", {"inputs": LONG, "truncate": False})[0] == 422


@pytest.mark.parametrize("given", [None, "Bearer other", "Bearer secre", "secret"])
def test_the_key(models, given):
    """Without it, only what asks for health or documentation is answered."""
    with serving([models["classifier"], models["embedder"]], api_key="secret") as server:
        headers = {} if given is None else {"authorization": given}
        for path in ("/predict", "/v1/embeddings", "/"):
            assert refused(server, path, {"inputs": "a"}, headers)[:2] == (401, "Unauthorized")
        assert [server.ask(path, headers=headers)[0] for path in ("/metrics", "/info", "/nowhere")] == [401] * 3
        assert [server.ask(path)[0] for path in ("/health", "/ping", "/", "/docs", "/openapi.json")] == [200] * 5
        for scheme in ("Bearer", "bearer"):
            assert server.ask("/metrics", headers={"authorization": f"{scheme} secret"})[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: %s\r\n" % (number, b"v" * 50) for number in range(1000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-endless: " + b"v" * 200_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["many", "endless", "path"],
)
def test_header_floods(server, head):
    """Refused as soon as it is too much, and counted."""
    before = failures(server, "headers")
    with server.send(head) as connection:
        try:
            received = connection.recv(1000)
        except ConnectionResetError:  # closed while more was coming
            received = b""
    assert received == b"" or received.startswith(b"HTTP/1.1 431"), received
    assert failures(server, "headers") == before + 1
    assert server.say("/predict", {"inputs": "good"})


def test_what_is_no_http(server):
    """A JSON error all the same, and counted."""
    before = failures(server, "malformed")
    with server.send(b"\x16\x03\x01 hello\r\n\r\n") as connection:
        received = connection.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 400") and json.loads(received.partition(b"\r\n\r\n")[2])["error_type"] == "Validation"
    assert failures(server, "malformed") == before + 1


UPGRADE = b"Connection: Upgrade, HTTP2-Settings%s\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize("more", [b"", b", close"], ids=["stays", "closes"])
@pytest.mark.parametrize("packets", [1, 2, 3])
def test_clients_that_offer_another_protocol(server, packets, more):
    """As Java's and `curl --http2` do: they are answered in this one, on a connection that goes on unless they end it."""
    body = json.dumps({"inputs": "good"}).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\n" + UPGRADE % more + b"content-length: %d\r\n\r\n" % len(body)
    whole = head + body
    parts = {1: [whole], 2: [head, body], 3: [head[:60], head[60:] + body[:3], body[3:]]}[packets]
    with server.send(b"") as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(1 if more else 2):
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200 and json.loads(answer.read())
            assert (answer.headers["connection"] == "close") == bool(more)


def test_a_tunnel(server):
    """Is no request for this server, which says so once."""
    before = failures(server, "malformed")
    with server.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n") as connection:
        received = connection.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 400") and received.count(b"HTTP/1.1") == 1
    assert failures(server, "malformed") == before + 1


@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        (b"", b"HTTP/1.1 408"),
        (b"POST /predict HTTP/1.1\r\nhost", b"HTTP/1.1 408"),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{", b"HTTP/1.1 408"),
    ],
    ids=["nothing", "head", "body"],
)
def test_slow_clients(server, beginning, told):
    """A connection on which nothing comes is closed, and others are answered meanwhile. Its client and the numbers are told."""
    before = failures(server, "timeout")
    with server.send(beginning) as connection:
        started = time.perf_counter()
        assert server.say("/predict", {"inputs": "good"})
        received = connection.makefile("rb").read()
        assert 1 < time.perf_counter() - started < 10
    assert received[:12] == told
    assert failures(server, "timeout") == before + 1
    assert server.ask("/health")[0] == 200 and server.service.in_flight == 0


def test_empty_lines_are_no_request(models):
    """They keep no connection open behind an answer, whatever they do to the server's own wait for a next request."""
    with serving([models["classifier"]], Limits(read_seconds=0.5, keep_alive_seconds=0.5)) as server:
        with server.send(b"GET /info HTTP/1.1\r\nhost: x\r\n\r\n") as connection:
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
            connection.sendall(b"\r\n\r\n")
            connection.settimeout(10)
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408")
        with server.send(b"\r\n") as connection:
            connection.sendall(b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")


def test_the_rest_of_an_answer_that_nobody_reads():
    """Less than the transport pauses for, which it would wait for for ever."""
    ends = socket.socketpair()

    class Transport:
        left, aborted = 1000, False

        def get_write_buffer_size(self):
            return self.left

        def get_extra_info(self, name):
            return ends[0]

        def abort(self):
            self.aborted = True

    protocol_class = guarded(Limits(read_seconds=1.0), None)
    connection = protocol_class.__new__(protocol_class)
    connection.transport = transport = Transport()
    for now in (0.0, 0.9):
        connection.expire(now)
    transport.left = 500  # it reads
    for now in (1.1, 2.0):
        connection.expire(now)
    assert not transport.aborted
    transport.left = 0  # all of it, and later another answer
    connection.expire(3.0)
    transport.left = 500
    connection.expire(3.9)
    assert not transport.aborted
    connection.expire(5.0)
    assert transport.aborted
    for end in ends:
        end.close()


def test_a_slow_request_behind_another(models, monkeypatch):
    """Is no reason to tell the one before, which has come in whole, that it has not."""
    with serving([models["classifier"]], Limits(read_seconds=0.5)) as server:
        release, predict = threading.Event(), server.service.pipeline._predict
        monkeypatch.setattr(server.service.pipeline, "_predict", lambda *batch: release.wait(30) and predict(*batch))
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n"
        with server.send(head + b'{"inputs": "good"}' + head + b"{") as connection:
            received = connection.makefile("rb").read()
        release.set()
    assert received == b""


@pytest.fixture
def large_answer(models):
    """A connection on which a large answer begins, what has come of it, and its length; a client has a second to go on reading."""
    with serving([models["embedder"]], Limits(read_seconds=1.0, max_client_batch_size=20_000, payload_limit=10**7)) as server:
        body = json.dumps({"inputs": ["good film"] * 20_000}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            connection.settimeout(60)
            begun = connection.recv(1000)
            assert begun.startswith(b"HTTP/1.1 200")
            yield connection, begun, int(begun.partition(b"content-length: ")[2].split()[0])


def test_answers_that_nobody_reads(large_answer):
    """Their connection is closed, too."""
    connection, _, length = large_answer
    time.sleep(3.5)
    rest = connection.makefile("rb").read()  # what was on its way
    assert len(rest) < length - 1000


def test_an_answer_that_is_read_slowly(large_answer):
    """But steadily: it is given whole, however long that takes."""
    connection, begun, length = large_answer
    began, left = time.monotonic(), length - len(begun.partition(b"\r\n\r\n")[2])
    while left > 0:
        part = connection.recv(min(left, 100_000))
        assert part, f"{left} bytes did not come"
        left -= len(part)
        if time.monotonic() - began < 3.5:
            time.sleep(0.05)
    assert time.monotonic() - began > 3.5


def test_disconnects(models):
    """Texts of a client that has gone are dropped, and the others' are answered."""
    with serving([models["classifier"]]) as server:
        held, release = threading.Event(), threading.Event()
        predict = server.service.pipeline._predict

        def slowly(job, examples):
            held.set()
            release.wait(30)
            return predict(job, examples)

        server.service.pipeline._predict = slowly
        body = json.dumps({"inputs": "good"}).encode()
        request = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        answers = []
        with server.send(request) as first:  # of which the batch is being computed
            assert held.wait(30)
            asking = threading.Thread(target=lambda: answers.append(server.ask("/predict", {"inputs": TEXTS[3]})))
            asking.start()
            gone = [server.send(request) for _ in range(5)]
            while server.service.in_flight < 7:
                time.sleep(0.01)
            for connection in gone:  # some with a reset, as from a client that is killed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            while server.service.in_flight > 2:
                time.sleep(0.01)
            release.set()
            assert first.recv(100).startswith(b"HTTP/1.1 200")
        asking.join(30)
        assert answers[0][0] == 200
        assert b'te_request_failure{err="client_gone"} 5.0' in server.ask("/metrics")[2]
        assert b"te_batch_next_size_sum 2.0" in server.ask("/metrics")[2]  # nothing was computed for them


def test_a_text_that_the_engine_fails_on(models, monkeypatch, caplog):
    """Its request is told so; those that were computed with it are answered."""
    with serving([models["classifier"]]) as server:
        held, release = threading.Event(), threading.Event()
        engine = models["classifier"].engine
        predict = engine.predict_tokenized

        def fails_on_pairs_of_tokens(examples, **options):
            if not held.is_set():
                held.set()
                release.wait(30)
            if 4 in examples.lengths:
                raise ZeroDivisionError("of the engine")
            return predict(examples, **options)

        monkeypatch.setattr(engine, "predict_tokenized", fails_on_pairs_of_tokens)
        answers = {}

        def ask(text):
            answers[text] = server.ask("/predict", {"inputs": text})

        threads = [threading.Thread(target=ask, args=(text,)) for text in ("a", "b", "a b", "a b c")]
        threads[0].start()
        assert held.wait(30)
        for thread in threads[1:]:
            thread.start()
        while server.service.pipeline.waiting < 3:
            time.sleep(0.01)
        release.set()
        for thread in threads:
            thread.join(30)
    assert {text: answer[0] for text, answer in answers.items()} == {"a": 200, "b": 200, "a b": 424, "a b c": 200}
    assert answers["a b"][2] == {"error": "the engine failed on this request: the server's log says why", "error_type": "Backend"}
    assert "ZeroDivisionError" in caplog.text


def test_defects_do_not_leave_the_server(models, monkeypatch, caplog):
    """Of a handler that fails the client learns that it did."""
    with serving([models["classifier"]]) as server:
        monkeypatch.setattr(type(server.service.pipeline), "submit", lambda self, job: 1 / 0)
        assert refused(server, "/predict", {"inputs": "a"})[:2] == (500, "Backend")
        assert server.service.in_flight == 0
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("name", ["classifier", "embedder", "tagger", "reader"])
def test_a_model_that_fails_on_everything(models, monkeypatch, caplog, name):
    """Is told by the server's health, until it answers again."""
    path, inputs = {
        "classifier": ("/predict", "a"), "embedder": ("/embed", "a"), "tagger": ("/tag", "a"),
        "reader": ("/answer", {"question": "a", "context": "b"}),
    }[name]  # fmt: skip
    with serving([models[name]]) as server:
        with monkeypatch.context() as broken:
            broken.setattr(models[name].engine, "predict_tokenized", lambda examples, **options: 1 / 0)
            assert server.ask("/health")[0] == 200, "nothing has failed yet"
            assert refused(server, path, {"inputs": inputs})[0] == 424
            assert server.ask("/health")[0] == 503
        assert server.ask("/health")[0] == 200 and server.ask(path, {"inputs": inputs})[0] == 200
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("part", ["_read", "_compute"])
def test_a_defect_of_a_thread(models, monkeypatch, caplog, part):
    """Whoever waited for it is told, and the next request is answered."""
    with serving([models["classifier"]]) as server:
        with monkeypatch.context() as broken:
            broken.setattr(server.service.pipeline, part, lambda work: 1 / 0)
            assert refused(server, "/predict", {"inputs": "a"})[:2] == (424, "Backend")
        assert server.ask("/predict", {"inputs": "a"})[0] == 200 and server.service.in_flight == 0
    assert "ZeroDivisionError" in caplog.text


class Panic(BaseException):
    """As tokenizers' errors of Rust are none of `Exception`."""


@pytest.mark.parametrize("route", ["/predict", "/tokenize"])
def test_a_panic_of_the_tokenizer(models, monkeypatch, caplog, route):
    """Fails the one request, also beside others that are read with it."""

    def panics(*_):
        raise Panic("of the tokenizer")

    with serving([models["classifier"]]) as server:
        with monkeypatch.context() as broken:
            broken.setattr(type(models["classifier"]), "read" if route == "/predict" else "tokens", panics)
            assert refused(server, route, {"inputs": "a"})[:2] == (424, "Backend")
        assert server.ask(route, {"inputs": "a"})[0] == 200 and server.ask("/health")[0] == 200
    assert "of the tokenizer" in caplog.text


def test_an_engine_that_is_gone(models):
    """The server says so, and no request waits for it."""
    with serving([models["classifier"]]) as server:
        server.service.pipeline.stop()
        assert server.ask("/health")[0] == 503
        assert refused(server, "/predict", {"inputs": "a"})[:2] == (503, "Unhealthy")


def test_parts_of_a_second(models):
    """uvicorn takes whole ones, and none would be no time at all."""
    application = app.create_app(Models([models["classifier"]]), Limits())
    config = serving_server.create_server(application, Limits(keep_alive_seconds=0.4, drain_seconds=1.2), lambda: None).config
    assert (config.timeout_keep_alive, config.timeout_graceful_shutdown) == (1, 2)


def test_servers_that_cannot_be_meant(models, folders):
    """One line each."""
    with pytest.raises(ConfigError, match="--max-batch-tokens must be positive, not 0"):
        Limits(max_batch_tokens=0)
    for name in ("read_seconds", "keep_alive_seconds", "drain_seconds"):
        for value, wanted in ((0.0, "positive"), (float("nan"), "positive"), (float("inf"), "finite")):
            with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be {wanted}, not {value}"):
                Limits(**{name: value})
    with pytest.raises(ConfigError, match="--threshold-range must be two finite numbers"):
        Limits(threshold_range=(1.0, 0.0))
    with pytest.raises(ConfigError, match="each with a name of its own"), serving([models["tagger"], models["tagger"]]):
        pass
    bound = serving_server.bind("127.0.0.1", 0)
    bound.listen()
    with bound, pytest.raises(ConfigError, match=r"cannot serve on 127.0.0.1:\d+: .*; give another --host or --port"):
        serving_server.bind("127.0.0.1", bound.getsockname()[1])


def test_two_servers_at_one_address(models):
    """Both can bind it while none listens. The one that comes second to listening says so, and does not serve."""
    with serving_server.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with serving_server.bind("127.0.0.1", port) as second:
            first.listen()
            running = serving_server.create_server(
                app.create_app(Models([models["classifier"]]), Limits()), Limits(), lambda: setattr(running, "should_exit", True)
            )
            with pytest.raises(ConfigError, match=rf"cannot serve on 127.0.0.1:{port}: .*; give another --host or --port"):
                running.run(sockets=[second])
