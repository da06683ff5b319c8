"""Which layers a student can do without."""

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
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.training import layer_choice
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.layer_choice import choose, choose_for_run

TEACHERS = test_distillation.TEACHERS
LAYERS, IDLE = 4, (1, 2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Pairs, as readers need them."""
    records = [record["text"] for record in runs.make_reviews(401, seed=0)]
    pairs = [{"first": first, "second": second} for first, second in itertools.pairwise(records)]
    return runs.write_jsonl(tmp_path_factory.mktemp("texts") / "pairs.jsonl", pairs)


@pytest.fixture
def teacher(request, tokenizer_folder, tmp_path):
    """A model whose layers `IDLE` add nothing to what enters them: their norms find it normalised."""
    head, options, label_names = TEACHERS[request.param]
    arch = dataclasses.replace(test_distillation.ARCH, num_hidden_layers=LAYERS, **options)
    model = HEADS[head](arch, rngs=nnx.Rngs(1))
    for number in IDLE:
        for product in (model.encoder.layers[number].attention.out, model.encoder.layers[number].down):
            nnx.update(product, jax.tree.map(jnp.zeros_like, nnx.state(product)))
    names = None if head == "question_answering" else label_names
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), label_names=names)
    return tmp_path / "model"


def make_config(teacher, texts):
    return override(distil_config(str(teacher), [str(texts)], text_columns=("first", "second")), test_distillation.FEW)


# Of each measure one: divergence, correlation, cosine.
@pytest.mark.parametrize("teacher", ["classifier", "cross-encoder", "embedder"], indirect=True)
def test_layers_that_do_nothing_are_left_out(teacher, texts):
    assert choose(make_config(teacher, texts), LAYERS - len(IDLE)) == (0, 3)


@pytest.mark.parametrize("teacher", ["embedder"], indirect=True)
def test_what_cannot_be_chosen(teacher, texts):
    config = make_config(teacher, texts)
    assert choose(config, LAYERS) == tuple(range(LAYERS))
    for count in (0, LAYERS + 1):
        with pytest.raises(ConfigError, match=rf"{count} layers of .*, which has 4: take 1 to 4"):
            choose(config, count)
    with pytest.raises(ConfigError, match="said twice"):
        choose(override(config, {"model.layers": "2"}), 2)


def test_a_run_goes_on_with_its_layers(tmp_path, monkeypatch):
    """Whatever would be chosen now, and without the minutes that it takes."""
    chosen = []

    def choose_once(*arguments):
        chosen.append(arguments)
        return (0, 3)

    monkeypatch.setattr(layer_choice, "choose", choose_once)
    config, workdir = distil_config("teacher", ["texts.txt"]), tmp_path / "run"
    assert choose_for_run(config, 2, workdir) == (0, 3) and chosen == [(config, 2)]
    workdir.mkdir()
    for named, says in (("0,2", "0,2"), ("none", "None")):
        (workdir / "config.json").write_text(json.dumps(to_dict(override(config, {"model.layers": named}))), encoding="utf-8")
        with pytest.raises(TrainingError, match=rf"^the run in {workdir} began with model.layers={says}, and not with 3 layers: choose"):
            choose_for_run(config, 3, workdir)
        if named == "0,2":
            assert choose_for_run(config, 2, workdir) == (0, 2)
            with pytest.raises(ConfigError, match="said twice"):
                choose_for_run(override(config, {"model.layers": "0,2"}), 2, workdir)
    (workdir / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="nobody knows whose run this is"):
        choose_for_run(config, 2, workdir)
    assert len(chosen) == 1
