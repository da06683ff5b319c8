"""Which part of its teacher a student is where nobody says."""

import dataclasses
import itertools
import json
import logging

import pytest
from flax import nnx

from transkimmer_jax.config import override, to_dict
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.parts import suitable, with_part

MINILM = Architecture(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def shape(arch, largest, length=64):
    part = suitable(arch, largest, length)
    return None if part is None else (part.of(arch).num_hidden_layers, part.of(arch).intermediate_size)


@pytest.mark.parametrize(
    ("head", "largest", "expected"),
    [
        ("sequence_classification", 0.33, (4, 512)),
        ("sequence_classification", 0.4, (4, 1024)),
        ("sequence_classification", 0.5, (4, 1536)),
        ("sequence_classification", 0.6, None),
        ("sentence_embedding", 0.285, (5, 768)),
        ("sentence_embedding", 0.5, (5, 768)),
        ("sentence_embedding", 0.6, None),
        ("token_classification", 0.3, None),
        ("question_answering", 0.3, None),
    ],
)
def test_the_smallest_part_that_costs_more_than_the_largest_budget(head, largest, expected):
    """The shapes that were measured, of MiniLM."""
    assert shape(dataclasses.replace(MINILM, head=head), largest) == expected


def test_a_classifier_of_long_texts_keeps_its_neurons():
    assert shape(MINILM, 0.33, 127) == (4, 512)
    assert shape(MINILM, 0.33, 128) == shape(MINILM, 0.5, 512) == (4, 1536)
    assert shape(MINILM, 0.67, 512) is None
    assert shape(dataclasses.replace(MINILM, head="sentence_embedding"), 0.5, 512) == (5, 768)


def test_parts_of_other_depths():
    deep = dataclasses.replace(MINILM, num_hidden_layers=12)
    assert shape(deep, 0.33) == (8, 512)
    assert shape(dataclasses.replace(deep, head="sentence_embedding"), 0.5) == (10, 768)
    assert shape(dataclasses.replace(MINILM, num_hidden_layers=1), 0.33) == (1, 512)


@pytest.fixture(scope="module")
def teachers(tokenizer_folder, tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("parts"), load_tokenizer(tokenizer_folder)
    arch = Architecture(vocab_size=60, hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=128)
    for head in HEADS:
        model = HEADS[head](dataclasses.replace(arch, num_labels=2), rngs=nnx.Rngs(0))
        labels = ("no", "yes") if head in ("sequence_classification", "token_classification") else None
        model.save_pretrained(root / head, tokenizer=tokenizer, label_names=labels)
    return root


@pytest.fixture
def parted(teachers, tmp_path, write):
    """What becomes of a config of `distil`: fields of the student's part, and which layers decide."""
    words = ("a", "the", "good", "bad", "film", "plot")

    def run(head, repeats=1, **overrides):
        chosen = itertools.permutations(words, 3)
        texts = write("texts.txt", "".join(f"{' '.join(three * repeats)}\n" for three in chosen))
        config = distil_config(str(teachers / head), [str(texts)], targets=[0.3])
        config = override(config, {name.replace("__", "."): value for name, value in overrides.items()})
        changed = with_part(config, tmp_path / "run")
        return (changed.model.layers, changed.model.intermediate_size, changed.skim.layers)

    return run


WHOLE = (None, None, None)


def test_a_classifier_has_the_first_layers_and_one_predictor(parted, caplog):
    with caplog.at_level(logging.INFO, logger="transkimmer_jax"):
        assert parted("sequence_classification") == (4, 1 / 3, (0,))
    assert "the student has 4 of 6 layers, with 33 % of their neurons; --whole gives it all of them" in caplog.text


def test_a_classifier_of_long_texts_has_whole_layers_and_one_predictor(parted):
    """Of 125 and of 128 tokens, with what stands at their ends."""
    assert parted("sequence_classification", repeats=41) == (4, 1 / 3, (0,))
    assert parted("sequence_classification", repeats=42) == (4, None, (0,))


def test_an_embedders_layers_are_chosen_and_two_predictors_decide(parted):
    layers, neurons, predictors = parted("sentence_embedding")
    assert (neurons, predictors) == (1 / 2, (0, 2)) and len(layers) == 5 and set(layers) < set(range(6))
    assert parted("token_classification") == parted("question_answering", data__text_columns="question,context") == WHOLE


def test_what_is_said_is_not_replaced(parted, teachers):
    """Neither predictors, nor any word on the part; nor a student that starts elsewhere."""
    assert parted("sequence_classification", skim__layers="0,2") == (4, 1 / 3, (0, 2))
    assert parted("sequence_classification", model__layers="3") == (3, None, None)
    assert parted("sequence_classification", model__intermediate_size="64") == (None, 64, None)
    assert parted("sequence_classification", skim__enabled="false", skim__levels="") == WHOLE
    assert parted("sequence_classification", skim__target="0.5") == (4, None, None)
    assert parted("sequence_classification", skim__target="0.9") == WHOLE
    other = str(teachers / "sentence_embedding")
    assert parted("sequence_classification", model__pretrained=other) == WHOLE


def test_a_run_that_began_with_the_whole_goes_on_with_it(parted, teachers, tmp_path):
    (tmp_path / "run").mkdir()
    config = distil_config(str(teachers / "sequence_classification"), ["texts.txt"], targets=[0.3])
    for model, expected in (({}, WHOLE), ({"layers": "4"}, (4, 1 / 3, (0,)))):
        began = override(config, {f"model.{name}": value for name, value in model.items()})
        (tmp_path / "run" / "config.json").write_text(json.dumps(to_dict(began)), encoding="utf-8")
        assert parted("sequence_classification") == expected
