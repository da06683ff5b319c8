"""What goes wrong in a run is one line that names the culprit, exit status 2, and nothing half-written."""

import errno
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from checkpoints.handmade import random_tensors, write_checkpoint
from training import runs

from transkimmer_jax import console
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import OptimizerConfig, override, to_dict
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.training import models
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.records import Records

FULL = "no space left on the disk; free some or write elsewhere"


@pytest.fixture
def refusal(config, tmp_path, capsys):
    """Runs train.py with fields changed, in a process that lives on; what it says after 'error: '."""
    workdir, config_file = tmp_path / "run", runs.write_config(tmp_path / "task.py", config)

    def run(**fields):
        changes = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
        capsys.readouterr()
        assert console.run(runs.train_main(), ["--config", str(config_file), "--workdir", str(workdir), *changes]) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert captured.out == "" and "Traceback" not in captured.err
        assert [line.startswith("error: ") for line in lines].index(True) == len(lines) - 1
        left = {path.name for path in workdir.rglob("*")} if workdir.exists() else set()
        assert left.isdisjoint({"result.json", "model", "model.safetensors"}) and not any(name.startswith(".") for name in left)
        return lines[-1].removeprefix("error: ")

    return run


def reviews_file(write, *changed):
    """A file to train on, with some records replaced: (line number, record)."""
    records = runs.make_reviews(40, seed=5)
    for line, record in changed:
        records[line - 1] = record
    return write("changed.jsonl", records)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data__batchsize": 8}, "unknown field 'data.batchsize'; did you mean 'data.batch_size'?"),
        ({"data__batch_size": "many"}, "data.batch_size='many': input should be a valid integer"),
        ({"train__seed": -1}, "train.seed='-1': input should be greater than or equal to 0"),
        ({"data__doc_stride": -1}, "data.doc_stride='-1': input should be greater than or equal to 0"),
        ({"skim__target": 2}, "skim.target='2': input should be less than or equal to 1"),
        (
            {"data__task": "glue/sst", "data__train_file": "none", "data__validation_file": "none"},
            "unknown task data.task='glue/sst'; did you mean 'glue/sst2'",
        ),
        ({"data__task": "glue/sst2"}, "data.train_file goes with data.task='files', 'tags' or 'questions', not 'glue/sst2'"),
        ({"data__max_length": 41}, "data.max_length=41 is more than the 40 positions of "),
        ({"data__batch_size": 161, "data__grouping_window": 1}, "data.batch_size=161 is more than the 160 training examples: lower it"),
        ({"data__train_file": "none"}, "data.task='files' has no train split: set data.train_file"),
        ({"data__test_file": "nowhere.jsonl"}, "nowhere.jsonl: cannot be read"),
        ({"data__text_columns": "review"}, "train.jsonl, line 1: no column 'review', only 'text', 'label'"),
        ({"data__label_column": "stars"}, "train.jsonl, line 1: no column 'stars', only 'text', 'label'"),
    ],
)
def test_fields_that_cannot_be_meant(refusal, arguments, message):
    assert message in refusal(**arguments)


def test_an_unknown_argument(refusal, config, tmp_path, capsys):
    config_file = runs.write_config(tmp_path / "task.py", config)
    assert console.run(runs.train_main(), ["--config", str(config_file), "--steps=5"]) == 2
    assert capsys.readouterr().err == "error: No such option: --steps Did you mean --config.train.steps?\n"


def begin(config, workdir):
    """A run that is accepted, and interrupted before its first step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Records, "__init__", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        train_and_evaluate(config, workdir)


def test_a_workdir_of_another_config(refusal, config, tmp_path):
    """It names what differs, and leaves the other run's config as it is."""
    begin(config, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    assert refusal(train__seed=1, skim__target=0.5) == (
        f"{tmp_path / 'run'} belongs to a run with another config: skim.target (0.7 there, 0.5 here), train.seed (0 there, 1 here); "
        "choose another folder"
    )
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_workdir_that_another_run_is_writing_to(refusal, config, tmp_path):
    with files.sole_writer(tmp_path / "run"):
        said = refusal()
    assert said == f"another run is writing to {tmp_path / 'run'}: wait until it has ended, or choose another folder"
    assert not list((tmp_path / "run").iterdir())
    begin(config, tmp_path / "run")


def test_a_folder_in_the_place_of_the_model(config, tmp_path):
    """Said before the run, which would have nowhere to put its model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work", encoding="utf-8")
    complaint = f"{tmp_path / 'model'} holds files and no checkpoint of this package to replace: choose a new folder"
    with pytest.raises(CheckpointError, match=f"^{re.escape(complaint)}$"):
        train_and_evaluate(config, tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "thesis.tex"}


def test_a_workdir_from_before_a_field(refusal, config, tmp_path):
    """A field that a run's config does not know yet is taken to have had its default there."""
    written = to_dict(config)
    assert written["optimizer"].pop("weight_decay") == OptimizerConfig().weight_decay == 0.01
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(written), encoding="utf-8")
    assert "another config: optimizer.weight_decay (0.01 there, 0.5 here); choose" in refusal(optimizer__weight_decay=0.5)
    begin(config, tmp_path / "run")


def test_a_workdir_whose_config_is_damaged(refusal, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": {', encoding="utf-8")
    assert f"{tmp_path / 'run' / 'config.json'} is not valid JSON" in refusal()


@pytest.mark.parametrize("field", ["data__train_file", "data__validation_file"])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a film"}, "changed.jsonl, line 7: no column 'label', only 'text'"),
        ({"label": "pos"}, "changed.jsonl, line 7: no column 'text', only 'label'"),
        ({"text": "a film", "label": None}, "changed.jsonl, line 7: column 'label' holds null, not a label"),
        ({"text": 5, "label": "pos"}, "changed.jsonl, line 7: column 'text' holds 5, not text"),
    ],
)
def test_a_line_that_is_no_example(refusal, write, field, record, message):
    assert message in refusal(**{field: reviews_file(write, (7, record))})


def test_a_label_that_was_not_trained_on(refusal, write):
    path = reviews_file(write, (7, {"text": "a film", "label": "mixed"}))
    assert f"{path}, line 7: label 'mixed' is none of the labels trained on (neg, pos)" in refusal(data__validation_file=path)


@pytest.mark.parametrize("field", ["data__train_file", "data__validation_file"])
def test_an_empty_file(refusal, write, field):
    assert refusal(**{field: write("empty.jsonl", "")}).endswith("empty.jsonl: the file holds no example: write one a line")


def test_an_empty_text_is_an_example(config, write, tmp_path):
    """Of [CLS] and [SEP] alone; also a batch of nothing else."""
    path = write("empty_texts.jsonl", [{"text": "", "label": label} for label in ("neg", "pos") * 8])
    fields = {"data.train_file": str(path), "data.validation_file": str(path), "train.eval_every": "60", "train.save_every": "60"}
    result = train_and_evaluate(override(config, fields), tmp_path / "run")
    assert result["value"] == 0.5 and result["examples"] == {"validation": 16} and 0.5 <= result["kept_tokens"] <= 1.0


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(checkpoint, tmp_path / "damaged")


def test_a_checkpoint_without_a_config(refusal, damaged):
    (damaged / "config.json").unlink()
    assert refusal(model__pretrained=damaged) == f"{damaged}: no config.json, so this is not a checkpoint folder"


def test_no_checkpoint(refusal, tmp_path):
    assert refusal(model__pretrained=tmp_path / "nowhere") == f"no checkpoint folder {str(tmp_path / 'nowhere')!r}"


def test_a_checkpoint_without_a_tokenizer(refusal, damaged):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (damaged / name).unlink()
    assert str(damaged) in refusal(model__pretrained=damaged)


def test_truncated_weights(refusal, damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights} cannot be read, it may be truncated" in refusal(model__pretrained=damaged)


def test_weights_of_another_size(refusal, damaged):
    """Every tensor that does not fit is named."""
    values = json.loads((damaged / "config.json").read_text(encoding="utf-8"))
    (damaged / "config.json").write_text(json.dumps(values | {"hidden_size": 32}), encoding="utf-8")
    message = refusal(model__pretrained=damaged)
    assert message.startswith(f"{damaged} does not fit its config.json: ")
    for tensor in (
        "embeddings.word_embeddings.weight has shape (60, 16), expected (60, 32)",
        "layer.0.output.dense.weight",
    ):
        assert tensor in message
    assert message.endswith("; and 32 more")


@pytest.mark.parametrize("field", ["model.pretrained", "distill.teacher"])
def test_a_head_for_another_number_of_labels(refusal, tmp_path, config, field):
    """The folder is well, and the task another."""
    names = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, "num_labels": 3}
    other = runs.TINY | names | {"architectures": ["BertForSequenceClassification"]}
    folder = write_checkpoint(tmp_path / "other", random_tensors(other), other)
    for path in pathlib.Path(config.model.pretrained).iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    message = refusal(**{field.replace(".", "__"): folder})
    assert message.startswith(f"{field}={folder} has a head for 3 labels, and files has 2: give an encoder without it")


def test_a_teacher_with_another_vocabulary(refusal, tmp_path, config):
    other = runs.TINY | {"vocab_size": 61}
    teacher = write_checkpoint(tmp_path / "teacher", random_tensors(other), other)
    message = refusal(distill__teacher=teacher)
    assert (
        message
        == f"distill.teacher={teacher} has another vocabulary than {config.model.pretrained}: start from an encoder with its tokenizer"
    )


def test_a_teacher_with_other_labels(refusal, tmp_path, config):
    other = runs.TINY | {"id2label": {"0": "bad", "1": "good"}}
    teacher = write_checkpoint(tmp_path / "teacher", random_tensors(other), other)
    message = refusal(distill__teacher=teacher)
    assert message == (
        f"distill.teacher={teacher} calls its labels bad, good, and files calls them neg, pos: it would teach one as another; where they "
        "mean the same, rename them in id2label of its config.json"
    )


@pytest.mark.parametrize("field", ["distill.teacher", "model.pretrained"])
def test_labels_of_files_stand_in_a_models_order(tmp_path, config, field):
    """In that of the teacher first. A folder with another head, or other labels, says nothing."""

    def order(**values):
        values = runs.TINY | {"id2label": {"0": "POS", "1": "neg"}} | values
        model = write_checkpoint(tmp_path / "model", random_tensors(runs.TINY), values)
        task = models.load_task(override(config, {field: str(model)}))
        read = load_split(task, task.train_split, config.data)
        assert [task.label_names[label] for label in read.labels] == ["pos" if "good" in text else "neg" for text in read.texts]
        return task.label_names

    assert order() == ("pos", "neg")
    assert order(architectures=["BertForTokenClassification"]) == ("neg", "pos")
    assert order(id2label={"0": "POS", "1": "neutral"}) == ("neg", "pos")
    assert order(id2label={"0": "pos", "1": "neg", "2": "mixed"}) == ("neg", "pos")


def test_a_teacher_with_a_tasks_labels_in_another_order(tmp_path, config):
    """A task that has an order of its own keeps it."""
    task = models.load_task(config)
    other = runs.TINY | {"id2label": {"0": "pos", "1": "neg"}}
    teacher = write_checkpoint(tmp_path / "teacher", random_tensors(other), other)
    with pytest.raises(CheckpointError, match="calls its labels pos, neg, and files calls them neg, pos: it would teach one as another"):
        models.load_teacher(override(config, {"distill.teacher": str(teacher)}), task, models.student_shapes(config, task))


def test_a_head_whose_labels_stand_in_another_order(tmp_path, config, caplog):
    """It begins with one label as another where the order is the task's own, or the teacher's. That is told."""
    turned = write_checkpoint(tmp_path / "turned", random_tensors(runs.TINY), runs.TINY | {"id2label": {"0": "pos", "1": "neg"}})

    def told(**fields):
        caplog.clear()
        changed = override(config, {name.replace("__", "."): str(value) for name, value in fields.items()})
        models.load_student(changed, models.load_task(changed))
        return [record.getMessage() for record in caplog.records if "begins with one as another" in record.getMessage()]

    assert told(model__pretrained=turned) == told() == []
    (said,) = told(distill__teacher=turned, model__pretrained=write_checkpoint(tmp_path / "own", random_tensors(runs.TINY), runs.TINY))
    assert said.startswith(f"model.pretrained={tmp_path / 'own'} calls its labels neg, pos, and files calls them pos, neg: its head begins")


def test_a_teacher_without_names_of_labels(tmp_path, config, caplog):
    """It is taken to have the task's order, and one line says which label that makes of which."""
    unnamed = {name: value for name, value in runs.TINY.items() if name != "id2label"}
    teacher = write_checkpoint(tmp_path / "teacher", random_tensors(runs.TINY), unnamed)
    config = override(config, {"distill.teacher": str(teacher)})
    task = models.load_task(config)
    arch = models.student_shapes(config, task)
    models.load_teacher(config, task, arch)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith(f"distill.teacher={teacher} and files are taken to") and "LABEL_0 -> neg, LABEL_1 -> pos; if" in said
    write_checkpoint(tmp_path / "teacher", random_tensors(runs.TINY), runs.TINY)
    caplog.clear()
    models.load_teacher(config, task, arch)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_loss_that_is_not_finite(refusal, tmp_path):
    """Stops at the first window that shows it; what is on record and in checkpoints is finite."""
    message = refusal(optimizer__learning_rate=1e30, optimizer__predictor_learning_rate=1e30)
    assert message.startswith("the loss or its gradient is not finite at or before step ")
    assert message.endswith(": lower optimizer.learning_rate or optimizer.predictor_learning_rate")
    lines = [json.loads(line) for line in runs.read_lines(tmp_path / "run")]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def fail(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["transkimmer_jax.checkpoints.files.os.fsync", "transkimmer_jax.training.records.Records.write"])
def test_a_full_disk_here_and_there(refusal, monkeypatch, tmp_path, place):
    """As the config is written, and as the first metrics are."""
    monkeypatch.setattr(place, fail)
    culprit = tmp_path / "run" / "config.json" if place.endswith("fsync") else tmp_path / "run"
    assert refusal() == f"cannot write {culprit}: {FULL}"


def test_a_really_full_disk(disk, config, program_cache, tmp_path, caplog):
    """One line, also from what writes in the background; and with more room the same command goes on to the end."""
    config_file, workdir = runs.write_config(tmp_path / "task.py", config), disk("700k") / "run"  # two checkpoints
    process = runs.start_train(config_file, workdir, program_cache)
    printed, notes = process.communicate(timeout=120)
    assert process.returncode == 2 and printed == "", notes
    assert notes.splitlines()[-1] == f"error: cannot write {workdir}: {FULL}"
    assert "Traceback" not in notes and "Exception" not in notes, notes
    assert {path.name for path in workdir.iterdir()} == {"config.json", "data.json", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert any(path.name.isdigit() for path in (workdir / "checkpoints").iterdir()), "else there is nothing to resume from"

    disk("64m")
    caplog.set_level("INFO", "transkimmer_jax")
    assert console.run(runs.train_main(), ["--config", str(config_file), "--workdir", str(workdir)]) == 0
    assert re.search("^resuming at step (15|20) of 60$", "\n".join(caplog.messages), re.MULTILINE)
    assert runs.read_result(workdir)["steps"] == 60 and (workdir / "model" / "model.safetensors").is_file()
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "model",
        "result.json",
        "SHA256SUMS",
    }
