"""Every file of configs/ is a config, names a task that exists, and opens with the command that runs it."""

import ast
import pathlib

import pytest

from transkimmer_jax.config import load_config, override
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import ConfigError

CONFIGS = sorted(path for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py") if path.stem not in ("__init__", "base"))
GLUE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}


def test_all_tasks_have_a_config():
    assert {path.stem for path in CONFIGS} == {f"glue_{name}" for name in GLUE} | {"imdb", "quickstart"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config = load_config(str(path))
    task = get_task(config.data)
    assert task.name == (f"glue/{path.stem.removeprefix('glue_')}" if path.stem.startswith("glue_") else task.name)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert f"python train.py --config configs/{path.name}" in docstring


def test_the_paper_recipe_of_qnli_is_a_valid_override():
    config = override(
        load_config(str(CONFIGS[0].parent / "glue_qnli.py")),
        {
            "skim.objective": "coefficient",
            "skim.coefficient": "0.5",
            "skim.initial_bias": "5",
            "skim.predictor_size": "768",
            "optimizer.predictor_learning_rate": "none",
        },
    )
    assert config.model.pretrained == "bert-base-uncased"
    assert (config.data.batch_size, config.train.epochs, config.optimizer.learning_rate) == (64, 3.0, 2e-5)
    with pytest.raises(ConfigError, match=r"did you mean 'skim.coefficient'"):
        override(config, {"skim.coeficient": "1"})
