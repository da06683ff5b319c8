"""The engine of /embed_all, which loads when it is first asked for: once, and at nobody else's cost."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from serving.served import TEXTS, random_model, served_model, serving

from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.serving.models import ServedModel

MANY = 40  # more than the event loop has threads of its own


class Loader:
    """Makes a model's engines, those of tokens when the test releases them."""

    def __init__(self, folder, failure=None):
        self.folder, self.failure, self.release, self.loads = folder, failure, threading.Event(), 0

    def make(self, **options):
        if options:
            self.loads += 1
            assert self.release.wait(60)
            if self.failure is not None:
                raise self.failure
        return SkimEngine.from_pretrained(self.folder, **options)

    def asked(self, server, count):
        """Threads that ask for tokens, all of which wait, and the statuses and answers that they are to get."""
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(server.ask("/embed_all", {"inputs": "good"})[::2])) for _ in range(count)]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.service.in_flight == count)
        return threads, answers


def wait_for(condition):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30
        time.sleep(0.01)


def test_others_are_answered_meanwhile(folders, models):
    """Also those that need a thread of the event loop; it loads once for all who wait."""
    loader = Loader(folders["embedder"])
    with serving([ServedModel("embedder", loader.folder, loader.make), models["reader"]]) as server:
        threads, answers = loader.asked(server, MANY)
        try:
            assert server.say("/answer", {"inputs": {"question": "bad film", "context": TEXTS[3]}})["answer"]
            assert answers == []
        finally:
            loader.release.set()
        for thread in threads:
            thread.join(60)
    assert loader.loads == 1 and len(answers) == MANY
    assert all(status == 200 and vectors == answers[0][1] for status, vectors in answers)


def test_who_leaves_is_not_waited_for(folders):
    """The engine loads on, for others."""
    loader = Loader(folders["embedder"])
    body = json.dumps({"inputs": "good"}).encode()
    with serving([ServedModel("embedder", loader.folder, loader.make)]) as server:
        try:
            with server.send(b"POST /embed_all HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body):
                wait_for(lambda: server.service.in_flight == 1)
            wait_for(lambda: server.service.in_flight == 0)
        finally:
            loader.release.set()
        assert len(server.say("/embed_all", {"inputs": "good"})[0]) == 3
    assert loader.loads == 1


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (CheckpointError("the weights are gone"), "the weights are gone"),
        (MemoryError(), "the engine of 'embedder' for tokens did not load: the server's log says why"),
    ],
    ids=["told", "defect"],
)
def test_a_failure_stays(folders, caplog, failure, told):
    """Nobody has the model read again and again."""
    loader = Loader(folders["embedder"], failure)
    with serving([ServedModel("embedder", loader.folder, loader.make)]) as server:
        threads, answers = loader.asked(server, 3)
        loader.release.set()
        for thread in threads:
            thread.join(60)
        answers.append(server.ask("/embed_all", {"inputs": "good"})[::2])
        assert server.ask("/embed", {"inputs": "good"})[0] == 200
    assert loader.loads == 1 and answers == [(424, {"error": told, "error_type": "Backend"})] * 4
    assert caplog.text.count("MemoryError") == isinstance(failure, MemoryError)


def test_a_folder_that_holds_another_model_by_now(folders, tokenizer_folder, tmp_path):
    """Both routes would answer from different weights, so the second one refuses."""
    folder = str(tmp_path / "embedder")
    shutil.copytree(folders["embedder"], folder)
    with serving([served_model("embedder", folder)]) as server:
        before = server.say("/embed", {"inputs": "good"})
        random_model("sentence_embedding", 2, seed=11).save_pretrained(folder, tokenizer=load_tokenizer(tokenizer_folder))
        assert server.say("/embed", {"inputs": "good"}) == before
        status, _, content = server.ask("/embed_all", {"inputs": "good"})
    told = f"{folder} has changed since 'embedder' was loaded: restart the server"
    assert (status, content) == (424, {"error": told, "error_type": "Backend"})


CODE = """
import sys, time
from transkimmer_jax import cli
from transkimmer_jax.inference.engine import SkimEngine

load = SkimEngine.from_pretrained

def slowly(folder, **options):
    if "token_embeddings" in options:
        print("loading", file=sys.stderr, flush=True)
        time.sleep(60)
    return load(folder, **options)

SkimEngine.from_pretrained = slowly
cli.main(["serve", "--port", "0", "--drain-seconds", "1", "--model", sys.argv[1]])
"""


def test_a_signal_does_not_wait_for_it(folders):
    """Longer than a drain takes."""
    with subprocess.Popen([sys.executable, "-c", CODE, folders["embedder"]], stderr=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stderr.readline().rpartition(":")[2])
            body = json.dumps({"inputs": "good"}).encode()
            request = b"POST /embed_all HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(request)
                assert process.stderr.readline() == "loading\n"
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        finally:
            process.kill()
