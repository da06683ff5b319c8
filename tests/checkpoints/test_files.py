"""Law: a result appears whole or not at all, and a disk that refuses it is a one-line `TrainingError`."""

import errno
import json
import os
import subprocess
import sys

import pytest
from etils import epath

from transkimmer_jax.checkpoints import files
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.errors import TrainingError

FULL = "no space left on the disk; free some or write elsewhere"
QUOTA = "the disk quota is used up; free some or write elsewhere"
FAILURES = [
    (OSError(errno.ENOSPC, "whatever"), FULL),
    (OSError(errno.EDQUOT, "whatever"), QUOTA),
    (OSError(errno.EACCES, "whatever"), "permission denied"),
    (OSError(errno.EROFS, "whatever"), "the file system is read-only"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), FULL),
    (ValueError("write failed: Disk quota exceeded"), QUOTA),
    (ValueError("RESOURCE_EXHAUSTED: error writing to disk"), FULL),
]
failures = pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=lambda value: str(value).replace(" ", "-")[:24])


def test_a_sole_writer(tmp_path):
    """The folder is free again when the block ends, and when its process is killed."""
    folder = tmp_path / "new" / "run"
    with files.sole_writer(folder), pytest.raises(TrainingError, match="another run is writing to .*run: wait"), files.sole_writer(folder):
        pass
    with files.sole_writer(folder), files.sole_writer(tmp_path):
        pass
    code = f"""
import time
from transkimmer_jax.checkpoints import files
with files.sole_writer({str(folder)!r}):
    print("in", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(TrainingError, match="another run"), files.sole_writer(folder):
            pass
        other.kill()
        other.wait()
    with files.sole_writer(folder):
        assert not list(folder.iterdir())


def test_write_json(tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    files.write_json(path, {"accuracy": 0.5, "keep": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"accuracy": 0.5, "keep": [1, None]}
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_write_text_replaces_and_is_readable_by_others(tmp_path):
    path = tmp_path / "report.txt"
    files.write_text(path, "first")
    files.write_text(path, "zweitens: größer")
    assert path.read_text(encoding="utf-8") == "zweitens: größer"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.txt"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"step": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"step": 1}


@failures
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_text_that_fails_leaves_nothing(tmp_path, monkeypatch, failure, reason, call):
    path = tmp_path / "result.txt"
    path.write_text("old", encoding="utf-8")

    def fail(*args):
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(TrainingError) as caught:
        files.write_text(path, "new")
    assert str(caught.value) == f"cannot write {path}: {reason}"
    assert caught.value.__cause__ is failure
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]
    assert path.read_text(encoding="utf-8") == "old"


def test_replaced_file(tmp_path):
    target = tmp_path / "deep" / "answers.jsonl"
    with files.replaced_file(target) as file:
        file.write("first\n")
        file.flush()
        assert not target.exists(), "it may appear only when it is whole"
    with files.replaced_file(target) as file:
        file.write("größer\n")
        assert target.read_text(encoding="utf-8") == "first\n", "the old one stays until then"
    assert target.read_text(encoding="utf-8") == "größer\n" and target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["answers.jsonl"]


@failures
def test_replaced_file_that_fails_leaves_the_old_one(tmp_path, failure, reason):
    target = tmp_path / "answers.jsonl"
    for exists in (False, True):
        if exists:
            target.write_text("old", encoding="utf-8")
        with pytest.raises(TrainingError) as caught, files.replaced_file(target) as file:
            file.write("half")
            raise failure
        assert str(caught.value) == f"cannot write {target}: {reason}"
        assert [path.name for path in tmp_path.iterdir()] == (["answers.jsonl"] if exists else [])
    assert target.read_text(encoding="utf-8") == "old"


def test_replaced_file_follows_a_link(tmp_path):
    """A result that lives on another disk stays there."""
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big_disk" / "result")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big_disk" / "result").read_text(encoding="utf-8") == "new"


def test_what_is_no_file_is_written_and_not_replaced(tmp_path):
    """A pipe takes the text; /dev/null, which root could replace, stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_text(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("failure", [KeyError("a bug"), OSError(errno.EIO, "disk on fire"), KeyboardInterrupt()])
def test_other_failures_are_not_explained_away(tmp_path, failure):
    """A bug keeps its traceback, and still nothing is left behind."""
    with pytest.raises(type(failure)) as caught, files.replaced_folder(tmp_path / "result") as folder:
        (folder / "part").touch()
        raise failure
    assert caught.value is failure
    assert list(tmp_path.iterdir()) == []


def test_replaced_folder(tmp_path):
    target = tmp_path / "deep" / "result"
    with files.replaced_folder(target) as folder:
        (folder / "a.txt").write_text("a", encoding="utf-8")
        assert not target.exists(), "it may appear only when it is whole"
    assert [path.name for path in target.iterdir()] == ["a.txt"]
    assert target.stat().st_mode & 0o777 == 0o755
    with files.replaced_folder(target) as folder:
        (folder / "b.txt").write_text("b", encoding="utf-8")
        assert (target / "a.txt").exists(), "the old one stays until then"
    assert [path.name for path in target.iterdir()] == ["b.txt"]
    assert [path.name for path in target.parent.iterdir()] == ["result"]


def test_replaced_folder_in_a_bucket(bucket):
    """Of an older folder nothing is left there either, and what lies in a bucket can be fetched."""
    for names in (["a.txt", "deep/b.txt"], ["a.txt", "deep/c.txt"]):
        with files.replaced_folder(bucket) as folder:
            (folder / "deep").mkdir()
            for name in names:
                (folder / name).write_text(names[1], encoding="utf-8")
        assert files.names_below(epath.Path(bucket)) == names
        assert (epath.Path(bucket) / "a.txt").read_text() == names[1]
    fetched = resolve(bucket)
    assert files.names_below(epath.Path(fetched)) == ["a.txt", "deep/c.txt"]


@failures
def test_replaced_folder_that_fails_leaves_the_old_one(tmp_path, failure, reason):
    target = tmp_path / "result"
    for exists in (False, True):
        if exists:
            target.mkdir()
            (target / "old.txt").write_text("old", encoding="utf-8")
        with pytest.raises(TrainingError) as caught, files.replaced_folder(target) as folder:
            (folder / "half").touch()
            raise failure
        assert str(caught.value) == f"cannot write {target}: {reason}"
        assert [path.name for path in tmp_path.iterdir()] == (["result"] if exists else [])
    assert (target / "old.txt").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("at", [1, 2])
def test_replaced_folder_survives_a_failed_rename(tmp_path, monkeypatch, at):
    """The old folder is back in its place whichever of the renames at the end fails."""
    target, real, calls = tmp_path / "result", os.replace, []
    target.mkdir()
    (target / "old.txt").touch()

    def fail_once(source, destination):
        calls.append(destination)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, destination)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(TrainingError, match="no space left"), files.replaced_folder(target) as folder:
        (folder / "new.txt").touch()
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_replaced_folder_follows_a_link(tmp_path):
    """A results folder that lives on another disk stays there."""
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big_disk")
    with files.replaced_folder(tmp_path / "link") as folder:
        (folder / "a.txt").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "big_disk" / "a.txt").exists()


def test_files_and_folders_in_the_way(tmp_path):
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TrainingError, match="there is a file where a folder is needed"), files.replaced_folder(tmp_path / "file"):
        raise AssertionError("the block must not run")
    for path in (tmp_path / "file" / "result", tmp_path / "file" / "deeper" / "result"):
        with pytest.raises(TrainingError, match="there is a file where a folder is needed"):
            files.write_text(path, "new")
    with pytest.raises(TrainingError, match="there is a folder where a file is needed"), files.replaced_file(tmp_path / "folder"):
        raise AssertionError("the block must not run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"


BEGUN = """
import sys, time
from transkimmer_jax.checkpoints import files
with getattr(files, sys.argv[1])(sys.argv[2]):
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["replaced_file", "replaced_folder"])
def test_what_a_killed_process_leaves_is_deleted(tmp_path, kind):
    """When the same is written again, or by name; never while the process lives, nor what only has a similar name."""
    target = tmp_path / "result"
    (tmp_path / ".result.backup").touch()
    (tmp_path / ".result.json.abcdefgh").touch()

    def unfinished():
        return [path for path in tmp_path.glob(".result.*") if path.name not in (".result.backup", ".result.json.abcdefgh")]

    with subprocess.Popen([sys.executable, "-c", BEGUN, kind, target], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        (begun,) = unfinished()
        assert files.remove_leftovers(tmp_path, ["result"]) == [begun] == unfinished()
        process.kill()
        process.wait()
    assert unfinished() == [begun] and not target.exists()
    with getattr(files, kind)(target):
        assert begun not in unfinished() and len(unfinished()) == 1
    assert target.exists() and unfinished() == []
    begun.touch()
    assert files.remove_leftovers(tmp_path, ["result"]) == [] == unfinished()
    assert {path.name for path in tmp_path.iterdir()} == {"result", ".result.backup", ".result.json.abcdefgh"}


def test_a_kill_between_the_two_steps_of_replacing_a_folder(tmp_path):
    """The old folder is put back."""
    scratch = tmp_path / ".model.abcdefgh"
    for name in ("old", "new"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "weights").write_text(name, encoding="utf-8")
    assert files.remove_leftovers(tmp_path, ["model"]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text(encoding="utf-8") == "old"
