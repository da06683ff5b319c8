"""Laws of loading: every layout of a Hugging Face folder gives exactly the file's values; what does not fit is one
one-line `CheckpointError` that names everything that is wrong."""

import dataclasses
import json
import logging
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from flax import nnx
from safetensors.numpy import load_file, save_file

from transkimmer_jax import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification
from transkimmer_jax.checkpoints import config_file, huggingface
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

load = TranskimmerForSequenceClassification.from_pretrained


def leaf(model, path):
    """The parameter at a dotted path, as NumPy."""
    value = model
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return np.asarray(value[...])


def assert_holds(model, tensors):
    """Spot checks in every kind of parameter, written out here so that a wrong name table cannot agree with itself."""
    layer = "bert.encoder.layer.1"
    key_value = [tensors[f"{layer}.attention.self.{part}.weight"].T for part in ("key", "value")]
    expected = {
        "embeddings.word.embedding": tensors["bert.embeddings.word_embeddings.weight"],
        "embeddings.position.embedding": tensors["bert.embeddings.position_embeddings.weight"],
        "embeddings.token_type.embedding": tensors["bert.embeddings.token_type_embeddings.weight"],
        "embeddings.norm.scale": tensors["bert.embeddings.LayerNorm.weight"],
        "embeddings.norm.bias": tensors["bert.embeddings.LayerNorm.bias"],
        "encoder.layers.1.attention.query.kernel": tensors[f"{layer}.attention.self.query.weight"].T,
        "encoder.layers.1.attention.key_value.kernel": np.concatenate(key_value, axis=1),
        "encoder.layers.1.attention_norm.scale": tensors[f"{layer}.attention.output.LayerNorm.weight"],
        "encoder.layers.1.output_norm.bias": tensors[f"{layer}.output.LayerNorm.bias"],
        "encoder.layers.1.up.kernel": tensors[f"{layer}.intermediate.dense.weight"].T,
        "encoder.layers.1.down.bias": tensors[f"{layer}.output.dense.bias"],
        "pooler.kernel": tensors["bert.pooler.dense.weight"].T,
        "classifier.bias": tensors["classifier.bias"],
    }
    for path, values in expected.items():
        np.testing.assert_array_equal(leaf(model, path), values, err_msg=path)


def assert_holds_predictors(model, tensors):
    for layer in range(CONFIG["num_hidden_layers"]):
        theirs, ours = f"bert.encoder.skim_predictors.{layer}.predictor", f"encoder.predictors.{layer}"
        for number, part in (("0", "input_norm"), ("2", "norm")):
            np.testing.assert_array_equal(leaf(model, f"{ours}.{part}.scale"), tensors[f"{theirs}.{number}.weight"])
            np.testing.assert_array_equal(leaf(model, f"{ours}.{part}.bias"), tensors[f"{theirs}.{number}.bias"])
        for number, part in (("1", "dense"), ("4", "decision")):
            np.testing.assert_array_equal(leaf(model, f"{ours}.{part}.kernel"), tensors[f"{theirs}.{number}.weight"].T)
            np.testing.assert_array_equal(leaf(model, f"{ours}.{part}.bias"), tensors[f"{theirs}.{number}.bias"])


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


# --- layouts of a folder


def test_safetensors(tmp_path, tensors):
    model = load(write_checkpoint(tmp_path, tensors))
    assert_holds(model, tensors)
    assert model.arch.num_labels == 3
    assert model.arch.skim == SkimArchitecture(predictor_size=32 // 4)


def write_shards(folder, tensors, shards=3):
    """`shards` files, and the index that transformers writes beside them."""
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weight_map = {name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors" for index, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_file({name: tensor for name, tensor in tensors.items() if weight_map[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sorted(set(weight_map.values()))


def test_shards(tmp_path, tensors):
    write_shards(tmp_path, tensors)
    assert_holds(load(tmp_path), tensors)


def write_torch(folder, tensors):
    torch = pytest.importorskip("torch")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def test_pytorch_bin(tmp_path, tensors):
    write_torch(tmp_path, tensors)
    assert_holds(load(tmp_path), tensors)


def test_without_prefix(tmp_path, tensors):
    write_checkpoint(tmp_path, {name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    assert_holds(load(tmp_path), tensors)


def test_old_layer_norm_names(tmp_path, tensors):
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in tensors.items()
    }
    assert sum(name.endswith((".gamma", ".beta")) for name in old) == 2 * 7
    assert_holds(load(write_checkpoint(tmp_path, old)), tensors)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=str)
def test_other_float_types_become_float32(tmp_path, tensors, dtype):
    stored = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    model = load(write_checkpoint(tmp_path, stored))
    assert_holds(model, {name: tensor.astype(np.float32) for name, tensor in stored.items()})
    assert leaf(model, "encoder.layers.0.up.kernel").dtype == np.float32


def test_bfloat16_pytorch_bin(tmp_path, tensors):
    torch = pytest.importorskip("torch")
    path = write_torch(tmp_path, tensors)
    torch.save({name: torch.from_numpy(tensor).bfloat16() for name, tensor in tensors.items()}, path)
    assert_holds(load(tmp_path), {name: tensor.astype(ml_dtypes.bfloat16).astype(np.float32) for name, tensor in tensors.items()})


def test_heads_of_other_tasks_are_left_out(tmp_path, tensors):
    foreign = {
        "cls.predictions.bias": np.zeros(100, np.float32),
        "cls.predictions.transform.LayerNorm.gamma": np.zeros(32, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 32), np.float32),
        "bert.embeddings.position_ids": np.arange(40)[None],
    }
    assert_holds(load(write_checkpoint(tmp_path, tensors | foreign)), tensors)


def test_real_masked_lm_checkpoint(bert_tiny, caplog):
    """Old names and a masked-LM head; no classifier, so that one is fresh."""
    with caplog.at_level(logging.INFO, "transkimmer_jax"):
        model = load(bert_tiny)
    stored = load_file(bert_tiny / "model.safetensors")
    assert any(name.startswith("cls.") for name in stored)
    np.testing.assert_array_equal(leaf(model, "embeddings.word.embedding"), stored["bert.embeddings.word_embeddings.weight"])
    assert "left out cls." in caplog.text
    assert re.search(r"freshly initialised \(seed 0\): classifier", caplog.text)


# --- skim predictors


@pytest.mark.parametrize("width", [24, 32])
def test_original_transkimmer_format(tmp_path, width):
    """No skim section in config.json: the predictors' width comes from the file, the values are the file's."""
    tensors = random_tensors(predictor_size=width)
    model = load(write_checkpoint(tmp_path, tensors))
    assert_holds(model, tensors)
    assert_holds_predictors(model, tensors)


def test_post_softmax_is_asked_for(tmp_path):
    folder = write_checkpoint(tmp_path, random_tensors(predictor_size=24))
    original = SkimArchitecture(predictor_size=24, norm_eps=1e-5)
    assert load(folder).arch.skim == original
    assert load(folder, attention_masking="post_softmax").arch.skim == dataclasses.replace(original, attention_masking="post_softmax")


def test_skim_section_of_the_config(tmp_path):
    section = {"predictor_size": 24, "initial_bias": 2.0, "temperature": 0.5, "threshold": 0.25, "attention_masking": "post_softmax"}
    write_checkpoint(tmp_path, random_tensors(predictor_size=24), CONFIG | {"skim": section})
    assert load(tmp_path).arch.skim == SkimArchitecture(**section)
    assert load(tmp_path, skim_overrides={"threshold": 1.0}).arch.skim == SkimArchitecture(**section | {"threshold": 1.0})


def test_a_section_that_states_no_width_is_of_predictors_as_wide_as_the_hidden_size(tmp_path):
    """As checkpoints were saved before fresh predictors became a quarter as wide."""
    tensors = random_tensors(predictor_size=32)
    model = load(write_checkpoint(tmp_path, tensors, CONFIG | {"skim": {"predictor_size": None}}))
    assert model.arch.predictor_size == 32
    assert_holds_predictors(model, tensors)


def test_a_student_of_other_budgets_or_with_another_head(tmp_path, caplog):
    """Its predictors and what still has a meaning stay as they are; the rest is named in the log and made fresh, or left out."""
    skim = SkimArchitecture(8, levels=(0.6, 0.4, 0.2), forwarding="linear")
    arch = Architecture(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        skim=skim,
    )
    student = TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(1))
    for level, forwarding in zip(student.encoder.levels, student.encoder.forwarding, strict=True):
        level.knots[...] = level.knots[...] + np.float32(0.5)
        forwarding.bias[...] = forwarding.bias[...] + np.float32(0.25)
    student.save_pretrained(tmp_path / "student")
    caplog.set_level(logging.INFO, "transkimmer_jax")
    for options, knots, maps in (
        ({}, (3, 0.5), 0.25),
        ({"levels": (0.5, 0.3)}, (2, 0.0), 0.25),
        ({"levels": ()}, None, 0.25),
        ({"forwarding": "identity"}, (3, 0.5), None),
    ):
        model = TranskimmerForSentenceEmbedding.from_pretrained(tmp_path / "student", skim_overrides=options)
        assert [(len(level.knots[...]), float(level.knots[...][0])) for level in model.encoder.levels] == ([knots] * 2 if knots else [])
        assert [float(forwarding.bias[...][0]) for forwarding in model.encoder.forwarding] == ([maps] * 2 if maps else [])
        path = "encoder.predictors.1.decision.kernel"
        np.testing.assert_array_equal(leaf(model, path), leaf(student, path))
    classifier = load(tmp_path / "student")
    assert classifier.arch.skim == skim and not classifier.encoder.forwarding
    np.testing.assert_array_equal(leaf(classifier, "encoder.levels.1.knots"), leaf(student, "encoder.levels.1.knots"))
    assert "left out skim_predictors.0.forwarding.bias" in caplog.text and "left out skim_predictors.0.levels.knots" in caplog.text


def test_predictors_of_some_layers(tmp_path, caplog):
    """Those that go on are the file's, under the numbers of their layers; where a layer is to have one that had none, all are fresh."""
    tensors = random_tensors(predictor_size=32)
    folder = write_checkpoint(tmp_path / "all", tensors, CONFIG | {"skim": {"predictor_size": 32}})
    caplog.set_level(logging.INFO, "transkimmer_jax")
    two = load(folder, skim_overrides={"layers": (0, 2)})
    assert "left out skim_predictors.1.predictor.0.bias" in caplog.text and "fresh" not in caplog.text
    two.save_pretrained(tmp_path / "two")
    again = load(tmp_path / "two")
    assert again.arch == two.arch and again.arch.predictor_layers == (0, 2)
    for model in (two, again, load(tmp_path / "two", skim_overrides={"layers": (2,)})):
        theirs = tensors["bert.encoder.skim_predictors.2.predictor.1.weight"].T
        np.testing.assert_array_equal(leaf(model, f"encoder.predictors.{len(model.encoder.predictors) - 1}.dense.kernel"), theirs)
    cut = load(tmp_path / "two", layers=(1, 2))
    assert cut.arch.predictor_layers == (1,)
    np.testing.assert_array_equal(leaf(cut, "encoder.predictors.0.dense.kernel"), theirs)
    assert "fresh" not in caplog.text
    assert load(tmp_path / "two", skim_overrides={"layers": (0, 1)}).arch.predictor_layers == (0, 1)
    assert "freshly initialised (seed 0): encoder/predictors/0, encoder/predictors/1" in caplog.text
    with pytest.raises(CheckpointError, match="no predictor is left, .* stand before layers 0,2: name others by skim.layers"):
        load(tmp_path / "two", layers=(1,))
    with pytest.raises(CheckpointError, match="^predictor_size=16 of a checkpoint whose trained predictors have 32: leave it out$"):
        load(tmp_path / "two", skim_overrides={"predictor_size": 16})
    fresh = load(tmp_path / "two", skim_overrides={"layers": (0, 1), "predictor_size": 16})
    assert leaf(fresh, "encoder.predictors.0.dense.kernel").shape == (32, 16)
    listed = load(tmp_path / "two", layers=(1,), skim_overrides={"layers": [0]}).arch
    assert listed.predictor_layers == (0,) and hash(listed)
    assert load(tmp_path / "two", layers=(1,), dense=True).arch.skim is None
    with pytest.raises(CheckpointError, match="skim.layers=3 of a model whose layers are 0 to 2: name some of these"):
        load(folder, skim_overrides={"layers": (3,)})
    for layers, problem in (([0, 3], "skim.layers 0,3: there are 3 layers, from 0"), ([2, 0], "layers must rise")):
        with pytest.raises(CheckpointError, match=problem):
            load(write_checkpoint(tmp_path / str(layers[1]), tensors, CONFIG | {"skim": {"predictor_size": 32, "layers": layers}}))
    file = tmp_path / "two" / "model.safetensors"
    save_file({name: values for name, values in load_file(file).items() if not name.endswith("2.predictor.4.bias")}, file)
    (tmp_path / "two" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="missing skim_predictors.2.predictor.4.bias"):
        load(tmp_path / "two")


def test_some_predictors_of_an_original(tmp_path):
    """Whose config.json says nothing of them."""
    tensors = random_tensors(predictor_size=24)
    folder = write_checkpoint(tmp_path, tensors)
    for cut, layers, theirs in ((None, (0, 2), 2), ((0, 1), (1,), 1)):
        model = load(folder, skim_overrides={"layers": layers}, layers=cut)
        kernel = leaf(model, f"encoder.predictors.{len(layers) - 1}.dense.kernel")
        np.testing.assert_array_equal(kernel, tensors[f"bert.encoder.skim_predictors.{theirs}.predictor.1.weight"].T)


def test_dense_leaves_predictors_out(tmp_path, caplog):
    tensors = random_tensors(predictor_size=24)
    with caplog.at_level(logging.INFO, "transkimmer_jax"):
        model = load(write_checkpoint(tmp_path, tensors), dense=True)
    assert model.arch.skim is None
    assert "left out the skim predictors" in caplog.text
    assert_holds(model, tensors)


def test_what_is_fresh_is_named(tmp_path, tensors, caplog):
    """Head and predictors may be missing: they are made from the seed, and the log names each."""
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith(("bert.pooler", "classifier"))}
    folder = write_checkpoint(tmp_path, backbone)
    with caplog.at_level(logging.INFO, "transkimmer_jax"):
        first, again, other = load(folder), load(folder), load(folder, seed=7)
    parts = "classifier, encoder/predictors/0, encoder/predictors/1, encoder/predictors/2, pooler"
    assert f"freshly initialised (seed 0): {parts}" in caplog.text
    assert f"freshly initialised (seed 7): {parts}" in caplog.text
    for path in ("pooler.kernel", "classifier.kernel", "encoder.predictors.1.dense.kernel"):
        np.testing.assert_array_equal(leaf(first, path), leaf(again, path))
        assert np.all(leaf(first, path).std() > 0)
        assert np.any(leaf(first, path) != leaf(other, path))
    np.testing.assert_array_equal(leaf(first, "encoder.predictors.2.decision.bias"), [-5, 5])
    np.testing.assert_array_equal(leaf(first, "encoder.layers.2.up.bias"), tensors["bert.encoder.layer.2.intermediate.dense.bias"])


def test_complete_checkpoint_names_nothing_fresh(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "transkimmer_jax"):
        load(write_checkpoint(tmp_path, random_tensors(predictor_size=32)))
    assert "fresh" not in caplog.text


def test_overrides(tmp_path, tensors):
    """Fields of the architecture by name; None leaves the checkpoint's."""
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    folder = write_checkpoint(tmp_path, backbone, CONFIG | {"hidden_dropout_prob": 0.3})
    arch = load(folder, num_labels=5, hidden_dropout=None, attention_dropout=0.2, remat=True, skim_overrides={"predictor_size": 16}).arch
    assert (arch.num_labels, arch.hidden_dropout, arch.attention_dropout, arch.remat) == (5, 0.3, 0.2, True)
    assert arch.skim == SkimArchitecture(predictor_size=16)


def test_the_first_layers_alone(tmp_path):
    """As of a file that never had the others, except that what they save is still told from all three: after a save, and cut again."""
    tensors = random_tensors(predictor_size=32)
    first = {name: tensor for name, tensor in tensors.items() if not re.match(r"bert\.encoder\.(layer|skim_predictors)\.[12]\.", name)}
    assert len(first) == len(tensors) - 2 * (16 + 8)
    cut = load(write_checkpoint(tmp_path / "all", tensors), dense=False, num_hidden_layers=1)
    alone = load(write_checkpoint(tmp_path / "first", first, CONFIG | {"num_hidden_layers": 1}), dense=False)
    assert cut.arch == dataclasses.replace(alone.arch, dense_layers=3) and cut.arch.num_hidden_layers == 1
    two = load(tmp_path / "all", dense=False, num_hidden_layers=2)
    two.save_pretrained(tmp_path / "two")
    assert load(tmp_path / "two", dense=False).arch == two.arch and two.arch.dense_layers == 3
    assert load(tmp_path / "two", dense=True, num_hidden_layers=1).arch == dataclasses.replace(cut.arch, skim=None)
    assert load(tmp_path / "all", dense=False, num_hidden_layers=3).arch.dense_layers is None
    for ours, theirs in zip(jax.tree.leaves(nnx.state(cut)), jax.tree.leaves(nnx.state(alone)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_by_number(tmp_path):
    """The same as of a file that holds these alone, under other numbers."""
    tensors = random_tensors(predictor_size=32)
    chosen: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        numbered = re.match(r"(.*\.(?:layer|skim_predictors)\.)(\d)(\..*)", name)
        if numbered is None:
            chosen[name] = tensor
        elif numbered[2] != "1":
            chosen[f"{numbered[1]}{(0, None, 1)[int(numbered[2])]}{numbered[3]}"] = tensor
    cut = load(write_checkpoint(tmp_path / "all", tensors), dense=False, layers=(0, 2))
    alone = load(write_checkpoint(tmp_path / "some", chosen, CONFIG | {"num_hidden_layers": 2}), dense=False)
    assert cut.arch == dataclasses.replace(alone.arch, dense_layers=3)
    for ours, theirs in zip(jax.tree.leaves(nnx.state(cut)), jax.tree.leaves(nnx.state(alone)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert load(tmp_path / "all", dense=False, layers=(0, 1, 2)).arch.dense_layers is None


# --- errors


def refusal(checkpoint, **options):
    """The message of the `CheckpointError` that loading raises: one line, with the checkpoint's name in it."""
    with pytest.raises(CheckpointError) as caught:
        load(checkpoint, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(checkpoint) in message
    return message


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_all_problems_at_once(tmp_path, tensors):
    broken = without(tensors, "bert.encoder.layer.0.attention.self.key.bias", "bert.embeddings.LayerNorm.weight")
    broken["bert.encoder.layer.2.output.dense.weight"] = np.zeros((32, 63), np.float32)
    broken["bert.encoder.layer.1.attention.self.value.weight"] = np.zeros((31, 32), np.float32)
    broken["bert.encoder.layer.7.output.dense.bias"] = np.zeros(32, np.float32)
    broken["something.else"] = np.zeros(1, np.float32)
    message = refusal(write_checkpoint(tmp_path, broken))
    problems = message.split(": ", 1)[1].split("; ")
    assert sorted(problems) == sorted([
        "missing encoder.layer.0.attention.self.key.bias",
        "missing embeddings.LayerNorm.weight",
        "encoder.layer.2.output.dense.weight has shape (32, 63), expected (32, 64)",
        "encoder.layer.1.attention.self.value.weight has shape (31, 32), expected (32, 32)",
        "unexpected encoder.layer.7.output.dense.bias",
        "unexpected something.else",
    ])  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.encoder.skim_predictors.1.predictor.4.bias",
        "bert.encoder.skim_predictors.0.predictor.0.weight",
    ],
)
def test_half_a_part_is_damage(tmp_path, name):
    message = refusal(write_checkpoint(tmp_path, without(random_tensors(predictor_size=24), name)))
    assert message.endswith(f": missing {name.removeprefix('bert.').replace('encoder.skim_predictors', 'skim_predictors')}")


def test_config_of_another_size(tmp_path, tensors):
    message = refusal(write_checkpoint(tmp_path, tensors, CONFIG | {"hidden_size": 64}))
    assert "embeddings.word_embeddings.weight has shape (100, 32), expected (100, 64)" in message
    assert "encoder.layer.0.attention.self.query.weight has shape (32, 32), expected (64, 64)" in message
    assert message.endswith("; and 33 more")


@pytest.mark.parametrize(("layers", "problem"), [(2, "unexpected encoder.layer.2."), (4, "missing encoder.layer.3.")])
def test_config_of_another_depth(tmp_path, tensors, layers, problem):
    assert refusal(write_checkpoint(tmp_path, tensors, CONFIG | {"num_hidden_layers": layers})).count(problem) == 16


@pytest.mark.parametrize("layers", [0, 4])
def test_more_layers_than_there_are(tmp_path, tensors, layers):
    with pytest.raises(CheckpointError, match=f"num_hidden_layers={layers} of a checkpoint with 3 layers: take 1 to 3"):
        load(write_checkpoint(tmp_path, tensors), num_hidden_layers=layers)


@pytest.mark.parametrize("layers", [(), (0, 3), (-1, 1), (1, 0), (1, 1)])
def test_layers_that_are_not_there(tmp_path, tensors, layers):
    with pytest.raises(CheckpointError, match=rf"layers={','.join(map(str, layers))} of a checkpoint with 3 layers: name some of 0 to 2"):
        load(write_checkpoint(tmp_path, tensors), layers=layers)


def test_layers_said_twice(tmp_path, tensors):
    with pytest.raises(CheckpointError, match="both say which layers to take"):
        load(write_checkpoint(tmp_path, tensors), layers=(0, 2), num_hidden_layers=2)


def test_other_number_of_labels(tmp_path, tensors):
    message = refusal(write_checkpoint(tmp_path, tensors), num_labels=2)
    assert "classifier.weight has shape (3, 32), expected (2, 32)" in message
    assert "classifier.bias has shape (3,), expected (2,)" in message


def test_predictors_of_another_width_than_the_config_says(tmp_path):
    write_checkpoint(tmp_path, random_tensors(predictor_size=24), CONFIG | {"skim": {"predictor_size": 16}})
    assert "skim_predictors.0.predictor.1.weight has shape (24, 32), expected (16, 32)" in refusal(tmp_path)


def test_no_config(tmp_path, tensors):
    (write_checkpoint(tmp_path, tensors) / "config.json").unlink()
    assert "no config.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"hidden_size": 32', "not json", "\xff\xfe"])
def test_config_that_is_not_json(tmp_path, tensors, text):
    (write_checkpoint(tmp_path, tensors) / "config.json").write_text(text, encoding="latin-1")
    assert "is not valid JSON" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"bert"'])
def test_config_that_is_no_object(tmp_path, tensors, text):
    (write_checkpoint(tmp_path, tensors) / "config.json").write_text(text, encoding="utf-8")
    assert "not the fields of a config" in refusal(tmp_path)


def test_unknown_attention_masking(tmp_path, tensors):
    with pytest.raises(CheckpointError, match="skim.attention_masking='paper': "):
        load(write_checkpoint(tmp_path, tensors), attention_masking="paper")


def test_no_weights(tmp_path, tensors):
    (write_checkpoint(tmp_path, tensors) / "model.safetensors").unlink()
    assert "no weights" in refusal(tmp_path)


GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("content", [None, b"", GIT_LFS_POINTER], ids=["cut", "empty", "git-lfs pointer"])
def test_damaged_safetensors(tmp_path, tensors, content):
    path = write_checkpoint(tmp_path, tensors) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert "model.safetensors cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("content", [None, b"", GIT_LFS_POINTER], ids=["cut", "empty", "git-lfs pointer"])
def test_damaged_pytorch_bin(tmp_path, tensors, content):
    path = write_torch(tmp_path, tensors)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert "pytorch_model.bin cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}], ids=str)
def test_pytorch_bin_of_something_else(tmp_path, tensors, content):
    torch = pytest.importorskip("torch")
    torch.save(content, write_torch(tmp_path, tensors))
    assert "something else than tensors" in refusal(tmp_path)


def test_missing_shards(tmp_path, tensors):
    shards = write_shards(tmp_path, tensors)
    for shard in shards[1:]:
        (tmp_path / shard).unlink()
    message = refusal(tmp_path)
    assert message.endswith(f"names shards that are not there: {shards[1]}, {shards[2]}")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}'])
def test_index_that_is_none(tmp_path, tensors, text):
    write_shards(tmp_path, tensors)
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    assert "is not an index of shards" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "twin"),
    [("bert.pooler.dense.bias", "pooler.dense.bias"), ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma")],
)
def test_one_parameter_under_two_names(tmp_path, tensors, name, twin):
    message = refusal(write_checkpoint(tmp_path, tensors | {twin: tensors[name] + 1}))
    assert f"{name.removeprefix('bert.')} is there twice" in message


def test_folder_that_does_not_exist(tmp_path):
    assert "no checkpoint folder" in refusal(tmp_path / "nowhere")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "model.bin").touch()
    assert "no checkpoint folder" in refusal(tmp_path / "model.bin")


@pytest.mark.parametrize("name", ["nobody/never-uploaded-this", "never-uploaded-this", "not a valid id!"])
def test_hub_id_offline(name):
    """tests/conftest.py switches the hub off, so nothing is asked of a server."""
    assert "neither a folder nor a model that can be fetched" in refusal(name)


def test_what_is_fetched_from_a_hub(tmp_path, monkeypatch):
    """The weights once, and all that tokenizers are made of."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    fetched = set()

    def download(name, **patterns):
        fetched.update(filter_repo_objects(["config.json", "vocab.txt", "bpe.codes", "model.safetensors", "pytorch_model.bin"], **patterns))
        return str(tmp_path)

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("vinai/bertweet-base") == tmp_path
    assert fetched == {"config.json", "vocab.txt", "bpe.codes", "model.safetensors"}


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_hub_that_cannot_be_asked(monkeypatch, error):
    """Whatever the HTTP client beneath the library raises, as where a proxy refuses."""
    import huggingface_hub

    def download(name, **patterns):
        raise error("403 Forbidden\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match="^'some/model' is neither a folder nor a model that can be fetched .*: 403 Forbidden$"):
        resolve("some/model")


LOCAL = [
    "runs/never/model", "runs/never", "models/never", "./never", "../never", "~/never", "~nobody-at-all/never", "/never", "never/",
    "never.safetensors", "a\\never", "tests/never", "", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", LOCAL, ids=lambda name: name[:20])
def test_what_looks_like_a_path_is_never_asked_of_a_hub(name, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: pytest.fail("a hub was asked"))
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    with pytest.raises(CheckpointError, match="^no checkpoint folder "):
        load(name)


@pytest.mark.parametrize("overrides", [{"threshold": float("nan")}, {"threshold": float("inf")}, {"predictor_size": 0}, {"temperature": 0}])
def test_overrides_that_cannot_be_meant(tmp_path, tensors, overrides):
    with pytest.raises(CheckpointError, match=f"skim.{next(iter(overrides))}="):
        load(write_checkpoint(tmp_path, tensors), skim_overrides=overrides)


def test_a_skim_section_without_predictors(tmp_path, tensors):
    """They were trained, so none is made up."""
    message = refusal(write_checkpoint(tmp_path, tensors, CONFIG | {"skim": {"predictor_size": 24}}))
    assert "missing skim_predictors.0.predictor.0.weight" in message


def test_state_is_parameters_of_float32(tmp_path, tensors):
    model = load(write_checkpoint(tmp_path, tensors))
    flat = nnx.to_flat_state(nnx.state(model))
    assert {str(variable.get_value().dtype) for _, variable in flat} == {"float32"}


@pytest.mark.parametrize("size", ["base", "large"])
def test_shapes_of_well_known_sizes(size):
    """Against transformers' own description of them."""
    from transformers import BertConfig

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = BertConfig(**(large if size == "large" else {})).to_json_string(use_diff=False)
    expected = dataclasses.replace(config_file.parse(json.loads(config), "here").architecture, skim=None)
    assert huggingface.shapes(f"bert-{size}-uncased", dense=True) == expected


def test_shapes_are_those_of_the_model(bert_tiny):
    options = {"skim_overrides": {"predictor_size": 32}, "num_labels": 3, "compute_dtype": "bfloat16"}
    assert huggingface.shapes(bert_tiny, **options) == TranskimmerForSequenceClassification.from_pretrained(bert_tiny, **options).arch
