"""Laws of digests: what we write into a model folder keeps them right, `sha256sum` reads them, and each message says how to go on."""

import json
import shutil
import subprocess

import pytest
from faults.model_folder import write_model

from transkimmer_jax.checkpoints import config_file, folders
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.calibration import Calibration


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


def listed(folder):
    return dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_them(folder):
    assert subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True).returncode == 0


def test_a_folder_without_digests(folder):
    (folder / "SHA256SUMS").unlink()
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("0.25", "0.5"), encoding="utf-8")
    assert config_file.read(folder).architecture.skim.threshold == 0.5
    folders.replace_text(folder / "new.json", "{}")
    assert not (folder / "SHA256SUMS").exists()


def test_an_edited_file_and_how_to_accept_it(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("0.25", "0.5"), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        config_file.read(folder)
    assert str(caught.value) == (
        f"{folder}/config.json is not the file that was written (its sha256 differs from that in {folder}/SHA256SUMS): restore it, or "
        "delete its line there if you changed it on purpose"
    )
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "config.json" not in line.split()), encoding="utf-8")
    assert config_file.read(folder).architecture.skim.threshold == 0.5


def test_what_we_write_is_listed_anew(folder):
    before = listed(folder)
    text = json.dumps(json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"skim": {"predictor_size": 8, "threshold": 0.75}})
    folders.replace_text(folder / "config.json", text)
    assert config_file.read(folder).architecture.skim.threshold == 0.75
    folders.replace_text(folder / "notes.txt", "new")
    after = listed(folder)
    assert set(after) == set(before) | {"notes.txt"} and after["config.json"] != before["config.json"]
    assert {name: after[name] for name in before if name != "config.json"} == {n: d for n, d in before.items() if n != "config.json"}


@pytest.mark.parametrize("writes", range(1, 4))
def test_a_kill_between_two_writes_leaves_a_folder_that_can_be_read(folder, monkeypatch, writes):
    write_text, done = folders.files.write_text, []

    def dies(path, text):
        if len(done) == writes - 1:
            raise KeyboardInterrupt
        done.append(path)
        write_text(path, text)

    monkeypatch.setattr(folders.files, "write_text", dies)
    text = (folder / "config.json").read_text(encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        folders.replace_text(folder / "config.json", text + " ")
    monkeypatch.undo()
    config_file.read(folder)
    assert Calibration.load(folder, 3) is not None
