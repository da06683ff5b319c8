"""Hostile model folders: each is one error of one line, or was harmless."""

import shutil
import warnings

import numpy as np
import pytest
from faults import config_faults, folder_faults, safetensors_faults
from faults.model_folder import write_model

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.checkpoints import config_file, folders
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, TranskimmerError
from transkimmer_jax.inference.calibration import Calibration


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def damaged(model, tmp_path):
    """A copy of the folder to be damaged."""
    return shutil.copytree(model, tmp_path / "damaged")


def read_all(folder):
    """Everything that an engine reads of a folder."""
    saved = config_file.read(folder)
    TranskimmerForSequenceClassification.from_pretrained(folder, dense=None)
    Calibration.load(folder, saved.architecture.num_hidden_layers)
    load_tokenizer(folder, saved.architecture.vocab_size)


def refusal(folder):
    """The error of one line that reading raises; None where the folder can be read. Anything else is a traceback."""
    try:
        read_all(folder)
    except TranskimmerError as error:
        message = str(error)
        assert message and len(message.splitlines()) == 1 and len(message) < 4000
        return message
    return None


def test_an_undamaged_folder(model):
    assert refusal(model) is None
    assert config_file.read(model).label_names == ("neg", "pos")


def undigested(folder, file, content):
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", sorted(set(config_faults.named(b"{}")) - set(config_faults.LARGE)))
def test_configs_by_name(damaged, name):
    content = config_faults.named((damaged / "config.json").read_bytes())[name]()
    assert str(damaged) in refusal(undigested(damaged, "config.json", content))


def test_mutated_safetensors(damaged):
    whole = (damaged / "model.safetensors").read_bytes()
    for name, content in safetensors_faults.mutations(whole, seed=5, count=60):
        assert refusal(undigested(damaged, "model.safetensors", content)) is not None, name


def test_safetensors_by_name(damaged):
    for name, make in safetensors_faults.named((damaged / "model.safetensors").read_bytes()).items():
        if name not in safetensors_faults.LARGE:
            assert refusal(undigested(damaged, "model.safetensors", make())) is not None, name


FOLDERS = [(f"{kind}: {name}", damage) for kind, name, damage in folder_faults.named()]


@pytest.mark.parametrize("damage", [damage for _, damage in FOLDERS], ids=[name for name, _ in FOLDERS])
def test_other_files(damaged, damage):
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's about kinds of tensors that it is about to drop
        damage(damaged)
        assert refusal(damaged) is not None


READERS = {
    "config.json": config_file.read,
    "model.safetensors": TranskimmerForSequenceClassification.from_pretrained,
    "skim_calibration.json": lambda folder: Calibration.load(folder, 3),
    "vocab.txt": load_tokenizer,
    "SHA256SUMS": lambda folder: [folders.verify(folder / name) for name in folders.listed_names(folder)],
}


@pytest.mark.parametrize("file", READERS)
def test_every_flipped_bit_is_noticed(model, damaged, file):
    rng = np.random.default_rng(3)
    for _ in range(15):
        name, damage = folder_faults.flipped_bit(model / file, rng)
        damage(damaged)
        with pytest.raises(CheckpointError, match="SHA256SUMS"):
            READERS[file](damaged)
            pytest.fail(name)
    shutil.copy(model / file, damaged / file)
    READERS[file](damaged)


def test_nothing_is_allocated_for_a_size_that_the_file_does_not_have(damaged, monkeypatch):
    """Neither a model nor a tensor is made before names and shapes have been compared."""

    def made(*args, **kwargs):
        raise AssertionError("a model was made")

    monkeypatch.setattr(TranskimmerForSequenceClassification, "__init__", made)
    content = config_faults.named((damaged / "config.json").read_bytes())["hidden_size 20000"]()
    assert "expected (60, 20000)" in refusal(undigested(damaged, "config.json", content))
