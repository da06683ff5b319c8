"""`python -m tools.load` counts what there is to count."""

import contextlib
import http.server
import json
import threading

import pytest
from serving.served import TEXTS, Served, served_model, serving

from tools import traffic as loading
from tools.load import main as tools_main
from transkimmer_jax.errors import ConfigError, DataError, InferenceError
from transkimmer_jax.serving.limits import Limits


@pytest.fixture
def load(write, capsys):
    """What the command says, of texts or pairs."""

    def call(server, *arguments, texts=TEXTS):
        path = write("texts.jsonl", [{"text": text, "other": "good"} for text in texts])
        command = ["--url", server.url, "--input", str(path), "--seconds", "0.5", "--warm-up", "0.1", *map(str, arguments)]
        told = ""
        try:
            tools_main(command)
        except InferenceError as error:
            told = str(error)
        captured = capsys.readouterr()
        return json.loads(captured.out), told + captured.err

    return call


@pytest.mark.parametrize("route", ["/predict", "/embed", "/v1/embeddings"])
@pytest.mark.parametrize("way", [("--clients", 3), ("--rate", 60)], ids=["closed", "open"])
def test_right_answers(server, folders, load, route, way):
    """All of them are checked, and none is wrong or lost."""
    name = "classifier" if route == "/predict" else "embedder"
    more = ["--text-columns", "text", "other"] if route == "/predict" else []
    route = f"/models/{name}{route}"
    result, told = load(server, "--route", route, *way, "--check", folders[name], "--texts-per-request", 4, *more)
    assert told == "" and result["statuses"] == {"200": result["requests"]} and result["requests"] == result["answered"] > 5
    assert (result["lost"], result["wrong_texts"]) == (0, 0) and 0 <= result["largest_difference"] < 1e-3
    assert result["checked_texts"] > 2 * result["requests"]  # of six texts requests hold four and two
    assert 0 < result["kept_share"] < 1 and result["texts_per_second"] > 10
    times = result["milliseconds"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
    if way[0] == "--rate":
        assert 20 < result["requests"] < 70  # 36 within 0.6 s, by chance more or fewer


def test_a_server_that_was_told_more(folders, bare, load):
    """The engine here is told the same: a threshold, tokens read of a text, how a bare encoder pools."""
    told = ("--threshold", 1.5, "--max-length", 5)
    with serving([served_model("classifier", folders["classifier"], threshold=1.5, max_length=5)], Limits(auto_truncate=True)) as server:
        result, said = load(server, "--clients", 1, "--check", folders["classifier"], *told)
    assert said == "" and result["checked_texts"] and not result["wrong_texts"]
    clients = ("--clients", 1, "--route", "/embed", "--pooling", "cls", "--check")
    with serving([served_model("embedder", bare, pooling="cls")]) as server:
        result, said = load(server, *clients, bare)
        assert said == "" and result["checked_texts"] and not result["wrong_texts"]
    with serving([served_model("embedder", folders["embedder"])]) as server:
        result, said = load(server, *clients, folders["embedder"])  # which says how it pools, by the mean, and is not asked to
        assert said == "" and result["checked_texts"] and not result["wrong_texts"]


def test_wrong_answers(folders, load):
    """Of a server that skims more than the model does by itself."""
    with serving([served_model("classifier", folders["classifier"], threshold=1.5)]) as server:
        result, told = load(server, "--clients", 1, "--check", folders["classifier"])
    assert 0 < result["wrong_texts"] <= result["checked_texts"] and result["largest_difference"] > 1e-3
    assert told == f"{result['wrong_texts']} texts were answered wrongly, 0 requests not at all"


def test_refusals_are_counted(models, load):
    """Clients ask again."""
    with serving([models["classifier"]], Limits(max_concurrent_requests=1)) as server:
        result, _ = load(server, "--clients", 8)
    assert result["statuses"]["429"] > 0 and result["statuses"]["200"] == result["answered"] > 0 and result["lost"] == 0
    with serving([models["classifier"]]) as server:
        result, _ = load(server, "--clients", 1, texts=["good film " * 40, "good"])  # which are truncated
    assert set(result["statuses"]) == {"200"}


def test_nothing_is_answered(models, folders, load):
    """A key that is missing, texts that are refused, and nobody but others: the status says so, with and without --check."""
    check = ("--check", folders["classifier"])
    with serving([models["classifier"]], api_key="secret") as server:
        result, told = load(server, "--clients", 1, *check)
    assert result["answered"] == 0 and result["statuses"] == {"401": result["requests"]}
    assert told == f"0 texts were answered wrongly, 0 requests not at all, {result['requests']} with status 401"
    with serving([models["classifier"]], Limits(max_input_characters=10)) as server:
        result, told = load(server, "--clients", 1, *check)
    assert result["answered"] > 0 and told.endswith(f", {result['statuses']['422']} with status 422")
    with serving([models["classifier"]]) as server:
        server.service.in_flight += 512
        result, told = load(server, "--clients", 1)
        server.service.in_flight -= 512
    assert told.endswith(f", {result['requests']} with status 429")
    result, told = load(server, "--rate", 1e-9)
    assert result["requests"] == 0 and told == "no request was sent: give more --seconds, or a higher --rate"


def test_a_server_that_is_not_there(models, load):
    """Its requests are lost, and the command says so."""
    with serving([models["classifier"]]) as server:
        pass
    result, told = load(server, "--rate", 20)
    assert result["lost"] == result["requests"] > 0
    assert told == f"0 texts were answered wrongly, {result['lost']} requests not at all"
    assert result["answered"] == 0 and set(result["statuses"]) == {"ClientConnectorError"} and "milliseconds" not in result


@contextlib.contextmanager
def other_server(handle):
    """A server that is none of this package's, where `handle` answers each connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        do_POST = handle
        log_message = lambda *_: None  # noqa: E731

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Served(listening.server_port, None)
        finally:
            listening.shutdown()
            thread.join()


def test_a_server_that_stops_answering(load, monkeypatch):
    """Its requests are lost, and the command ends."""
    monkeypatch.setattr(loading, "_SILENCE", 0.3)
    ended = threading.Event()
    with other_server(lambda request: ended.wait(5)) as server:
        result, told = load(server, "--clients", 2)
        ended.set()
    assert set(result["statuses"]) == {"SocketTimeoutError"} and result["lost"] == result["requests"] > 0
    assert told == f"0 texts were answered wrongly, {result['lost']} requests not at all"


def test_a_server_that_does_not_skim(load):
    """It tells tokens, or not even these, and no share of them."""

    def answer(request):
        request.send_response(200)
        for name, value in (("content-length", "2"), ("x-compute-tokens", "4")):
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"[]")

    with other_server(answer) as server:
        result, told = load(server, "--clients", 1)
    assert told == "" and result["answered"] == result["requests"] > 0 and result["kept_share"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ConfigError, "--clients or --rate"),
        (["--clients", "2", "--rate", "3"], ConfigError, "--clients or --rate"),
        (["--clients", "0"], ConfigError, "--clients must be positive"),
        (["--rate", "1", "--route", "/tag"], ConfigError, "--route /tag is none of"),
        (["--rate", "1", "--warm-up", "-1"], ConfigError, "--warm-up is seconds from 0 on, not -1"),
        (["--rate", "1", "--texts", "-1"], ConfigError, "--texts must be positive"),
        (["--rate", "1", "--text-columns", "a", "b", "c"], ConfigError, "one column or two"),
    ],
)
def test_commands_that_cannot_be_meant(server, load, arguments, error, message):
    """One line each."""
    with pytest.raises(error, match=message):
        load(server, *arguments)


def test_no_texts(server, load):
    """There is nothing to send."""
    with pytest.raises(DataError, match="holds no text"):
        load(server, "--clients", 1, texts=[""])
