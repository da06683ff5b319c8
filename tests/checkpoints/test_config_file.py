"""What `config.json` may hold and what it means: default names, null as left out, and everything that is wrong in one line."""

import pytest
import transformers
from checkpoints.checkpoints import CONFIG

from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.errors import CheckpointError

DISENTANGLED = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "share_att_key": True, "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "position_buckets": 16,
}  # fmt: skip
UNNAMED = {name: value for name, value in CONFIG.items() if name != "id2label"}


def refusal(values):
    with pytest.raises(CheckpointError) as caught:
        config_file.parse(values, "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ("LABEL_0", "LABEL_1")),  # as transformers saves a model of two labels
        ({"id2label": None, "num_labels": None}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
        ({"id2label": {"0": 0, "1": 1}}, ("0", "1")),
        ({"num_labels": 1}, None),
        ({"problem_type": "regression", "num_labels": 1}, None),
        ({"problem_type": "single_label_classification", "num_labels": 1}, None),
        ({"problem_type": "multi_label_classification", "num_labels": 1}, ("LABEL_0",)),
        ({"problem_type": "multi_label_classification", "num_labels": 2}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_label_names(fields, names):
    saved = config_file.parse(UNNAMED | fields, "here")
    assert saved.label_names == names
    assert saved.architecture.num_labels == (1 if names is None else len(names))
    assert saved.architecture.multi_label == (fields.get("problem_type") == "multi_label_classification")


def test_null_is_the_same_as_left_out():
    optional = (
        "layer_norm_eps",
        "hidden_act",
        "skim",
        "task",
        "dense_layers",
        "dense_intermediate",
        "problem_type",
        "initializer_range",
        "model_type",
    )
    left_out = {name: value for name, value in CONFIG.items() if name not in optional}
    null = config_file.parse(left_out | dict.fromkeys(optional), "here")
    assert (null.architecture, null.task) == (config_file.parse(left_out, "here").architecture, config_file.SavedTask())
    assert "lacks vocab_size" in refusal(CONFIG | {"vocab_size": None})


def test_other_heads_are_never_multi_label():
    """transformers' taggers do not look at the field."""
    fields = {"problem_type": "multi_label_classification", "architectures": ["BertForTokenClassification"]}
    assert not config_file.parse(CONFIG | fields, "here").architecture.multi_label


@pytest.mark.parametrize("backbone", FORMATS)
def test_defaults_are_those_of_transformers(backbone):
    """Of its class for the backbone: a file that it wrote by difference leaves these out."""
    form, theirs = FORMATS[backbone], transformers.AutoConfig.for_model(backbone).to_dict()
    required = [name for name in UNNAMED if name.endswith(("_size", "_layers", "_heads", "_embeddings")) and name not in form.fixed]
    values = {form.field(name): UNNAMED[name] for name in required}
    if backbone == "deberta-v2":  # of whose default model, which tells no distances, there is nothing to load
        values |= {name: DISENTANGLED[name] for name in DISENTANGLED}
    arch = config_file.parse(values | {"model_type": backbone}, "here").architecture
    optional = {
        "layer_norm_eps": arch.layer_norm_eps, "initializer_range": arch.initializer_range,
        "hidden_dropout_prob": arch.hidden_dropout, "attention_probs_dropout_prob": arch.attention_dropout,
    }  # fmt: skip
    if "embedding_size" in theirs:
        optional["embedding_size"] = arch.embedding_size
    assert {name: theirs.get(form.field(name), form.fixed.get(name)) for name in optional} == optional


def test_all_that_is_wrong_is_one_line():
    message = refusal(
        CONFIG | {"hidden_size": "32", "num_attention_heads": 0, "skim": {"threshold": float("nan")}, "task": {"max_length": 2.5}}
    )
    size = "a whole number from 1 to 1048576"
    assert message == (
        f"here: hidden_size must be {size}, not '32'; num_attention_heads must be {size}, not 0; "
        f"skim.threshold must be a number from -3.4e+38 to 3.4e+38, not nan; task.max_length must be {size}, not 2.5"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 2}, "num_labels is 2, but id2label names 3"),
        ({"problem_type": "regression"}, "regression has one output, not 3"),
        ({"problem_type": "ordinal"}, "problem_type='ordinal' is not supported"),
        ({"model_type": "transkimmer"}, "model_type is 'transkimmer', but there is no skim section"),
        ({"dense_layers": 2}, "dense_layers 2 is less than num_hidden_layers 3"),
        ({"dense_intermediate": 63}, "dense_intermediate 63 is less than intermediate_size 64"),
        ({"task": {"max_length": 41}}, "task.max_length 41 is more than max_position_embeddings 40"),
        ({"hidden_size": True}, "hidden_size must be a whole number"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must be a number from 1e-30 to 1, not 0"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob must be a number from 0 to below 1, not 1"),
    ],
)
def test_what_does_not_go_together(fields, message):
    assert message in refusal(CONFIG | fields)


def test_what_is_written_is_read():
    saved = config_file.parse(
        CONFIG | {"skim": {"predictor_size": 7, "threshold": -1}, "dense_layers": 5, "dense_intermediate": 70}, "here"
    )
    assert config_file.parse(config_file.to_values(saved.architecture, saved.label_names, 0), "here").architecture == saved.architecture


@pytest.mark.parametrize(
    ("names", "others", "same"),
    [
        (("a", "b"), ("a", "b"), True),
        (("a", "b"), ("b", "a"), False),
        (("a", "b"), ("A", "B"), True),
        (("LABEL_0", "LABEL_1"), ("b", "a"), True),  # nobody has named them
        (("a", "b"), ("a", "b", "c"), False),
        (None, None, True),
        (None, ("a", "b"), False),
    ],
)
def test_same_labels(names, others, same):
    assert config_file.same_labels(names, others) is config_file.same_labels(others, names) is same


@pytest.mark.parametrize(
    ("names", "others", "said"),
    [
        (("LABEL_0", "LABEL_1"), ("b", "a"), "LABEL_0 -> b, LABEL_1 -> a;"),
        (("b", "a"), ("LABEL_0", "LABEL_1"), "b -> LABEL_0, a -> LABEL_1;"),
        (config_file.default_label_names(11), tuple("abcdefghijk"), "LABEL_9 -> j, ...;"),
        (("LABEL_0", "LABEL_1"), ("LABEL_0", "LABEL_1"), None),
        (("a", "b"), ("A", "B"), None),
        (None, None, None),
    ],
)
def test_the_order_that_is_assumed_of_default_names(caplog, names, others, said):
    config_file.warn_of_assumed_order("model", names, "task", others)
    assert len(caplog.messages) == (said is not None) and all(said in message for message in caplog.messages)
