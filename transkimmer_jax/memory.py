"""How a process that runs many programs on a CPU should treat its memory, and how much of it is in use."""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from typing import Any

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# Not never: a training run whose padded lengths have temporaries of several GB each leaves holes that no other length fits in, and grows
# until there is no memory left.
_TRIM_ABOVE = 2**31 - 1
_BETWEEN_LOOKS = 2e-4  # seconds; a layer's program takes a few milliseconds


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the next program, for the rest of the process; whether it will.

    XLA's CPU programs ask malloc for their temporaries and results on each call. Large blocks come straight from the system by default
    and go back to it, as do the heaps of threads other than the first; the system then clears every page of them again on first touch
    (docs/performance.md). So there is one heap for all threads, and it does not shrink. In return the process stays as large as it ever
    was; in training, where each padded length has blocks of its own size, that is larger than needed. The commands and `train.py` call
    this; a server of one's own may, before it loads a model.
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


class _MallInfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def heap_bytes() -> int | None:
    """What the process has asked malloc for and not given back, XLA's buffers on a CPU and NumPy's arrays among it; None where the C
    library does not say (it is not glibc, or older than 2.33)."""
    mallinfo2 = _of_malloc("mallinfo2")
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _MallInfo2
    usage = mallinfo2()
    return usage.uordblks + usage.hblkhd


class HeapPeak:
    """The most that `heap_bytes` has been beyond what it was at first, as far as was seen.

    bytes: None where it cannot be known.
    """

    def __init__(self) -> None:
        self._first = heap_bytes()
        self.bytes = None if self._first is None else 0

    def look(self) -> None:
        """See how much it is now."""
        now = heap_bytes()
        if now is not None and self._first is not None:
            self.bytes = max(self.bytes or 0, now - self._first)


@contextlib.contextmanager
def watched_heap() -> Iterator[HeapPeak]:
    """The peak of the heap during the block, at which a thread looks some thousand times a second."""
    peak, done = HeapPeak(), threading.Event()

    def watch() -> None:
        while not done.wait(_BETWEEN_LOOKS):
            peak.look()

    thread = threading.Thread(target=watch, name="watched heap", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
