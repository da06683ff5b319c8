"""Processes are killed, preempted and stopped, checkpoints damaged: the same command goes on, and ends where it would have ended."""

import shutil
import signal
import time

import pytest
from distributed import launch
from training import runs

from transkimmer_jax.config import override

# Each case starts four or more processes, half a minute of CPU time at least. `make test` runs what needs less, and the same faults of
# a single process in training/test_loop.py.
slow = pytest.mark.slow

FIELDS = {"train.steps": "24", "train.log_every": "1", "train.eval_every": "12", "train.save_every": "4", "train.keep_latest": "2"}
PREEMPTED, PEER_LOST = 75, 76
MESH = "--config.mesh.fsdp=2"  # parameters are split over the two processes


@pytest.fixture(scope="module")
def config_file(config, tmp_path_factory):
    return runs.write_config(tmp_path_factory.mktemp("config") / "task.py", override(config, FIELDS))


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    """A run of two processes that nothing happens to."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with launch.Run(config_file, workdir, MESH, count=2) as run:
        run.finish()
    return workdir


@pytest.fixture
def start(config_file, tmp_path):
    """Starts the run with two processes, or with the options given."""

    def start(*fields, **options):
        return launch.Run(config_file, tmp_path / "run", *(fields or (MESH,)), **{"count": 2} | options)

    return start


def assert_equal(workdir, whole, bitwise=True):
    """The same losses at the same steps, each once, and the same weights."""
    found, expected = launch.losses(workdir), launch.losses(whole)
    assert list(found) == list(expected) == list(range(1, 25))
    assert [line["step"] for line in launch.records(workdir)] == [line["step"] for line in launch.records(whole)]
    if bitwise:
        assert found == expected
        weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (workdir, whole)]
        assert weights[0] == weights[1]
    else:
        assert found == pytest.approx(expected, rel=1e-5)


def committed(workdir):
    """Steps of the checkpoints that are complete."""
    names = [path.parent.name for path in (workdir / "checkpoints").glob("*/commit_success.txt")]
    return sorted(int(name) for name in names if name.isdigit())  # others are still being written, or deleted


@slow
@pytest.mark.parametrize(("who", "moment"), [(0, 1), (0, 9), (0, 20), (1, 1), (1, 9), (1, 20)])
def test_one_process_is_killed(start, whole, who, moment):
    """The other ends by itself, in bounded time, and says why."""
    with start() as run:
        run.until(lambda: launch.steps_taken(run.workdir) >= moment)
        run.processes[who].kill()
        killed = time.monotonic()
        statuses = run.wait(limit=90)
        assert time.monotonic() - killed < 60
        assert statuses[who] == -signal.SIGKILL and statuses[1 - who] not in (0, -signal.SIGKILL)
        other = run.output(1 - who)
        assert "another process is gone or does not answer" in other or "coordination" in other.lower(), other
        assert not (run.workdir / "result.json").exists()
    with start() as run:
        run.finish()
    assert_equal(run.workdir, whole)


@slow
@pytest.mark.parametrize("moment", [0, 6, 13])
def test_all_processes_are_killed(start, whole, moment):
    with start() as run:
        run.until(lambda: launch.steps_taken(run.workdir) >= moment and (run.workdir / "metrics.jsonl").exists())
        for process in run.processes:
            process.kill()
        run.wait()
    with start() as run:
        run.finish()
    assert_equal(run.workdir, whole)


@slow
@pytest.mark.parametrize("step", [4, 8, 16])
def test_killed_while_a_checkpoint_is_written(start, whole, step):
    """At the moment at which the checkpoint's folder appears, complete or not."""
    with start() as run:
        run.until(lambda: any((run.workdir / "checkpoints").glob(f"*{step}*")))
        for process in run.processes:
            process.kill()
        run.wait()
    with start() as run:
        run.finish()
    assert_equal(run.workdir, whole)


@slow
@pytest.mark.parametrize(("who", "moment"), [(0, 2), (0, 15), (1, 2), (1, 15)])
def test_preemption(start, whole, who, moment):
    """One process is told; all save the same step and leave with the status that says so."""
    with start() as run:
        run.until(lambda: launch.steps_taken(run.workdir) >= moment)
        run.processes[who].send_signal(signal.SIGTERM)
        statuses = run.wait(limit=90)
        assert statuses == [PREEMPTED] * 2, run.output()
        stopped = launch.steps_taken(run.workdir)
        assert committed(run.workdir)[-1] == stopped < 24
        assert f"stopped by SIGTERM and saved at step {stopped} of 24; the same command resumes" in run.output(0)
    with start() as run:
        run.finish()
        assert f"resuming at step {stopped} of 24" in run.output(0)
    assert_equal(run.workdir, whole)


@slow
def test_preemption_of_a_single_process(config_file, tmp_path):
    workdir = tmp_path / "run"
    with launch.Run(config_file, tmp_path / "whole") as run:
        run.finish()
    with launch.Run(config_file, workdir) as run:
        run.until(lambda: launch.steps_taken(workdir) >= 5)
        run.processes[0].send_signal(signal.SIGTERM)
        assert run.wait() == [PREEMPTED]
    with launch.Run(config_file, workdir) as run:
        run.finish()
    assert_equal(workdir, tmp_path / "whole")


@pytest.fixture
def half_way(start):
    """The workdir of a run that was preempted after its second checkpoint."""
    with start() as run:
        run.until(lambda: len(committed(run.workdir)) >= 2 and launch.steps_taken(run.workdir) > 9)
        run.processes[0].send_signal(signal.SIGTERM)
        assert run.wait() == [PREEMPTED] * 2, run.output()
    return run.workdir


@slow
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint(start, whole, half_way, keep):
    """It is put aside and named; the one before it is used."""
    *_, before, newest = committed(half_way)
    runs.truncate_checkpoint(half_way, newest, keep)
    with start() as run:
        run.finish()
        output = run.output(0)
        assert f"checkpoints/{newest} is damaged" in output and f"resuming at step {before} of 24" in output
    assert (half_way / "checkpoints_damaged" / str(newest)).is_dir()
    assert_equal(half_way, whole)


@slow
def test_all_checkpoints_damaged(start, whole, half_way):
    """The run starts from the beginning."""
    for step in committed(half_way):
        shutil.rmtree(half_way / "checkpoints" / str(step) / "state")
    with start() as run:
        run.finish()
    assert_equal(half_way, whole)


@slow
@pytest.mark.parametrize(
    ("fields", "options"),
    [((), {"count": 1}), ((MESH,), {"count": 1, "devices": 2}), (("--config.mesh.fsdp=4",), {"count": 2, "devices": 2})],
)
def test_another_mesh(start, whole, half_way, fields, options):
    """On half the processes, on one with as many devices, on twice as many devices."""
    with start(*(fields or ("--config.mesh.fsdp=1",)), **options) as run:
        run.finish()
    assert_equal(half_way, whole, bitwise=False)


@slow
@pytest.mark.parametrize("size", ["100k", "500k", "800k"])
def test_a_full_disk(config_file, whole, disk, tmp_path, size):
    """Full before the first checkpoint is finished, and after it; with more room the same command goes on."""
    workdir = disk(size) / "run"
    fields = (MESH, "--config.train.save_timeout=15")
    with launch.Run(config_file, workdir, *fields, count=2, logs=tmp_path) as run:
        statuses = run.wait(limit=120)
        assert all(status != 0 for status in statuses), run.output()
        assert "no space left on the disk; free some or write elsewhere" in run.output() and "Traceback" not in run.output()
    assert not (workdir / "result.json").exists()
    disk("64m")
    with launch.Run(config_file, workdir, *fields, count=2) as run:
        run.finish()
    assert_equal(workdir, whole)


@slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_hanging_process(start, who):
    """Stopped, not ended: its connections stay open."""
    with start(peer_timeout=10) as run:
        run.until(lambda: launch.steps_taken(run.workdir) >= 3)
        run.processes[who].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        status = run.processes[1 - who].wait(timeout=120)
        assert status not in (0, None) and time.monotonic() - stopped < 90
        other = run.output(1 - who)
        assert "another process is gone or does not answer" in other or "coordination" in other.lower() or "heartbeat" in other, other


def test_a_missing_process(config_file, tmp_path):
    """One of two never comes."""
    with launch.Run(config_file, tmp_path / "run", count=2, peer_timeout=5) as run:
        run.processes[1].kill()
        started = time.monotonic()
        status = run.processes[0].wait(timeout=90)
        assert status not in (0, None) and time.monotonic() - started < 60
        assert "did not find each other within 5 s" in run.output(0), run.output(0)
    assert not (tmp_path / "run").exists()
