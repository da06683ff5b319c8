"""Contenders of the benchmark: their turns, and other libraries' answers."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from inference.skimmers import ARCH, make_examples

from tools import contenders, libraries
from transkimmer_jax.evaluation import clock
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification

# Three layers of little width; initial weights are small enough that int8 rounds them finely.
DENSE = dataclasses.replace(ARCH, initializer_range=0.02, skim=None)


def test_contenders_take_turns_and_first_round_is_not_counted(monkeypatch):
    now, called, shown = [0.0], [], []

    def run(name, seconds):
        def run(number):
            called.append((name, number))
            now[0] += seconds + (number == 0)

        return run

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    rounds = clock.interleaved({"a": run("a", 0.5), "b": run("b", 0.25)}, range(4), lambda seconds: shown.append(len(seconds["b"])))
    assert rounds == {"a": [0.5] * 3, "b": [0.25] * 3} and shown == [1, 2, 3]
    assert called == [(name, number) for number in range(4) for name in "ab"]


@pytest.mark.parametrize(
    ("fields", "patterns"),
    [
        ({}, ["dense:*"]),
        ({"backbone": "roberta", "position_offset": 2, "type_vocab_size": 1}, ["dense:*:float32"]),
        ({"backbone": "electra", "embedding_size": 24}, ["dense:*:float32"]),
        ({"backbone": "distilbert", "type_vocab_size": 0}, ["dense:*:float32"]),
        ({"backbone": "mpnet", "position_offset": 2, "type_vocab_size": 0}, ["dense:*:float32"]),
        ({"backbone": "deberta-v2", "position_buckets": 8, "max_relative_positions": 40, "type_vocab_size": 0}, ["dense:*:float32"]),
        ({"backbone": "modernbert", "type_vocab_size": 0, "local_layers": (1,), "local_window": 3}, ["dense:*:float32"]),
    ],
    ids=["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"],
)
def test_libraries_give_logits_of_dense_model(fields, patterns, quickly_built_programs):
    pytest.importorskip("torch")
    model = TranskimmerForSequenceClassification(dataclasses.replace(DENSE, **fields), rngs=nnx.Rngs(0))
    examples = make_examples([3, 24, 7, 1, 12, 24, 5, 5, 20, 9])
    # transformers gives RoBERTa's padding a position of its own wherever it stands, and other models have one token type.
    ids = np.where(examples.input_ids == 1, 2, examples.input_ids)
    examples = dataclasses.replace(examples, input_ids=ids, token_type_ids=np.zeros_like(examples.token_type_ids))
    expected = SkimEngine(model, max_length=24).predict_tokenized(examples).logits
    library = libraries.DenseModel(model)
    runnable = [contender for contender in contenders.chosen(patterns, True)[0] if contender.precision != "bfloat16"]
    assert {"dense:torch:float32", "dense:onnxruntime:float32"} <= set(map(str, runnable))
    for contender in runnable:
        forward = library.forward(contender.runtime, contender.precision, examples)
        tolerance = 1e-5 if contender.precision == "float32" else 0.15 * np.abs(expected).max()
        for batch_size in (1, 4):
            logits = library.run(forward, examples, batch_size)()
            np.testing.assert_allclose(logits, expected, atol=tolerance, err_msg=str(contender))
