"""The process: a socket, an event loop, and an end that loses nothing."""

import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.protocol import guarded

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TICKS = 10  # of uvicorn's in a second


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet, so that an address that cannot be had is known before a model is loaded.

    Raises:
      ConfigError: no such address, or one in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _unavailable(host, port, error) from error
    return bound


def _unavailable(host: str, port: int, error: Exception) -> ConfigError:
    return ConfigError(f"cannot serve on {host}:{port}: {error}; give another --host or --port")


def create_server(app: Starlette, limits: Limits, ready: Callable[[], None]) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` takes a socket of `bind`. It serves until a SIGTERM or a Ctrl-C, or until its `should_exit`,
    then answers what has come in, and returns. A second Ctrl-C does not wait for that.

    Args:
      app: of `create_app`.
      limits: for clients.
      ready: called once connections are accepted.
    """
    config = uvicorn.Config(
        app, http=guarded(limits, app.state.service.metrics), ws="none", lifespan="on", log_config=None, access_log=False,
        server_header=False, proxy_headers=False,
        # Whole seconds, of which 0 would close at once.
        timeout_keep_alive=math.ceil(limits.keep_alive_seconds), timeout_graceful_shutdown=math.ceil(limits.drain_seconds),
    )  # fmt: skip
    return _Server(config, ready)


class _Server(uvicorn.Server):
    """uvicorn's, which also looks after slow clients, and ends after a signal as a command that has done its work."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections. Raises `ConfigError` where another process has begun to listen at the address since `bind`."""
        for bound in sockets or []:
            host, port = bound.getsockname()[:2]
            try:
                bound.listen(self.config.backlog)  # which uvloop does too, but without a word where it fails
            except OSError as error:
                raise _unavailable(host, port, error) from error
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % _TICKS == 0:
            for connection in list(self.server_state.connections):
                connection.expire(connection.loop.time())  # type: ignore[union-attr]
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals within end the server and nothing else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at the second Ctrl-C, end."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True
