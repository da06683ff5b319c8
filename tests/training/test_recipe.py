"""A whole recipe in miniature: both runs, what lies beside them, and what the same command does when it comes again."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from training import runs

from transkimmer_jax import console
from transkimmer_jax.config import Recipe, TrainConfig, to_dict
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from transkimmer_jax.training import budget
from transkimmer_jax.training import recipe as recipes
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_task, student_shapes
from transkimmer_jax.training.recipe import train_recipe


@pytest.fixture(scope="module")
def recipe(config, reviews):
    data = dataclasses.replace(config.data, test_file=str(reviews / "train.jsonl"))
    common = dataclasses.replace(config, data=data, train=TrainConfig(steps=20, log_every=5, eval_every=10))
    return runs.make_recipe(common, dense={}, skimming={"model.layers": 2, "skim.target": 0.5, "train.steps": 30})


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recipe")
    return workdir, train_recipe(recipe, workdir, "transkimmer train")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_result(finished):
    """That of the skimming model, with both runs' own."""
    workdir, result = finished
    assert read(workdir / "result.json") == result
    dense, skimming = (read(workdir / run / "result.json") for run in ("dense", "skimming"))
    assert (result["dense"], result["skimming"]) == (dense, skimming) and result["command"] == "transkimmer train"
    assert {name: result[name] for name in skimming if name != "seconds"} == {
        name: value for name, value in skimming.items() if name != "seconds"
    }
    assert result["seconds"] == pytest.approx(dense["seconds"] + skimming["seconds"], abs=0.11)
    assert (dense["steps"], skimming["steps"]) == (20, 30) and len(skimming["kept_per_layer"]) == 2
    assert dense["flops_vs_unpadded"] == 1.0 and dense["kept_tokens"] == 1.0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("intermediate_size", 40.0, "model.intermediate_size=40 of a checkpoint with 32 neurons"),
        ("layers", 1, "skim.target=0.5 is more than the model costs with nothing skimmed"),
    ],
)
def test_a_part_that_does_not_suit_the_encoder(recipe, tmp_path, name, value, message):
    """Refused before the dense run, which takes long."""
    model = dataclasses.replace(recipe.skimming.model, **{name: value})
    other = dataclasses.replace(recipe, skimming=dataclasses.replace(recipe.skimming, model=model))
    with pytest.raises(ConfigError, match=message):
        train_recipe(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "skimming", "message"),
    [
        (
            {"layers": 1},
            {"skim": {"layers": (1,)}, "model": {"layers": None}},
            "skim.layers=1 of a model whose layers are 0 to 0: name some of these",
        ),
        ({"layers": 1}, {"model": {"layers": 2}}, "num_hidden_layers=2 of a checkpoint with 1 layers: take 1 to 1"),
        ({"intermediate_size": 0.5}, {"model": {"intermediate_size": 20.0}}, "model.intermediate_size=20 of a checkpoint with 16 neurons"),
        ({"layers": 1}, {"model": {"layers": None}}, "skim.target=0.5 is more than the model costs with nothing"),
    ],
)
def test_a_part_that_does_not_suit_the_dense_run(recipe, tmp_path, part, skimming, message):
    """Refused before it, too: the skimming run starts from what it keeps."""
    dense = dataclasses.replace(recipe.dense, model=dataclasses.replace(recipe.dense.model, **part))
    changes = {name: dataclasses.replace(getattr(recipe.skimming, name), **values) for name, values in skimming.items()}
    other = dataclasses.replace(recipe, dense=dense, skimming=dataclasses.replace(recipe.skimming, **changes))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        train_recipe(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def refused(tmp_path):
    """Trains a recipe with fields of its skimming run changed, where a dense run has begun and not ended; what it says before it goes on
    with that."""
    (tmp_path / "run" / "dense").mkdir(parents=True)

    def run(recipe, expected, **changes):
        skimming = {name: dataclasses.replace(getattr(recipe.skimming, name), **fields) for name, fields in changes.items()}
        with pytest.MonkeyPatch.context() as patch, pytest.raises(expected) as error:
            patch.setattr(recipes, "train_and_evaluate", None)
            train_recipe(dataclasses.replace(recipe, skimming=dataclasses.replace(recipe.skimming, **skimming)), tmp_path / "run")
        return str(error.value)

    return run


def with_data(recipe, **fields):
    """The recipe of other texts."""
    runs_of_both = (recipe.dense, recipe.skimming)
    return Recipe(*(dataclasses.replace(run, data=dataclasses.replace(run.data, **fields)) for run in runs_of_both))


def test_a_budget_that_texts_of_a_length_do_not_allow(recipe, refused):
    """With few neurons a model costs less of these texts than of the longest that it reads."""
    part = {"layers": None, "intermediate_size": 4.0}
    said = refused(recipe, ConfigError, model=part, skim={"target": 0.5, "levels": (0.69,)})
    assert said.startswith("skim.levels=0.69 is more than the model costs with nothing skimmed, 0.680 of the dense one with all layers")
    config = recipe.student_config(recipe.dense.model.pretrained)
    arch = student_shapes(dataclasses.replace(config, model=dataclasses.replace(config.model, **part)), load_task(recipe.dense))
    skim = dataclasses.replace(config.skim, target=0.69)
    budget.require_spendable(skim, arch, 12.0)
    budget.require_spendable(dataclasses.replace(skim, coefficient=0.5), arch, 5.0)


def test_a_budget_below_what_is_never_skimmed(recipe, refused, caplog):
    """It is told before the dense run, though the run goes on: here to what cannot be called."""
    model = {"layers": None}
    with caplog.at_level("WARNING", logger="transkimmer_jax"):
        refused(recipe, TypeError, model=model, skim={"target": 0.5})
    assert not caplog.records
    with caplog.at_level("WARNING", logger="transkimmer_jax"):
        refused(recipe, TypeError, model=model, skim={"target": 0.5, "layers": (1,)})
    (record,) = caplog.records
    assert record.getMessage().startswith("all tokens stay before layer 1, and that alone costs")


def test_a_batch_that_the_devices_cannot_share(recipe, refused, monkeypatch):
    """Of the skimming run alone, which has micro-batches."""
    monkeypatch.setattr(Placement, "device_count", 2)
    size = recipe.dense.data.batch_size
    said = refused(recipe, ConfigError, optimizer={"accumulation": size})
    assert said.startswith(f"data.batch_size={size} cannot be shared by 2 devices in {size} micro-batches")


def test_texts_that_the_skimming_run_alone_reads(recipe, refused, write):
    assert refused(recipe, DataError, distill={"unlabelled_file": "typo.jsonl"}).startswith("typo.jsonl: cannot be read")
    more = write("more.jsonl", [{"review": "a film"}])
    assert "more.jsonl, line 1: no column 'text'" in refused(recipe, DataError, distill={"unlabelled_file": str(more)})
    tags = str(write("tags.jsonl", [{"words": ["a", "film"], "tags": ["O", "B-X"]}]))
    files = {"task": "tags", "train_file": tags, "validation_file": None, "test_file": None}
    tagger = with_data(recipe, text_columns=("words",), label_column="tags", **files)
    assert "of a classifier or regressor, and data.task='tags'" in refused(tagger, ConfigError, distill={"unlabelled_file": str(more)})


def test_an_encoder_that_does_not_suit_the_skimming_run(recipe, refused, tokenizer_folder, tmp_path):
    """It has too few positions, or does not tell questions from contexts."""
    said = refused(with_data(recipe, max_length=41), CheckpointError)
    assert said == f"data.max_length=41 is more than the 40 positions of {recipe.dense.model.pretrained}: lower it"
    encoder = runs.write_model(tmp_path / "encoder", tokenizer_folder, runs.TINY | {"type_vocab_size": 1})
    model = dataclasses.replace(recipe.dense.model, pretrained=str(encoder))
    other = dataclasses.replace(recipe, dense=dataclasses.replace(recipe.dense, model=model))
    said = refused(other, CheckpointError, skim={"always_keep": "first_segment"})
    assert said == f"cannot train {encoder}: skim.pinned='first_segment' needs token types, and type_vocab_size is 1"


def test_a_recipe_goes_on_without_the_encoder_that_it_started_from(recipe, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "skimming")
    for name in ("result.json", "config.json", "SHA256SUMS"):
        (workdir / name).unlink(missing_ok=True)
    checkpoint = pathlib.Path(recipe.dense.model.pretrained)
    hidden = checkpoint.rename(checkpoint.with_name("hidden"))
    try:
        assert train_recipe(recipe, workdir)["metrics"] == finished[1]["metrics"]
    finally:
        hidden.rename(checkpoint)


def test_the_test_file_is_scored_under_its_own_name(finished):
    _, result = finished
    for run in ("dense", "skimming"):
        assert result[run]["examples"] == {"validation": 40, "test": 160}
        assert result[run]["value"] == result[run]["metrics"]["validation"]["accuracy"]
        assert set(result[run]["metrics"]["test"]) == {"accuracy", "macro_f1"}


def test_the_model_is_the_skimming_one(finished):
    workdir, _ = finished
    for path in (workdir / "skimming" / "model").iterdir():
        assert (workdir / "model" / path.name).read_bytes() == path.read_bytes()
    config = read(workdir / "skimming" / "config.json")
    assert config["model"]["pretrained"] == config["distill"]["teacher"] == str(workdir / "dense" / "model")


def test_comparison(finished):
    workdir, result = finished
    lines = recipes.comparison(result, workdir).splitlines()
    assert lines[0].split() == ["dense", "skimming", "against", "dense"]
    values = [result[run]["metrics"]["test"]["accuracy"] for run in ("dense", "skimming")]
    assert f"accuracy, test  {values[0]:.4f}  {values[1]:.4f}  {values[1] - values[0]:+.4f}".split() == lines[2].split()
    assert any(line.split()[-2:] == ["1.00x", f"{result['flops_vs_unpadded']:.2f}x"] for line in lines)
    assert sum(line.startswith("  by layer ") for line in lines) == 3
    assert lines[-1] == f"next:  transkimmer predict --model {workdir}/model --input FILE"


def test_the_same_command_again(recipe, finished, monkeypatch):
    """Finished runs are not made again; where the recipe's own part is missing, only that is made."""
    workdir, result = finished
    monkeypatch.setattr("transkimmer_jax.training.loop.TrainStep.create", None)
    assert train_recipe(recipe, workdir) == result
    (workdir / "result.json").unlink()
    assert train_recipe(recipe, workdir) == result and read(workdir / "result.json") == result


def test_another_spelling_of_the_workdir(recipe, finished, tmp_path, monkeypatch):
    """A recipe that was moved, or whose folder is typed otherwise, goes on; one whose second run has another teacher does not."""
    monkeypatch.setattr("transkimmer_jax.training.loop.TrainStep.create", None)
    workdir = shutil.copytree(finished[0], tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for spelling in (workdir, "moved", "./moved/", pathlib.Path("..", tmp_path.name, "moved")):
        (workdir / "result.json").unlink()
        assert train_recipe(recipe, spelling) == finished[1]
    config = read(workdir / "skimming" / "config.json")
    for section, field in (("model", "pretrained"), ("distill", "teacher")):
        other = config | {section: config[section] | {field: "other/model"}}
        (workdir / "skimming" / "config.json").write_text(json.dumps(other), encoding="utf-8")
        (workdir / "result.json").unlink(missing_ok=True)
        with pytest.raises(
            TrainingError, match=rf"belongs to a run with another config: {section}\.{field} \(other/model there, moved/dense"
        ):
            train_recipe(recipe, "moved")


def test_an_interrupted_recipe_goes_on(recipe, finished, tmp_path, monkeypatch):
    """The second run was cut off: the first is asked for again, which a finished one answers at once, and nothing is left out."""
    done, result = finished
    begun = []

    def interrupted_once(config, folder, command):
        assert config == (recipe.dense if folder.name == "dense" else recipe.student_config(str(tmp_path / "dense" / "model")))
        begun.append(folder.name)
        if begun == ["dense", "skimming"]:
            raise KeyboardInterrupt
        shutil.copytree(done / folder.name / "model", folder / "model", dirs_exist_ok=True)
        return result[folder.name]

    monkeypatch.setattr(recipes, "train_and_evaluate", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, tmp_path)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "model").exists()
    assert train_recipe(recipe, tmp_path) == result and begun == ["dense", "skimming", "dense", "skimming"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (done / "model" / "model.safetensors").read_bytes()


def test_a_workdir_of_something_else(recipe, finished, config, tmp_path):
    workdir, _ = finished
    other = dataclasses.replace(recipe, dense=dataclasses.replace(recipe.dense, train=TrainConfig(steps=21)))
    with pytest.raises(TrainingError, match=r"another config: dense\.train\.eval_every .* dense\.train\.steps \(20 there, 21 here\)"):
        train_recipe(other, workdir)
    with pytest.raises(TrainingError, match="belongs to a recipe of two runs, not to a single one"):
        train_and_evaluate(config, workdir)
    (tmp_path / "config.json").write_text(json.dumps({"train": {}}), encoding="utf-8")
    with pytest.raises(TrainingError, match="belongs to a single run, not to a recipe of two"):
        train_recipe(recipe, tmp_path)


def test_a_folder_in_the_place_of_the_model(recipe, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="model holds files and no checkpoint of this package to replace"):
        train_recipe(recipe, tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "thesis.tex"}


def test_train_py(recipe, finished, tmp_path, capsys):
    """It prints both side by side; fields are set for both, and for one."""
    workdir, result = finished
    both = [to_dict(run) for run in (recipe.dense, recipe.skimming)]
    body = f"""
from transkimmer_jax.config import Recipe, from_dict

def get_config():
    dense, skimming = {both!r}
    skimming["train"]["steps"] = 99
    return Recipe(from_dict(dense), from_dict(skimming))
"""
    file = tmp_path / "task.py"
    file.write_text(body, encoding="utf-8")
    arguments = ["--config", str(file), "--workdir", str(workdir), "--config.skimming.train.steps=30"]
    assert console.run(runs.train_main(), arguments) == 0
    assert capsys.readouterr().out == recipes.comparison(result, workdir) + "\n"
