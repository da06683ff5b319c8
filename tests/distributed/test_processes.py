"""How processes find each other, and how a SIGTERM to one of them reaches all."""

import argparse
import subprocess
import sys

import pytest
from distributed import launch

from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import ConfigError

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "JAX_PLATFORMS": "cpu"}
CLUSTERS = ("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def joins(monkeypatch):
    """Joins with such flags, under such variables: what jax was called with, or None where it was not."""

    def join(variables, refusal=None, **flags):
        called = []

        def initialize(*arguments, **options):
            called.append(arguments)
            if refusal is not None:
                raise refusal

        monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
        for name in list(processes.os.environ):
            if name.startswith(CLUSTERS):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        given = {"coordinator": None, "num_processes": None, "process_id": None, "peer_timeout": 60} | flags
        processes.initialize(argparse.Namespace(**given))
        return called[0] if called else None

    return join


def test_several_tasks_without_srun_are_one_process(joins):
    """A batch script has the number of tasks that it may start, and is none of them."""
    assert joins(JOB) is None
    assert joins(JOB | {"SLURM_STEP_NODELIST": "node[1-4]"}) == (None, None, None)
    assert joins(JOB | {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}) is None
    assert joins({"OMPI_COMM_WORLD_SIZE": "2"}) == (None, None, None)


def test_no_coordinator_is_a_mistake_of_the_command(joins):
    """So nobody restarts it for ever."""
    with pytest.raises(ConfigError, match=r"\(coordinator_address should be defined\.\): give --coordinator, .* or start them by srun"):
        joins({"OMPI_COMM_WORLD_SIZE": "2"}, ValueError("coordinator_address should be defined."))


@pytest.mark.parametrize("coordinator", ["node1", "node1:", "node1:http"])
def test_a_coordinator_without_a_port(joins, coordinator):
    """In jax that is an IndexError, or a wait for nobody."""
    with pytest.raises(ConfigError, match=f"--coordinator is HOST:PORT, e.g. 10.0.0.1:1234, not {coordinator}"):
        joins({}, coordinator=coordinator, num_processes=2, process_id=0)
    assert joins({}, coordinator="[::1]:1234", num_processes=2, process_id=0) == ("[::1]:1234", 2, 0)


# Two runs in one process, as a recipe's are, with a SIGTERM between them.
BETWEEN_RUNS = """
import os, signal, sys, time
import jax
from transkimmer_jax.distributed.processes import Preemption

def run(steps, seconds):
    with Preemption() as preemption:
        for step in range(1, steps + 1):
            time.sleep(seconds)
            if preemption.reached():
                return step

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
first = run(20, 0.01)
if sys.argv[2] == "1":
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(2)  # the second run loads and compiles
print("stopped", first, run(15, 0.2))
jax.distributed.shutdown()
"""


def test_preemption_between_the_runs_of_a_recipe(tmp_path):
    """The second run, whose steps count from 1 again, hears of it in all processes at once."""
    address = f"127.0.0.1:{launch.free_port()}"
    command = [sys.executable, "-c", BETWEEN_RUNS, address]
    started = [
        subprocess.Popen([*command, number], env=launch.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    steps = [printed.split()[1:] for printed, _ in said]
    assert steps[0] == steps[1] and steps[0][0] == "None" and 1 <= int(steps[0][1]) <= 5, said
