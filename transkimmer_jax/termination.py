"""How a command ends that is asked to end: by SIGTERM, which is how clouds and schedulers announce that they take a machine away, or by
Ctrl-C. From its first line to its last it says what is kept, and what the same command will do next."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# sysexits' "try again": schedulers may restart on it.
PREEMPTED = 75
# Seconds after which a process ends that has not come to it: it may compile, where no signal is handled. Clouds grant 30 s.
_GRACE = 20.0
_PAUSE = 0.05  # seconds, after which a signal that came while a module was imported is sent again

_words: list[Callable[[], str]] = []
_raised, _postponed = threading.Event(), threading.Event()


class Terminated(BaseException):
    """A SIGTERM, raised in the main thread: as KeyboardInterrupt, no error, and not to be caught by those who catch errors."""


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Have a SIGTERM raise `Terminated` in this thread, where it is the main one, and end the process where that does not help in time.

    While a module is imported, neither that nor a Ctrl-C is raised, but as soon as it is there: libraries in other languages make errors of
    their own of what is raised while they start, or crash. A block within may handle the signal in its own way for as long as it lasts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {signal.SIGTERM: _raise}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = _raise
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    over = threading.Event()
    _raised.clear()
    _postponed.clear()
    threading.Thread(target=_watch, args=(reader, over), name="termination", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
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


def _raise(number: int, frame: FrameType | None) -> None:
    if _importing(frame):
        _postponed.set()
        return
    _raised.set()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the second would cut the first one's clearing up short
    raise Terminated


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _watch(reader: int, over: threading.Event) -> None:
    """Wait for signals, which the interpreter notes at once, whatever its main thread does."""
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while byte := signals.read(1):
            number, deadline = byte[0], time.monotonic() + _GRACE
            # Where another handler stands, it is for a block that ends by itself.
            if signal.getsignal(number) not in (_raise, signal.SIG_IGN):
                continue
            while not (_raised.is_set() or over.wait(_PAUSE) or time.monotonic() > deadline):
                if _postponed.is_set():
                    _postponed.clear()
                    os.kill(os.getpid(), number)
            if number == signal.SIGTERM and not over.wait(max(0.0, deadline - time.monotonic())):
                _end()


def _end() -> None:
    words = _words[-1]() if _words else "the same command goes on from what is saved"
    print(f"stopped by SIGTERM; {words}", file=sys.stderr, flush=True)
    os._exit(PREEMPTED)
