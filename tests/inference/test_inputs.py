"""Laws of the Python API's arguments: what cannot be meant is one line that names the argument; what can be read is read."""

import dataclasses
import gc
import os
import re
import select
import warnings

import jax
import numpy as np
import pytest
from inference.skimmers import ARCH, make_examples, make_model

from transkimmer_jax import forking
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError, DataError, InferenceError
from transkimmer_jax.inference import inputs
from transkimmer_jax.inference.answers import Answer
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.arguments import require_token_arrays

EXAMPLES = make_examples([3, 5])


@pytest.mark.parametrize("runtime", ["onnx", "jax"])
def test_one_token_type_says_nothing(runtime):
    """A RoBERTa whose tokenizer tells the texts of a pair apart, as BERT's does: training does not mind, so answers are given too."""
    model = make_model(dataclasses.replace(ARCH, backbone="roberta", position_offset=2, type_vocab_size=1))
    untyped = dataclasses.replace(EXAMPLES, token_type_ids=np.zeros_like(EXAMPLES.token_type_ids))
    assert EXAMPLES.token_type_ids.max() == 1
    engine = SkimEngine(model, runtime=runtime, batch_tokens=40)
    logits = [engine.predict_tokenized(examples).logits for examples in (EXAMPLES, untyped)]
    np.testing.assert_array_equal(*logits)
    require_token_arrays(model.arch, EXAMPLES.input_ids[None], None, EXAMPLES.token_type_ids[None])


@pytest.mark.parametrize("runtime", ["jax", "onnx"])
def test_labels_are_not_read(runtime, quickly_built_programs):
    """Whoever has tokens alone need not make up labels."""
    engine = SkimEngine(make_model(), runtime=runtime, batch_tokens=40)
    expected = engine.predict_tokenized(EXAMPLES).logits
    for count in (0, 1, 3):
        otherwise = dataclasses.replace(EXAMPLES, labels=np.zeros(count, np.int32))
        assert len(otherwise) == 2
        np.testing.assert_array_equal(engine.predict_tokenized(otherwise).logits, expected)


def test_thresholds_of_a_dense_model():
    """They would change nothing, in silence. An engine's own may be handed back to it."""
    dense = make_model(dataclasses.replace(ARCH, skim=None))
    says = "threshold={} is of skimming models, and this model is a dense one: leave it out"
    assert complaint(ConfigError, SkimEngine, dense, threshold=0.0) == says.format(0.0)
    engine = SkimEngine(dense)
    for method in ("predict", "predict_stream", "calibrate"):
        assert complaint(ConfigError, getattr(engine, method), ["good"], threshold=0.5) == says.format(0.5)
    assert complaint(ConfigError, engine.predict_tokenized, EXAMPLES, threshold=0.5) == says.format(0.5)
    engine.predict_tokenized(EXAMPLES, threshold=engine.threshold)


@pytest.fixture(scope="module")
def engine(tokenizer_folder):
    """An engine that has compiled nothing: every refusal here comes before a program."""
    return SkimEngine(make_model(dataclasses.replace(ARCH, vocab_size=60)), load_tokenizer(tokenizer_folder), batch_tokens=160)


def complaint(kind, call, *arguments, **options):
    """The one line."""
    with pytest.raises(kind) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("good", "texts is one text, 'good', and would be read letter by letter: put it in a list"),
        (10**6 * "good", f"texts is one text, '{15 * 'good'}'[:57]... "),
        (b"good", "texts is one text, b'good', and would be read letter by letter: put it in a list"),
        (None, "texts is None: give a list of strings, or of pairs of strings"),
        (3, "texts is 3: give a list of strings, or of pairs of strings"),
        ({"text": "good"}, "texts is a dict: give a list of strings, or of pairs of strings"),
        ({"good"}, "texts is a set: give a list of strings, or of pairs of strings"),
        ((text for text in ["good"]), "texts is a generator, which can be read only once: give a list, or call predict_stream"),
        (map(str, [1]), "texts is a map, which can be read only once: give a list, or call predict_stream"),
        (np.array("good"), "texts is an array of 0 dimensions: give [N] texts, or [N, 2] for pairs"),
        (np.zeros((1, 2, 2), str), "texts is an array of 3 dimensions: give [N] texts, or [N, 2] for pairs"),
        (np.array([b"good"]), "text 0 is not a string or a pair of strings but b'good'"),
        (np.array([1.5]), "text 0 is not a string or a pair of strings but 1.5"),
        (["a", 3], "text 1 is not a string or a pair of strings but 3"),
        (["a", None], "text 1 is not a string or a pair of strings but None"),
        (["a", float("nan")], "text 1 is not a string or a pair of strings but nan"),
        ([{"text": "a\nb"}], r"text 0 is not a string or a pair of strings but {'text': 'a\nb'}"),
        ([("a", 3)], "text 0 is not a string or a pair of strings but ('a', 3)"),
        ([("a",)], "text 0 has 1 parts, expected a string or a pair of strings"),
        ([("a", "b", "c")], "text 0 has 3 parts, expected a string or a pair of strings"),
        ([()], "text 0 has 0 parts, expected a string or a pair of strings"),
        (["a", ("a", "b")], "text 1 is a pair, expected single texts"),
        ([("a", "b"), "a"], "text 1 is a single text, expected pairs"),
        (["a", "b \ud83d"], "text 1 is no valid Unicode (surrogates not allowed at character 2): correct it"),
        ([("a", "\udc00")], "text 0 is no valid Unicode (surrogates not allowed at character 0): correct it"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_that_are_none(engine, texts, says):
    said = complaint(DataError, engine.predict, texts)
    assert said == says or ("[:57]..." in says and said.startswith("texts is one text, 'goodgood"))


@pytest.mark.parametrize(
    "texts", ["good", b"good", None, 3, {"text": "good"}, {"good"}, np.array("good")], ids=lambda value: type(value).__name__
)
def test_streams_that_are_none(engine, texts):
    """Said at once, not at the first answer."""
    assert complaint(DataError, engine.predict_stream, texts).startswith("texts is ")


def test_a_text_of_a_stream_is_numbered_from_its_beginning(engine, monkeypatch):
    monkeypatch.setattr("transkimmer_jax.inference.engine.classified", lambda predictions, truncated, *labels: list(truncated))
    monkeypatch.setattr(SkimEngine, "predict_tokenized", lambda self, examples, **options: examples)
    stream = engine.predict_stream(iter(["a", "b", "c", 4]), window=2)
    assert [next(stream), next(stream)] == [False, False]
    assert complaint(DataError, next, stream) == "text 3 is not a string or a pair of strings but 4"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a", "b", ("c", "d")], "text 2 is a pair, expected single texts"),
        ([("a", "b"), ("c", "d"), "e"], "text 2 is a single text, expected pairs"),
    ],
)
def test_texts_of_a_stream_are_of_one_kind(engine, monkeypatch, texts, says):
    """However they are divided into windows."""
    monkeypatch.setattr("transkimmer_jax.inference.engine.classified", lambda predictions, truncated, *labels: list(truncated))
    monkeypatch.setattr(SkimEngine, "predict_tokenized", lambda self, examples, **options: examples)
    stream = engine.predict_stream(texts, window=1)
    assert [next(stream), next(stream)] == [False, False]
    assert complaint(DataError, next, stream) == says


def test_texts_in_other_containers():
    """Arrays, tuples and columns are lists; a row of an array is a pair."""

    class Column:
        """As pandas and datasets have them: a length, and values in an order."""

        def __len__(self):
            return 2

        def __iter__(self):
            return iter(["good", "bad"])

    objects = np.empty(2, object)
    objects[:] = ["good", "bad"]
    for texts in (["good", "bad"], ("good", "bad"), np.array(["good", "bad"]), objects, Column()):
        singles, seconds = inputs.checked_texts(inputs.checked_sequence(texts), None)
        assert singles == ["good", "bad"] and seconds is None and all(type(text) is str for text in singles)
    for pairs in ([("a", "b"), ["c", "d"]], np.array([["a", "b"], ["c", "d"]]), [np.array(["a", "b"]), ("c", "d")]):
        assert inputs.checked_texts(inputs.checked_sequence(pairs), None) == (["a", "c"], ["b", "d"])
    assert inputs.checked_texts([], None) == ([], None) and inputs.checked_texts([], True) == ([], [])


def test_nothing_to_answer(engine):
    for texts in ([], (), np.array([], str)):
        assert engine.predict(texts) == [] and list(engine.predict_stream(texts)) == []
        predictions, truncated = engine.predict_texts(texts)
        assert len(engine.tokenize(texts)) == len(predictions.lengths) == len(truncated) == 0


@pytest.mark.parametrize(
    "threshold", ["0.5", float("nan"), True, np.nan, [0.5], np.array([0.5]), 1j, 10**400], ids=lambda value: type(value).__name__
)
def test_thresholds_that_are_none(engine, threshold):
    says = f"threshold must be a number, not {inputs.shown(threshold)}"
    for call in (
        lambda: engine.predict(["good"], threshold=threshold),
        lambda: engine.predict([], threshold=threshold),
        lambda: engine.predict_stream(["good"], threshold=threshold),
        lambda: engine.predict_tokenized(EXAMPLES, threshold=threshold),
        lambda: engine.calibrate(["good"], threshold=threshold),
        lambda: SkimEngine(make_model(), threshold=threshold),
    ):
        assert complaint(ConfigError, call) == says


def test_thresholds():
    for threshold in (1, 1.0, np.float32(1), np.int64(1), np.array(1.0), jax.numpy.float32(1)):
        assert inputs.checked_threshold(threshold, 0.0) == 1.0
    assert inputs.checked_threshold(None, 0.25) == 0.25 and inputs.checked_threshold(-np.inf, 0.0) == -np.inf
    assert inputs.checked_threshold(1e300, 0.0) == np.inf and inputs.checked_threshold(-1e39, 0.0) == -np.inf, "beyond a float32"


@pytest.mark.parametrize("window", [0, -1, 2.5, "4", None, True], ids=lambda value: type(value).__name__)
def test_windows_that_are_none(engine, window):
    said = complaint(ConfigError, engine.predict_stream, ["good"], window=window)
    assert said == f"window must be a whole number of at least 1, not {window!r}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_length": -3}, "max_length must be a whole number of at least 3, not -3"),
        ({"max_length": 0}, "max_length must be a whole number of at least 3, not 0"),
        ({"max_length": 1}, "max_length must be a whole number of at least 3, not 1"),
        ({"max_length": 12.0}, "max_length must be a whole number of at least 3, not 12.0"),
        ({"max_length": "12"}, "max_length must be a whole number of at least 3, not '12'"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number of at least 1, not 0"),
        ({"batch_tokens": -5}, "batch_tokens must be a whole number of at least 1, not -5"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, not True"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 4, "batch_tokens": 100}, "batch_tokens=100 and batch_size=4 both say how large a batch is: give one of them"),
        ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
        ({"precision": np.float32}, f"precision must be 'float32' or 'bfloat16' or 'int8', not {np.float32!r}"),
        ({"runtime": 3}, "runtime must be 'onnx' or 'jax', not 3"),
        ({"label_names": ["a", "b"]}, "label_names must be 3 different strings, one for each class of the model, not ('a', 'b')"),
        ({"label_names": ["a", "b", "b"]}, "label_names must be 3 different strings, one for each class of the model, not ('a', 'b', 'b')"),
        ({"label_names": "abc"}, "label_names must be a list of strings, not 'abc'"),
    ],
    ids=str,
)
def test_engines_that_are_none(options, says):
    assert complaint(ConfigError, SkimEngine, make_model(), **options) == says


def test_the_name_of_a_value_makes_no_class_of_it():
    model = make_model(dataclasses.replace(ARCH, num_labels=1))
    engine = SkimEngine(model, label_names=["relevance"])
    assert engine.label_texts == ("relevance",) and engine.label_names is None


def test_answers_are_compared(engine):
    logits = np.zeros(2, np.float32)
    answer = Answer("good", logits, {"good": 0.5, "bad": 0.5}, 3, 1.0, False)
    assert answer == dataclasses.replace(answer, logits=logits.copy())
    assert answer != dataclasses.replace(answer, probabilities={"good": 0.6, "bad": 0.4})


def test_models_that_are_none():
    says = "model must be a loaded model, not 'runs/model': SkimEngine.from_pretrained loads a folder"
    assert complaint(ConfigError, SkimEngine, "runs/model") == says


def test_samples_that_are_none(engine):
    says = "texts is empty: a calibration needs at least one text, better a few hundred"
    for nothing in ([], (), np.array([], str), make_examples([])):
        assert complaint(DataError, engine.calibrate, nothing) == says
    assert complaint(DataError, engine.calibrate, "good").startswith("texts is one text, 'good'")
    assert complaint(DataError, engine.calibrate, iter(["good"])).startswith("texts is a list_iterator, which")


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([], "lengths must be a list of numbers of tokens, or None for any, not []"),
        ("12", "lengths must be a list of numbers of tokens, or None for any, not '12'"),
        (12, "lengths must be a list of numbers of tokens, or None for any, not 12"),
        ([4, 0], "lengths[1] must be a whole number of at least 1, not 0"),
        ([4.5], "lengths[0] must be a whole number of at least 1, not 4.5"),
        ([4, 41], "lengths has 41 tokens, more than the engine's max_length of 40"),
    ],
    ids=str,
)
def test_lengths_that_are_none(engine, lengths, says):
    assert complaint(ConfigError, engine.warm_up, lengths) == says


IDS, OFFSETS = EXAMPLES.input_ids, EXAMPLES.offsets


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_ids": IDS + 60}, "examples.input_ids holds [0-9]+, outside of the model's 0 to 59: take the model's own tokenizer"),
        ({"input_ids": IDS - 60}, "examples.input_ids holds -[0-9]+, outside of the model's 0 to 59: take the model's own tokenizer"),
        ({"input_ids": IDS.astype(float)}, "examples.input_ids must be a one-dimensional array of integers, not float64 of shape (8,)"),
        ({"input_ids": IDS[None]}, "examples.input_ids must be a one-dimensional array of integers, not int32 of shape (1, 8)"),
        ({"input_ids": IDS[:-1]}, "examples.token_type_ids has 8 entries for 7 input_ids: give one for each"),
        ({"token_type_ids": 0 * IDS + 2}, "examples.token_type_ids holds 2, outside of the model's 0 to 1: take the model's own tokenizer"),
        ({"token_type_ids": None}, "examples.token_type_ids must be a one-dimensional array of integers, not object of shape ()"),
        ({"offsets": OFFSETS[:-1]}, "examples.offsets must go from 0 to the 8 of input_ids, and is from 0 to 3"),
        ({"offsets": OFFSETS + 1}, "examples.offsets must go from 0 to the 8 of input_ids, and is from 1 to 9"),
        ({"offsets": OFFSETS[:0]}, "examples.offsets must go from 0 to the 8 of input_ids, and is empty"),
        ({"offsets": np.array([0, 6, 3, 8])}, "examples.offsets gives example 1 -3 tokens: it needs at least one"),
        ({"offsets": np.array([0, 3, 3, 8])}, "examples.offsets gives example 1 0 tokens: it needs at least one"),
        ({"offsets": OFFSETS.astype(float)}, "examples.offsets must be a one-dimensional array of integers, not float64 of shape (3,)"),
    ],
    ids=str,
)
def test_tokens_that_are_none(engine, changes, says):
    said = complaint(DataError, engine.predict_tokenized, dataclasses.replace(EXAMPLES, **changes))
    assert said == says or ("[0-9]" in says and re.fullmatch(says, said))


def test_tokens_in_lists(engine):
    """They are taken as arrays are."""
    listed = {name: getattr(EXAMPLES, name).tolist() for name in ("input_ids", "token_type_ids", "offsets")}
    answers = [engine.predict_tokenized(examples).logits for examples in (EXAMPLES, dataclasses.replace(EXAMPLES, **listed))]
    np.testing.assert_array_equal(*answers)


def test_examples_that_are_none(engine):
    says = "examples is a list: give TokenizedExamples, or call predict with texts"
    assert complaint(DataError, engine.predict_tokenized, ["good"]) == says
    assert complaint(DataError, engine.predict_tokenized, None).startswith("examples is None: ")
    with pytest.raises(InferenceError, match="an example has 41 tokens, more than the engine's max_length of 40"):
        engine.predict_tokenized(make_examples([41]))


def test_no_tokenizer():
    assert complaint(InferenceError, SkimEngine(make_model()).predict, ["good"]).startswith("this engine has no tokenizer")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_is_told_to_spawn(engine):
    """It would hang for ever: JAX's threads stay behind. The child answers through a pipe, and within seconds."""

    def said_by_child(call):
        reading, writing = os.pipe()
        # What other tests left is not collected in the child: runtimes wait there for threads of theirs that were not forked.
        gc.collect()
        gc.freeze()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of what is tested here
            child = os.fork()
        if child == 0:
            try:
                call()
                os.write(writing, b"nothing")
            except InferenceError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        gc.unfreeze()
        try:
            assert select.select([reading], [], [], 20)[0], "the child hangs"
            return os.read(reading, 10_000).decode()
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)

    model = make_model()
    for call in (
        lambda: engine.predict(["good"]),
        lambda: list(engine.predict_stream(["good"])),
        lambda: engine.predict_tokenized(EXAMPLES),
        lambda: engine.calibrate(["good"]),
        lambda: engine.warm_up([4]),
        lambda: SkimEngine(model),
        lambda: SkimEngine.from_pretrained("anywhere"),
        lambda: model(EXAMPLES.input_ids[None]),
    ):
        assert "multiprocessing.get_context('spawn')" in said_by_child(call)


def test_a_process_that_was_forked_before_anything_was_computed_may_compute(monkeypatch):
    monkeypatch.setattr(forking, "_computing", None)
    forking.require_own_runtime()
    assert forking._computing == os.getpid()
    forking.require_own_runtime()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(InferenceError):
        forking.require_own_runtime()
