"""What `config.json` may hold and what it means: default names, null as left out, and refusals in one line."""

import pytest
import transformers
from checkpoints.handmade import CONFIG
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.checkpoints.config_backbones import SCHEMAS
from transkimmer_jax.checkpoints.config_schema import SkimSection
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture

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
    assert "vocab_size is missing" in refusal(CONFIG | {"vocab_size": None})


def test_other_heads_are_never_multi_label():
    """transformers' taggers do not look at the field."""
    fields = {"problem_type": "multi_label_classification", "architectures": ["BertForTokenClassification"]}
    assert not config_file.parse(CONFIG | fields, "here").architecture.multi_label


@pytest.mark.parametrize("backbone", SCHEMAS)
def test_defaults_are_those_of_transformers(backbone):
    """Of its class for the backbone: a file that it wrote by difference leaves these out."""
    schema, theirs = SCHEMAS[backbone], transformers.AutoConfig.for_model(backbone).to_dict()
    required = [name for name in UNNAMED if name.endswith(("_size", "_layers", "_heads", "_embeddings")) and name not in schema.unwritten]
    values = {schema.field_name(name): UNNAMED[name] for name in required}
    if backbone == "deberta-v2":  # of whose default model, which tells no distances, there is nothing to load
        values |= DISENTANGLED | {"type_vocab_size": 0}
    arch = config_file.parse(values | {"model_type": backbone}, "here").architecture
    optional = {
        "layer_norm_eps": arch.layer_norm_eps, "initializer_range": arch.initializer_range,
        "hidden_dropout_prob": arch.hidden_dropout, "attention_probs_dropout_prob": arch.attention_dropout,
    }  # fmt: skip
    if "embedding_size" in theirs:
        optional["embedding_size"] = arch.embedding_size
    assert {name: theirs.get(schema.field_name(name)) for name in optional if name not in schema.unwritten} == {
        name: value for name, value in optional.items() if name not in schema.unwritten
    }


REFUSED = [
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"hidden_size": "32"}, "hidden_size='32'"),
    ({"hidden_size": True}, "hidden_size=True"),
    ({"hidden_size": 32.0}, "hidden_size=32.0"),
    ({"num_attention_heads": 0}, "num_attention_heads=0"),
    ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
    ({"layer_norm_eps": 0}, "layer_norm_eps=0"),
    ({"hidden_dropout_prob": 1}, "hidden_dropout_prob=1"),
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ({"is_decoder": True}, "is_decoder=True"),
    ({"model_type": "albert"}, "model_type='albert' is not supported, only 'bert' or "),
    ({"model_type": "transkimmer"}, "model_type is 'transkimmer', but there is no skim section"),
    ({"num_labels": 2}, "num_labels is 2, but id2label names 3"),
    ({"id2label": {"0": "no", "1": "no"}}, "a different name for each of the labels"),
    ({"id2label": {"0": "no", "2": "yes"}}, "a different name for each of the labels"),
    ({"problem_type": "regression"}, "regression has one output, not 3"),
    ({"problem_type": "ordinal"}, "problem_type='ordinal'"),
    ({"dense_layers": 2}, "dense_layers 2 is less than num_hidden_layers 3"),
    ({"dense_intermediate": 63}, "dense_intermediate 63 is less than intermediate_size 64"),
    ({"skim": 5}, "skim=5"),
    ({"skim": {"treshold": 1.0}}, "unknown field 'skim.treshold'"),
    ({"skim": {"threshold": float("nan")}}, "skim.threshold=nan"),
    ({"skim": {"threshold": 1e300}}, "skim.threshold=1e+300"),
    ({"skim": {"levels": [0.5]}}, "skim.levels=[0.5]"),
    ({"skim": {"layers": [2, 1]}}, "skim.layers=[2, 1]"),
    ({"skim": {"layers": [3]}}, "skim.layers 3: there are 3 layers, from 0"),
    ({"skim": {"pinned": "first_segment"}, "type_vocab_size": 1}, "skim.pinned='first_segment' needs token types"),
    ({"pooling": {"mode": "max"}}, "pooling.mode='max'"),
    ({"task": []}, "task=[]"),
    ({"task": {"max_length": 2.5}}, "task.max_length=2.5"),
    ({"task": {"max_length": 41}}, "task.max_length 41 is more than max_position_embeddings 40"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_fields_are_named(fields, message):
    assert message in refusal(CONFIG | fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, "\ud800", "a\nb", "x" * 100_000]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from(["0", "1"]), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(sorted({name for schema in SCHEMAS.values() for name in map(schema.field_name, schema.model_fields)}))
SKIM = st.dictionaries(st.sampled_from(sorted(SkimSection.model_fields)), JSON, max_size=3)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SCHEMAS)), st.dictionaries(FIELDS, JSON, max_size=3), st.none() | SKIM)
def test_junk_is_an_architecture_or_one_line(backbone, fields, skim):
    values = CONFIG | DISENTANGLED | {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "model_type": backbone}
    values |= {"type_vocab_size": 0 if backbone == "deberta-v2" else 2, "skim": skim} | fields
    try:
        assert isinstance(config_file.parse(values, "here").architecture, Architecture)
    except CheckpointError as error:
        assert str(error).startswith("here: ") and "\n" not in str(error) and len(str(error)) < 1000


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
