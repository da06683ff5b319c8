"""One set of models for all tests here, and one server of them."""

import pytest
from serving.served import HEAD_OF, edited, save_models, served_model
from serving.served import serving as served

from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.serving.limits import Limits


@pytest.fixture(scope="session")
def folders(tokenizer_folder, tmp_path_factory):
    """Model folders by name."""
    return save_models(tmp_path_factory.mktemp("served"), tokenizer_folder)


@pytest.fixture(scope="session")
def engines(folders):
    """What answers are compared with."""
    return {name: SkimEngine.from_pretrained(folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def models(folders):
    """A model of every head."""
    return {name: served_model(name, folders[name]) for name in HEAD_OF}


@pytest.fixture(scope="session")
def server(models):
    """Serves all of them."""
    with served(list(models.values()), Limits(threshold_range=(-2.0, 2.0), payload_limit=200_000, read_seconds=2.0)) as running:
        yield running


@pytest.fixture
def bare(folders, tmp_path):
    """A folder of an encoder that says nothing of a head or a pooling."""
    folder = edited(tmp_path / "bare", folders["embedder"], architectures=["BertModel"], pooling=None)
    (folder / "modules.json").unlink()
    return folder
