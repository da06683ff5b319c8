"""What `serve` makes of its flags and folders, without a server that listens."""

import shutil
import types

import pytest
from serving.served import LABELS, edited, served_model, serving

from transkimmer_jax import cli
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.models import heads
from transkimmer_jax.serving import server
from transkimmer_jax.serving.limits import Limits


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
    with pytest.raises(ConfigError, match="--pooling cls is of bare encoders, and none of .*classifier, .*embedder is one: leave it"):
        offered("--model", f"c={folders['classifier']}", f"e={folders['embedder']}", "--pooling", "cls")


@pytest.fixture
def dense(folders, tokenizer_folder, tmp_path):
    """The folder of a classifier that skims nothing."""
    model = heads.load(folders["classifier"], dense=True)
    model.save_pretrained(tmp_path / "dense", tokenizer=load_tokenizer(tokenizer_folder), label_names=LABELS)
    return tmp_path / "dense"


@pytest.mark.parametrize("flags", [("--threshold", "0.5"), ("--threshold-range", "0", "1")])
def test_thresholds_of_dense_models(offered, folders, dense, flags):
    """Are refused, unless another model has some."""
    with pytest.raises(ConfigError, match=f"{flags[0]} is of skimming models, and .*dense is a dense one: leave it out"):
        offered("--model", dense, *flags)
    service = offered("--model", f"d={dense}", f"c={folders['classifier']}", *flags)
    assert service.models.named("c").engine.threshold == (0.5 if flags[0] == "--threshold" else 0.0)


def test_a_request_has_no_threshold_of_a_dense_model(folders, dense):
    """Not even where the server allows others theirs."""
    models = [served_model("dense", dense), served_model("skims", folders["classifier"])]
    with serving(models, Limits(threshold_range=(0.0, 1.0))) as running:
        for body, headers in (({"threshold": 0.5}, {}), ({"threshold": 0.0}, {}), ({}, {"x-threshold": "0.5"})):
            status, _, content = running.ask("/models/dense/predict", {"inputs": "good"} | body, headers=headers)
            assert (status, content["error"]) == (422, "'dense' is a dense model, which has no threshold: leave the threshold out")
            assert running.ask("/models/skims/predict", {"inputs": "good"} | body, headers=headers)[0] == 200
        assert running.ask("/models/dense/predict", {"inputs": "good"})[0] == 200


def test_lengths_beyond_the_positions(offered, folders):
    """As `predict` refuses them."""
    with pytest.raises(CheckpointError, match="25 tokens are more than the 24 positions of .*classifier: give a lower --max-length"):
        offered("--model", folders["classifier"], "--max-length", "25")
    assert offered("--model", folders["classifier"], "--max-length", "24").models.named(folders["classifier"]).engine.max_length == 24
