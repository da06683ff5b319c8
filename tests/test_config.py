"""Laws of the configuration: what is written is what is read, and an unfit value is a one-line `ConfigError`."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.config import (
    FIELDS,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SkimConfig,
    TrainConfig,
    describe,
    difference,
    from_dict,
    load_config,
    override,
    to_dict,
)  # fmt: skip
from transkimmer_jax.errors import ConfigError


def write(folder, body):
    path = folder / "some_task.py"
    path.write_text("from transkimmer_jax.config import *\n" + body, encoding="utf-8")
    return str(path)


def refusal(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_load_config(tmp_path):
    path = write(tmp_path, "def get_config():\n    return Config(skim=SkimConfig(target=0.3), data=DataConfig(task='glue/qnli'))\n")
    assert load_config(path) == Config(skim=SkimConfig(target=0.3), data=DataConfig(task="glue/qnli"))
    overridden = load_config(path, {"skim.target": "0.2", "train.seed": "7"})
    assert overridden == Config(skim=SkimConfig(target=0.2), data=DataConfig(task="glue/qnli"), train=TrainConfig(seed=7))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config(:\n", "cannot be read as a config: SyntaxError"),
        ("import no_such_module\n", "cannot be read as a config: ModuleNotFoundError: No module named 'no_such_module'"),
        ("config = Config()\n", "has no attribute 'get_config'"),
        ("def get_config():\n    return {'train': {}}\n", "get_config() gives a dict, not a Config"),
        ("def get_config():\n    return Config(skim=SkimConfig(treshold=1.0))\n", "unknown field 'treshold'"),
        ("def get_config():\n    return Config(skim=SkimConfig(target=2.0))\n", "target=2.0: input should be less than or equal to 1"),
    ],
)
def test_files_that_are_no_config(tmp_path, body, message):
    assert message in refusal(load_config, write(tmp_path, body))


def test_missing_files_and_other_kinds(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert "config's name ends in .py" in refusal(load_config, str(tmp_path / "config.json"))
    assert refusal(load_config, str(tmp_path / "nowhere.py")) == f"no config file {str(tmp_path / 'nowhere.py')!r}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data.batch_size", "64", 64),
        ("optimizer.learning_rate", "3e-5", 3e-5),
        ("skim.threshold", "-1", -1.0),
        ("model.remat", "true", True),
        ("skim.enabled", "False", False),
        ("model.compute_dtype", "bfloat16", "bfloat16"),
        ("model.pretrained", "some/folder", "some/folder"),
        ("data.train_file", "train.jsonl", "train.jsonl"),
        ("distill.teacher", "None", None),
        ("skim.predictor_size", "16", 16),
        ("skim.predictor_size", "none", None),
        ("model.dropout", "0", 0.0),
        ("model.layers", "4", 4),
        ("model.layers", "0,2", (0, 2)),
        ("skim.layers", "0", (0,)),
        ("data.text_columns", "question,answer", ("question", "answer")),
        ("data.text_columns", "(question, answer)", ("question", "answer")),
        ("data.text_columns", "[DE] title,title (EN)", ("[DE] title", "title (EN)")),
        ("data.length_buckets", "16, 32,64", (16, 32, 64)),
        ("skim.levels", "none", ()),
    ],
)
def test_overrides_of_every_type(name, text, value):
    section, key = name.split(".")
    # From a value that differs, so that an override that does nothing cannot pass.
    fields = {"distill.teacher": "x", "skim.predictor_size": "8", "model.dropout": "0.5", "data.task": "files", "skim.levels": "0.3"}
    before = override(Config(), fields)
    changed = override(before, {name: text})
    actual = getattr(getattr(changed, section), key)
    assert actual == value and type(actual) is type(value) and actual != getattr(getattr(before, section), key)
    assert difference(to_dict(before), to_dict(changed))[0].startswith(f"{name} (")
    assert len(difference(to_dict(before), to_dict(changed))) == 1, "other fields changed"


def test_overrides_are_judged_together():
    both = override(Config(), {"data.batch_size": "30", "optimizer.accumulation": "5"})
    assert (both.data.batch_size, both.optimizer.accumulation) == (30, 5)
    assert "must be a multiple of optimizer.accumulation (5)" in refusal(override, Config(), {"optimizer.accumulation": "5"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("data.batchsize", "data.batch_size"),
        ("skim.treshold", "skim.threshold"),
        ("optimiser.learning_rate", "optimizer.learning_rate"),
        ("train.eval_evry", "train.eval_every"),
    ],
)
def test_mistyped_names_get_a_suggestion(name, meant):
    assert refusal(override, Config(), {name: "1"}) == f"unknown field {name!r}; did you mean {meant!r}?"


@pytest.mark.parametrize("name", ["train", "train.", "nothing.like.this.at.all", ""])
def test_names_that_are_no_fields(name):
    assert refusal(override, Config(), {name: "1"}).startswith(f"unknown field {name!r}")


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.batch_size": "many"}, {"data.batch_size": "6.5"}, {"data.batch_size": "none"}, {"optimizer.learning_rate": "fast"},
        {"model.remat": "maybe"}, {"model.compute_dtype": "bf16"}, {"data.length_buckets": "16,x"},
        {"skim.target": "0"}, {"skim.target": "1.1"}, {"skim.target": "nan"}, {"skim.predictor_size": "0"},
        {"skim.coefficient": "-1"}, {"skim.warmup": "0.7"}, {"skim.warmup": "-0.1"}, {"skim.noise_end": "0"},
        {"skim.target": "0.4", "skim.levels": "0.3,0.405"}, {"skim.coefficient": "1", "skim.levels": "0.3"},
        {"distill.weight": "1.5"}, {"distill.temperature": "0"}, {"distill.unlabelled_file": "more.txt"},
        {"model.intermediate_size": "0"}, {"model.intermediate_size": "1.5"}, {"model.layers": "0"}, {"model.layers": "1,0"},
        {"skim.layers": "1,0"}, {"skim.layers": "-1,2"}, {"skim.layers": ""}, {"skim.layers": "0,4", "model.layers": "4"},
        {"skim.layers": "2", "model.layers": "0,3"}, {"model.dropout": "1"}, {"data.max_length": "2"},
        {"data.text_columns": "a,b,c", "data.task": "files"}, {"data.text_columns": "", "data.task": "files"},
        {"data.length_buckets": "32,16"}, {"data.length_buckets": "16,16"}, {"data.length_buckets": ""},
        {"optimizer.learning_rate": "0"}, {"optimizer.warmup": "1.5"}, {"train.epochs": "inf"}, {"skim.threshold": "-inf"},
        {"train.steps": "0"}, {"model.pooling": "mean"}, {"data.task": "glue/mrpc", "data.train_file": "mine"},
        {"data.task": "texts", "data.test_file": "mine"}, {"data.text_files": "mine"}, {"data.text_columns": "mine"},
    ],
    ids=str,
)  # fmt: skip
def test_unfit_values(overrides):
    """The message names one of the fields at fault."""
    message = refusal(override, Config(), overrides)
    assert any(name.partition(".")[2] in message for name in overrides)


words = st.text(max_size=10)
share = st.floats(0.001, 1.0)
positive = st.integers(1, 10**6)
configs = st.builds(
    Config,
    model=st.builds(
        ModelConfig,
        pretrained=words,
        layers=st.none() | positive | st.sets(st.integers(0, 30), min_size=1).map(lambda numbers: tuple(sorted(numbers))),
        compute_dtype=st.sampled_from(["float32", "bfloat16"]),
        dropout=st.none() | st.floats(0, 0.99),
    ),
    skim=st.builds(
        SkimConfig, enabled=st.booleans(), predictor_size=st.none() | positive, threshold=st.floats(-1e6, 1e6), target=share,
        coefficient=st.none() | share,
    ),
    data=st.builds(
        DataConfig,
        task=st.just("files"),
        train_file=st.none() | words,
        text_columns=st.lists(words, min_size=1, max_size=2).map(tuple),
        length_buckets=st.lists(positive, min_size=1, unique=True).map(lambda values: tuple(sorted(values))),
        max_length=st.none() | st.integers(3, 512),
    ),
    optimizer=st.builds(OptimizerConfig, learning_rate=share, predictor_learning_rate=st.none() | share),
    train=st.builds(TrainConfig, steps=st.none() | positive, seed=st.integers(0, 2**32 - 1)),
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(configs)
def test_round_trip_through_json(config):
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config == from_dict(to_dict(config))
    assert type(again.data.length_buckets) is tuple and type(again.skim.threshold) is float


def test_part_of_a_checkpoint():
    for (layers, size), text in {
        (None, 0.5): "50% of the neurons",
        (4, 512.0): "4 layers of 512 neurons",
        ((0, 2), None): "2 layers",
    }.items():
        assert ModelConfig(layers=layers, intermediate_size=size).part == text
    assert ModelConfig().part is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": {}}, "unknown field 'modell'"),
        ({"skim": {"tresh": 1.0}}, "unknown field 'skim.tresh'; did you mean 'skim.threshold'?"),
        ({"skim": 3}, "skim=3: "),
        ({"train": {"seed": None}}, "train.seed=None: "),
        ({"model": {"compute_dtype": "int8"}}, "model.compute_dtype='int8': "),
        ({"data": {"length_buckets": [16, "x"]}}, "data.length_buckets='x': "),
    ],
)
def test_dictionaries_that_are_no_config(values, message):
    assert refusal(from_dict, values).startswith(message)


def test_the_help_has_every_field_with_a_value_that_can_be_given_back():
    config = override(Config(), {"train.seed": "1234", "data.task": "questions", "data.text_columns": "question,answer"})
    lines = describe(config).splitlines()
    assert 50 < len(FIELDS) <= 60
    texts = {}
    for number, line in enumerate(lines):
        if line.startswith("  --config."):
            name, _, text = line.strip().removeprefix("--config.").partition("=")
            texts[name] = text
            assert len(lines[number + 1].strip()) > 10, f"{name} has no sentence"
    assert set(texts) == set(FIELDS) and override(Config(), texts) == config
    assert "recipes" in describe() and "recipes" not in describe(config)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**32 - 1))
def test_numbers_survive_the_command_line(number, seed):
    changed = override(Config(), {"skim.threshold": repr(number), "train.seed": str(seed)})
    assert (changed.skim.threshold, changed.train.seed) == (number, seed)


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 3
