"""The benchmark measures what it says, refuses what cannot be meant, and runs where only jax, flax and numpy are installed."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from cli.saved import save_model, save_prompted
from flax import nnx
from inference.skimmers import make_examples
from training import quick, runs

from tools import contenders, libraries, measurement, references, workloads
from tools.__main__ import main as tools_main
from tools.contenders import Contender
from tools.measurement import measure
from transkimmer_jax import console
from transkimmer_jax.data import sources
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation import clock
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS

ARCH = Architecture(
    vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
    skim=SkimArchitecture(predictor_size=8),
)  # fmt: skip
SYNTHETIC = [
    "benchmark", "--synthetic", "--hidden-size", "32", "--layers", "3", "--vocab-size", "100", "--length", "24", "--repeats", "1",
]  # fmt: skip
FIELDS = {
    "contenders", "flops_vs_padded", "flops_vs_unpadded", "max_logit_difference", "decisions_flipped", "batch_size", "length", "device",
    "examples", "timed", "tokenizing_seconds", "command", "seed", "left_out",
}  # fmt: skip
OURS = ["packed:onnxruntime:float32", "compacted:onnxruntime:float32"]


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.mark.parametrize("shares", [[0.9, 0.5, 0.2], [1.0, 1.0, 0.1], [0.3, 0.3, 0.3], None])
def test_layers_keep_what_was_asked_for(shares):
    workload = workloads.synthetic(ARCH, shares, batch_size=16, length=40)
    engine = SkimEngine(workload.model, batch_size=16, max_length=40)
    predictions = engine.predict_tokenized(workload.examples)
    kept = predictions.kept.sum(axis=1) / predictions.lengths.sum()
    # The bias was set on other texts: a share of 640 tokens of which those of one text go together.
    np.testing.assert_allclose(kept, shares or [1.0] * 3, atol=0.12)
    if shares != [0.3, 0.3, 0.3]:
        assert (np.diff(kept) <= 0).all() and ((np.std(predictions.kept / predictions.lengths, axis=1) > 0) == (kept < 1)).all()


def test_a_stream_of_a_stated_length(tmp_path):
    tools_main([*SYNTHETIC, "--batch-size", "4", "--examples", "11", "--contenders", *OURS, "--json", str(tmp_path / "record.json")])
    (record,) = json.loads((tmp_path / "record.json").read_text())
    assert (record["examples"], record["timed"]) == (11, 5) and "--examples 11" in record["command"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_come_in_calls(monkeypatch, tmp_path, batch_size):
    """All in one; alone, each in one of its own. Answers are those of all, times those of the first few."""
    calls = []
    original = SkimEngine.predict_tokenized

    def watched(self, examples, **options):
        calls.append(len(examples))
        return original(self, examples, **options)

    monkeypatch.setattr(SkimEngine, "predict_tokenized", watched)
    file = tmp_path / "record.json"
    arguments = ["--batch-size", str(batch_size), "--examples", "11", "--timed", "5", "--contenders", *OURS, "--json", str(file)]
    tools_main([*SYNTHETIC, *arguments])
    (record,) = json.loads(file.read_text())
    assert (record["examples"], record["timed"]) == (11, 5)
    if batch_size == 1:
        assert calls.count(1) >= 2 * (11 + 2 * 5) and set(calls) == {1, 11}, "11: what is compared with masked evaluation"
    else:
        assert calls.count(11) == 2 + 1 and calls.count(5) >= 2 * 2 and set(calls) == {5, 11}


def test_a_setting(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workloads, "_STREAM_TOKENS", 800)
    contenders = ["compacted:onnxruntime:*", "packed:onnxruntime:*", "padded:jax:float32"]
    arguments = ["--batch-size", "2", "4", "--keep", "0.9,0.4,0.2", "--repeats", "3", "--contenders", *contenders]
    tools_main([*SYNTHETIC, *arguments, "--json", str(tmp_path / "records.json")])
    records = json.loads((tmp_path / "records.json").read_text())
    assert [record["batch_size"] for record in records] == [2, 4]
    for record in records:
        assert set(record) >= FIELDS
        entries = record["contenders"]
        assert set(entries) == {
            "padded:jax:float32",
            *(f"{way}:onnxruntime:{precision}" for way in ("packed", "compacted") for precision in ("float32", "int8")),
        }
        for name, entry in entries.items():
            rounds = np.array(entry["seconds_of_rounds"])
            assert len(rounds) == record["repeats"] == 3 and entry["seconds"] == pytest.approx(np.median(rounds))
            assert entry["examples_per_second"] == pytest.approx(record["timed"] / entry["seconds"])
            assert entry["metrics"] is None, "nobody knows the labels of random tokens"
            if name.endswith("float32"):
                assert entry["predictions_changed"] == 0
            if not name.startswith("compacted"):
                continue
            assert set(entry["times_faster_than"]) == set(entries) - {name}
            for other, times in entry["times_faster_than"].items():
                assert times == pytest.approx(np.median(np.array(entries[other]["seconds_of_rounds"]) / rounds))
            packed = entry["times_faster_than"][f"packed:{name.partition(':')[2]}"]
            assert entry["efficiency"] == pytest.approx(packed / record["flops_vs_unpadded"])
        assert 1 < record["flops_vs_unpadded"] == record["flops_vs_padded"] < 5, "every text is as long as the padding"
        assert record["max_logit_difference"] < 1e-4 and record["decisions_flipped"] < 5
        # The command is one that this parser takes, paths aside.
        flags = {word for word in record["command"].split() if word.startswith("--")}
        assert flags <= {*SYNTHETIC, "--batch-size", "--keep", "--seed", "--contenders", "--predictor-size"}, flags
        assert "--keep 0.9,0.4,0.2" in record["command"] and "'compacted:onnxruntime:*'" in record["command"]


def test_against_a_dense_model_of_more_layers(monkeypatch):
    """Both the FLOPs and the clock are then against that one, whatever the skimming model's own depth."""
    timed = []

    def engine(model, **options):
        timed.append((model.arch.skim is not None, model.arch.num_hidden_layers))
        return SkimEngine(model, **options)

    monkeypatch.setattr(measurement, "SkimEngine", engine)
    workload = workloads.synthetic(ARCH, [1.0, 0.5, 0.2], batch_size=4, length=24, examples=11)
    names = [Contender(*name.split(":")) for name in OURS]
    own = measure(workload, names, batch_size=4, repeats=1, progress=False)
    assert set(timed) == {(False, 3), (True, 3)}
    timed.clear()
    deep = dataclasses.replace(ARCH, num_hidden_layers=9, skim=None)
    dense = workloads.synthetic(deep, None, batch_size=4, length=24, examples=1).model
    compared = measure(dataclasses.replace(workload, dense=dense), names, batch_size=4, repeats=1, progress=False)
    assert set(timed) == {(False, 9), (True, 3)}, "the dense contender is the dense model that was named"
    assert (own["layers"], own["layers_dense"], compared["layers"], compared["layers_dense"]) == (3, 3, 3, 9)
    lengths = workload.examples.lengths.astype(float)
    times = flops.dense(deep, lengths).sum() / flops.dense(ARCH, lengths).sum()
    assert times > 3
    for name in ("flops_vs_unpadded", "flops_vs_padded"):
        assert compared[name] == pytest.approx(times * own[name])


EVERY_LIBRARY = ["dense:torch:*", "*:onnxruntime:*", "dense:openvino:*"]


@pytest.mark.parametrize(
    ("fields", "patterns"),
    [
        ({}, EVERY_LIBRARY),
        ({"backbone": "roberta", "position_offset": 2, "type_vocab_size": 1}, ["*:*:float32"]),
        ({"backbone": "electra", "embedding_size": 24}, ["*:*:float32"]),
        ({"backbone": "distilbert", "type_vocab_size": 0}, ["*:*:float32"]),
        ({"backbone": "mpnet", "position_offset": 2, "type_vocab_size": 0}, ["*:*:float32"]),
        ({"backbone": "deberta-v2", "position_buckets": 8, "max_relative_positions": 64, "type_vocab_size": 0}, ["*:*:float32"]),
        ({"backbone": "modernbert", "type_vocab_size": 0, "local_layers": (1,), "local_window": 3}, ["*:*:float32"]),
    ],
    ids=["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"],
)
def test_what_other_libraries_answer(fields, patterns):
    """The dense model's own logits, whatever computes them; what is not installed is left out, and said."""
    pytest.importorskip("torch")
    workload = workloads.synthetic(dataclasses.replace(ARCH, **fields), [1.0, 0.5, 0.2], batch_size=4, length=24, examples=10)
    lengths = np.array([3, 24, 7, 1, 12, 24, 5, 5, 20, 9])
    rows = np.concatenate([np.arange(length) + 24 * row for row, length in enumerate(lengths)])
    # Where RoBERTa's padding stands in a text, transformers gives it a position of its own.
    full = dataclasses.replace(workload.examples, input_ids=np.where(workload.examples.input_ids == 1, 2, workload.examples.input_ids))
    uneven = dataclasses.replace(
        full, input_ids=full.input_ids[rows], token_type_ids=full.token_type_ids[rows], offsets=np.concatenate([[0], np.cumsum(lengths)])
    )
    dense = references.without_predictors(workload.model)
    expected = SkimEngine(dense, max_length=24).predict_tokenized(uneven).logits
    others, absent = contenders.chosen(patterns, True, lambda contender: True)
    library = libraries.DenseModel(dense)
    computed = []
    for contender in others:
        if contender.own or contender.runtime == "jax" or contender.precision == "bfloat16":
            continue
        forward = library.forward(contender.runtime, contender.precision, uneven)
        for batch_size in (1, 4):
            logits = library.run(forward, uneven, batch_size, 24 if contender.way == "padded" else None)()
            tolerance = 1e-5 if contender.precision == "float32" else 0.15 * np.abs(expected).max()
            np.testing.assert_allclose(logits, expected, atol=tolerance, err_msg=str(contender))
        computed.append(str(contender))
    assert {"dense:torch:float32", "dense:onnxruntime:float32", "padded:onnxruntime:float32"} <= set(computed)
    assert fields or "dense:onnxruntime:int8" in computed
    assert not set(computed) & set(absent)


def test_who_takes_part(monkeypatch):
    everything = lambda contender: True  # noqa: E731
    names = lambda *arguments: {str(contender) for contender in contenders.chosen(*arguments)[0]}  # noqa: E731
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: name)
    assert {name.split(":")[1] for name in names(None, True, everything)} == {"torch", "onnxruntime", "openvino"}
    assert {name.split(":")[1] for name in names(None, False, everything)} == {"jax"}
    assert names(["compacted:*:int8"], True, everything) == {"compacted:onnxruntime:int8"}
    runnable, absent = contenders.chosen(["*:openvino:*"], True, lambda contender: contender.precision != "bfloat16")
    assert absent["packed:openvino:bfloat16"] == "this processor has no instructions for bfloat16" and len(runnable) == 4
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None if name in ("torch", "nncf") else name)
    runnable, absent = contenders.chosen(["dense:*"], True, everything)
    assert {str(contender) for contender in runnable} == {"dense:jax:float32", "dense:jax:bfloat16"}
    assert absent["dense:torch:float32"] == "torch not installed" and absent["dense:openvino:int8"] == "torch and nncf not installed"
    with pytest.raises(ConfigError, match="no contender can run here: dense:torch:float32: torch not installed"):
        contenders.chosen(["dense:torch:*"], True, everything)
    with pytest.raises(ConfigError, match="compacted:openvino:float32: the devices at hand are no CPUs"):
        contenders.chosen(["compacted:openvino:float32"], False, everything)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["benchmark"], "give either --synthetic, or --model with --task or --data"),
        ([*SYNTHETIC, "--model", "m"], "give either --synthetic, or --model with --task or --data"),
        ([*SYNTHETIC, "--data", "d"], "give either --synthetic, or --model with --task or --data"),
        (["benchmark", "--model", "m"], "--model and one of --task and --data belong together"),
        (["benchmark", "--data", "d"], "--model and one of --task and --data belong together"),
        (["benchmark", "--model", "m", "--task", "t", "--data", "d"], "--model and one of --task and --data belong together"),
        (["benchmark", "--model", "m", "--task", "t", "--text-columns", "a"], "--text-columns names one column or two of --data"),
        (["benchmark", "--model", "m", "--task", "t", "--layers", "7"], "--layers is of --synthetic: a model has its own"),
        (["benchmark", "--model", "m", "--task", "t", "--keep", "0.1"], "--keep is of --synthetic: a model has its own"),
        ([*SYNTHETIC, "--dense", "d"], "--dense goes with --model, not with --synthetic"),
        ([*SYNTHETIC, "--keep", "0.1,0.5,0.9"], "--keep needs falling numbers in (0, 1], as 0.9,0.5,0.2, not 0.1,0.5,0.9"),
        ([*SYNTHETIC, "--keep", "50,40"], "--keep needs falling numbers in (0, 1], as 0.9,0.5,0.2, not 50,40"),
        ([*SYNTHETIC, "--threshold", "0.5"], "--threshold goes with --model, not with --synthetic"),
        ([*SYNTHETIC, "--keep", "many"], "--keep must be numbers with commas between, or 'all', not 'many'"),
        ([*SYNTHETIC, "--contenders", "tf"], "no contender 'tf'; there are padded:onnxruntime:float32, "),
        ([*SYNTHETIC, "--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        ([*SYNTHETIC, "--length", "0"], "--length must be at least 1, not 0"),
        (["benchmark", "--model", "m", "--task", "t", "--length", "64", "2"], "--length must be at least 3, not 2"),
        ([*SYNTHETIC, "--vocab-size", "0"], "--vocab-size must be at least 1, not 0"),
        ([*SYNTHETIC, "--seed", "-1"], "--seed must lie in [0, 2**32), not -1"),
        ([*SYNTHETIC, "--examples", "0"], "--examples must be at least 1, not 0"),
        ([*SYNTHETIC, "--timed", "0"], "--timed must be at least 1, not 0"),
        ([*SYNTHETIC, "--predictor-size", "0"], "--predictor-size must be at least 1, not 0"),
        ([*SYNTHETIC, "--hidden-size", "33"], "--hidden-size must be a multiple of 32, not 33"),
    ],
)
def test_refusals(capsys, arguments, says):
    assert console.run(tools_main, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


@pytest.fixture
def model_folder(tokenizer_folder, tmp_path):
    return save_model(tmp_path, tokenizer_folder)


@pytest.mark.parametrize(("name", "threshold"), [("mine.jsonl", None), ("mine.txt", None), ("mine.csv", "0.5")])
def test_a_file(model_folder, write, tmp_path, monkeypatch, name, threshold):
    """Of texts without labels; calibrated on them where the model folder says nothing of this threshold."""
    seen = []
    monkeypatch.setattr(measurement, "measure", lambda workload, contenders, **options: seen.append(workload) or {})
    texts = [record["text"] for record in runs.make_reviews(20, seed=3)]
    lines = {"jsonl": [{"review": text} for text in texts], "txt": "\n".join(texts), "csv": "review\n" + "\n".join(texts)}
    columns = [] if name.endswith("txt") else ["--text-columns", "review"]
    arguments = ["--model", str(model_folder), "--data", str(write(name, lines[name.partition(".")[2]])), *columns, "--examples", "9"]
    Calibration.of_shares([1.0, 0.5, 0.25], 12, 0.25).save(model_folder)
    more = [] if threshold is None else ["--threshold", threshold]
    tools_main(["benchmark", *arguments, *more, "--json", str(tmp_path / "records.json")])
    (record,), (workload,) = json.loads((tmp_path / "records.json").read_text()), seen
    assert (workload.name, len(workload.examples), workload.padded_length) == (name, 9, 12), "the model reads 12 tokens"
    assert workload.threshold == (0.25 if threshold is None else 0.5)
    assert isinstance(workload.calibration, Calibration) if threshold is None else workload.calibration is None
    assert len(workload.sample()) == 20 and workload.metrics is None and workload.tokenizing_seconds > 0
    read = {workload.examples.lengths[row] - 2 for row in range(9)}
    assert read <= {len(text.split()) for text in texts} and len(read) > 1
    assert "--data FILE" in record["command"] and str(tmp_path) not in record["command"]


def test_a_default_prompt(model_folder, write, tmp_path, monkeypatch):
    """Stands before texts, measured and calibrated on, as it does when the model is served."""
    seen = []
    monkeypatch.setattr(measurement, "measure", lambda workload, contenders, **options: seen.append(workload) or {})
    texts = [record["text"] for record in runs.make_reviews(5, seed=3)]
    folder = save_prompted(tmp_path / "prompted", model_folder, "bad films ")
    tools_main(["benchmark", "--model", str(folder), "--data", str(write("mine.txt", "\n".join(texts)))])
    read = SkimEngine.from_pretrained(folder).tokenize(texts).input_ids
    for examples in (seen[0].examples, seen[0].sample()):
        np.testing.assert_array_equal(examples.input_ids, read)


def test_more_tokens_than_positions(model_folder, write, capsys):
    """The message names the flag of this command."""
    command = ["benchmark", "--model", str(model_folder), "--data", str(write("texts.txt", "good\n")), "--length", "41"]
    assert console.run(tools_main, command) == 2
    assert capsys.readouterr().err == f"error: 41 tokens are more than the 40 positions of {model_folder}: give a lower --length\n"


def test_a_model_of_another_head(tokenizer_folder, write, tmp_path, capsys):
    """Is not timed as a classifier of random weights."""
    embedder = HEADS["sentence_embedding"](dataclasses.replace(ARCH, vocab_size=60), rngs=nnx.Rngs(0))
    embedder.save_pretrained(tmp_path / "embedder", tokenizer=load_tokenizer(tokenizer_folder))
    arguments = ["benchmark", "--model", str(tmp_path / "embedder"), "--data", str(write("texts.txt", "good\n"))]
    assert console.run(tools_main, arguments) == 2
    assert "is for sentence embedding: classifiers and cross-encoders alone are measured here" in capsys.readouterr().err


def test_dense_models_that_cannot_be_compared(model_folder, tokenizer_folder, write, tmp_path, capsys):
    """By their logits: one of another head, or with other labels."""
    embedder = HEADS["sentence_embedding"](dataclasses.replace(ARCH, vocab_size=60), rngs=nnx.Rngs(0))
    embedder.save_pretrained(tmp_path / "embedder", tokenizer=load_tokenizer(tokenizer_folder))
    three = save_model(
        tmp_path / "three", tokenizer_folder, config=runs.TINY | {"id2label": {"0": "neg", "1": "pos", "2": "neutral"}},
        label_names=("neg", "pos", "neutral"),
    )  # fmt: skip
    turned = save_model(tmp_path / "turned", tokenizer_folder, label_names=("pos", "neg"))
    for dense, says in (
        (tmp_path / "embedder", f"{tmp_path / 'embedder'} is for sentence embedding, {model_folder} is not"),
        (three, f"{three} has 3 labels, {model_folder} has 2"),
        (turned, f"{turned} calls its labels ['pos', 'neg'], {model_folder} ['neg', 'pos']"),
    ):
        command = ["benchmark", "--model", str(model_folder), "--dense", str(dense), "--data", str(write("texts.txt", "good\n"))]
        assert console.run(tools_main, command) == 2
        assert capsys.readouterr().err == f"error: {says}\n"


def test_a_part_of_a_dense_model_says_what_it_is_compared_with(tokenizer_folder, write, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: {})
    folder = save_model(tmp_path, tokenizer_folder, config=runs.TINY | {"dense_layers": runs.TINY["num_hidden_layers"] + 1})
    tools_main(["benchmark", "--model", str(folder), "--data", str(write("texts.txt", "good\n"))])
    assert f"{folder} is a part of its dense model, and is compared with that part: --dense names the whole" in caplog.messages


def test_labels_that_say_nothing(tokenizer_folder, tmp_path, monkeypatch, caplog):
    """They are taken in the task's order, which is said."""
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: {})
    monkeypatch.setattr(sources, "load_split", lambda *_: Examples(["good", "bad"], None, np.array([1, 0], np.int32)))
    folder = save_model(tmp_path / "model", tokenizer_folder, label_names=("LABEL_0", "LABEL_1"))
    tools_main(["benchmark", "--model", str(folder), "--task", "glue/sst2", "--length", "12"])
    assert any(message.startswith(f"{folder} and glue/sst2 are taken to have their labels in one order") for message in caplog.messages)


def test_an_interruption(capsys, tmp_path, monkeypatch):
    """What is measured is kept, and said; medians come round by round."""

    def interrupted_at(workload, contenders, *, batch_size, after_round, **options):
        after_round({"masked": [3.0, 4.0], "compacted": [1.5, 2.0]})
        if batch_size == 3:
            raise KeyboardInterrupt
        return {"batch_size": batch_size}

    monkeypatch.setattr(measurement, "measure", interrupted_at)
    file = tmp_path / "records.json"
    arguments = [*SYNTHETIC, "--examples", "6", "--keep", "all", "--repeats", "2", "--json", str(file)]
    assert console.run(tools_main, [*arguments, "--batch-size", "2", "3", "4"]) == 130
    assert [record["batch_size"] for record in json.loads(file.read_text())] == [2]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"interrupted; 1 of 3 settings are measured, as {file} says"
    assert said.count("after round 2 of 2: compacted 1.75 s, masked 3.5 s") == 2


def test_rounds_take_turns_and_the_first_is_not_counted(monkeypatch):
    now, calls, shown = [0.0], [], []

    def run(name, seconds):
        def run(number):
            calls.append((name, number))
            now[0] += seconds + (number == 0)

        return run

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    rounds = clock.interleaved({"a": run("a", 0.5), "b": run("b", 0.25)}, range(4), lambda seconds: shown.append(len(seconds["b"])))
    assert rounds == {"a": [0.5] * 3, "b": [0.25] * 3} and shown == [1, 2, 3]
    assert calls == [(name, number) for number in range(4) for name in "ab"]


def test_every_round_has_other_examples():
    examples = make_examples(range(1, 21), 0)
    parts = clock.samples(examples, 10, 3)
    assert [len(part) for part in parts] == [10] * 4
    assert len({tuple(sorted(part.lengths)) for part in parts}) == 4


def test_it_runs_with_jax_flax_and_numpy_only(program_cache):
    """What an accelerator's image has. Whatever flax itself depends on is there too."""
    code = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{
            "transformers", "tokenizers", "safetensors", "grain", "tqdm", "tensorflow_datasets", "sklearn", "chex", "tensorboardX", "torch",
            "onnxruntime", "huggingface_hub",
        }}:
            raise ImportError(f"{{name}} is not to be had here")

sys.meta_path.insert(0, Blocker())
from tools.__main__ import main as tools_main
from transkimmer_jax.evaluation import clock
tools_main({[*SYNTHETIC, "--batch-size", "2", "--contenders", "masked:jax:float32", "compacted:jax:float32"]!r})
"""
    quickly_built = os.environ | {"XLA_FLAGS": quick.FLAGS}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, env=quickly_built, check=False)
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)["contenders"]
    assert set(entries) == {"masked:jax:float32", "compacted:jax:float32"}
    assert entries["compacted:jax:float32"]["batches"] > 0 and "batches" not in entries["masked:jax:float32"]
    assert {entry["predictions_changed"] for entry in entries.values()} == {0}


@pytest.mark.parametrize(("depths", "difference", "flipped"), [([1, 1], 2.0, 0), ([1, 2], 0.5, 1), ([0, 2], None, 2)])
def test_differences_of_logits_are_those_of_texts_without_flipped_decisions(depths, difference, flipped):
    """Where every text has one, nothing is known of logits: not that they agree."""
    ours = types.SimpleNamespace(logits=np.array([[0.5], [2.0]]), depths=[np.array([depth]) for depth in depths])
    exact = types.SimpleNamespace(logits=np.zeros((2, 1)), by_text=lambda name: [np.array([1])] * 2)
    assert measurement._disagreement(ours, exact) == {"max_logit_difference": difference, "decisions_flipped": flipped}
