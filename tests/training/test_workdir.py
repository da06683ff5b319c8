"""The files beside the checkpoints: damage to them is one line, and what killed processes left of them is deleted."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath
from faults.checkpoint_faults import MUTATIONS
from training import runs

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.config import Config, DataConfig, DistillConfig, TrainConfig, override, to_dict
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import workdir as workdirs
from transkimmer_jax.training.records import Records

EXAMPLES = "a digest"
RESULT = {"metric": "accuracy", "value": 0.875, "steps": 60}


@pytest.fixture
def workdir(tmp_path):
    """Of a run that has ended."""
    folder = epath.Path(tmp_path / "run")
    with workdirs.claimed(folder, Config(), EXAMPLES):
        with Records(folder, 0) as records:
            for step in (1, 2, 3):
                records.write(step, {"loss": 1.0 / step})
        workdirs.write_result(folder, RESULT)
    return folder


def damage(path, kind):
    MUTATIONS[kind](pathlib.Path(path), np.random.default_rng([*f"{path.name}{kind}".encode()]))


BYTES = [kind for kind in MUTATIONS if kind not in ("deleted", "another file's content")]


def test_a_finished_run(workdir, caplog):
    assert workdirs.finished_result(workdir, Config()) == RESULT
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("kind", BYTES)
def test_a_damaged_result(workdir, kind):
    """A digit that changes is a wrong answer, so it is refused as junk is."""
    damage(workdir / "result.json", kind)
    with pytest.raises(
        TrainingError, match="^.*/result.json is damaged .*: restore it, or delete it, and the same command makes it anew"
    ) as error:
        workdirs.finished_result(workdir, Config())
    assert "\n" not in str(error.value)
    (workdir / "result.json").unlink()
    assert workdirs.finished_result(workdir, Config()) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"7"])
def test_a_result_that_is_none(workdir, content):
    """Also where no digests are there: that of an older version, or of a run that was killed at its very end."""
    (workdir / "SHA256SUMS").unlink()
    (workdir / "result.json").write_bytes(content)
    with pytest.raises(TrainingError, match="^.*/result.json is damaged .*: restore it, or delete it") as error:
        workdirs.finished_result(workdir, Config())
    assert "\n" not in str(error.value)


def test_a_result_without_digests(workdir):
    (workdir / "SHA256SUMS").unlink()
    assert workdirs.finished_result(workdir, Config()) == RESULT


@pytest.mark.parametrize("kind", BYTES)
def test_damaged_digests(workdir, kind, caplog):
    """A warning, or an error where the bit is in the result's; never another answer."""
    damage(workdir / "SHA256SUMS", kind)
    try:
        assert workdirs.finished_result(workdir, Config()) == RESULT
        assert any(record.levelname == "WARNING" for record in caplog.records)
    except TrainingError as error:
        assert "result.json is damaged" in str(error)


@pytest.mark.parametrize("kind", BYTES)
def test_damaged_records_of_a_finished_run(workdir, kind, caplog):
    damage(workdir / "metrics.jsonl", kind)
    assert workdirs.finished_result(workdir, Config()) == RESULT
    assert f"{workdir}/metrics.jsonl is not what was written: another SHA-256 than in SHA256SUMS" in caplog.messages


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"model": 3}', b'{"model": null}', b"\xff\xfe", b"[" * 100_000, b'{"model": {'])
def test_a_damaged_config(workdir, content):
    """It tells whose run this is, so nobody guesses."""
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(TrainingError, match="^.*/config.json is .*, so nobody knows whose run this is: restore it, or delete it") as error:
        workdirs.finished_result(workdir, Config())
    assert "\n" not in str(error.value)


def test_flipped_bits_in_a_config(workdir):
    """Each is refused, or changes nothing: the config that counts is the command's."""
    content = (workdir / "config.json").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (workdir / "config.json").write_bytes(changed)
        try:
            assert workdirs.finished_result(workdir, Config()) == RESULT
        except TrainingError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_other_examples(workdir):
    """Refused by the name of what says which they are; a workdir without a word on them goes on, and has one from then on."""
    workdirs.require_unchanged(workdir, Config(), EXAMPLES)
    both = dataclasses.replace(Config(), distill=DistillConfig("teacher", unlabelled_file="more.txt"))
    for config, names in ((Config(), "data.task='glue/sst2'"), (both, "data.task='glue/sst2', distill.unlabelled_file")):
        with pytest.raises(TrainingError) as error:
            workdirs.require_unchanged(workdir, config, "another digest")
        assert str(error.value) == (
            f"the texts or labels of {names} are not those that the run in {workdir} began with: restore them, or choose another folder"
        )
    with pytest.raises(TrainingError, match="are not those that the run in"), workdirs.claimed(workdir, Config(), "another digest"):
        pass
    workdirs.require_unchanged(workdir, Config(), EXAMPLES)
    (workdir / "data.json").unlink()
    workdirs.require_unchanged(workdir, Config(), "another digest")
    with workdirs.claimed(workdir, Config(), "another digest"), pytest.raises(TrainingError, match="are not those that the run in"):
        workdirs.require_unchanged(workdir, Config(), EXAMPLES)


@pytest.mark.parametrize(
    ("config", "examples", "message"),
    [
        (Config(), "another digest", "the texts or labels of data.task='glue/sst2' are not those that the run in"),
        (Config(train=TrainConfig(seed=1)), EXAMPLES, "belongs to a run with another config: train.seed"),
    ],
)
def test_a_process_with_something_else_than_the_first(workdir, monkeypatch, config, examples, message):
    """It reads what the first has written only when all have come so far."""
    monkeypatch.setattr(workdirs.processes, "is_first", lambda: False)
    with workdirs.claimed(workdir, Config(), EXAMPLES):
        pass
    with pytest.raises(TrainingError, match=message), workdirs.claimed(workdir, config, examples):
        pass


@pytest.fixture
def model(tmp_path):
    """A folder of weights in two files, without digests."""
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    for name in (
        "config.json", "model-1.safetensors", "model-2.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json",
        "sentence_bert_config.json", "1_Pooling/config.json",
    ):  # fmt: skip
        (tmp_path / "model" / name).write_text(name, encoding="utf-8")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "changed",
    ["config.json", "model-2.safetensors", "tokenizer.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"],
)
@pytest.mark.parametrize("field", ["model.pretrained", "distill.teacher"])
def test_another_model(model, tmp_path, field, changed):
    """Refused where the run is finished, and where it would go on. What it lists of its own files is believed; one that is gone is not
    missed, and neither is one of a run that noted no digest of it."""
    config, folder = override(Config(), {field: str(model)}), epath.Path(tmp_path / "run")
    with workdirs.claimed(folder, config, EXAMPLES):
        pass
    folders.write_digests(epath.Path(model))
    workdirs.require_unchanged(folder, config, EXAMPLES)
    (model / "SHA256SUMS").unlink()
    (model / "tokenizer_config.json").write_text("another", encoding="utf-8")
    workdirs.require_unchanged(folder, config, EXAMPLES)
    began = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    (model / changed).write_text("another", encoding="utf-8")
    for digests, is_refused in (({"models": {}}, False), ({"models": began.pop("models")}, True), ({}, False)):
        (folder / "data.json").write_text(json.dumps(began | digests), encoding="utf-8")
        workdirs.write_result(folder, RESULT)
        for check in (workdirs.finished_result, lambda *arguments: workdirs.require_unchanged(*arguments, EXAMPLES)):
            refused = f"^{field}={model} is not the model that the run in {folder} began with: restore it"
            with pytest.raises(TrainingError, match=refused) if is_refused else contextlib.nullcontext():
                check(folder, config)
    shutil.rmtree(model)
    assert workdirs.finished_result(folder, config) == RESULT


@pytest.mark.parametrize("name", ["vocab.txt", "spm.model"])
def test_another_vocabulary(model, tmp_path, name):
    """It is what reads texts where there is no tokenizer.json."""
    config, whole = override(Config(), {"model.pretrained": str(model)}), epath.Path(tmp_path / "whole")
    (model / name).write_text(name, encoding="utf-8")
    with workdirs.claimed(whole, config, EXAMPLES):
        (model / name).write_text("unread", encoding="utf-8")
        workdirs.require_unchanged(whole, config, EXAMPLES)
    (model / "tokenizer.json").unlink()
    with workdirs.claimed(epath.Path(tmp_path / "run"), config, EXAMPLES):
        (model / name).write_text("another", encoding="utf-8")
        with pytest.raises(TrainingError, match="is not the model that the run in .*/run began with"):
            workdirs.require_unchanged(epath.Path(tmp_path / "run"), config, EXAMPLES)


def test_another_dense_model_of_a_finished_recipe(tmp_path):
    """The skimming run begins with it and learns from it, wherever the recipe's folder lies."""
    recipe, folder = runs.make_recipe(Config(), dense={}, skimming={}), epath.Path(tmp_path / "recipe")
    (folder / "dense" / "model").mkdir(parents=True)
    (folder / "dense" / "model" / "model.safetensors").write_text("weights", encoding="utf-8")
    for name, config in (("dense", recipe.dense), ("skimming", recipe.student_config(str(folder / "dense" / "model")))):
        with workdirs.claimed(folder / name, config, EXAMPLES):
            workdirs.write_result(folder / name, RESULT)
    workdirs.write_result(folder, RESULT)
    moved = folder.rename(tmp_path / "moved")
    assert workdirs.finished_result(moved, recipe) == RESULT
    (moved / "dense" / "model" / "model.safetensors").write_text("others", encoding="utf-8")
    with pytest.raises(TrainingError, match="/moved/dense/model is not the model that the run in .*/moved/skimming began with"):
        workdirs.finished_result(moved, recipe)


@pytest.mark.parametrize("run", ["dense", "skimming"])
def test_a_damaged_word_on_the_data_of_a_finished_recipe(tmp_path, caplog, run):
    """A warning: the result does not depend on it."""
    recipe, folder = runs.make_recipe(Config(), dense={}, skimming={}), epath.Path(tmp_path)
    for name, config in (("dense", recipe.dense), ("skimming", recipe.student_config("dense/model"))):
        with workdirs.claimed(folder / name, config, EXAMPLES):
            workdirs.write_result(folder / name, RESULT)
    workdirs.write_result(folder, RESULT)
    (folder / run / "data.json").write_text("{", encoding="utf-8")
    assert workdirs.finished_result(folder, recipe) == RESULT
    assert f"{folder}/{run}/data.json is not what was written: another SHA-256 than in SHA256SUMS" in caplog.messages


def test_other_files_of_a_finished_run(tmp_path):
    """Nobody reads the data of one: its files are compared, and one that is gone is not missed. Of a recipe those of both runs."""
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train_file", "validation_file", "text_files")}
    for path in files.values():
        pathlib.Path(path).write_text("{}\n", encoding="utf-8")
    labelled = Config(data=DataConfig("files", train_file=files["train_file"], validation_file=files["validation_file"]))
    recipe = runs.make_recipe(labelled, dense={}, skimming={"distill.unlabelled_file": files["text_files"]})
    texts = Config(data=DataConfig("texts", text_files=(files["text_files"],)))
    folder = epath.Path(tmp_path)
    for name, config in (("dense", recipe.dense), ("skimming", recipe.student_config("dense/model")), ("texts", texts)):
        with workdirs.claimed(folder / name, config, EXAMPLES):
            workdirs.write_result(folder / name, RESULT)
    (tmp_path / "config.json").write_text(json.dumps(workdirs.to_write(recipe)), encoding="utf-8")
    workdirs.write_result(folder, RESULT)
    finished = {folder / "dense": recipe.dense, folder: recipe, folder / "texts": texts}
    for workdir, config in finished.items():
        assert workdirs.finished_result(workdir, config) == RESULT
    refused = {
        "validation_file": {folder / "dense": "data.validation_file", folder: "data.validation_file"},
        "text_files": {folder: "distill.unlabelled_file", folder / "texts": "data.text_files"},
    }
    for name, where in refused.items():
        path = pathlib.Path(files[name])
        path.write_text("{ }\n", encoding="utf-8")
        for workdir, config in finished.items():
            if workdir in where:
                with pytest.raises(TrainingError, match=f"^the texts or labels of {where[workdir]} are not those that the run in .* began"):
                    workdirs.finished_result(workdir, config)
            else:
                assert workdirs.finished_result(workdir, config) == RESULT
        path.unlink()
    for workdir, config in finished.items():
        assert workdirs.finished_result(workdir, config) == RESULT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"examples": 3, "files": {}}',
        b'{"examples": "", "files": []}',
        b'{"examples": "", "files": {}, "models": 3}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_word_on_the_data(workdir, content):
    (workdir / "data.json").write_bytes(content)
    with pytest.raises(TrainingError, match="^.*/data.json is .*, so nobody knows what this run was trained on: restore it, or") as error:
        workdirs.require_unchanged(workdir, Config(), EXAMPLES)
    assert "\n" not in str(error.value)
    assert workdirs.finished_result(workdir, Config()) == RESULT, "its digest tells, and the result does not depend on it"


def test_what_was_left_is_deleted_when_the_workdir_is_claimed(workdir):
    for name in (".config.json.abcdefgh", ".result.json.ab_d3fgh"):
        (workdir / name).touch()
    (workdir / ".model.abcdefgh" / "new").mkdir(parents=True)
    (workdir / ".other.abcdefgh").touch()
    with workdirs.claimed(workdir, Config(), EXAMPLES):
        assert {path.name for path in workdir.iterdir() if path.name.startswith(".")} == {".other.abcdefgh"}
    assert json.loads((workdir / "config.json").read_text()) == to_dict(Config())


def test_what_is_saved(workdir):
    assert workdirs.what_is_saved(workdir) == "nothing is saved yet; the same command starts again"
    for name in ("15", "30", "45.orbax-checkpoint-tmp"):
        (workdir / "checkpoints" / name).mkdir(parents=True)
    assert workdirs.what_is_saved(workdir) == "saved at step 30; the same command resumes"


def reopened(workdir, step, digest, caplog):
    caplog.clear()
    with Records(workdir, step, digest) as records:
        after = records.digest
    return after, [message for message in caplog.messages if "metrics.jsonl" in message]


@pytest.fixture
def interrupted(tmp_path):
    """A workdir, and the digest of its records when step 2 was saved; step 3 is on record too."""
    with Records(tmp_path, 0) as records:
        records.write(1, {"loss": 1.0})
        records.write(2, {"loss": 0.5})
        digest = records.digest
        records.write(3, {"loss": 0.25})
    return tmp_path, digest


def test_records_go_on_where_they_were_saved(interrupted, caplog):
    workdir, digest = interrupted
    assert reopened(workdir, 2, digest, caplog) == (digest, [])
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert reopened(workdir, 2, None, caplog) == (digest, []), "saved by an older version"


@pytest.mark.parametrize("kind", MUTATIONS)
def test_damaged_records(interrupted, kind, caplog):
    """What can be read is kept, all of it is kept beside, and one line says so."""
    workdir, digest = interrupted
    path = workdir / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    if kind == "another file's content":
        path.write_bytes(b"\xff\xfe{}")
    else:
        damage(path, kind)
    damaged = path.read_bytes() if path.exists() else b""
    _, said = reopened(workdir, 2, digest, caplog)
    if damaged:
        assert said == [f"{path} is damaged: what can be read of it is kept, and all of it in {path}.damaged"]
        assert (workdir / "metrics.jsonl.damaged").read_bytes() == damaged
    else:
        assert said == [f"{path} is lost up to step 2"]
    for line in path.read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["step"] <= 2
