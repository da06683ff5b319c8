"""Laws of the engine: answers are those of the masked evaluation, in the caller's order, whatever runtime computes and whatever ran
beside them; and what cannot be answered is one line that names the culprit."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH, is_decided, make_examples, make_model, masked
from models.quick import program

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError, InferenceError
from transkimmer_jax.inference import onnx_runtime
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.onnx.export import export
from transkimmer_jax.runtime_names import RUNTIMES

LAYERS = ARCH.num_hidden_layers
TOLERANCE = 1e-4
STREAM = make_examples(np.random.default_rng(0).integers(1, 41, 150), seed=6)


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture(scope="module")
def engine(runtime):
    """An engine that has seen texts like those that come."""
    engine = SkimEngine(make_model(), runtime=runtime, batch_tokens=160, depths=True)
    engine.calibrate(STREAM)
    return engine


@pytest.fixture(scope="module")
def expected():
    evaluated = masked(make_model(), STREAM, 0.0)
    assert is_decided(evaluated, 0.0)
    return evaluated


def assert_same(predictions, expected):
    for row, example in enumerate(expected):
        np.testing.assert_array_equal(predictions.depths[row], example.depth)
        np.testing.assert_array_equal(predictions.kept[:, row], [(example.depth > layer).sum() for layer in range(LAYERS)])
        np.testing.assert_allclose(predictions.logits[row], example.logits, atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, len(STREAM) - 1), min_size=1, max_size=40))
def test_batch_mates_and_order_do_not_matter(engine, expected, rows):
    assert_same(engine.predict_tokenized(STREAM.take(np.array(rows))), [expected[row] for row in rows])


@pytest.mark.parametrize("threshold", [-np.inf, -2.0, 0.0, 1.0, np.inf])
def test_thresholds(engine, threshold):
    """A run-time value, from one that keeps every token to one that keeps [CLS] alone."""
    expected = masked(make_model(), STREAM, threshold)
    assert is_decided(expected, threshold)
    assert_same(engine.predict_tokenized(STREAM, threshold=threshold), expected)
    shares = np.array([example.depth.mean() / LAYERS for example in expected])
    assert np.all(shares == 1) if threshold == -np.inf else np.all(shares <= 1)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 4}, {"batch_tokens": 41}, {"batch_tokens": 5000}], ids=str)
def test_batching_does_not_matter(runtime, expected, options):
    some = np.arange(0, len(STREAM), 3)
    engine = SkimEngine(make_model(), runtime=runtime, depths=True, **options)
    assert_same(engine.predict_tokenized(STREAM.take(some)), [expected[row] for row in some])


@pytest.mark.parametrize(
    ("options", "batches"), [({}, 3), ({"batch_size": 1000}, 3), ({"batch_size": 16}, 5), ({"threads": 3}, 1)], ids=str
)
def test_a_batch_has_so_many_tokens_a_thread(options, batches):
    """Of 78 texts of 38 tokens 26 are a batch for one thread of ONNX Runtime, however many texts a batch may have."""
    engine = SkimEngine(make_model(), runtime="onnx", **{"threads": 1, **options})
    engine.predict_tokenized(make_examples(np.full(78, 38), seed=7))
    assert engine.statistics.batches == batches


def test_a_batch_has_so_many_scores(monkeypatch, expected):
    """Of four heads; what is wider than that by itself goes alone."""
    monkeypatch.setattr(onnx_runtime, "GRAPH_SCORES", 4 * 2 * 38**2)
    engine = SkimEngine(make_model(), runtime="onnx", depths=True)
    assert_same(engine.predict_tokenized(STREAM), expected)
    before = engine.statistics.batches
    engine.predict_tokenized(make_examples([40, 40, *[38] * 6, *[19] * 8], seed=7))
    assert engine.statistics.batches == before + 2 + 3 + 1


def test_a_long_text_goes_apart_from_many_short_ones():
    """Attention would see all of them as wide as that one."""
    engine = SkimEngine(make_model(), runtime="onnx")
    engine.predict_tokenized(make_examples([1] * 39 + [40], seed=7))
    assert engine.statistics.batches == 2


def test_token_ids_of_any_integer_type(engine, expected):
    wide = {name: getattr(STREAM, name).astype(np.int64) for name in ("input_ids", "token_type_ids")}
    assert_same(engine.predict_tokenized(dataclasses.replace(STREAM, **wide)), expected)


def test_a_dense_model(runtime):
    """Keeps everything."""
    dense = make_model(dataclasses.replace(ARCH, skim=None))
    some = STREAM.take(np.arange(20))
    predictions = SkimEngine(dense, runtime=runtime, batch_tokens=160).predict_tokenized(some)
    np.testing.assert_array_equal(predictions.kept, np.tile(some.lengths, (LAYERS, 1)))
    batch = next(iter(EvaluationBatches(some, len(some), (40,), 0)))
    whole = program(dense)(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    np.testing.assert_allclose(predictions.logits[batch["index"]], whole.logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_flops_are_those_of_all_texts(together, monkeypatch):
    """However many wait to be counted, and whoever looks in between."""
    monkeypatch.setattr("transkimmer_jax.inference.predictions.COUNTED_TOGETHER", together)
    model = make_model()
    engine, expected = SkimEngine(model), SkimEngine(model).predict_tokenized(STREAM)
    for row in range(20):
        engine.predict_tokenized(STREAM.take(np.array([row])))
        assert row != 11 or engine.statistics.tokens == STREAM.lengths[:12].sum()
    spent, dense = expected.costs(ARCH)
    assert engine.statistics.flops == pytest.approx(spent[:20].sum())
    assert engine.statistics.dense_flops == pytest.approx(dense[:20].sum())
    assert engine.statistics.tokens == STREAM.lengths[:20].sum()


def test_single_texts_do_not_wait_for_their_flops(tokenizer_folder, monkeypatch):
    """They are added up when somebody looks, or for many texts at once."""
    added, costs = [], Predictions.costs
    monkeypatch.setattr(Predictions, "costs", lambda self, arch: added.append(len(self.lengths)) or costs(self, arch))
    engine = SkimEngine(make_model(dataclasses.replace(ARCH, vocab_size=60)), load_tokenizer(tokenizer_folder))
    for text in ("good film", "bad"):
        engine.predict([text], progress=False)
    assert added == []
    assert engine.statistics.examples == 2 and added == [2]


def test_statistics(runtime):
    engine = SkimEngine(make_model(), runtime=runtime, batch_tokens=160)
    engine.predict_tokenized(STREAM)
    engine.predict_tokenized(STREAM.take(np.arange(7)))
    assert engine.statistics.examples == len(STREAM) + 7
    assert engine.statistics.batches >= STREAM.lengths.sum() / 160


def test_logits_that_are_not_numbers(runtime):
    graph, params = nnx.split(make_model())
    params = jax.tree.map(lambda leaf: leaf * 1, params)
    params["classifier"]["kernel"][...] = params["classifier"]["kernel"][...] * np.nan
    engine = SkimEngine(nnx.merge(graph, params), runtime=runtime, batch_tokens=160)
    with pytest.raises(InferenceError, match="the logits of example 0 and 149 more are not finite"):
        engine.predict_tokenized(STREAM)
    with pytest.raises(InferenceError, match="the logits of example 0 are not finite"):
        engine.predict_tokenized(STREAM.take(np.array([3])))


def test_no_examples(engine):
    predictions = engine.predict_tokenized(make_examples([]))
    assert predictions.logits.shape == (0, 3) and predictions.kept.shape == (LAYERS, 0)


def test_too_long(engine):
    with pytest.raises(InferenceError, match="41 tokens, more than the engine's max_length of 40"):
        engine.predict_tokenized(make_examples([41]))


def test_post_softmax_is_refused(runtime):
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, attention_masking="post_softmax"))
    with pytest.raises(CheckpointError, match="cannot be compacted"):
        SkimEngine(make_model(arch), runtime=runtime)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runtime": "tensorflow"}, "runtime must be 'onnx' or 'jax', not 'tensorflow'"),
        ({"precision": "float8"}, "precision must be 'float32' or 'bfloat16' or 'int8', not 'float8'"),
        ({"provider": "tensorrt"}, "provider must be 'onnxruntime' or 'openvino', not 'tensorrt'"),
        ({"runtime": "jax", "precision": "int8"}, "jax computes in float32 or bfloat16, not in int8"),
        ({"runtime": "onnx", "precision": "bfloat16"}, "onnxruntime computes in float32 or int8, not in bfloat16"),
        ({"provider": "openvino", "precision": "int8"}, "openvino computes in float32 or bfloat16, not in int8"),
        ({"runtime": "jax", "provider": "openvino"}, "provider is of another runtime than 'jax'"),
        ({"runtime": "jax", "threads": 2}, "threads is of another runtime than 'jax'"),
        ({"runtime": "onnx", "devices": jax.local_devices()}, "devices is of another runtime than 'onnx'"),
    ],
)
def test_options_that_cannot_be_meant(options, says):
    with pytest.raises(ConfigError, match=says):
        SkimEngine(make_model(), **options)


def test_the_default_runtime():
    """Of a CPU the graph; compiled programs where JAX's devices are named."""
    model = make_model()
    assert SkimEngine(model).runtime.name == "onnx" and SkimEngine(model, devices=jax.local_devices()).runtime.name == "jax"


@pytest.mark.parametrize(
    ("options", "error"),
    [({"provider": "openvino"}, 1e-4), ({"precision": "int8"}, 0.3), ({"threads": 1, "batch_size": 7}, 1e-4)],
    ids=str,
)
def test_options_of_the_onnx_runtime(expected, options, error):
    """Other providers compute the same, and other precisions about the same."""
    logits = SkimEngine(make_model(), runtime="onnx", **options).predict_tokenized(STREAM).logits
    difference = np.abs(logits - np.stack([example.logits for example in expected])).max(axis=1)
    assert np.quantile(difference, 0.8) < error and np.isfinite(logits).all()


TEXTS = ["good film", "", "bad bad the film is bad", "a", "the films"]


@pytest.fixture(scope="module")
def folder(tokenizer_folder, tmp_path_factory):
    """A saved model of single texts, without a calibration."""
    folder = tmp_path_factory.mktemp("served") / "model"
    arch = dataclasses.replace(ARCH, vocab_size=60)
    make_model(arch).save_pretrained(
        folder,
        tokenizer=load_tokenizer(tokenizer_folder),
        label_names=("bad", "fair", "good"),
        extra_config={"task": {"name": "files", "max_length": 12, "text_columns": ["text"], "label_column": "label"}},
    )
    return folder


@pytest.fixture(scope="module")
def served(folder, runtime):
    return SkimEngine.from_pretrained(folder, runtime=runtime)


def test_texts(served, folder):
    """Answers in order, with what the model's own call gives."""
    model = TranskimmerForSequenceClassification.from_pretrained(folder)
    encoded = load_tokenizer(folder)(TEXTS, padding=True, return_tensors="np")
    whole = program(model)(encoded["input_ids"], encoded["attention_mask"])
    answers = served.predict(TEXTS, progress=False)
    for row, answer in enumerate(answers):
        length = int(encoded["attention_mask"][row].sum())
        np.testing.assert_allclose(answer.logits, whole.logits[row], atol=TOLERANCE, rtol=0)
        label = ("bad", "fair", "good")[int(np.argmax(whole.logits[row]))]
        assert answer.label == label == max(answer.probabilities, key=answer.probabilities.get)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert answer.tokens == length and answer.kept == pytest.approx(float(whole.keep[:, row, :length].mean()), abs=1e-6)
        assert not answer.truncated
    assert [answer.tokens for answer in answers] == [4, 2, 8, 3, 5]


def test_a_stream_of_texts_in_windows(served):
    texts = [TEXTS[number % 5] for number in range(23)]
    whole = served.predict(texts, progress=False)
    for window in (1, 4, 100):
        streamed = list(served.predict_stream(iter(texts), window=window))
        assert [answer.label for answer in streamed] == [answer.label for answer in whole]
        assert [answer.tokens for answer in streamed] == [answer.tokens for answer in whole]


def test_no_texts(served):
    assert served.predict([]) == [] and list(served.predict_stream([])) == []


def test_long_texts_are_cut_and_counted(served):
    before = served.statistics.truncated
    answers = served.predict(["good " * 50, "good " * 10, "good"], progress=False)
    assert [(answer.tokens, answer.truncated) for answer in answers] == [(12, True), (12, False), (3, False)]
    assert served.statistics.truncated == before + 1


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([("a", "b")], "text 0 is a pair, expected single texts"),
        (["a", 3], "text 1 is not a string or a pair of strings but 3"),
        (["a", None], "text 1 is not a string or a pair of strings but None"),
        (["a", ("a", "b", "c")], "text 1 has 3 parts"),
    ],
)
def test_texts_that_are_none(served, texts, says):
    with pytest.raises(DataError, match=says) as error:
        served.predict(texts)
    assert "\n" not in str(error.value)


def test_pairs(folder, runtime):
    """Either, where nobody has said which; but not both at once."""
    engine = SkimEngine.from_pretrained(folder, runtime=runtime, pairs=None)
    single, pair = engine.predict(["good"], progress=False)[0], engine.predict([("good", "bad")], progress=False)[0]
    assert (single.tokens, pair.tokens) == (3, 5)
    with pytest.raises(DataError, match="text 1 is a pair, expected single texts"):
        engine.predict(["good", ("good", "bad")])


def test_a_folder_without_a_calibration_gets_one(folder, served, runtime, tmp_path):
    assert not (folder / "skim_calibration.json").exists()
    calibration = served.calibrate(TEXTS * 10)
    calibration.save(tmp_path)
    saved = json.loads((tmp_path / "skim_calibration.json").read_text())
    assert len(saved["lengths"]) == 50 and sorted(set(saved["lengths"])) == [2, 3, 4, 5, 8]
    assert [answer.label for answer in served.predict(TEXTS, progress=False)] == [
        answer.label
        for answer in SkimEngine.from_pretrained(folder, runtime=runtime, calibration=calibration).predict(TEXTS, progress=False)
    ]


def test_a_bare_encoder_answers_nothing_at_random(folder, tmp_path):
    """It is refused, but as an embedder; fresh predictors keep every token and do no harm."""
    model = TranskimmerForSequenceClassification.from_pretrained(folder, dense=True)
    model.save_pretrained(tmp_path / "dense", tokenizer=load_tokenizer(folder), label_names=("bad", "fair", "good"))
    fresh, dense = (SkimEngine.from_pretrained(tmp_path / "dense", dense=dense).predict(TEXTS) for dense in (False, True))
    np.testing.assert_allclose([one.logits for one in fresh], [one.logits for one in dense], atol=1e-5, rtol=0)
    bare = shutil.copytree(tmp_path / "dense", tmp_path / "bare")
    tensors = safetensors.numpy.load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    safetensors.numpy.save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    (bare / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError) as error:
        SkimEngine.from_pretrained(bare)
    assert str(error.value) == (
        f"{bare} has no trained classifier, and can neither answer nor teach: train it first; a bare encoder becomes an embedder by "
        "`transkimmer convert --pooling mean`, or in Python by pooling='mean'"
    )
    with pytest.raises(CheckpointError, match="has no trained classifier"):
        export(bare, tmp_path / "graph")
    assert SkimEngine.from_pretrained(bare, pooling="mean").encode(TEXTS).shape == (5, ARCH.hidden_size)


def test_a_regression_model(tokenizer_folder, runtime, tmp_path):
    arch = dataclasses.replace(ARCH, vocab_size=60, num_labels=1)
    make_model(arch).save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder))
    answer = SkimEngine.from_pretrained(tmp_path / "model", runtime=runtime).predict(["good film"], progress=False)[0]
    assert answer.probabilities is None and answer.label == float(answer.logits[0])
