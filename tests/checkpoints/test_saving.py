"""Laws of saving: what is loaded again is identical in every bit, transformers can read a dense model, and a save that
fails leaves neither a half-written folder nor a damaged old one."""

import dataclasses
import errno
import importlib.util
import json
import os
import re

import jax
import numpy as np
import pytest
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from cli.saved import save_model
from flax import nnx
from training import runs

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.checkpoints import huggingface
from transkimmer_jax.errors import CheckpointError, TrainingError
from transkimmer_jax.models.architecture import SkimArchitecture

load = TranskimmerForSequenceClassification.from_pretrained

LABELS = ("no", "yes", "maybe")
SKIM = {"predictor_size": 24, "initial_bias": 2.0, "temperature": 0.5, "threshold": 0.25, "attention_masking": "post_softmax"}


def make_model(folder, *, skim=SKIM):
    """A model whose every parameter and every constant differs from the defaults."""
    config = CONFIG | {"layer_norm_eps": 1e-6, "initializer_range": 0.05, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
    tensors = random_tensors(predictor_size=None if skim is None else 24)
    write_checkpoint(folder, tensors, config | ({} if skim is None else {"skim": skim}))
    return load(folder, dense=skim is None)


def make_batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 100, (3, 8)).astype(np.int32)
    return ids, (np.arange(8) < np.array([[8], [5], [2]])).astype(np.int32)


def assert_identical(a, b):
    leaves, others = jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b)
    assert [path for path, _ in leaves] == [path for path, _ in others]
    for (path, leaf), (_, other) in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("skim", [SKIM, None], ids=["skimming", "dense"])
def test_round_trip(tmp_path, skim):
    """Parameters, architecture with its skim section, and outputs."""
    model = make_model(tmp_path / "first", skim=skim)
    model.save_pretrained(tmp_path / "second", label_names=LABELS)
    again = load(tmp_path / "second", dense=skim is None)
    assert again.arch == model.arch
    assert again.arch.skim == (None if skim is None else SkimArchitecture(**skim))
    assert (again.arch.layer_norm_eps, again.arch.hidden_dropout, again.arch.attention_dropout) == (1e-6, 0.2, 0.3)
    assert_identical(nnx.state(again), nnx.state(model))
    graph = nnx.graphdef(model)
    call = jax.jit(lambda state: nnx.merge(graph, state)(*make_batch()))
    assert_identical(call(nnx.state(again)), call(nnx.state(model)))


def test_every_parameter_is_saved_under_its_own_name(tmp_path):
    """The folder loaded from and the folder written hold the same tensors; predictors move to a prefix of their own."""
    from safetensors.numpy import load_file

    make_model(tmp_path / "first").save_pretrained(tmp_path / "second", label_names=LABELS)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    first = {name.replace("bert.encoder.skim_predictors.", "skim_predictors."): tensor for name, tensor in first.items()}
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)


@pytest.mark.parametrize(
    ("num_labels", "given", "stored", "problem"),
    [
        (3, LABELS, LABELS, "single_label_classification"),
        (3, None, ("LABEL_0", "LABEL_1", "LABEL_2"), "single_label_classification"),
        (1, None, ("LABEL_0",), "regression"),
    ],
)
def test_labels(tmp_path, num_labels, given, stored, problem):
    """What is saved can be loaded, also where no label names are given."""
    folder = write_checkpoint(tmp_path / "first", {n: t for n, t in random_tensors().items() if not n.startswith("classifier")})
    load(folder, num_labels=num_labels).save_pretrained(tmp_path / "second", label_names=given)
    config = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {str(index): name for index, name in enumerate(stored)}
    assert config["label2id"] == {name: index for index, name in enumerate(stored)}
    assert config["problem_type"] == problem
    assert load(tmp_path / "second").arch.num_labels == num_labels


def test_wrong_number_of_label_names(tmp_path):
    with pytest.raises(CheckpointError, match=r"^2 label names for a model with 3 labels$"):
        make_model(tmp_path / "first").save_pretrained(tmp_path / "second", label_names=("no", "yes"))
    assert not (tmp_path / "second").exists()


def test_extra_config(tmp_path):
    make_model(tmp_path / "first").save_pretrained(tmp_path / "second", label_names=LABELS, extra_config={"max_length": 64})
    assert json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))["max_length"] == 64
    assert load(tmp_path / "second").arch.num_labels == 3


def test_transformers_reads_a_dense_model(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = make_model(tmp_path / "first", skim=None)
    model.save_pretrained(tmp_path / "second", label_names=LABELS)
    theirs, report = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "second", output_loading_info=True)
    assert {name: list(keys) for name, keys in report.items() if keys} == {}
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.layer_norm_eps == 1e-6
    ids, mask = make_batch()
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).logits.numpy()
    actual = np.asarray(jax.jit(model.__call__)(ids, mask).logits)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def skimming_folder(tokenizer_folder, tmp_path_factory):
    """A skimming model with a tokenizer, saved."""
    from transkimmer_jax.data.pipeline import load_tokenizer

    scratch = tmp_path_factory.mktemp("skimming")
    make_model(scratch / "first").save_pretrained(scratch / "model", label_names=LABELS, tokenizer=load_tokenizer(tokenizer_folder))
    return scratch / "model"


def test_transformers_refuses_a_skimming_model(skimming_folder):
    """It would keep every token, and nobody would be told."""
    transformers = pytest.importorskip("transformers")
    # transformers' models want PyTorch before they look at a folder.
    models = [transformers.AutoModel, transformers.AutoModelForSequenceClassification] if importlib.util.find_spec("torch") else []
    for auto in (transformers.AutoConfig, *models):
        with pytest.raises(ValueError, match="model type `transkimmer`"):
            auto.from_pretrained(skimming_folder)


def test_transformers_reads_the_tokenizer_of_a_skimming_model(skimming_folder):
    transformers = pytest.importorskip("transformers")
    assert transformers.AutoTokenizer.from_pretrained(skimming_folder)("a good film")["input_ids"][1:-1] == [4, 7, 9]


def test_transformers_says_what_it_leaves_out(skimming_folder):
    """Asked for BERT by name, it has the dense weights, and names all of the predictors' as unexpected."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs, report = transformers.BertForSequenceClassification.from_pretrained(skimming_folder, output_loading_info=True)
    assert not report["missing_keys"] and len(report["unexpected_keys"]) == 3 * 8
    assert all(name.startswith("skim_predictors.") for name in report["unexpected_keys"])
    assert theirs.config.id2label == dict(enumerate(LABELS))


def test_the_card(skimming_folder):
    card = (skimming_folder / "README.md").read_text(encoding="utf-8")
    front = card.split("---\n")[1].splitlines()
    assert front == ["library_name: transkimmer_jax", "pipeline_tag: text-classification"]
    assert "keeps every token" in " ".join(card.split()) and "SkimEngine.from_pretrained" in card and '`"maybe"`' in card


@pytest.mark.parametrize(
    ("columns", "labels", "call"),
    [(("text",), ("no", "yes"), "predict"), (("text", "other"), ("no", "yes"), "predict"), (("query", "text"), None, "rank")],
)
def test_the_call_that_a_card_shows(tokenizer_folder, tmp_path, monkeypatch, columns, labels, call):
    """It is one that the model answers."""
    config = runs.TINY if labels else runs.TINY | {"id2label": {"0": "LABEL_0"}}
    folder = save_model(tmp_path, tokenizer_folder, config=config, label_names=labels, text_columns=columns)
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert f".{call}(" in code
    (tmp_path / "this").mkdir()
    (tmp_path / "this" / "folder").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    exec(code, {})


def test_a_card_of_known_provenance():
    from transkimmer_jax.checkpoints.model_card import Provenance, model_card
    from transkimmer_jax.models.architecture import Architecture

    card = model_card(Architecture(skim=None), None, Provenance("someone/base", "glue/stsb", {"pearson": 0.875}))
    assert 'base_model: "someone/base"\ndatasets:\n- nyu-mll/glue\nmetrics:\n- "pearson"\n---' in card
    assert "trained on glue/stsb" in card and "| pearson | 0.8750 |" in card and "SkimEngine" not in card
    assert "datasets" not in model_card(Architecture(skim=None), None, Provenance("someone/base", "files", {"accuracy": 0.5}))


def test_predictors_under_the_originals_prefix_in_a_folder_of_type_bert(tmp_path):
    """The same model as under their own prefix."""
    model = make_model(tmp_path / "first")
    model.save_pretrained(tmp_path / "second", label_names=LABELS)
    config = json.loads((tmp_path / "first" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "bert" and config["skim"] == SKIM
    assert_identical(nnx.state(load(tmp_path / "first")), nnx.state(load(tmp_path / "second")))


@pytest.mark.parametrize("options", [{"label_names": ("a", "a", "b")}, {"extra_config": {"task": []}}])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, options):
    with pytest.raises(CheckpointError, match="^cannot save .*(id2label|task)="):
        make_model(tmp_path / "first").save_pretrained(tmp_path / "second", **options)
    assert not (tmp_path / "second").exists()


def test_weights_that_are_not_finite(tmp_path):
    model = make_model(tmp_path / "first")
    model.encoder.predictors[1].decision.kernel[...] = np.nan
    model.save_pretrained(tmp_path / "second", label_names=LABELS)
    with pytest.raises(CheckpointError, match=r"skim_predictors.1.predictor.4.weight holds values that are not finite numbers"):
        load(tmp_path / "second")


def test_tokenizer_is_saved(tokenizer_folder, tmp_path):
    """The folder stands alone: its tokenizer gives the same ids, and the config has the tokenizer's padding id."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.pad_token = "[SEP]"  # an id that is not the default 0
    make_model(tmp_path / "first").save_pretrained(tmp_path / "second", label_names=LABELS, tokenizer=tokenizer)
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "second")
    text = "The films is good"
    assert reloaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    config = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))
    assert config["pad_token_id"] == tokenizer.pad_token_id


@pytest.mark.parametrize(("task", "length"), [({"max_length": 16}, 16), ({}, CONFIG["max_position_embeddings"])])
def test_the_tokenizer_says_how_much_the_model_reads(tokenizer_folder, tmp_path, task, length):
    """So that clients that cut texts by it read no more than an engine does."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder, model_max_length=512)
    options = {"label_names": LABELS, "tokenizer": tokenizer, "extra_config": {"task": task}}
    make_model(tmp_path / "first").save_pretrained(tmp_path / "second", **options)
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "second")
    assert reloaded.model_max_length == length == len(reloaded("a " * 100, truncation=True)["input_ids"])


def test_colleagues_can_read_it(tmp_path):
    previous = os.umask(0o022)
    try:
        make_model(tmp_path / "first").save_pretrained(tmp_path / "second", label_names=LABELS)
    finally:
        os.umask(previous)
    assert (tmp_path / "second").stat().st_mode & 0o777 == 0o755
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "second").iterdir()} == {
        "README.md": 0o644,
        "SHA256SUMS": 0o644,
        "config.json": 0o644,
        "model.safetensors": 0o644,
    }


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Python's own writers give a number; safetensors is Rust and gives words.
FULL = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("I/O error: No space left on device (os error 28)")]


@pytest.mark.parametrize("failure", FULL, ids=["number", "words"])
@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "old checkpoint"])
def test_full_disk(tmp_path, monkeypatch, failure, exists):
    model, target = make_model(tmp_path / "first"), tmp_path / "results" / "best"
    if exists:
        model.save_pretrained(target, label_names=LABELS)
    before = contents(tmp_path)

    def write_half(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise failure

    monkeypatch.setattr(huggingface, "save_file", write_half)
    with pytest.raises(TrainingError) as caught:
        model.save_pretrained(target, label_names=("a", "b", "c"))
    assert str(caught.value) == f"cannot write {target}: no space left on the disk; free some or write elsewhere"
    assert contents(tmp_path) == before
    assert target.exists() == exists
    assert [path.name for path in target.parent.iterdir()] == (["best"] if exists else [])


def test_replaces_an_older_checkpoint_whole(tmp_path):
    model, target = make_model(tmp_path / "first"), tmp_path / "second"
    model.save_pretrained(target, label_names=LABELS, extra_files={"skim_calibration.json": "{}"})
    (target / "README.md").write_text("a card that somebody has edited", encoding="utf-8")
    dense = TranskimmerForSequenceClassification(dataclasses.replace(model.arch, skim=None), rngs=nnx.Rngs(3))
    dense.save_pretrained(target, label_names=LABELS)
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    assert_identical(nnx.state(load(target, dense=True)), nnx.state(dense))


@pytest.mark.parametrize("name", [".git/HEAD", "LICENSE", "onnx/model.onnx", "pytorch_model.bin", "config.json"])
def test_never_replaces_what_it_did_not_write(tmp_path, name):
    """Nor what has changed since, in a folder that is a checkpoint of ours otherwise."""
    model, target = make_model(tmp_path / "first"), tmp_path / "second"
    model.save_pretrained(target, label_names=LABELS)
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_text("years of work", encoding="utf-8")
    before = contents(target)
    complaint = f"{target / name} is not as this package wrote it, and would be deleted: move it, or choose a new folder"
    with pytest.raises(CheckpointError, match=f"^{re.escape(complaint)}$"):
        model.save_pretrained(target, label_names=LABELS)
    assert contents(target) == before


def test_never_replaces_a_checkpoint_of_others(tmp_path):
    model = make_model(tmp_path / "first")
    before = contents(tmp_path / "first")
    with pytest.raises(CheckpointError, match=r"first holds files and no checkpoint of this package to replace: choose a new folder"):
        model.save_pretrained(tmp_path / "first", label_names=LABELS)
    assert contents(tmp_path / "first") == before


def test_never_replaces_a_folder_of_other_things(tmp_path):
    """A mistyped folder must not cost anybody their files; a run's workdir has a config.json too."""
    model, target = make_model(tmp_path / "first"), tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("years of work", encoding="utf-8")
    (target / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"thesis holds files and no checkpoint of this package to replace: choose a new folder"):
        model.save_pretrained(target, label_names=LABELS)
    assert contents(target) == {"chapter1.tex": b"years of work", "config.json": b"{}"}
