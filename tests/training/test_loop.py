"""The whole loop in miniature: what it writes, that it learns, and that an interrupted run ends as one that was not."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import signal
import struct
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from training import runs

from transkimmer_jax import TranskimmerForSequenceClassification, cli, console
from transkimmer_jax import config as configs
from transkimmer_jax.checkpoints import huggingface
from transkimmer_jax.config import SkimConfig, override
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.errors import Preempted, TrainingError
from transkimmer_jax.evaluation.summary import SplitEvaluation
from transkimmer_jax.training import budget, inputs, loop, validation
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.records import Records
from transkimmer_jax.training.step import TrainStep
from transkimmer_jax.training.validation import CheckpointEvaluation


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The workdir of a run from start to end."""
    workdir = tmp_path_factory.mktemp("finished")
    train_and_evaluate(config, workdir)
    return workdir


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text(encoding="utf-8"))


def evaluate(capsys, *arguments):
    """What `transkimmer evaluate` prints."""
    capsys.readouterr()
    # Masked, as the loop evaluates: to the last bit.
    cli.main(["evaluate", "--mode=masked", *map(str, arguments)])
    return json.loads(capsys.readouterr().out)


def test_result(config, finished):
    result = result_of(finished)
    assert set(result) == {
        "metric", "value", "metrics", "examples", "kept_tokens", "kept_per_layer", "flops_vs_padded", "flops_vs_unpadded",
        "task", "steps", "best_step", "seconds", "seed", "device", "devices", "train_examples", "pretrained", "threshold",
        "command", "costs",
    }  # fmt: skip
    assert result["task"] == "files" and result["metric"] == "accuracy"
    assert result["value"] == result["metrics"]["validation"]["accuracy"] and result["examples"] == {"validation": 40}
    assert result["kept_tokens"] == pytest.approx(np.mean(result["kept_per_layer"]), rel=1e-12) and len(result["kept_per_layer"]) == 3
    assert result["steps"] == 60 and result["best_step"] in (20, 40, 60) and result["seed"] == 0 and result["seconds"] > 0
    assert result["device"] == jax.devices()[0].device_kind and result["devices"] == 1 and result["pretrained"] == config.model.pretrained


def test_it_learns_and_skims(config, tmp_path):
    """Longer than the other runs here: at these learning rates the controllers take a hundred steps to settle."""
    changes = {"train.steps": "150", "train.eval_every": "50"}
    result = train_and_evaluate(override(config, changes), tmp_path / "run")
    assert result["value"] > 0.9
    # Met by the threshold, as near as 60 texts of a few words can.
    assert result["kept_tokens"] < 0.9 and 0.7 * 0.95 <= 1 / result["flops_vs_unpadded"] <= 0.7 * 1.05, "the budget"
    assert result["flops_vs_padded"] > result["flops_vs_unpadded"] > 1


def test_records(finished):
    """Windows of at most `log_every` steps, cut where something is saved, and after each evaluated one its evaluation."""
    lines = [json.loads(line) for line in runs.read_lines(finished)]
    training = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "validation/accuracy" in line]
    assert [line["step"] for line in training] == sorted({*range(3, 61, 3), 20, 40})
    assert [line["step"] for line in evaluated] == [20, 40, 60] and len(lines) == len(training) + len(evaluated)
    assert [(line["step"], "loss" not in line) for line in lines] == sorted((line["step"], "loss" not in line) for line in lines)
    assert set(training[0]) == {"step", "loss", "task_loss", "share", "kept_tokens", "coefficient", "target", "grad_norm"}
    assert set(evaluated[0]) == {"step", "threshold"} | {
        f"validation/{name}"
        for name in ("accuracy", "macro_f1", "kept_tokens", "flops_vs_unpadded", "kept_layer_0", "kept_layer_1", "kept_layer_2")
    }  # fmt: skip
    assert training[0]["coefficient"] == 0 and training[0]["target"] == 1
    assert training[0]["target"] == 1.0 > training[-1]["target"] == min(line["target"] for line in training)
    best = next(line for line in evaluated if line["step"] == result_of(finished)["best_step"])
    assert best["validation/accuracy"] == result_of(finished)["value"]


def test_tensorboard_events(finished):
    """Every scalar of the records, as float32, and nothing else."""
    assert len(list((finished / "tensorboard").iterdir())) == 1
    assert_events_are_the_records(finished)


def test_config_is_kept(config, finished):
    assert configs.from_dict(json.loads((finished / "config.json").read_text(encoding="utf-8"))) == config


def test_checkpoints_kept_are_the_latest_two_and_the_best(finished):
    kept = {int(path.name) for path in (finished / "checkpoints").iterdir()}
    assert kept == {45, 60, result_of(finished)["best_step"]}


def test_model_folder_gives_the_same_numbers(config, finished, capsys, tmp_path):
    """By from_pretrained, and by the command line without a word on columns, lengths or labels."""
    folder = finished / "model"
    model = TranskimmerForSequenceClassification.from_pretrained(folder)
    assert model.arch.skim.threshold == result_of(finished)["threshold"] and model.arch.num_labels == 2
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"] == {"0": "neg", "1": "pos"}
    assert load_tokenizer(folder)("a good film")["input_ids"] == load_tokenizer(config.model.pretrained)("a good film")["input_ids"]
    printed = evaluate(capsys, "--model", folder, "--data", config.data.validation_file)
    result = result_of(finished)
    for name in ("metric", "value", "kept_tokens", "kept_per_layer", "flops_vs_padded", "flops_vs_unpadded"):
        assert printed[name] == result[name], name
    for name in ("metrics", "examples"):
        assert printed[name] == {"test file": result[name]["validation"]}, "a file that was given is not known to be a validation set"


def test_a_finished_workdir_returns_at_once(config, finished, monkeypatch):
    monkeypatch.setattr(loop, "_train", None)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train_and_evaluate(config, finished) == result_of(finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_regression_on_pairs_with_a_teacher(config, checkpoint, capsys, caplog, tmp_path):
    """Two text columns and numbers for labels, from CSV files; distilled from another model, of which ten pairs more have the only word;
    and evaluated by the command line."""
    caplog.set_level("INFO", "transkimmer_jax")
    more = [f"{record['text']},a film" for record in runs.make_reviews(10, 4)]
    (tmp_path / "more.csv").write_text("\n".join(["first,second", *more]) + "\n", encoding="utf-8")
    teacher = TranskimmerForSequenceClassification.from_pretrained(checkpoint, dense=True, num_labels=1)
    teacher.save_pretrained(tmp_path / "teacher", tokenizer=load_tokenizer(checkpoint))
    for name, count, seed in (("train.csv", 64, 2), ("validation.csv", 20, 3)):
        rows = [
            f"{record['text']},a film,{(record['label'] == 'pos') + len(record['text']) / 100}" for record in runs.make_reviews(count, seed)
        ]
        (tmp_path / name).write_text("\n".join(["first,second,score", *rows]) + "\n", encoding="utf-8")
    changed = override(
        config,
        {
            "data.train_file": str(tmp_path / "train.csv"), "data.validation_file": str(tmp_path / "validation.csv"),
            "data.text_columns": "first,second", "data.label_column": "score", "distill.weight": "0.1",
            "distill.teacher": str(tmp_path / "teacher"), "distill.unlabelled_file": str(tmp_path / "more.csv"),
            "train.steps": "8", "train.eval_every": "4", "skim.target": "1.0",
        },
    )  # fmt: skip
    result = train_and_evaluate(changed, tmp_path / "run")
    assert "files: 74 training examples, 10 of them without labels, 8 steps of 16" in caplog.text
    assert result["metric"] == "pearson" and set(result["metrics"]["validation"]) == {"pearson", "spearman"}
    assert -1 <= result["value"] <= 1 and result["value"] != 0
    losses = [line["task_loss"] for line in map(json.loads, runs.read_lines(tmp_path / "run")) if "loss" in line]
    assert losses[-1] < losses[0]
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert saved["problem_type"] == "regression" and saved["task"]["text_columns"] == ["first", "second"]
    printed = evaluate(capsys, "--model", tmp_path / "run" / "model", "--data", tmp_path / "validation.csv", "--batch-size", 16)
    # After eight steps predictions hardly differ, and a correlation makes much of how two programs round their last digits.
    assert printed["metrics"]["test file"] == pytest.approx(result["metrics"]["validation"], rel=1e-3)
    assert printed["kept_per_layer"] == result["kept_per_layer"]


def read_events(path):
    """The events of a TensorBoard file, each with its length, checksums and content checked."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
        yield Event.FromString(body)
        data = data[16 + length :]


def assert_events_are_the_records(workdir):
    """As TensorBoard reads them: file by file, and a start at some step undoes what was said of it and of later ones."""
    scalars = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        assert "tfevents" in path.name
        first, *events = read_events(path)
        assert first.file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == SessionLog.START:
                scalars = [kept for kept in scalars if kept[0] < event.step]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    lines = [json.loads(line) for line in runs.read_lines(workdir)]
    assert scalars == [(line["step"], name, np.float32(value)) for line in lines for name, value in line.items() if name != "step"]


class Interruption(Exception):
    pass


def interrupt_records(patch, step):
    """The run dies as it wants to write down what happened up to `step`."""
    write = Records.write

    def die(self, at, scalars):
        if at >= step:
            raise Interruption
        write(self, at, scalars)

    patch.setattr(Records, "write", die)


def interrupt_saving(patch, _):
    """The run dies when all is trained and the model is to be written."""

    def die(*arguments, **options):
        raise Interruption

    patch.setattr(huggingface, "save_file", die)


def test_resuming_changes_nothing(config, finished, tmp_path, caplog):
    """One run, interrupted before its first checkpoint, between two, before an evaluation is on record, and at its very end."""
    caplog.set_level("INFO", "transkimmer_jax")
    interruptions = ((interrupt_records, 12), (interrupt_records, 36), (interrupt_records, 40), (interrupt_saving, None))
    for interrupt, step in interruptions:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
            interrupt(patch, step)
            train_and_evaluate(config, tmp_path / "run")
        assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "model").exists()
    train_and_evaluate(config, tmp_path / "run")
    resumed = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resuming")]
    assert resumed == [f"resuming at step {step} of 60" for step in (30, 30, 60)]
    runs.assert_same_run(tmp_path / "run", finished)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 5
    assert_events_are_the_records(tmp_path / "run")


def test_resuming_with_other_data(config, tmp_path):
    """A corrected text, and a third class, which the checkpoint's state has no room for: the run does not go on with either. With the old
    files back it does; and once it is finished a changed file does not pass for the one of its result."""
    train_file = tmp_path / "train.jsonl"
    records = runs.make_reviews(40, seed=0)
    runs.write_jsonl(train_file, records)
    config = override(config, {"data.train_file": str(train_file), "train.steps": "8", "train.save_every": "4"})
    workdir, changes = tmp_path / "run", ({"text": "a good film"}, {"label": "mixed"})

    def refused():
        for change in changes:
            runs.write_jsonl(train_file, [records[0] | change, *records[1:]])
            with pytest.raises(TrainingError, match="^the texts or labels of data.train_file.* are not those that the run in .*/run began"):
                train_and_evaluate(config, workdir)
        runs.write_jsonl(train_file, records)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
        interrupt_records(patch, 6)
        train_and_evaluate(config, workdir)
    refused()
    result = train_and_evaluate(config, workdir)
    refused()
    assert train_and_evaluate(config, workdir) == result


def test_preemption(config, finished, tmp_path, caplog):
    """Told by a SIGTERM, again and again, the run saves behind the step under way and the same command goes on: where a window of the
    log ends, in the midst of one, and once more in the midst of what is left of it."""
    caplog.set_level("INFO", "transkimmer_jax")
    stops = (21, 34, 35)
    for before, stop in itertools.pairwise((0, *stops)):
        told = f"^stopped by SIGTERM and saved at step {stop} of 60; the same"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted, match=told):
            runs.signal_before_step(patch, stop - before, signal.SIGTERM)
            train_and_evaluate(config, tmp_path / "run")
        assert (tmp_path / "run" / "checkpoints" / str(stop)).is_dir() and not (tmp_path / "run" / "result.json").exists()
    train_and_evaluate(config, tmp_path / "run")
    resumed = [message for message in caplog.messages if message.startswith("resuming")]
    assert resumed == [f"resuming at step {step} of 60" for step in stops]
    runs.assert_same_run(tmp_path / "run", finished)


def test_preemption_during_an_evaluation(config, finished, tmp_path):
    """The evaluation ends, its checkpoint has a rank, and the run leaves after the next step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted, match="^stopped by SIGTERM and saved at step 21 of 60; the same"):
        runs.signal_in_evaluation(patch, 2)
        train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    runs.assert_same_run(tmp_path / "run", finished)
    assert_events_are_the_records(tmp_path / "run")


@pytest.mark.parametrize("step", [17, 20])
def test_interruption(config, finished, tmp_path, step):
    """Ctrl-C between two checkpoints, and as one is due."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        runs.signal_before_step(patch, step, signal.SIGINT)
        train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    runs.assert_same_run(tmp_path / "run", finished)


def test_steps_need_no_texts(config, tmp_path, monkeypatch):
    """All texts of a run have left memory before its first step is built."""
    load_examples, read = inputs.load_examples, []

    def noted(*arguments):
        examples = load_examples(*arguments)
        read.extend(map(weakref.ref, (examples, examples.training, *examples.validation.values())))
        return examples

    def built(*arguments):
        raise TrainingError(f"{len(read)} read, {sum(each() is not None for each in read)} left")

    monkeypatch.setattr(inputs, "load_examples", noted)
    monkeypatch.setattr(TrainStep, "create", built)
    with pytest.raises(TrainingError, match="^3 read, 0 left$"):
        train_and_evaluate(config, tmp_path / "run")


def test_steps_dispatched_ahead_are_bounded(config, tmp_path):
    """A step is dispatched when the last but one has ended, so that what the run says of itself is true."""
    ended, before = [], []
    block_until_ready, jitted = jax.block_until_ready, TrainStep.jitted

    def counting(self, state, placement):
        update = jitted(self, state, placement)

        def counted(*arguments):
            before.append(len(ended))
            return update(*arguments)

        return counted

    def wait(output):
        ended.append(block_until_ready(output))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "jitted", counting)
        patch.setattr(loop.jax, "block_until_ready", wait)
        train_and_evaluate(config, tmp_path / "run")
    assert len(before) == len(ended) == 60
    assert max(dispatched - count for dispatched, count in enumerate(before)) == 1


def test_a_truncated_checkpoint(config, finished, tmp_path, caplog):
    """It is put aside and named; the run goes on from the one before it."""
    caplog.set_level("INFO", "transkimmer_jax")
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "model")
    runs.truncate_checkpoint(workdir, 60, keep=0.5)
    train_and_evaluate(config, workdir)
    messages = "\n".join(caplog.messages)
    assert "checkpoints/60 is damaged" in messages and "resuming at step 45 of 60" in messages
    assert (workdir / "checkpoints_damaged" / "60").is_dir()
    runs.assert_same_run(workdir, finished)


def test_a_checkpoint_of_another_version(config, finished, tmp_path, monkeypatch):
    """Whose state has other parts: one line, instead of a library's page about trees."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "result.json").unlink()
    monkeypatch.setattr(budget.Controller, "start", lambda shape: {"price": jnp.zeros(shape)})
    with pytest.raises(TrainingError, match=f"^{workdir / 'checkpoints' / '60'} does not hold the state that this version"):
        train_and_evaluate(config, workdir)


def test_resuming_after_a_kill(config, finished, program_cache, tmp_path, caplog, capsys):
    """A process that is killed without warning, and the same command again, in this one."""
    config_file, workdir = runs.write_config(tmp_path / "task.py", config), tmp_path / "run"
    process = runs.start_train(config_file, workdir, program_cache)
    try:
        deadline = time.monotonic() + 120
        # Those not yet whole have a longer name.
        while not any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*")):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert json.loads(runs.read_lines(workdir)[-1])["step"] >= 15
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "result.json").exists() and not (workdir / "model").exists()
    caplog.set_level("INFO", "transkimmer_jax")
    assert console.run(runs.train_main(), ["--config", str(config_file), "--workdir", str(workdir)]) == 0
    assert f"model: {workdir / 'model'}" in capsys.readouterr().out
    assert re.search("^resuming at step (15|20|30|40|45) of 60$", "\n".join(caplog.messages), re.MULTILINE)
    runs.assert_same_run(workdir, finished)


def rank(skim, accuracy, flops_share, kept_tokens, settled=True, least=0.0):
    split = SplitEvaluation({"accuracy": accuracy}, kept_tokens, [kept_tokens], 5.0, 1 / flops_share, predictions=None)
    task = Task("files", ("text",), ("neg", "pos"), 12)
    return validation.rank(skim, task, CheckpointEvaluation(0.0, {"validation": split}), settled, least)


def test_a_checkpoint_whose_decisions_stand_beats_a_better_one_before_it():
    skim = SkimConfig(target=0.4)
    order = [rank(skim, 0.99, 0.8, 0.9), rank(skim, 0.95, 0.4, 0.9, settled=False), rank(skim, -0.9, 0.4, 0.9)]
    assert order == sorted(order) and len(set(order)) == 3
    assert budget.settles_at(skim, 100) == pytest.approx(70)
    assert budget.settles_at(dataclasses.replace(skim, noise_end=None), 100) == math.inf


def test_a_checkpoint_within_the_budget_beats_a_better_one_above_it():
    """Within it the metric decides, negative ones included; above it the cost. 5 % above counts as within."""
    skim = SkimConfig(target=0.4)

    def of(accuracy, share):
        return rank(skim, accuracy, share, 0.9)

    order = [of(0.99, 0.8), of(0.95, 0.43), of(-0.5, 0.1), of(0.7, 0.2), of(0.71, 0.419)]
    assert order == sorted(order) and len(set(order)) == 5


def test_the_metric_decides_of_a_budget_that_cannot_be_met():
    """Where the least that can be spent is above it, that counts as within."""
    skim = SkimConfig(target=0.2)
    order = [rank(skim, 0.99, 0.4, 0.5, least=0.3), rank(skim, 0.7, 0.3, 0.5, least=0.3), rank(skim, 0.8, 0.31, 0.5, least=0.3)]
    assert order == sorted(order) and order[1:] == [0.7, 0.8]


def test_without_a_budget_the_metric_alone_decides():
    for skim in (SkimConfig(coefficient=0.5, target=0.1), SkimConfig(enabled=False, target=0.1)):
        assert rank(skim, 0.9, 0.8, 0.8) == 0.9
