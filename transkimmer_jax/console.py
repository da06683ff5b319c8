"""How the commands talk: progress and notes on standard error, a user's mistake as one line."""

import contextlib
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

import absl.logging

from transkimmer_jax import termination
from transkimmer_jax.errors import PeerError, Preempted, TranskimmerError
from transkimmer_jax.processors import limit_xla
from transkimmer_jax.termination import PREEMPTED, Terminated

# Exit statuses beside 0, 2 (a user's mistake), PREEMPTED and 130 (interrupted).
PEER_LOST = 76


def run(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run a command; its exit status. A `TranskimmerError` is printed as one line and gives 2 (`Preempted` and `PeerError` statuses of
    their own), a SIGTERM that of `Preempted`, an interrupt 130."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("transkimmer_jax").setLevel(logging.INFO)
    # Orbax logs a failed write with its traceback, beside raising what becomes one line here.
    absl.logging.set_verbosity(absl.logging.FATAL)
    # Their notes on start-up are about things no user of this program can act on.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    limit_xla()
    try:
        with termination.heard(), _background_failures_held_back():
            command(arguments)
    except Preempted as notice:
        print(notice, file=sys.stderr)
        return PREEMPTED
    except TranskimmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return PEER_LOST if isinstance(error, PeerError) else 2
    except Terminated as stop:
        print("; ".join(["stopped by SIGTERM", *map(str, stop.args)]), file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt as stop:
        print("; ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
        return 130
    return 0


def leave(status: int) -> NoReturn:
    """End the process. After a failure at once: what failed has been said, and a background writer that is cut off by the
    interpreter's own end would add a traceback to it (Orbax on a full disk does)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status != 0:
        os._exit(status)
    sys.exit(0)


@contextlib.contextmanager
def _background_failures_held_back() -> Iterator[None]:
    """Failures of background threads and of abandoned asyncio tasks are printed after a command that ends well, and dropped after
    one that fails: its own error has the same cause (on a full disk several of Orbax's writers fail at once)."""
    held: list[str] = []

    def hold(failure) -> None:
        held.append("".join(traceback.format_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)))

    handler = logging.Handler()
    handler.emit = lambda record: held.append(logging.Formatter().format(record) + "\n")  # type: ignore[method-assign]
    asyncio_logger = logging.getLogger("asyncio")
    before = threading.excepthook, sys.unraisablehook, asyncio_logger.propagate
    threading.excepthook, sys.unraisablehook, asyncio_logger.propagate = hold, hold, False
    asyncio_logger.addHandler(handler)
    try:
        yield
        sys.stderr.write("".join(held))
    finally:
        asyncio_logger.removeHandler(handler)
        threading.excepthook, sys.unraisablehook, asyncio_logger.propagate = before
