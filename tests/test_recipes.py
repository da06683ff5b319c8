"""Every file of configs/ is a recipe or a single run, names a task that exists, and opens with the command that runs it."""

import ast
import pathlib
import re
import sys

import pytest

from transkimmer_jax.config import Config, DataConfig, Recipe, load_config
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models.architecture import WELL_KNOWN, Architecture
from transkimmer_jax.training.budget import require_spendable
from transkimmer_jax.training.models import student_shapes

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "base"))
GLUE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
SINGLE = {"qnli_paper", "distil"}
OF_FILES = {"files": "files", "files_pairs": "files", "files_tags": "tags", "files_questions": "questions", "distil": "texts"}
SST2 = str(ROOT / "configs" / "glue_sst2.py")


def test_all_tasks_have_a_config():
    assert {path.stem for path in CONFIGS} == {f"glue_{name}" for name in GLUE} | {
        "imdb",
        "yelp",
        "newsgroups",
        "squad_v2",
        "quickstart",
    } | {*OF_FILES} | SINGLE


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config = load_config(str(path))
    assert isinstance(config, Config if path.stem in SINGLE else Recipe)
    runs = (config.dense, config.skimming) if isinstance(config, Recipe) else (config,)
    for run in runs:
        if path.stem in OF_FILES:
            assert run.data.task == OF_FILES[path.stem]
        else:
            name = get_task(run.data).name
            assert name == (f"glue/{path.stem.removeprefix('glue_')}" if path.stem.startswith("glue_") else name)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert f"transkimmer train --config configs/{path.name}" in docstring
    for record in re.findall(r"results/[\w./-]+\.json", docstring):
        assert (ROOT / record).is_file(), record
    for line in docstring.splitlines():
        for name, value in re.findall(r"--config\.([\w.]+)=([\w.]+)", line):
            if name not in ("model.pretrained", "distill.teacher"):
                load_config(str(path), {name: value})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_budgets_that_a_config_tells_of_can_be_spent(path, monkeypatch):
    """By the part of MiniLM that its skimming model has, of short texts, of which that costs least."""
    minilm = Architecture(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    monkeypatch.setitem(WELL_KNOWN, "packaged:minilm-6l", minilm)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    lines = [dict(re.findall(r"--config\.([\w.]+)=(\S+)", line)) for line in docstring.splitlines()]
    for fields in [{}, *(line for line in lines if any(name.startswith("skim.") for name in line))]:
        config = load_config(str(path), fields)
        if isinstance(config, Recipe):
            run = config.student_config("packaged:minilm-6l")
            require_spendable(run.skim, student_shapes(run, get_task(DataConfig(task="glue/sst2"))), 12.0)


def test_configs_find_what_they_share_from_anywhere(monkeypatch, tmp_path):
    """The `transkimmer` command does not look for modules beside the configs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if pathlib.Path(folder).resolve() != ROOT])
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    before = list(sys.path)
    assert isinstance(load_config(SST2), Recipe) and sys.path == before


def test_a_recipe_is_one_dense_run_and_one_that_starts_from_it():
    recipe = load_config(SST2)
    run = recipe.student_config("runs/dense/model")
    assert not recipe.dense.skim.enabled and run.skim.enabled
    assert (run.model.pretrained, run.distill.teacher) == ("runs/dense/model", "runs/dense/model")
    assert recipe.dense.model.pretrained == "packaged:minilm-6l" and recipe.dense.distill.teacher is None


def test_fields_of_a_recipe():
    """Of both runs, of one by name, and of the skimming one where only that has a use for them."""
    fields = {
        "skimming.data.batch_size": "8", "data.batch_size": "16", "skim.target": "0.5", "distill.weight": "0.7", "model.pretrained": "x",
        "dense.train.epochs": "3", "skimming.model.layers": "4", "train.seed": "7",
    }  # fmt: skip
    recipe, before = load_config(SST2, fields), load_config(SST2)
    dense, skimming = recipe.dense, recipe.skimming
    assert (dense.data.batch_size, skimming.data.batch_size) == (16, 8) and dense.train.seed == skimming.train.seed == 7
    assert (dense.train.epochs, skimming.train.epochs) == (3.0, before.skimming.train.epochs)
    assert (dense.skim, dense.distill) == (before.dense.skim, before.dense.distill)
    assert (skimming.skim.target, skimming.distill.weight) == (0.5, 0.7)
    assert dense.model.pretrained == "x" and dense.model.layers is None and skimming.model.layers == 4
    assert recipe.student_config("d").model.pretrained == "d"


@pytest.mark.parametrize("field", [{"model.layers": "3"}, {"model.layers": "0,2"}])
def test_a_part_is_taken_once(field):
    """Of the dense model, by the skimming one: else that would take a part of a part. A dense run by itself takes it of the encoder."""
    recipe, name = load_config(SST2, field), next(iter(field)).removeprefix("model.")
    assert recipe.dense.model == load_config(SST2).dense.model
    wanted = getattr(recipe.skimming.model, name)
    assert wanted in (3, (0, 2)) and getattr(load_config(SST2, field | {"skim.enabled": "false"}).model, name) == wanted


def test_one_run_of_a_recipe():
    """The dense model alone, or the skimming one alone from a dense model that is there."""
    recipe = load_config(SST2)
    assert (
        load_config(SST2, {"skim.enabled": "false"})
        == load_config(SST2, {"skim.enabled": "false", "distill.teacher": "none"})
        == recipe.dense
    )
    assert load_config(SST2, {"skim.enabled": "false", "dense.train.epochs": "9", "train.seed": "3"}).train.epochs == 9.0
    assert load_config(SST2, {"distill.teacher": "runs/dense/model"}) == recipe.student_config("runs/dense/model")
    other = load_config(SST2, {"distill.teacher": "a", "model.pretrained": "b", "train.epochs": "9"})
    assert (other.distill.teacher, other.model.pretrained, other.train.epochs) == ("a", "b", 9.0)


def test_a_static_student_of_a_recipe():
    """What the skimming run is but for the skimming: the same teacher, texts and steps, and no budgets."""
    recipe = load_config(SST2, {"skim.levels": "0.5"})
    fields = {"distill.teacher": "runs/dense/model", "skim.enabled": "false", "model.layers": "2", "skim.levels": "0.5"}
    static, skimming = load_config(SST2, fields), recipe.student_config("runs/dense/model")
    assert not static.skim.enabled and static.skim.trained_levels == () and skimming.skim.trained_levels == (0.5, 0.285)
    assert static.model.layers == 2 and static.model.pretrained == static.distill.teacher == "runs/dense/model"
    assert (static.distill, static.data, static.train, static.optimizer) == (
        skimming.distill, skimming.data, skimming.train, skimming.optimizer,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skim.coeficient": "1"}, "did you mean 'skim.coefficient'"),
        ({"dense.train.epoch": "1"}, "unknown field 'train.epoch'; did you mean 'train.epochs'"),
        ({"skimming": "1"}, "unknown field 'skimming'"),
        ({"dense.train.epochs": "many"}, "train.epochs='many': input should be a valid number"),
        ({"dense.skim.enabled": "true"}, "skim.enabled is False of a recipe's dense run"),
        ({"dense.data.max_length": "8"}, "data.max_length must be the same for both runs of a recipe, not 8 and None"),
        ({"skim.enabled": "false", "skimming.train.epochs": "7"}, "skimming.train.epochs: of a stage that skim.enabled=false leaves out"),
        ({"skimming.skim.enabled": "false", "skim.target": "0.3", "distill.weight": "0.9"}, "skim.target, distill.weight: of a stage"),
        ({"distill.teacher": "x", "dense.train.epochs": "9"}, "dense.train.epochs: of a stage that distill.teacher leaves out"),
    ],
)
def test_recipes_that_cannot_be_meant(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(SST2, fields)
