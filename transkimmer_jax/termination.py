"""How a command ends that is asked to end: by SIGTERM, which is how clouds and schedulers announce that they take a machine away, or by
Ctrl-C. From its first line to its last it says what is kept, and what the same command will do next."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# sysexits' "try again": schedulers may restart on it.
PREEMPTED = 75
# Seconds after which a process ends that has not come to it: it may compile, where no signal is handled. Clouds grant 30 s.
_GRACE = 20.0

_words: list[Callable[[], str]] = []


class Terminated(BaseException):
    """A SIGTERM, raised in the main thread: as KeyboardInterrupt, no error, and not to be caught by those who catch errors."""


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Have a SIGTERM raise `Terminated` in this thread, where it is the main one, and end the process where that does not help in time.

    A block within may handle the signal in its own way for as long as it lasts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler_before = signal.signal(signal.SIGTERM, _raise)
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader, over), name="termination", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGTERM, handler_before)
        os.close(writer)  # which ends the thread


@contextlib.contextmanager
def explained(words: Callable[[], str]) -> Iterator[None]:
    """Have a SIGTERM or a Ctrl-C in the block carry what is kept and what to do, for a user to read; within other such blocks the
    innermost one's words count."""
    _words.append(words)
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if not stop.args:
            stop.args = (words(),)
        raise
    finally:
        _words.pop()


def _raise(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the second would cut the first one's clearing up short
    raise Terminated


def _watch(reader: int, over: threading.Event) -> None:
    """Wait for signals, which the interpreter notes at once, whatever its main thread does."""
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            # Where another handler stands, it is for a block that ends by itself.
            asked = number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) in (_raise, signal.SIG_IGN)
            if asked and not over.wait(_GRACE):
                _end()


def _end() -> None:
    words = _words[-1]() if _words else "the same command goes on from what is saved"
    print(f"stopped by SIGTERM; {words}", file=sys.stderr, flush=True)
    os._exit(PREEMPTED)
