"""Laws of the configuration: what is written is what is read, and what does not fit is a one-line `ConfigError` that says what would."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.config import (
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

FIELDS = [
    (section.name, field.name)
    for section in dataclasses.fields(Config)
    for field in dataclasses.fields(type(getattr(Config(), section.name)))
]


def write(folder, body):
    path = folder / "some_task.py"
    path.write_text("from transkimmer_jax.config import *\n" + body, encoding="utf-8")
    return str(path)


def refusal(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files


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
        ("config = Config()\n", "defines no get_config()"),
        ("def get_config():\n    return {'train': {}}\n", "get_config() gives a dict, not a Config"),
        ("def get_config():\n    return Config(skim=SkimConfig(treshold=1.0))\n", "unexpected keyword argument 'treshold'"),
        ("def get_config():\n    return Config(skim=SkimConfig(target=2.0))\n", "skim.target must lie in (0, 1], not 2.0"),
        (
            "def get_config():\n    return Config(model=ModelConfig(compute_dtype='bf16'))\n",
            "model.compute_dtype='bf16': expected one of 'float32', 'bfloat16'",
        ),
        ("def get_config():\n    return Config(skim=SkimConfig(threshold='high'))\n", "skim.threshold='high': expected float"),
        (
            "def get_config():\n    return Config(data=DataConfig(text_columns='text'))\n",
            "data.text_columns names one column or two, not 4",
        ),
    ],
)
def test_files_that_are_no_config(tmp_path, body, message):
    path = write(tmp_path, body)
    assert message in refusal(load_config, path)


def test_files_of_other_kinds(tmp_path):
    for name in ("config.json", "config"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
        said = refusal(load_config, str(tmp_path / name))
        assert said == f"{tmp_path / name} is no Python file: a config's name ends in .py, and it defines get_config()"


def test_missing_file(tmp_path):
    assert refusal(load_config, str(tmp_path / "nowhere.py")) == f"no config file {str(tmp_path / 'nowhere.py')!r}"


# --- overrides


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
        ("model.hidden_dropout", "0", 0.0),
        ("data.text_columns", "question,answer", ("question", "answer")),
        ("data.text_columns", "(question, answer)", ("question", "answer")),
        ("data.text_columns", "Review (EN)", ("Review (EN)",)),
        ("data.text_columns", "[DE] title,title (EN)", ("[DE] title", "title (EN)")),
        ("data.length_buckets", "16, 32,64", (16, 32, 64)),
        ("skim.levels", "none", ()),
        ("data.text_columns", "none", ("none",)),
    ],
)
def test_overrides_of_every_type(name, text, value):
    section, key = name.split(".")
    # From a value that differs, so that an override that does nothing cannot pass.
    fields = {"distill.teacher": "x", "skim.predictor_size": "8", "model.hidden_dropout": "0.5", "data.task": "files", "skim.levels": "0.4"}
    before = override(Config(), fields)
    changed = override(before, {name: text})
    actual = getattr(getattr(changed, section), key)
    assert actual == value
    assert type(actual) is type(value)
    assert actual != getattr(getattr(before, section), key)
    restored = dataclasses.replace(changed, **{section: getattr(before, section)})
    assert restored == before, "other sections changed"
    others = {f.name for f in dataclasses.fields(getattr(before, section))} - {key}
    assert all(getattr(getattr(changed, section), other) == getattr(getattr(before, section), other) for other in others)


def test_overrides_are_judged_together():
    """Two fields that fit only together may be changed in one command."""
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
def test_mistyped_names(name, meant):
    assert refusal(override, Config(), {name: "1"}) == f"unknown config field {name!r}; did you mean {meant!r}?"


@pytest.mark.parametrize("name", ["train", "train.", "nothing.like.this.at.all", ""])
def test_names_that_are_no_fields(name):
    assert refusal(override, Config(), {name: "1"}).startswith(f"unknown config field {name!r}; ")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data.batch_size", "many", "int"),
        ("data.batch_size", "6.5", "int"),
        ("data.batch_size", "none", "int"),
        ("optimizer.learning_rate", "fast", "float"),
        ("model.remat", "1", "bool"),
        ("model.remat", "yes", "bool"),
        ("model.compute_dtype", "bf16", "one of 'float32', 'bfloat16'"),
        ("skim.predictor_size", "wide", "int"),
        ("data.length_buckets", "16,x", "int"),
    ],
)
def test_mistyped_values(name, text, expected):
    message = refusal(override, Config(), {name: text})
    assert message.startswith(f"{name}=")
    assert f"expected {expected}" in message


@pytest.mark.parametrize(
    "overrides",
    [
        {"skim.target": "0"}, {"skim.target": "1.1"}, {"skim.target": "nan"}, {"skim.temperature": "0"}, {"skim.predictor_size": "0"},
        {"skim.coefficient": "-1"}, {"skim.warmup": "0.6"}, {"skim.warmup": "-0.1"}, {"skim.loss_normalization": "padded"},
        {"skim.target": "0.4", "skim.levels": "0.3,0.405"}, {"skim.target": "0.4", "skim.levels": "0.3,0.305"},
        {"skim.controller_gain": "-1"}, {"skim.controller_gain": "nan"}, {"skim.controller_shift": "-0.1"},
        {"skim.loss_normalization": "padded", "model.attention_masking": "post_softmax"},
        {"distill.weight": "1.5"}, {"distill.temperature": "0"},
        {"distill.token_noise": "0.1"}, {"distill.token_noise": "1", "distill.teacher": "folder"},
        {"distill.unlabelled_file": "more.txt"},
        {"model.intermediate_size": "0"}, {"model.intermediate_size": "1.5"}, {"model.num_hidden_layers": "0"},
        {"skim.layers": "1,0"}, {"skim.layers": "-1,2"}, {"skim.layers": ""},
        {"skim.layers": "0,4", "model.num_hidden_layers": "4"}, {"skim.layers": "2", "model.layers": "0,3"},
        {"model.hidden_dropout": "1"}, {"model.attention_dropout": "-0.1"}, {"data.batch_size": "0"}, {"data.eval_batch_size": "0"},
        {"data.grouping_window": "0"}, {"optimizer.accumulation": "0"}, {"train.log_every": "0"}, {"train.keep_latest": "0"},
        {"data.train_examples": "0"}, {"data.eval_examples": "0"},
        {"train.steps": "0"}, {"train.eval_every": "0"}, {"train.save_every": "0"},
        {"data.max_length": "2"}, {"data.text_columns": "a,b,c", "data.task": "files"}, {"data.text_columns": "", "data.task": "files"},
        {"data.length_buckets": "32,16"},
        {"data.length_buckets": "16,16"}, {"data.length_buckets": ""}, {"data.batch_size": "33", "optimizer.accumulation": "2"},
        {"optimizer.learning_rate": "0"}, {"optimizer.learning_rate": "nan"}, {"optimizer.warmup": "1.5"}, {"train.epochs": "0"},
        {"train.epochs": "inf"}, {"optimizer.weight_decay": "nan"}, {"skim.threshold": "-inf"}, {"optimizer.beta1": "1"},
        {"optimizer.predictor_learning_rate": "-1"}, {"model.pooling": "mean"},
        {"skim.freeze": "true", "skim.objective": "coefficient"}, {"skim.freeze": "true", "skim.noise_end": "none"},
        {"skim.freeze": "true", "skim.anneal": "0.9"}, {"skim.freeze": "true", "skim.noise_end": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_unfit_values(overrides):
    """Each is refused by a message that names one of the fields at fault."""
    message = refusal(override, Config(), overrides)
    assert any(name in message for name in overrides)


@pytest.mark.parametrize("name", ["data.train_file", "data.validation_file", "data.test_file", "data.text_columns"])
def test_files_go_with_tasks_of_files(name):
    """Else a data set of its own would be trained on, or scored, in the name of the user's file."""
    for task in ("glue/mrpc", "movie_reviews", "texts"):
        if (name, task) != ("data.text_columns", "texts"):
            message = refusal(override, Config(), {"data.task": task, name: "mine"})
            assert message.startswith(f"{name} goes with data.task='files', 'tags'") and message.endswith(f", not {task!r}")
    for task in ("files", "tags", "questions", *(["texts"] if name == "data.text_columns" else [])):
        override(Config(), {"data.task": task, name: "mine"})


def test_the_papers_normalization_is_allowed_in_its_place():
    values = {"skim.loss_normalization": "padded", "model.attention_masking": "post_softmax", "skim.objective": "coefficient"}
    assert override(Config(), values).skim.loss_normalization == "padded"


# --- dictionaries


finite = st.floats(-1e6, 1e6)
share = st.floats(0.001, 1.0)
positive = st.integers(1, 10**6)
words = st.text(max_size=10)
configs = st.builds(
    Config,
    model=st.builds(
        ModelConfig,
        pretrained=words,
        attention_masking=st.sampled_from(["renormalized", "post_softmax"]),
        compute_dtype=st.sampled_from(["float32", "bfloat16"]),
        remat=st.booleans(),
        hidden_dropout=st.none() | st.floats(0, 0.99),
    ),
    skim=st.builds(
        SkimConfig,
        enabled=st.booleans(),
        predictor_size=st.none() | positive,
        threshold=finite,
        target=share,
        objective=st.sampled_from(["coefficient", "budget"]),
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
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(configs)
def test_round_trip_through_json(config):
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config == from_dict(to_dict(config))
    assert difference(to_dict(config), to_dict(again)) == []
    assert type(again.data.length_buckets) is tuple
    assert type(again.skim.threshold) is float


def test_part_of_a_checkpoint():
    """Layers by number or from the first; neurons by number or as a share."""
    parts = {(None, None, 0.5): "50% of the neurons", (4, None, 512.0): "4 layers of 512 neurons", (None, (0, 2), None): "2 layers"}
    for (count, layers, size), text in parts.items():
        assert ModelConfig(num_hidden_layers=count, layers=layers, intermediate_size=size).part == text
    assert ModelConfig().part is None
    assert Config(model=ModelConfig(intermediate_size=512)) == Config(model=ModelConfig(intermediate_size=512.0))


def test_dictionary_of_an_older_run():
    """Fields that did not exist then take their defaults; whole numbers pass for floats, as JSON of other languages writes them."""
    assert from_dict({}) == Config()
    assert from_dict({"optimizer": {"clip_norm": 2}}) == Config(optimizer=OptimizerConfig(clip_norm=2.0))
    assert type(from_dict({"optimizer": {"clip_norm": 2}}).optimizer.clip_norm) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": {}}, "unknown config field 'modell'; did you mean 'model'?"),
        ({"skim": {"tresh": 1.0}}, "unknown config field 'skim.tresh'; did you mean 'skim.threshold'?"),
        ({"skim": 3}, "skim=3: expected the fields of a section"),
        ({"train": {"seed": "0"}}, "train.seed='0': expected int"),
        ({"train": {"seed": True}}, "train.seed=True: expected int"),
        ({"train": {"seed": None}}, "train.seed=None: expected int"),
        ({"train": {"epochs": True}}, "train.epochs=True: expected float"),
        ({"model": {"remat": 1}}, "model.remat=1: expected bool"),
        ({"model": {"compute_dtype": "int8"}}, "model.compute_dtype='int8': expected one of 'float32', 'bfloat16'"),
        ({"data": {"length_buckets": [16, "x"]}}, "data.length_buckets='x': expected int"),
        ({"data": {"text_columns": "text"}}, "data.text_columns='text': expected str values separated by commas"),
        ({"data": {"batch_size": 0}}, "data.batch_size must be at least 1, not 0"),
    ],
)
def test_dictionaries_that_are_no_config(values, message):
    assert refusal(from_dict, values) == message


def test_difference():
    old = override(Config(), {"data.task": "files"})
    new = override(old, {"train.seed": "3", "data.text_columns": "a,b", "skim.predictor_size": "16"})
    assert difference(to_dict(old), to_dict(new)) == [
        "data.text_columns (text there, a,b here)",
        "skim.predictor_size (None there, 16 here)",
        "train.seed (0 there, 3 here)",
    ]


# --- help


def test_describe_mentions_every_field():
    """Name, value and sentence of each field, of the config that is given."""
    config = override(Config(), {"train.seed": "1234", "data.task": "questions", "data.text_columns": "question,answer"})
    lines = describe(config).splitlines()
    assert len(FIELDS) > 50
    for section, key in FIELDS:
        value = getattr(getattr(config, section), key)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        position = lines.index(f"  --config.{section}.{key}={text}")
        assert len(lines[position + 1].strip()) > 10, f"{section}.{key} has no sentence"
    assert "  --config.train.seed=1234" in lines
    assert "  --config.data.text_columns=question,answer" in lines
    assert describe().endswith(describe(Config())) and "recipes" in describe() and "recipes" not in describe(config)


def test_what_describe_prints_can_be_given_back():
    """The value in the help text is a text that the command line takes, for every field."""
    lines = [line.strip() for line in describe().splitlines() if line.startswith("  --config.")]
    texts = dict(line.removeprefix("--config.").split("=", 1) for line in lines)
    assert len(texts) == len(FIELDS)
    assert override(override(Config(), {"train.seed": "1", "data.task": "files", "data.text_columns": "a,b"}), texts) == Config()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**32 - 1))
def test_numbers_survive_the_command_line(number, seed):
    changed = override(Config(), {"skim.threshold": repr(number), "train.seed": str(seed)})
    assert changed.skim.threshold == number
    assert changed.train.seed == seed
