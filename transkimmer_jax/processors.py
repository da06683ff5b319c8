"""How many processors this process may use, and so how many threads it starts."""

import math
import os
import pathlib

_CGROUP = pathlib.Path("/sys/fs/cgroup")
_XLA_THREADS = "PJRT_NPROC"


def available_processors() -> int:
    """How many this process may use: those that it may run on, or fewer where its container has less time (`docker --cpus`)."""
    quota = _quota()
    return _schedulable() if quota is None else min(_schedulable(), math.ceil(quota))


def limit_xla() -> None:
    """Have XLA start as many threads as a container's quota is worth, unless the user has said how many. By itself it asks for no quota.

    It counts before JAX starts its first device only.
    """
    if available_processors() < _schedulable():
        os.environ.setdefault(_XLA_THREADS, str(available_processors()))


def xla_processors() -> int:
    """Among how many processors XLA divides the loops that it compiles."""
    said = os.environ.get(_XLA_THREADS, "")
    return int(said) if said.isdecimal() else _schedulable()


def _schedulable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float | None:
    """How many processors' time the container has, by cgroups of version 2 or 1; None: no limit."""
    try:
        if (_CGROUP / "cpu.max").is_file():
            quota, period = (_CGROUP / "cpu.max").read_text().split()
        else:
            quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
