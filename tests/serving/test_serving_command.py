"""What `serve` makes of its flags and folders, without a server that listens."""

import json
import shutil
import types

import pytest

from transkimmer_jax import cli
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.serving import server


@pytest.fixture
def offered(monkeypatch):
    """The service of a command line, of a server that ends at once."""

    def call(*arguments):
        services = []

        def create(application, *_):
            services.append(application.state.service)
            return types.SimpleNamespace(run=lambda sockets: sockets[0].close())

        monkeypatch.setattr(server, "create_server", create)
        cli.main(["serve", "--port", "0", *map(str, arguments)])
        return services[0]

    return call


def edited(folder, source, **fields):
    """A copy of a model folder whose config has other fields; None leaves one out."""
    shutil.copytree(source, folder)
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def bare(folders, tmp_path):
    """A folder of an encoder that says nothing of a head or a pooling."""
    folder = edited(tmp_path / "bare", folders["embedder"], architectures=["BertModel"], pooling=None)
    (folder / "modules.json").unlink()
    return folder


def test_pooling_is_of_bare_encoders(offered, folders, bare, tmp_path):
    """Beside one, a classifier classifies, and an embedder pools as its folder says."""
    pools = edited(tmp_path / "cls", folders["embedder"], pooling={"mode": "cls", "normalize": False})
    shutil.rmtree(pools / "1_Pooling")
    (pools / "modules.json").unlink()
    service = offered("--model", f"c={folders['classifier']}", f"e={pools}", f"b={bare}", "--pooling", "mean")
    kinds = {model.name: (model.kind, model.engine.arch.pooling.mode) for model in service.models}
    assert kinds == {"c": ("classifier", "mean"), "e": ("embedding", "cls"), "b": ("embedding", "mean")}


def test_pooling_without_a_bare_encoder(offered, folders):
    """One line, before a model is loaded."""
    with pytest.raises(ConfigError, match="--pooling cls is of bare encoders, and .*classifier, .*embedder say what they are: leave it"):
        offered("--model", f"c={folders['classifier']}", f"e={folders['embedder']}", "--pooling", "cls")
