"""The command: it starts, tells where, ends by a signal without losing what has come in, and starts again."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from transkimmer_jax import cli
from transkimmer_jax.errors import ConfigError


@contextlib.contextmanager
def started(*arguments, **variables):
    """A server process and its port."""
    command = [sys.executable, "-m", "transkimmer_jax", "serve", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | variables) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("serving ") and " on http://127.0.0.1:" in line, line + process.stderr.read()
            yield process, int(line.rpartition(":")[2])
        finally:
            process.kill()


def ask(port, body, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/predict", json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_a_signal_drains_and_a_kill_frees_the_port(folders):
    """A request that has begun to come in is answered behind the signal; nothing further is accepted."""
    with started("--model", f"classifier={folders['classifier']}", "--port", "0", TRANSKIMMER_API_KEY="secret") as (process, port):
        assert ask(port, {"inputs": "good"})[0] == 401
        key = {"authorization": "Bearer secret"}
        status, expected = ask(port, {"inputs": "good"}, key)
        assert status == 200
        body = b'{"inputs": "good"}'
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\ncontent-length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as begun, socket.create_connection(("127.0.0.1", port)) as idle:
            begun.sendall(head + body[:5])
            assert ask(port, {"inputs": "good"}, key)[0] == 200  # so the server has the other one, too
            process.send_signal(signal.SIGTERM)
            assert idle.recv(10) == b""  # closed, as it waits for nothing
            with pytest.raises(ConnectionRefusedError):
                ask(port, {"inputs": "good"}, key)
            begun.sendall(body[5:])
            response = begun.makefile("rb").read()
        assert response.startswith(b"HTTP/1.1 200") and json.loads(response.partition(b"\r\n\r\n")[2]) == expected
        assert process.wait(60) == 0
        assert process.stderr.read() == "stopped; what had come in is answered\n"
    with started("--model", folders["classifier"], "--port", str(port)) as (process, _):
        assert ask(port, {"inputs": "good"}) == (200, expected)
        process.kill()
        process.wait(60)
    with started("--model", folders["classifier"], "--port", str(port)) as (process, _):
        assert ask(port, {"inputs": "good"}) == (200, expected)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_who_never_finishes_is_not_waited_for(folders):
    """A drain has an end."""
    with (
        started("--model", folders["classifier"], "--port", "0", "--drain-seconds", "1") as (process, port),
        socket.create_connection(("127.0.0.1", port)) as begun,
    ):
        begun.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert ask(port, {"inputs": "good"})[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


SLOW = """
import sys, time
from transkimmer_jax import cli
from transkimmer_jax.inference.engine import SkimEngine

predict = SkimEngine.predict_tokenized

def slowly(self, examples, **options):
    if (examples.lengths == 5).any():  # not of what warms up
        print("computing", file=sys.stderr, flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            predict(self, examples, **options)
    return predict(self, examples, **options)

SkimEngine.predict_tokenized = slowly
cli.main(["serve", "--port", "0", "--drain-seconds", "1", "--model", sys.argv[1]])
"""


def test_who_is_not_answered_in_time_is_told(folders):
    """As by any other refusal, also in the middle of a body; the last line counts them, and the log has no traceback. The process does not
    wait for the batch that they stood in."""
    body = b'{"inputs": "a good film"}'
    request = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with (
        subprocess.Popen([sys.executable, "-c", SLOW, folders["classifier"]], stderr=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        port = int(process.stderr.readline().rpartition(":")[2])
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(4)]
        for connection in connections[1:]:
            connection.sendall(request)
        connections[0].sendall(request[:-1])
        assert process.stderr.readline() == "computing\n"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as last:
            last.request("GET", "/info")
            assert last.getresponse().status == 200  # so the server has the others, too
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for connection in connections:
            head, _, content = connection.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert json.loads(content) == {"error": "the server stops: ask again in a moment", "error_type": "Unhealthy"}
        assert process.wait(20) == 0 and time.monotonic() - began < 30, "half of what the batch takes"
        told = process.stderr.read()
        assert "Traceback" not in told and told.endswith("stopped; 4 requests were not answered within --drain-seconds\n"), told


def test_without_the_extra(folders):
    commands = [["serve", "--model", folders["classifier"]]]
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["starlette"]))
from transkimmer_jax import cli, console
print([console.run(cli.main, arguments) for arguments in {commands!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2]\n"
    cure = "which is not installed: pip install 'transkimmer_jax[serve]'"
    assert done.stderr.splitlines() == [f"error: serving needs starlette, {cure}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{0}", "{0}"], "with several models each needs a name"),
        (["--model", "a={0}", "a={0}"], "there is a model a already"),
        (["--model", "a/b={0}"], "a name is of letters"),
        (["--model", "{0}", "--api-key", ""], "the API key must be printable ASCII"),
        (["--model", "{0}", "--threshold-range", "1", "0"], "--threshold-range must be two finite numbers"),
        (["--model", "{0}", "--max-batch-tokens", "0"], "--max-batch-tokens must be positive"),
        (["--model", "{0}", "--port", "99999"], "99999 is not in the range 0<=x<=65535"),
        (["--model", "{0}", "--host", "no.such.host.invalid"], "cannot serve on no.such.host.invalid"),
    ],
)
def test_commands_that_cannot_be_meant(folders, arguments, message):
    """One line each, before a model is loaded."""
    with pytest.raises(ConfigError, match=message):
        cli.main(["serve", *(argument.format(folders["classifier"]) for argument in arguments)])
