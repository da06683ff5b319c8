"""Starts train.py as its users do: with several simulated devices, or as several processes on the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from training import runs

# What a run may take at most before it counts as hanging; a start with compilation takes about ten seconds on an idle machine.
LIMIT = 240


# Programs compiled by one run serve the next: most of a run in miniature is compiling.
PROGRAMS = tempfile.TemporaryDirectory()


def environment(devices=1, **variables):
    """The variables of a process with so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTEST_"))}
    cache = {
        "JAX_COMPILATION_CACHE_DIR": PROGRAMS.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return clean | cache | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | {name: str(value) for name, value in variables.items()}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Run:
    """The processes of one run. A context manager: leaving it ends those that are still there."""

    def __init__(self, config_file, workdir, *fields, count=1, devices=1, peer_timeout=20, logs=None, **variables):
        self.workdir = workdir
        port = free_port()
        command = [sys.executable, str(runs.TRAIN_PY), "--config", str(config_file), "--workdir", str(workdir), *fields]
        self.logs = [(logs or workdir.parent) / f"{workdir.name}.{number}.log" for number in range(count)]
        self.processes = []
        for number, log in enumerate(self.logs):
            flags = []
            if count > 1:
                flags = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process-id={number}"]
                flags.append(f"--peer-timeout={peer_timeout}")
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(command + flags, env=environment(devices, **variables), stdout=file, stderr=subprocess.STDOUT)
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def wait(self, limit=LIMIT):
        """The exit statuses."""
        ends = time.monotonic() + limit
        return [process.wait(max(0.1, ends - time.monotonic())) for process in self.processes]

    def finish(self):
        """Wait for a good end; the losses by step."""
        statuses = self.wait()
        assert statuses == [0] * len(statuses), self.output()
        return losses(self.workdir)

    def until(self, condition, limit=LIMIT):
        """Wait until `condition()` holds, while all processes live."""
        ends = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < ends and all(process.poll() is None for process in self.processes), self.output()
            time.sleep(0.01)

    def output(self, number=None):
        logs = self.logs if number is None else [self.logs[number]]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in logs)


def records(workdir):
    """The lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(workdir):
    """Step -> loss; no step is there twice."""
    lines = [line for line in records(workdir) if "loss" in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line["step"]: line["loss"] for line in lines}


def steps_taken(workdir):
    """The last step that metrics.jsonl tells of; a line that is being written does not count."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return max((json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")), default=0)
