"""A checkpoint that is not, byte for byte, what was written is never resumed from: whatever is done to whichever of its files."""

import errno
import os
import re
import shutil
import subprocess
from typing import NamedTuple

import grain
import jax
import numpy as np
import pytest
from etils import epath
from faults import checkpoint_faults
from faults.checkpoint_faults import FILES, MUTATIONS, NAMED, mutation

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import verification
from transkimmer_jax.training.checkpoints import Checkpoints, Progress

KEPT = 2


class State(NamedTuple):
    """As much of a training state as checkpoints ask for."""

    step: jax.Array
    params: dict[str, jax.Array]


def state_of(step):
    rng = np.random.default_rng(step)
    return State(jax.numpy.asarray(step), {"weight": jax.numpy.asarray(rng.standard_normal((40, 50)), jax.numpy.float32)})


def data_at(step):
    data = iter(grain.MapDataset.range(100).to_iter_dataset())
    data.set_state(data.get_state() | {"next_index": step})
    return data


def save(workdir, ranks, keep_latest=KEPT, **options):
    with open_checkpoints(workdir, keep_latest) as checkpoints:
        for step, rank in ranks.items():
            checkpoints.save(step, state_of(step), data_at(step), Progress(float(step)), rank, **options)


def open_checkpoints(workdir, keep_latest=KEPT):
    return Checkpoints(epath.Path(workdir), keep_latest=keep_latest, timeout=60)


def restored(workdir):
    """The step resumed from, after a look at everything that is restored; 0 where a run begins anew."""
    with open_checkpoints(workdir) as checkpoints:
        step = checkpoints.latest_step
        if step is None:
            return 0
        data = data_at(0)
        state, progress = checkpoints.restore(state_of(0), data)
        np.testing.assert_array_equal(state.params["weight"], state_of(step).params["weight"])
        assert (int(state.step), data.get_state()["next_index"], progress.seconds) == (step, step, step)
        return step


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Of steps 3, 6, 9 and 12, all evaluated, 9 being the best: 9 and 12 are kept, 12 is resumed from."""
    workdir = tmp_path_factory.mktemp("written")
    save(workdir, {3: 0.1, 6: 0.2, 9: 0.9, 12: 0.8})
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"9", "12"}
    return workdir


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def said(caplog):
    """What the program has said, and not Orbax."""
    return [record.getMessage() for record in caplog.records if record.name == "transkimmer_jax"]


def seeded(name):
    return np.random.default_rng([*name.encode()])


FAULTS = {f"{file}: {kind}": mutation(kind, file) for file in FILES for kind in MUTATIONS} | NAMED


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_noticed_and_named(workdir, caplog, fault):
    """One line says which file and what became of the checkpoint; the one before it is left to be used."""
    damaged = workdir / "checkpoints" / "12"
    file = FAULTS[fault](damaged, seeded(fault))
    verification.put_damaged_aside(epath.Path(workdir / "checkpoints"), KEPT)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["9"]
    (line,) = said(caplog)
    aside = workdir / "checkpoints_damaged" / "12"
    start, end = f"checkpoint {damaged} is damaged (", f"): moved to {aside}, the one of step 9 is used"
    assert line.startswith(start) and line.endswith(end) and "\n" not in line
    assert aside.exists() and not damaged.exists()
    cause = line[len(start) : -len(end)]
    assert file in cause or "SHA256SUMS" in cause or (file.endswith("/") and cause.startswith(file)) or "no folder" in cause


def test_every_kind_of_file_is_covered(written):
    """FILES names all that a checkpoint consists of, but the marks that Orbax sets when it commits."""
    checkpoint = written / "checkpoints" / "12"
    kinds = {re.sub("/[0-9a-f]{32}$", "", FILES[name](checkpoint).relative_to(checkpoint).as_posix()) for name in FILES}
    present = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert kinds == {re.sub("/[0-9a-f]{32}$", "", name) for name in present if not name.endswith("commit_success.txt")}


def test_killed_at_the_commit(workdir, caplog):
    """The file that Orbax writes as it commits has no digest yet: it is read, and all others are verified."""
    newest = workdir / "checkpoints" / "12"
    sums = newest / folders.SUMS_FILE
    lines = sums.read_text(encoding="utf-8").splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "_CHECKPOINT_METADATA" not in line), encoding="utf-8")
    assert len(sums.read_text(encoding="utf-8").splitlines()) == len(lines) - 1
    assert restored(workdir) == 12 and said(caplog) == []
    mutation("empty", "_CHECKPOINT_METADATA")(newest, seeded("commit"))
    assert restored(workdir) == 9


def test_killed_while_digests_are_completed(workdir, caplog):
    """The new list lies beside the old one, unfinished: it is deleted, and nothing is damaged."""
    newest = workdir / "checkpoints" / "12"
    (newest / f".{folders.SUMS_FILE}.abcdef12").write_text("half a li", encoding="utf-8")
    assert restored(workdir) == 12 and said(caplog) == []
    assert not [path.name for path in newest.iterdir() if path.name.startswith(f".{folders.SUMS_FILE}")]


def test_a_checkpoint_that_cannot_be_written(workdir, monkeypatch):
    """What failed is what is said, and not that the checkpoint has no digests either."""

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), open_checkpoints(workdir) as checkpoints:
        monkeypatch.setattr(folders, "write_digests", fail)
        checkpoints.save(15, state_of(15), data_at(15), Progress(15.0), 0.5)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as error:
            checkpoints.wait()
        raise error.value
    assert restored(workdir) == 12


@pytest.mark.parametrize("file", FILES)
def test_the_one_before_is_used(workdir, file):
    mutation("one bit flipped", file)(workdir / "checkpoints" / "12", seeded(file))
    assert restored(workdir) == 9


def test_what_is_whole_is_used(workdir, caplog):
    assert restored(workdir) == 12
    assert said(caplog) == [] and not (workdir / "checkpoints_damaged").exists()


def test_digests_are_those_of_sha256sum(written):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    for checkpoint in (written / "checkpoints").iterdir():
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", folders.SUMS_FILE], cwd=checkpoint, check=True)


def test_digests_are_written_before_the_commit(written, tmp_path, monkeypatch):
    """So that no kill leaves a committed checkpoint without them."""
    seen = []
    write = folders.write_digests

    def note(folder, **options):
        seen.append(epath.Path(folder).name)
        write(folder, **options)

    monkeypatch.setattr(folders, "write_digests", note)
    save(tmp_path, {4: None})
    assert len(seen) == 1 and seen[0].startswith("4.") and (tmp_path / "checkpoints" / "4" / folders.SUMS_FILE).is_file()


def test_a_damaged_best_checkpoint(workdir, caplog):
    """The result would be another checkpoint's: the run goes back to before the best one, here to its beginning."""
    mutation("one bit flipped", "largest array file")(workdir / "checkpoints" / "9", seeded("best"))
    assert restored(workdir) == 0
    second, first = said(caplog)
    assert f"checkpoint {workdir}/checkpoints/9 is damaged" in first and "the run starts from the beginning" in first
    assert f"{workdir}/checkpoints/12 cannot be used without the best one before it, of step 9, which is damaged: moved to" in second
    assert {path.name for path in (workdir / "checkpoints_damaged").iterdir()} == {"9", "12"}


def test_killed_while_a_damaged_best_one_is_put_aside(workdir, monkeypatch):
    """What depends on it leaves first, so that the next start does not go on without the best."""
    mutation("one bit flipped", "largest array file")(workdir / "checkpoints" / "9", seeded("killed"))
    move_aside = verification._move_aside

    def killed(*arguments):
        move_aside(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verification, "_move_aside", killed)
        restored(workdir)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["9"]
    assert restored(workdir) == 0
    assert {path.name for path in (workdir / "checkpoints_damaged").iterdir()} == {"9", "12"}


def test_damage_to_one_that_is_neither_newest_nor_best(tmp_path, caplog):
    save(tmp_path, {3: 0.9, 6: None, 9: None})
    mutation("one bit flipped", "largest array file")(tmp_path / "checkpoints" / "6", seeded("6"))
    assert restored(tmp_path) == 9
    assert [message for message in said(caplog) if "checkpoints/6 is damaged" in message and "the one of step 9 is used" in message]


def test_all_damaged(workdir, caplog):
    for step in (9, 12):
        mutation("truncated", "largest array file")(workdir / "checkpoints" / str(step), seeded("all"))
    assert restored(workdir) == 0
    assert all("the run starts from the beginning" in message for message in said(caplog)) and len(said(caplog)) == 2
    save(workdir, {3: 0.5})
    assert restored(workdir) == 3


@pytest.mark.parametrize("lost", ["state", "data", "metrics", folders.SUMS_FILE, "_CHECKPOINT_METADATA"])
def test_killed_while_an_old_one_is_deleted(written, workdir, caplog, lost):
    """What is left of it is deleted too, and is no damage to anything."""
    caplog.set_level("INFO", "transkimmer_jax")
    save(workdir, {15: 1.0})
    old = workdir / "checkpoints" / "9"
    assert not old.exists()
    shutil.copytree(written / "checkpoints" / "9", old)
    shutil.rmtree(old / lost) if (old / lost).is_dir() else (old / lost).unlink()
    assert restored(workdir) == 15
    assert said(caplog) == [f"checkpoint {old} was being deleted when the run ended: deleted"]
    assert not old.exists() and not (workdir / "checkpoints_damaged").exists()


def test_the_best_was_replaced_by_one_that_is_damaged(written, workdir, caplog):
    """9 was deleted since 15 is better; 15 is lost, and 12 comes to it again."""
    save(workdir, {15: 1.0})
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"12", "15"}
    mutation("one bit flipped", "_CHECKPOINT_METADATA")(workdir / "checkpoints" / "15", seeded("15"))
    assert restored(workdir) == 12


def test_the_best_is_looked_at_again_before_it_becomes_the_result(workdir):
    with open_checkpoints(workdir) as checkpoints:
        assert checkpoints.restore_best(state_of(0))[1] == 9
        mutation("one bit flipped", "largest array file")(workdir / "checkpoints" / "9", seeded("again"))
        with pytest.raises(TrainingError, match="checkpoints/9, the best, is damaged .*: the same command goes on from one before it"):
            checkpoints.restore_best(state_of(0))


def test_another_state(workdir):
    """That of another version: whole, and refused in one line."""
    with open_checkpoints(workdir) as checkpoints, pytest.raises(TrainingError, match="checkpoints/12 does not hold the state that this"):
        checkpoints.restore(State(jax.numpy.asarray(0), {"other": jax.numpy.zeros(3)}), data_at(0))


def test_a_sum_file_is_read_strictly(tmp_path):
    """A bit in it that changes the case of a digit, a name, or a line's end is damage as well, and so is every end that is too early."""
    folder = epath.Path(tmp_path)
    (tmp_path / "a").write_text("a", encoding="utf-8")
    folders.write_digests(folder)
    content = (tmp_path / folders.SUMS_FILE).read_bytes()
    flipped = [content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :] for place in range(len(content))]
    for changed in (*flipped, *(content[:size] for size in range(len(content)))):
        (tmp_path / folders.SUMS_FILE).write_bytes(changed)
        try:
            assert folders.fault(folder, folders.read_digests(folder)) is not None, changed
        except ValueError as error:
            assert str(error) == "SHA256SUMS does not hold digests as sha256sum writes them"


def test_mutations_change_something(tmp_path):
    """A fault that does nothing would prove nothing; and the same seed does the same."""
    (tmp_path / "3").mkdir()
    for name, change in checkpoint_faults.MUTATIONS.items():
        results = []
        for _ in range(2):
            for file, size in (("a", 100), ("b", 50)):
                (tmp_path / "3" / file).write_bytes(np.random.default_rng(size).bytes(size))
            before = (tmp_path / "3" / "a").read_bytes()
            change(tmp_path / "3" / "a", np.random.default_rng(7))
            path = tmp_path / "3" / "a"
            results.append(path.read_bytes() if path.exists() else None)
            assert results[-1] != before, name
        assert results[0] == results[1], name
