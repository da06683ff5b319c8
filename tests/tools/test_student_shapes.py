"""tools/shapes.py: students of a budget before they are trained."""

import argparse

import numpy as np
import pytest
from flax import nnx

from tools import shapes
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
ARCH = Architecture(vocab_size=60, max_position_embeddings=24, **SIZES)


@pytest.fixture(scope="module")
def dense():
    return TranskimmerForSequenceClassification(ARCH, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 24, 64)
    ids = rng.integers(0, 60, lengths.sum()).astype(np.int32)
    zeros = np.zeros(len(lengths), np.int32)
    return TokenizedExamples(ids, np.zeros(len(ids), np.int8), np.concatenate([[0], lengths.cumsum()]), zeros, zeros.astype(bool))


def test_measure(dense, examples):
    """All shapes cost the budget, so the smaller ones keep more tokens; and each has a clock of every way and batch size."""
    options = {"ways": [("onnxruntime", "float32"), ("onnxruntime", "int8")], "batch_sizes": [1, 8], "timed": 8, "rounds": 1}
    entries = shapes.measure(dense, [(3, 32), (3, 16), (2, 32)], examples, budget=0.25, max_length=24, **options)
    assert [(entry["layers"], entry["neurons"]) for entry in entries] == [(3, 32), (3, 16), (2, 32)]
    assert [1 / entry["flops_vs_unpadded"] for entry in entries] == pytest.approx([0.25] * 3, rel=0.02)
    whole, narrow, shallow = (entry["kept_tokens"] for entry in entries)
    assert whole < narrow < 1 and whole < shallow < 1
    for entry in entries:
        assert {way: set(times) for way, times in entry["times_dense"].items()} == {
            "onnxruntime float32": {"1", "8"},
            "onnxruntime int8": {"1", "8"},
        }
        assert all(value > 0 for times in entry["times_dense"].values() for value in times.values())


def test_share_is_of_the_whole_dense_model(dense, examples):
    """Of a classifier's last layer position 0 alone is computed."""
    part = shapes.student(dense, 2, 32)
    nothing_skimmed = SkimEngine(part, runtime="onnx", max_length=24).predict_tokenized(examples, threshold=-1e9)
    assert 1 / 3 < 1 / nothing_skimmed.flops_vs_unpadded(part.arch) < 2 / 4


@pytest.mark.parametrize(("layers", "neurons"), [(5, 32), (4, 33), (0, 32)])
def test_a_shape_that_is_no_part_of_the_dense_model(dense, layers, neurons):
    with pytest.raises(ConfigError, match=f"^{layers}x{neurons} is no part of the dense model, which has 4x32$"):
        shapes.student(dense, layers, neurons)


def test_a_shape_that_costs_less_than_the_budget(dense, examples):
    options = {"ways": [], "batch_sizes": [], "timed": 8, "rounds": 1, "max_length": 24}
    with pytest.raises(ConfigError, match="^1x8 costs less than 0.25 with nothing skimmed"):
        shapes.measure(dense, [(1, 8)], examples, budget=0.25, **options)


def test_a_misspelt_shape():
    assert shapes.shape("3x1024") == (3, 1024)
    with pytest.raises(argparse.ArgumentTypeError, match="'3 x 4' is no LAYERSxNEURONS"):
        shapes.shape("3 x 4")
