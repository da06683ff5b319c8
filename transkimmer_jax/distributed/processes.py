"""The processes of one run: found, started, kept in step, and ended together."""

import argparse
import contextlib
import importlib.util
import itertools
import logging
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from transkimmer_jax.console import PEER_LOST
from transkimmer_jax.errors import ConfigError, PeerError, Preempted, first_line

logger = logging.getLogger("transkimmer_jax")

# How the failures of jax's and gloo's calls name a process that is gone, or that does not answer.
_GONE = re.compile(
    r"gloo|connection (closed|reset|refused)|heartbeat|coordination service|DEADLINE_EXCEEDED|UNAVAILABLE|Barrier|socket closed"
    r"|peer|DISTRIBUTED",
    re.IGNORECASE,
)


def initialize(args: argparse.Namespace) -> None:
    """Join the other processes where there are any, as the flags of `train` say; call before anything else of jax.

    Raises:
      ConfigError: flags that do not go together, or that lack what jax does not find by itself.
      PeerError: the coordinator's address cannot be used. Where the others do not come within `--peer-timeout` the process ends.
    """
    coordinator = args.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = args.num_processes if args.num_processes is not None else _number("JAX_NUM_PROCESSES")
    index = args.process_id if args.process_id is not None else _number("JAX_PROCESS_ID")
    stated = [value is not None for value in (coordinator, count, index)]
    if any(stated) and not all(stated) and not _cluster():
        raise ConfigError("--coordinator, --num-processes and --process-id (or their variables, see --help) go together: give all three")
    if count is not None and (count < 1 or (index is not None and not 0 <= index < count)):
        raise ConfigError(f"--process-id must lie in [0, {count}), and is {index}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ConfigError(f"--coordinator is HOST:PORT, e.g. 10.0.0.1:1234, not {coordinator}")
    if count == 1 or not (any(stated) or _cluster()):
        return
    seconds = args.peer_timeout

    def give_up() -> None:
        # In this way, since jax's own end of waiting is that of the process, with a stack trace of C++.
        missing = f"{count} processes" if count else "processes"
        print(f"error: the {missing} did not find each other within {seconds} s (coordinator: {coordinator})", file=sys.stderr, flush=True)
        os._exit(PEER_LOST)

    watchdog = threading.Timer(seconds, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            coordinator, count, index,
            initialization_timeout=2 * seconds, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        if isinstance(error, ValueError):  # jax knows too little to begin
            raise ConfigError(
                f"jax does not find the other processes by itself ({reason}): give --coordinator, --num-processes and --process-id to all"
                " of them, or start them by srun or mpirun"
            ) from error
        raise PeerError(f"cannot join the other processes at {coordinator}: {reason}") from error
    finally:
        watchdog.cancel()
    if jax.process_index() != 0:
        logging.getLogger("transkimmer_jax").setLevel(logging.WARNING)


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[None]:
    """`initialize`, and at the end of a run that ends well, or was preempted, wait for the others to end too. After any other failure
    the others are left to notice."""
    initialize(args)
    try:
        yield
    except Preempted:
        _part()
        raise
    _part()


def _part() -> None:
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdigit():
        raise ConfigError(f"{variable}={text!r} is not a number")
    return int(text)


def _cluster() -> bool:
    """Whether jax can find the other processes by itself: Slurm, Open MPI, a TPU host."""
    counts = ["OMPI_COMM_WORLD_SIZE"]
    if "SLURM_STEP_NODELIST" in os.environ:
        counts.append("SLURM_NTASKS")  # else of the batch script, which is one process: srun alone starts several
    several = any(int(os.environ.get(name, "1") or 1) > 1 for name in counts)
    pods = any("," in os.environ.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
    pods = pods or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    on_cpu = os.environ.get("JAX_PLATFORMS", "") == "cpu"
    chips = any(pathlib.Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return several or (not on_cpu and (pods or (chips and importlib.util.find_spec("libtpu") is not None)))


def is_first() -> bool:
    """Whether this process is the one that writes records and results."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def describe() -> str:
    """A line about this process and its devices."""
    local, every = jax.local_devices(), jax.devices()
    return f"process {jax.process_index()} of {jax.process_count()}, {len(local)} of {len(every)} devices ({every[0].device_kind})"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the failures of calls that wait for another process into a `PeerError` of one line."""
    try:
        yield
    except (RuntimeError, ValueError, TimeoutError) as error:  # ValueError and TimeoutError: Orbax's, of barriers
        if jax.process_count() == 1 or not (isinstance(error, TimeoutError) or _GONE.search(str(error))):
            raise
        raise PeerError(
            f"another process is gone or does not answer, the same command on all of them resumes ({first_line(error)})"
        ) from error


# Of all runs of this process: jax's service asks all processes to stop at a number that none of them has passed.
_sync_points = itertools.count(1)


class Preemption:
    """Notice of a SIGTERM, which is how clouds announce that a machine will be taken away. A context manager.

    In a single process the signal is caught here; among several, jax's service passes it on, so that all stop at the same step. One
    that comes when `reached` is not asked any more is passed on to whoever handles it outside of the block.
    """

    def __init__(self):
        self._told, self._answered = False, False
        self._before = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *exception) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            if self._told and not self._answered:
                signal.raise_signal(signal.SIGTERM)

    def _tell(self, *_) -> None:
        self._told = True
        print("SIGTERM: saving, then leaving", file=sys.stderr)

    def reached(self) -> bool:
        """Whether to save and leave: called by all processes after every step, and true in all of them at once."""
        several = jax.process_count() > 1
        self._answered = bool(multihost_utils.reached_preemption_sync_point(next(_sync_points))) if several else self._told
        return self._answered
