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
    return runs.make_recipe(common, skimming={"model.layers": 2, "skim.target": 0.5, "train.steps": 30})


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recipe")
    return workdir, train_recipe(recipe, workdir, "transkimmer train")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_result_is_the_skimming_models_with_both_runs(finished):
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
    for run in (dense, skimming):
        assert run["examples"] == {"validation": 40, "test": 160} and set(run["metrics"]["test"]) == {"accuracy", "macro_f1"}
        assert run["value"] == run["metrics"]["validation"]["accuracy"]
    for path in (workdir / "skimming" / "model").iterdir():
        assert (workdir / "model" / path.name).read_bytes() == path.read_bytes()
    config = read(workdir / "skimming" / "config.json")
    assert config["model"]["pretrained"] == config["distill"]["teacher"] == str(workdir / "dense" / "model")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"intermediate_size": 40.0}, "model.intermediate_size=40 of a checkpoint with 32 neurons"),
        ({"layers": 4}, "num_hidden_layers=4 of a checkpoint with 3 layers: take 1 to 3"),
        ({"layers": 1}, "skim.target=0.5 is more than the model costs with nothing skimmed"),
    ],
)
def test_shape_beyond_the_encoder_is_refused_before_the_dense_run(recipe, tmp_path, shape, message):
    model = dataclasses.replace(recipe.skimming.model, **shape)
    other = dataclasses.replace(recipe, skimming=dataclasses.replace(recipe.skimming, model=model))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        train_recipe(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def refused(tmp_path):
    """The error of a recipe with changed fields of its skimming run, before it resumes the dense run that has begun."""
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


def test_budget_above_the_cost_of_these_texts_is_refused(recipe, refused):
    """With few neurons a model costs less of these texts than of the longest that it reads."""
    part = {"layers": None, "intermediate_size": 4.0}
    said = refused(recipe, ConfigError, model=part, skim={"target": 0.5, "levels": (0.69,)})
    assert said.startswith("skim.levels=0.69 is more than the model costs with nothing skimmed, 0.680 of the dense one with all layers")
    config = recipe.student_config(recipe.dense.model.pretrained)
    arch = student_shapes(dataclasses.replace(config, model=dataclasses.replace(config.model, **part)), load_task(recipe.dense))
    skim = dataclasses.replace(config.skim, target=0.69)
    budget.require_spendable(skim, arch, 12.0)
    budget.require_spendable(dataclasses.replace(skim, coefficient=0.5), arch, 5.0)


def test_budget_below_the_cost_of_kept_tokens_is_warned_of(recipe, refused, caplog):
    """It is told before the dense run, though the run goes on: here to what cannot be called."""
    model = {"layers": None}
    with caplog.at_level("WARNING", logger="transkimmer_jax"):
        refused(recipe, TypeError, model=model, skim={"target": 0.5})
    assert not caplog.records
    with caplog.at_level("WARNING", logger="transkimmer_jax"):
        refused(recipe, TypeError, model=model, skim={"target": 0.5, "layers": (1,)})
    (record,) = caplog.records
    assert record.getMessage().startswith("all tokens stay before layer 1, and that alone costs")


def test_micro_batches_of_the_skimming_run_are_checked_first(recipe, refused, monkeypatch):
    """Of the skimming run alone, which has micro-batches."""
    monkeypatch.setattr(Placement, "device_count", 2)
    size = recipe.dense.data.batch_size
    said = refused(recipe, ConfigError, optimizer={"accumulation": size})
    assert said.startswith(f"data.batch_size={size} cannot be shared by 2 devices in {size} micro-batches")


def test_unlabelled_texts_are_read_before_the_dense_run(recipe, refused, write):
    assert refused(recipe, DataError, distill={"unlabelled_file": "typo.jsonl"}).startswith("typo.jsonl: cannot be read")
    more = write("more.jsonl", [{"review": "a film"}])
    assert "more.jsonl, line 1: no column 'text'" in refused(recipe, DataError, distill={"unlabelled_file": str(more)})
    tags = str(write("tags.jsonl", [{"words": ["a", "film"], "tags": ["O", "B-X"]}]))
    files = {"task": "tags", "train_file": tags, "validation_file": None, "test_file": None}
    tagger = with_data(recipe, text_columns=("words",), label_column="tags", **files)
    assert "of a classifier or regressor, and data.task='tags'" in refused(tagger, ConfigError, distill={"unlabelled_file": str(more)})


def test_encoder_with_too_few_positions_or_types_is_refused_first(recipe, refused, tokenizer_folder, tmp_path):
    """It has too few positions, or does not tell questions from contexts."""
    said = refused(with_data(recipe, max_length=41), CheckpointError)
    assert said == f"data.max_length=41 is more than the 40 positions of {recipe.dense.model.pretrained}: lower it"
    encoder = runs.write_model(tmp_path / "encoder", tokenizer_folder, runs.TINY | {"type_vocab_size": 1})
    model = dataclasses.replace(recipe.dense.model, pretrained=str(encoder))
    other = dataclasses.replace(recipe, dense=dataclasses.replace(recipe.dense, model=model))
    said = refused(other, CheckpointError, skim={"always_keep": "first_segment"})
    assert said == f"cannot train {encoder}: skim.pinned='first_segment' needs token types, and type_vocab_size is 1"


def test_recipe_resumes_without_its_encoder(recipe, finished, tmp_path):
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


def test_comparison_shows_both_models(finished):
    workdir, result = finished
    lines = recipes.comparison(result, workdir).splitlines()
    assert lines[0].split() == ["dense", "skimming", "against", "dense"]
    values = [result[run]["metrics"]["test"]["accuracy"] for run in ("dense", "skimming")]
    assert f"accuracy, test  {values[0]:.4f}  {values[1]:.4f}  {values[1] - values[0]:+.4f}".split() == lines[2].split()
    assert any(line.split()[-2:] == ["1.00x", f"{result['flops_vs_unpadded']:.2f}x"] for line in lines)
    assert sum(line.startswith("  by layer ") for line in lines) == 3
    assert lines[-1] == f"next:  transkimmer predict --model {workdir}/model --input FILE"


def test_finished_recipe_answers_again(recipe, finished, monkeypatch):
    """Finished runs are not made again; where the recipe's own part is missing, only that is made."""
    workdir, result = finished
    monkeypatch.setattr("transkimmer_jax.training.loop.TrainStep.create", None)
    assert train_recipe(recipe, workdir) == result
    (workdir / "result.json").unlink()
    assert train_recipe(recipe, workdir) == result and read(workdir / "result.json") == result


def test_moved_workdir_is_recognised(recipe, finished, tmp_path, monkeypatch):
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


def test_interrupted_recipe_resumes(recipe, finished, tmp_path, monkeypatch):
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


def test_workdir_of_another_config_is_refused(recipe, finished, config, tmp_path):
    workdir, _ = finished
    other = dataclasses.replace(recipe, dense=dataclasses.replace(recipe.dense, train=TrainConfig(steps=21)))
    with pytest.raises(TrainingError, match=r"another config: dense\.train\.eval_every .* dense\.train\.steps \(20 there, 21 here\)"):
        train_recipe(other, workdir)
    with pytest.raises(TrainingError, match="belongs to a recipe of two runs, not to a single one"):
        train_and_evaluate(config, workdir)
    (tmp_path / "config.json").write_text(json.dumps({"train": {}}), encoding="utf-8")
    with pytest.raises(TrainingError, match="belongs to a single run, not to a recipe of two"):
        train_recipe(recipe, tmp_path)


def test_foreign_model_folder_is_not_replaced(recipe, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="model holds files and no checkpoint of this package to replace"):
        train_recipe(recipe, tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "thesis.tex"}


def test_train_py_prints_both_models(recipe, finished, tmp_path, capsys):
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
