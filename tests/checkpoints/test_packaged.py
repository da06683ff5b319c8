import dataclasses
import hashlib
import io
import json
import pathlib
import subprocess
import zipfile

import numpy as np
import pytest
from flax import nnx
from inference.skimmers import ARCH

from transkimmer_jax import SkimEngine, TranskimmerForSentenceEmbedding
from transkimmer_jax.checkpoints import packaged
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.config import Config, DataConfig, ModelConfig
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import DataError
from transkimmer_jax.models.architecture import PoolingArchitecture
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.models import load_student, load_task


def wheel_bytes(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


WHEEL = wheel_bytes({"thing/__init__.py": "", "thing/model/config.json": "{}", "thing/model/1_Pooling/config.json": "{}", "thing/x": ""})


TEXTS = ["the film is good", "a bad film"]


class FakePip:
    """Stands in for `subprocess.run`: writes a wheel where pip would, or fails as pip does."""

    def __init__(self):
        self.calls, self.content, self.returncode, self.stderr = 0, WHEEL, 0, ""

    def __call__(self, command, **kwargs):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command and "thing==1" in command
        self.calls += 1
        if self.returncode == 0:
            pathlib.Path(command[command.index("-d") + 1], "thing-1-py3-none-any.whl").write_bytes(self.content)
        return subprocess.CompletedProcess(command, self.returncode, "Looking\n", self.stderr)


@pytest.fixture
def packaged_embedder(monkeypatch, tmp_path, tokenizer_folder):
    """The vectors of texts by an embedder that a wheel holds as sentence-transformers saves one, which is 'packaged:tiny'."""
    arch = dataclasses.replace(ARCH, pooling=PoolingArchitecture("mean", True), skim=None)
    model = TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "saved", tokenizer=load_tokenizer(tokenizer_folder))
    vectors = SkimEngine.from_pretrained(tmp_path / "saved").encode(TEXTS)
    config = tmp_path / "saved" / "config.json"
    bare = {name: value for name, value in json.loads(config.read_text(encoding="utf-8")).items() if name != "pooling"}
    config.write_text(json.dumps(bare), encoding="utf-8")
    paths = [path for path in (tmp_path / "saved").rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
    content = wheel_bytes({f"tiny/model/{path.relative_to(tmp_path / 'saved')}": path.read_bytes() for path in paths})
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny-1.whl").write_bytes(content)
    monkeypatch.setenv("TRANSKIMMER_CACHE", str(tmp_path / "cache"))
    asset = packaged._Asset("tiny==1", hashlib.sha256(content).hexdigest(), packaged._files_below("tiny/model/"))
    monkeypatch.setitem(packaged._ASSETS, "tiny", asset)
    return vectors


def test_an_embedder_out_of_the_box(packaged_embedder):
    """Its own pooling, as an engine and as a teacher; a classification starts from the same asset, of which it takes the encoder."""
    np.testing.assert_array_equal(SkimEngine.from_pretrained("packaged:tiny").encode(TEXTS), packaged_embedder)
    np.testing.assert_allclose(np.linalg.norm(packaged_embedder, axis=1), 1, atol=1e-6)
    distilled = distil_config("packaged:tiny", ["texts.txt"])
    task = load_task(distilled)
    student = load_student(distilled, task)
    assert task.head == student.head == "sentence_embedding" and student.arch.pooling == PoolingArchitecture("mean", True)
    classified = Config(model=ModelConfig("packaged:tiny"), data=DataConfig("glue/sst2", max_length=12))
    classifier = load_student(classified, get_task(classified.data))
    assert classifier.head == "sequence_classification" and classifier.arch.num_labels == 2
    np.testing.assert_array_equal(classifier.encoder.layers[0].up.kernel[...], student.encoder.layers[0].up.kernel[...])


def test_the_packaged_minilm(package_index, minilm):
    """As it is published: sentence-transformers/all-MiniLM-L6-v2."""
    engine = SkimEngine.from_pretrained("packaged:minilm-6l")
    assert engine.arch.pooling == PoolingArchitecture("mean", True) and engine.max_length == 256
    vectors = SkimEngine.from_pretrained(minilm, pooling="mean").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(engine.encode(TEXTS), vectors, atol=1e-6)
    assert (resolve("packaged:minilm-6l") / "1_Pooling" / "config.json").is_file()


@pytest.fixture
def pip(monkeypatch, tmp_path):
    fake = FakePip()
    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setenv("TRANSKIMMER_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(WHEEL).hexdigest()
    monkeypatch.setitem(packaged._ASSETS, "thing", packaged._Asset("thing==1", sha256, packaged._files_below("thing/model/")))
    monkeypatch.setitem(packaged._ASSETS, "plain", packaged._Asset("thing==1", sha256))
    return fake


def test_fetched_once(pip, tmp_path):
    path = packaged.fetch("thing")
    assert path.read_bytes() == WHEEL and path.parent == tmp_path / "cache"
    assert packaged.fetch("thing") == path and pip.calls == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary folder is left


def test_corrupted_cache_is_fetched_again(pip):
    path = packaged.fetch("thing")
    path.write_bytes(WHEEL[:-1])
    assert packaged.fetch("thing").read_bytes() == WHEEL and pip.calls == 2


def test_foreign_wheel_names_both_hashes(pip, tmp_path):
    pip.content = b"something else"
    with pytest.raises(DataError) as error:
        packaged.fetch("thing")
    assert hashlib.sha256(WHEEL).hexdigest() in str(error.value) and hashlib.sha256(pip.content).hexdigest() in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_pip_failure_is_quoted(pip):
    pip.returncode, pip.stderr = 1, "WARNING: retrying\nERROR: No matching distribution found for thing==1\n\n"
    with pytest.raises(DataError, match="ERROR: No matching distribution found for thing==1$"):
        packaged.fetch("thing")


def test_checkpoint_folder_is_extracted_once(pip):
    folder = packaged.checkpoint_folder("thing")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json")) == ["1_Pooling/config.json", "config.json"]
    packaged.fetch("thing").unlink()
    assert packaged.checkpoint_folder("thing") == folder and pip.calls == 1
    with pytest.raises(DataError, match="holds no checkpoint"):
        packaged.checkpoint_folder("plain")


def test_unknown_asset_and_unwritable_cache(pip, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="unknown packaged asset 'x'"):
        packaged.fetch("x")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSKIMMER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set TRANSKIMMER_CACHE"):
        packaged.fetch("thing")
