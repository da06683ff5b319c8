"""How a process that trains on a CPU should treat its memory."""

import ctypes
import sys
from typing import Any

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# Not never: a training run whose padded lengths have temporaries of several GB each leaves holes that no other length fits in, and grows
# until there is no memory left.
_TRIM_ABOVE = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the next program, for the rest of the process; whether it will.

    XLA's CPU programs ask malloc for their temporaries and results on each call. Large blocks come straight from the system by default
    and go back to it, as do the heaps of threads other than the first; the system then clears every page of them again on first touch. So
    there is one heap for all threads, and it does not shrink. In return the process stays as large as it ever was; each padded length has
    blocks of its own size, so that is larger than needed. The `train` command calls this.
    """
    mallopt = _of_malloc("mallopt")
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _TRIM_ABOVE), (_M_ARENA_MAX, 1)))


def give_back_freed_memory() -> None:
    """Return to the system what is free now, once; `keep_freed_memory` keeps what is freed later all the same.

    For after something large that does not come again: what comes then finds no hole of its size in what that has left.
    """
    malloc_trim = _of_malloc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_malloc(name: str) -> Any:
    """A function of glibc's malloc.h; None where the C library has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
