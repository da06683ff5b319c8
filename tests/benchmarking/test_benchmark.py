"""The benchmark measures what it says, refuses what cannot be meant, and runs where only jax, flax and numpy are installed."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from cli.saved import save_model
from training import runs

from transkimmer_jax import cli, console
from transkimmer_jax.analysis import flops
from transkimmer_jax.benchmarking import measurement, workloads
from transkimmer_jax.benchmarking.measurement import measure
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

ARCH = Architecture(
    vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
    skim=SkimArchitecture(predictor_size=8),
)  # fmt: skip
SYNTHETIC = [
    "benchmark", "--synthetic", "--hidden-size", "32", "--layers", "3", "--vocab-size", "100", "--length", "24", "--repeats", "1",
]  # fmt: skip
FIELDS = {
    "seconds", "seconds_of_rounds", "examples_per_second", "flops_vs_padded", "flops_vs_unpadded", "clock_vs_padded",
    "clock_vs_unpadded", "efficiency", "max_logit_difference", "decisions_flipped", "batch_size", "length", "dtype", "device",
    "programs", "overflows", "command", "seed",
}  # fmt: skip


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
    cli.main([*SYNTHETIC, "--batch-size", "4", "--examples", "11", "--contenders", "compacted", "--json", str(tmp_path / "found.json")])
    (record,) = json.loads((tmp_path / "found.json").read_text())
    assert record["examples"] == 11 and "--examples 11" in record["command"]


@pytest.mark.parametrize("online", [False, True])
def test_texts_come_in_calls(monkeypatch, tmp_path, online):
    """All in one, or each batch in one of its own."""
    seen = []
    original = SkimEngine.predict_tokenized

    def watched(self, examples, **options):
        seen.append(len(examples))
        return original(self, examples, **options)

    monkeypatch.setattr(SkimEngine, "predict_tokenized", watched)
    file = tmp_path / "found.json"
    arguments = ["--batch-size", "4", "--examples", "11", "--contenders", "compacted", "--json", str(file)]
    cli.main([*SYNTHETIC, *arguments, *(["--online"] if online else [])])
    (record,) = json.loads(file.read_text())
    assert record["online"] == online == ("--online" in record["command"])
    if online:
        assert seen.count(4) == 2 * seen.count(3) >= 8, "both contenders, to warm up and in the round"
    else:
        assert seen.count(11) >= 4 and not {3, 4} & set(seen)


def test_a_setting(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workloads, "_STREAM_TOKENS", 800)
    arguments = ["--batch-size", "2", "4", "--keep", "0.9,0.4,0.2", "--repeats", "3"]
    cli.main([*SYNTHETIC, *arguments, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [record["batch_size"] for record in found] == [2, 4]
    for record in found:
        assert set(record) >= FIELDS
        assert {"compacted", "dense_packed", "dense_padded", "masked"} <= set(record["seconds"])
        assert record["efficiency"] == pytest.approx(record["clock_vs_unpadded"] / record["flops_vs_unpadded"])
        rounds = {name: np.array(times) for name, times in record["seconds_of_rounds"].items()}
        assert {len(times) for times in rounds.values()} == {record["repeats"]} == {3}
        assert record["seconds"] == pytest.approx({name: np.median(times) for name, times in rounds.items()})
        for name, field in (("dense_packed", "clock_vs_unpadded"), ("dense_padded", "clock_vs_padded")):
            assert record[field] == pytest.approx(np.median(rounds[name] / rounds["compacted"]))
        assert record["examples_per_second"]["masked"] == pytest.approx(record["examples"] / record["seconds"]["masked"])
        assert 1 < record["flops_vs_unpadded"] == record["flops_vs_padded"] < 5, "every text is as long as the padding"
        assert record["max_logit_difference"] < 1e-4 and record["decisions_flipped"] < 5 and record["batches"] > 0
        assert record["peak_bytes"] > 2**27, "jax alone takes as much"
        # The command is one that this parser takes, paths aside.
        flags = {word for word in record["command"].split() if word.startswith("--")}
        assert flags <= {*SYNTHETIC, "--batch-size", "--keep", "--precision", "--seed", "--contenders", "--predictor-size"}, flags
        assert "--keep 0.9,0.4,0.2" in record["command"] and str(tmp_path) not in record["command"]


def test_against_a_dense_model_of_more_layers():
    """Both the FLOPs and the clock are then against that one, whatever the skimming model's own depth."""
    workload = workloads.synthetic(ARCH, [1.0, 0.5, 0.2], batch_size=4, length=24, examples=16)
    sample = Calibration.of_shares([1.0, 0.5, 0.2], 24, 0.0)
    own = measure(dataclasses.replace(workload, calibration=sample), batch_size=4, repeats=3, contenders=(), progress=False)
    deep = dataclasses.replace(ARCH, num_hidden_layers=9, skim=None)
    dense = workloads.synthetic(deep, None, batch_size=4, length=24, examples=1).model
    compared = dataclasses.replace(workload, calibration=sample, dense=dense)
    found = measure(compared, batch_size=4, repeats=3, contenders=("dense_padded", "torch"), progress=False)
    assert (own["layers"], own["layers_dense"], found["layers"], found["layers_dense"]) == (3, 3, 3, 9)
    lengths = workload.examples.lengths.astype(float)
    times = flops.dense(deep, lengths).sum() / flops.dense(ARCH, lengths).sum()
    assert times > 3
    for name in ("flops_vs_unpadded", "flops_vs_padded"):
        assert found[name] == pytest.approx(times * own[name])
    # The clock of so little is noise, but nine layers are not as quick as three.
    assert found["seconds"]["dense_packed"] > 1.5 * own["seconds"]["dense_packed"]


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
        ([*SYNTHETIC, "--dense", "d"], "--dense goes with --model, not with --synthetic"),
        ([*SYNTHETIC, "--keep", "0.1,0.5,0.9"], "--keep needs 3 falling numbers in (0, 1]"),
        ([*SYNTHETIC, "--keep", "many"], "--keep must be numbers with commas between, or 'all', not 'many'"),
        ([*SYNTHETIC, "--contenders", "tf"], "no contender 'tf'; there are masked, "),
        ([*SYNTHETIC, "--batch-size", "0"], "--batch-size and --length must be at least 1"),
        ([*SYNTHETIC, "--examples", "0"], "--examples must be at least 1, not 0"),
        ([*SYNTHETIC, "--predictor-size", "0"], "--predictor-size must be at least 1, not 0"),
        ([*SYNTHETIC, "--hidden-size", "33"], "--hidden-size must be a multiple of 32, not 33"),
    ],
)
def test_refusals(capsys, arguments, says):
    assert console.run(cli.main, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


@pytest.fixture
def model_folder(tokenizer_folder, tmp_path):
    return save_model(tmp_path, tokenizer_folder)


@pytest.mark.parametrize(("name", "threshold"), [("mine.jsonl", None), ("mine.txt", None), ("mine.csv", "0.5")])
def test_a_file(model_folder, write, tmp_path, monkeypatch, name, threshold):
    """Of texts without labels; calibrated on them where the model folder says nothing of this threshold."""
    seen = []
    monkeypatch.setattr(measurement, "measure", lambda workload, **options: seen.append(workload) or {})
    texts = [record["text"] for record in runs.make_reviews(20, seed=3)]
    lines = {"jsonl": [{"review": text} for text in texts], "txt": "\n".join(texts), "csv": "review\n" + "\n".join(texts)}
    columns = [] if name.endswith("txt") else ["--text-columns", "review"]
    arguments = ["--model", str(model_folder), "--data", str(write(name, lines[name.partition(".")[2]])), *columns, "--examples", "9"]
    Calibration.of_shares([1.0, 0.5, 0.25], 12, 0.25).save(model_folder)
    more = [] if threshold is None else ["--threshold", threshold]
    cli.main(["benchmark", *arguments, *more, "--json", str(tmp_path / "found.json")])
    (record,), (workload,) = json.loads((tmp_path / "found.json").read_text()), seen
    assert (workload.name, len(workload.examples), workload.padded_length) == (name, 9, 12), "the model reads 12 tokens"
    assert workload.threshold == (0.25 if threshold is None else 0.5)
    assert isinstance(workload.calibration, Calibration) if threshold is None else len(workload.calibration) == 20
    read = {workload.examples.lengths[row] - 2 for row in range(9)}
    assert read <= {len(text.split()) for text in texts} and len(read) > 1
    assert "--data FILE" in record["command"] and str(tmp_path) not in record["command"]


def test_an_interruption(capsys, tmp_path, monkeypatch):
    """What is measured is kept, and said; medians come round by round."""

    def interrupted_at(workload, *, batch_size, after_round, **options):
        after_round({"masked": [3.0, 4.0], "compacted": [1.5, 2.0]})
        if batch_size == 3:
            raise KeyboardInterrupt
        return {"batch_size": batch_size}

    monkeypatch.setattr(measurement, "measure", interrupted_at)
    file = tmp_path / "found.json"
    arguments = [*SYNTHETIC, "--examples", "6", "--keep", "all", "--repeats", "2", "--json", str(file)]
    assert console.run(cli.main, [*arguments, "--batch-size", "2", "3", "4"]) == 130
    assert [record["batch_size"] for record in json.loads(file.read_text())] == [2]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"interrupted; 1 of 3 settings are measured, as {file} says"
    assert said.count("after round 2 of 2: compacted 1.75 s, masked 3.5 s") == 2


def test_rounds_are_no_fewer_and_no_more_than_asked(monkeypatch):
    """The first run of all is a round of its own, unless it was too quick to be measured alone."""
    for seconds, runs_of_each in ((0.2, 3), (0.06, 1 + 3 * 2)):
        now, calls, shown = [0.0], [], []

        def run(calls=calls, now=now, seconds=seconds):
            calls.append(now[0])
            now[0] += seconds

        monkeypatch.setattr(measurement.time, "perf_counter", lambda now=now: now[0])
        found = measurement._interleaved(
            {"compacted": run}, ("compacted",), 3, lambda seconds, shown=shown: shown.append(len(seconds["compacted"]))
        )
        assert found["compacted"] == pytest.approx([seconds] * 3) and len(calls) == runs_of_each and shown == [1, 2, 3]


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
from transkimmer_jax import cli
cli.main({[*SYNTHETIC, "--batch-size", "2", "--runtime", "jax"]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["seconds"]) == {"compacted", "dense_packed", "masked", "dense_padded", "dense_bucketed"}
