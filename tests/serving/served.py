"""Small random models of every head, a server of them on a port of its own, and plain HTTP to talk to it."""

import contextlib
import dataclasses
import functools
import http.client
import json
import shutil
import socket
import threading

import jax
import numpy as np
from flax import nnx

from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.serving import app, server
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.models import Models, ServedModel

ARCH = Architecture(
    vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24,
    skim=SkimArchitecture(predictor_size=4, initial_bias=0.0), pooling=PoolingArchitecture("mean", False),
)  # fmt: skip
LABELS = ("a", "b", "c")
HEAD_OF = {
    "classifier": ("sequence_classification", 3, LABELS),
    "reranker": ("sequence_classification", 1, None),
    "embedder": ("sentence_embedding", 2, None),
    "tagger": ("token_classification", 3, ("O", "b", "c")),
    "reader": ("question_answering", 2, None),
}
TEXTS = ["the film is good", "a bad film", "good", "the film is bad and the b is good", "c", "bad films a b c the good"]


def random_model(head, labels, seed=10):
    """Weights of NumPy, which compiles nothing; margins spread around 0, so that every threshold skims."""
    rng = np.random.default_rng(seed)
    graph, shapes = nnx.split(HEADS[head].abstract(dataclasses.replace(ARCH, num_labels=labels)))

    def filled(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return np.ones(leaf.shape, np.float32)
        spread = 10.0 if "decision" in name and "kernel" in name else 0.3
        return rng.normal(0.0, spread, leaf.shape).astype(np.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(filled, shapes))


def save_models(folder, tokenizer_folder):
    """Folders by name, below `folder`."""
    tokenizer, made = load_tokenizer(tokenizer_folder), {}
    for name, (head, labels, names) in HEAD_OF.items():
        made[name] = str(folder / name)
        settings = Settings({"query": "the ", "plain": ""}) if name == "embedder" else None
        random_model(head, labels).save_pretrained(made[name], tokenizer=tokenizer, label_names=names, settings=settings)
    return made


def served_model(name, folder, **options):
    """An engine of that folder, as `serve` has it."""
    return ServedModel(name, str(folder), functools.partial(SkimEngine.from_pretrained, folder, **options))


@dataclasses.dataclass
class Served:
    """A server. port: on this machine. service: what its requests share."""

    port: int
    service: object

    @property
    def url(self):
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path, body=None, method=None, headers=None):
        """Status, headers and JSON, or bytes, of one request; a body that is no bytes is sent as JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, content, headers or {})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, response.headers, json.loads(data) if is_json else data

    def say(self, path, body):
        """JSON of a request that is answered."""
        status, _, content = self.ask(path, body)
        assert status == 200, content
        return content

    def send(self, data):
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(data)
        return connection


def edited(folder, source, **fields):
    """A copy of a model folder whose config has other fields; None leaves one out."""
    shutil.copytree(source, folder)
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextlib.contextmanager
def serving(models, limits=None, **options):
    """A server in a thread."""
    limits = limits or Limits()
    application = app.create_app(Models(models), limits, **options)
    bound, ready = server.bind("127.0.0.1", 0), threading.Event()
    running = server.create_server(application, limits, ready.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(60)
        yield Served(bound.getsockname()[1], application.state.service)
    finally:
        running.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
