"""Graphs with more weights than a message of protobuf holds: runtimes, int8, exports and engines take them as they take others."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
from cli.saved import save_model
from inference.skimmers import ARCH, make_examples, make_model

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference import onnx_runtime
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.onnx_runtime import padded
from transkimmer_jax.onnx import storage
from transkimmer_jax.onnx.export import export
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession

BATCH = padded(make_examples([12, 3, 9]), np.arange(3))
FILES = ["model.onnx", "model.onnx_data", "model_quantized.onnx", "model_quantized.onnx_data"]


@pytest.fixture
def messages_are_short(monkeypatch):
    """So that a tiny model's graph is a large one."""
    monkeypatch.setattr(storage, "MOST_BYTES", 5_000)


@pytest.mark.parametrize(
    ("session", "precision"), [(OnnxRuntimeSession, "float32"), (OnnxRuntimeSession, "int8"), (OpenVinoSession, "float32")]
)
def test_a_session(session, precision, request, tmp_path, monkeypatch):
    """The same answers, from a file that is gone by then; the graph is left as it was."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graph = build(make_model(dataclasses.replace(ARCH, hidden_size=96)))  # so wide that scales of int8 are no small constants
    before = {weight.name: weight.raw_data for weight in graph.graph.initializer}
    expected = session(graph, threads=1, precision=precision).run(*BATCH)
    request.getfixturevalue("messages_are_short")
    with storage.loadable(graph) as stored:
        assert isinstance(stored, str)
    answers = session(graph, threads=1, precision=precision).run(*BATCH)
    assert list(answers) == list(expected) == ["logits", "kept"]
    for name, values in answers.items():
        np.testing.assert_array_equal(values, expected[name])
    assert {weight.name: weight.raw_data for weight in graph.graph.initializer} == before and not list(tmp_path.iterdir())


def test_small_graphs_are_one_message():
    with storage.loadable(build(make_model())) as stored:
        assert isinstance(stored, bytes)


def test_an_export(messages_are_short, tokenizer_folder, tmp_path, monkeypatch):
    """Weights lie beside their graph; other clients, engines and the next export find them there."""
    model = save_model(tmp_path, tokenizer_folder)
    texts = ["good film", "the film is bad a b c"]
    for _ in range(2):
        export(model, model, precisions=("float32", "int8"))
        assert sorted(path.name for path in (model / "onnx").iterdir()) == ["SHA256SUMS", *FILES]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (model / "onnx").iterdir()), "others may read it"
    assert "logits" in {output.name for output in onnxruntime.InferenceSession(model / "onnx" / "model.onnx").get_outputs()}
    built = {precision: SkimEngine.from_pretrained(model, precision=precision, dense=False) for precision in ("float32", "int8")}
    monkeypatch.setattr(onnx_runtime, "build", None)
    for precision, expected in built.items():
        engine = SkimEngine.from_pretrained(model, precision=precision)
        np.testing.assert_array_equal(
            [answer.logits for answer in engine.predict(texts)], [answer.logits for answer in expected.predict(texts)]
        )
    content = bytearray((model / "onnx" / "model.onnx_data").read_bytes())
    content[len(content) // 2] ^= 64
    (model / "onnx" / "model.onnx_data").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx_data is not the file that was written .*: restore it, or delete its line"):
        SkimEngine.from_pretrained(model)
    (model / "onnx" / "model.onnx_data").write_bytes(b"of another exporter")
    with pytest.raises(CheckpointError, match=r"model\.onnx_data is not as this package wrote it, and would be deleted"):
        export(model, model)


def test_weights_are_counted_without_a_copy():
    graph = build(make_model())
    assert storage.is_large(graph) is False
    counted = sum(len(weight.raw_data) for weight in graph.graph.initializer)
    assert counted > 4 * ARCH.vocab_size * ARCH.hidden_size and sum(map(storage._size, graph.graph.initializer)) == counted
