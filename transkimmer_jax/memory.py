"""How a process that runs many programs on a CPU should treat its memory."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# Not never: a training run whose padded lengths have temporaries of several GB each leaves holes that no other length fits in, and grows
# until there is no memory left.
_TRIM_ABOVE = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the next program, for the rest of the process; whether it will.

    XLA's CPU programs ask malloc for their temporaries and results on each call. Large blocks come straight from the system by default
    and go back to it, as do the heaps of threads other than the first; the system then clears every page of them again on first touch
    (docs/performance.md). So there is one heap for all threads, and it does not shrink. In return the process stays as large as it ever
    was; in training, where each padded length has blocks of its own size, that is larger than needed. The commands and `train.py` call
    this; a server of one's own may, before it loads a model.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(option, value) == 1 for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _TRIM_ABOVE), (_M_ARENA_MAX, 1)))
