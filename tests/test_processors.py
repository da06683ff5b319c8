"""Threads are as many as the processors that a process may use, by its affinity and by its container's quota."""

import os
import subprocess
import sys

import pytest

from transkimmer_jax import processors

# Prints the threads of XLA's pool, and how many processors name the folder of compiled programs.
_PROGRAM = """
import os, pathlib, sys
from transkimmer_jax import compilation, console, processors

def command(arguments):
    import jax
    compilation.use_compilation_cache()
    jax.block_until_ready(jax.numpy.zeros(3))
    tasks = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    print(tasks.count("tf_XLAEigen"), pathlib.Path(jax.config.values["jax_compilation_cache_dir"]).name)

processors._CGROUP = pathlib.Path(sys.argv[1])
console.run(command, [])
"""


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Writes the files of a container's cgroup, of a process that may run on 64 processors."""
    monkeypatch.setattr(processors, "_CGROUP", tmp_path)
    monkeypatch.setattr(processors, "_schedulable", lambda: 64)

    def _write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    return _write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "9600000 100000\n"}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu.max": "what no kernel writes\n"}, 64),
        ({}, 64),
    ],
)
def test_a_containers_quota(cgroup, files, expected):
    cgroup(files)
    assert processors.available_processors() == expected


@pytest.mark.parametrize(("quota", "said", "expected"), [("2", None, "2"), ("2", "3", "3"), ("64", None, None)])
def test_what_xla_is_told(cgroup, monkeypatch, quota, said, expected):
    """A number of the user's own stays, and without a quota there is nothing to tell."""
    cgroup({"cpu.max": f"{quota}00000 100000"})
    monkeypatch.setenv("PJRT_NPROC", said or "")  # so that it is put back
    if said is None:
        monkeypatch.delenv("PJRT_NPROC")
    processors.limit_xla()
    assert os.environ.get("PJRT_NPROC") == expected and processors.xla_processors() == int(expected or 64)


@pytest.mark.skipif(processors._schedulable() < 2 or not os.path.isdir("/proc/self/task"), reason="needs two processors and Linux")
def test_a_command_starts_as_many_threads(tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    unset = ("PJRT_NPROC", "NPROC", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    assert printed.split() == ["1", "1-processors"]
