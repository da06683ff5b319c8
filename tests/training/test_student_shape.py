"""The shape of a student: the measured defaults, chosen layers, and the shape of a run that goes on."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from training import runs, test_distillation

from transkimmer_jax.config import override, to_dict
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError, TrainingError
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.training import student_shape
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.student_shape import choose_layers, default_shape, with_student_shape

MINILM = Architecture(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
LAYERS, IDLE = 4, (1, 2)
WHOLE = (None, None, None)


@pytest.mark.parametrize(
    ("head", "depth", "budget", "length", "expected"),
    [
        ("sequence_classification", 6, 0.33, 64, (4, 512)),
        ("sequence_classification", 6, 0.4, 64, (4, 1024)),
        ("sequence_classification", 6, 0.5, 64, (4, 1536)),
        ("sequence_classification", 6, 0.6, 64, None),
        ("sequence_classification", 6, 0.33, 127, (4, 512)),
        ("sequence_classification", 6, 0.33, 128, (4, 1536)),
        ("sequence_classification", 6, 0.67, 512, None),
        ("sequence_classification", 12, 0.33, 64, (8, 512)),
        ("sequence_classification", 1, 0.33, 64, (1, 512)),
        ("sentence_embedding", 6, 0.285, 64, (5, 768)),
        ("sentence_embedding", 6, 0.5, 512, (5, 768)),
        ("sentence_embedding", 6, 0.6, 64, None),
        ("sentence_embedding", 12, 0.5, 64, (10, 768)),
        ("token_classification", 6, 0.3, 64, None),
        ("question_answering", 6, 0.3, 64, None),
    ],
)
def test_default_is_the_smallest_shape_above_the_budget(head, depth, budget, length, expected):
    teacher = dataclasses.replace(MINILM, head=head, num_hidden_layers=depth)
    shape = default_shape(teacher, budget, length)
    student = None if shape is None else shape.of(teacher)
    assert (student and (student.num_hidden_layers, student.intermediate_size)) == expected


@pytest.fixture(scope="module")
def teachers(tokenizer_folder, tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("shapes"), load_tokenizer(tokenizer_folder)
    arch = Architecture(vocab_size=60, hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=128)
    for head in HEADS:
        model = HEADS[head](dataclasses.replace(arch, num_labels=2), rngs=nnx.Rngs(0))
        labels = ("no", "yes") if head in ("sequence_classification", "token_classification") else None
        model.save_pretrained(root / head, tokenizer=tokenizer, label_names=labels)
    return root


@pytest.fixture
def shaped(teachers, tmp_path, write):
    """The layers, neurons and predictors of a student with these fields."""
    words = ("a", "the", "good", "bad", "film", "plot")

    def run(head, repeats=1, **overrides):
        texts = write("texts.txt", "".join(f"{' '.join(three * repeats)}\n" for three in itertools.permutations(words, 3)))
        config = distil_config(str(teachers / head), [str(texts)], targets=[0.3])
        config = override(config, {name.replace("__", "."): value for name, value in overrides.items()})
        changed = with_student_shape(config, tmp_path / "run")
        return changed.model.layers, changed.model.intermediate_size, changed.skim.layers

    return run


def test_classifier_keeps_the_first_layers_and_one_predictor(shaped):
    assert shaped("sequence_classification") == (4, 1 / 3, (0,))
    assert shaped("sequence_classification", skim__layers="0,2") == (4, 1 / 3, (0, 2))
    assert shaped("sequence_classification", skim__target="0.5") == (4, None, None)
    assert shaped("sequence_classification", repeats=41) == (4, 1 / 3, (0,)), "125 tokens"
    assert shaped("sequence_classification", repeats=42) == (4, None, (0,)), "128 tokens"


def test_embedder_keeps_chosen_layers_and_two_predictors(shaped):
    layers, neurons, predictors = shaped("sentence_embedding")
    assert (neurons, predictors) == (1 / 2, (0, 2)) and len(layers) == 5 and set(layers) < set(range(6))
    assert shaped("token_classification") == shaped("question_answering", data__text_columns="question,context") == WHOLE


def test_named_shape_stays(shaped, teachers):
    assert shaped("sequence_classification", model__layers="3") == (3, None, None)
    assert shaped("sequence_classification", model__intermediate_size="64") == (None, 64, None)
    assert shaped("sequence_classification", skim__enabled="false", skim__levels="") == WHOLE
    assert shaped("sequence_classification", skim__target="0.9") == WHOLE
    assert shaped("sequence_classification", model__pretrained=str(teachers / "sentence_embedding")) == WHOLE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, WHOLE), ({"model.layers": "2", "model.intermediate_size": "0.5", "skim.layers": "1"}, (2, 0.5, (1,)))],
)
def test_resumed_run_keeps_its_shape(shaped, teachers, tmp_path, fields, expected):
    (tmp_path / "run").mkdir()
    began = override(distil_config(str(teachers / "sequence_classification"), ["texts.txt"], targets=[0.3]), fields)
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_dict(began)), encoding="utf-8")
    assert shaped("sequence_classification") == expected


# --- chosen layers


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Pairs, as readers need them."""
    records = [record["text"] for record in runs.make_reviews(401, seed=0)]
    pairs = [{"first": first, "second": second} for first, second in itertools.pairwise(records)]
    return runs.write_jsonl(tmp_path_factory.mktemp("texts") / "pairs.jsonl", pairs)


@pytest.fixture
def config(request, tokenizer_folder, tmp_path, texts):
    """Of a teacher whose layers `IDLE` add nothing to what enters them: their norms find it normalised."""
    head, options, label_names = test_distillation.TEACHERS[request.param]
    arch = dataclasses.replace(test_distillation.ARCH, num_hidden_layers=LAYERS, **options)
    model = HEADS[head](arch, rngs=nnx.Rngs(1))
    for number in IDLE:
        for product in (model.encoder.layers[number].attention.out, model.encoder.layers[number].down):
            nnx.update(product, jax.tree.map(jnp.zeros_like, nnx.state(product)))
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), label_names=label_names)
    return override(distil_config(str(tmp_path / "model"), [str(texts)], text_columns=("first", "second")), test_distillation.FEW)


# Of each measure one: divergence, correlation, cosine.
@pytest.mark.parametrize("config", ["classifier", "cross-encoder", "embedder"], indirect=True)
def test_idle_layers_are_left_out(config):
    assert choose_layers(config, LAYERS - len(IDLE)) == (0, 3)


@pytest.mark.parametrize("config", ["embedder"], indirect=True)
def test_count_beyond_the_teachers_layers_is_refused(config):
    assert choose_layers(config, LAYERS) == tuple(range(LAYERS))
    for count in (0, LAYERS + 1):
        with pytest.raises(ConfigError, match=rf"{count} layers of .*, which has 4: take 1 to 4"):
            choose_layers(config, count)


def test_layers_are_chosen_once(tmp_path, monkeypatch):
    """A run that goes on keeps its layers, without the minutes of a choice."""
    chosen = []
    monkeypatch.setattr(student_shape, "choose_layers", lambda *arguments: chosen.append(arguments) or (0, 3))
    config, workdir = distil_config("teacher", ["texts.txt"]), tmp_path / "run"
    with pytest.raises(ConfigError, match="leave one out"):
        with_student_shape(override(config, {"model.layers": "0,2"}), workdir, 2)
    assert with_student_shape(config, workdir, 2).model.layers == (0, 3) and chosen == [(config, 2)]
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(to_dict(override(config, {"model.layers": "0,2"}))), encoding="utf-8")
    assert with_student_shape(config, workdir, 2).model.layers == with_student_shape(config, workdir).model.layers == (0, 2)
    assert with_student_shape(config, workdir, 3).model.layers == 3, "the run then says that it began with 0,2"
    (workdir / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="nobody knows whose run this is"):
        with_student_shape(config, workdir, 2)
    assert len(chosen) == 1
