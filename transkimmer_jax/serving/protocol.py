"""HTTP of clients that do not mean well, or that are slow: heads without end, requests that never come in whole, answers that nobody
reads."""

import array
import contextlib
import fcntl
import logging
import sys
import termios
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from transkimmer_jax.serving.errors import RequestError
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.metrics import Metrics

logger = logging.getLogger(__name__)

_OF_UPGRADES = (b"upgrade", b"http2-settings")  # names of headers, and of what their 'connection' lists


class _HeadTooLong(Exception):
    """A request's line and headers have more bytes than they may."""


class GuardedProtocol(HttpToolsProtocol):
    """A connection within `limits`, of a subclass that `guarded` makes. `expire` is called about once a second.

    metrics: in which refusals are counted.
    """

    limits: ClassVar[Limits]
    metrics: ClassVar[Metrics]
    _head_bytes = 0  # of the request that comes in, as far as they were parsed
    _unparsed_bytes = 0  # that came in since its head began
    _parsing = b""  # what has come in last
    _in_head = True
    _reading_since: float | None = None
    _writing_since: float | None = None  # when a client with bytes to take was last seen to read
    _unsent = 0  # bytes that it had not taken then

    def connection_made(self, transport: Any) -> None:
        """A client."""
        super().connection_made(transport)
        self._reading_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        self._unparsed_bytes += len(data)
        self._parsing = data
        if self._reading_since is None and self._awaits_next:
            self._reading_since = self.loop.time()  # the parser skips empty lines, and they end the wait for a next request
        super().data_received(data)
        # A header that does not end is in no callback yet.
        if self._in_head and self._unparsed_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._unparsed_bytes, self._reading_since = True, 0, 0, self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of its line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.max_header_bytes:
            raise _HeadTooLong  # which the parser makes an error of its own of

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self._in_head = False
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Its last byte; or, where it asks for another protocol, the end of its head, at which the parser stops."""
        if not self.parser.should_upgrade():
            self._reading_since = None
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Read a request that asks for another protocol as one that does not, as RFC 9110 (section 7.8) lets a server: Java's client asks
        for HTTP/2 by default, and its body comes all the same."""
        method, version, unread = self.parser.get_method(), self.parser.get_http_version(), self._parsing[_parsed_bytes() :]
        if method == b"CONNECT":  # of which every one is such a request
            self.send_400_response("")
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(option for option in value.split(b",") if option.strip().lower() not in _OF_UPGRADES)
            if value and name not in _OF_UPGRADES:
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", unread]))

    def send_400_response(self, msg: str) -> None:
        """What came in is no HTTP, or too much of it."""
        if self._head_bytes > self.limits.max_header_bytes:
            self._refuse_head()
        else:
            self._close(RequestError(400, "Validation", "this is no HTTP request", "malformed"))

    def _refuse_head(self) -> None:
        limit = self.limits.max_header_bytes
        self._close(RequestError(431, "Validation", f"line and headers have more than {limit} bytes: send fewer", "headers"))

    def expire(self, now: float) -> None:
        """Close the connection if it has taken too long. now: by the loop's clock."""
        longest = self.limits.read_seconds
        if not self.transport.get_write_buffer_size():
            self._writing_since = None  # the system has all that there is
        elif self._writing_since is None or self._unread_bytes() != self._unsent:
            self._writing_since, self._unsent = now, self._unread_bytes()  # it reads, however slowly
        if self._writing_since is not None and now - self._writing_since > longest:
            self.transport.abort()
        elif self._reading_since is not None and now - self._reading_since > longest:
            if self._awaits_next or self._awaits_body:
                self._close(RequestError(408, "Validation", f"the request did not come in within {longest:g} seconds", "timeout"))
            else:
                self.transport.close()  # an earlier request on it has no answer yet

    @property
    def _awaits_next(self) -> bool:
        """Whether every request whose head has come in is answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _awaits_body(self) -> bool:
        """Whether a handler waits for the rest of a body, with no other request before it. It learns of the end as of a client's."""
        return self.cycle.more_body and not self.cycle.response_started and not self.pipeline

    def _unread_bytes(self) -> int:
        """Of the answer, what the client has not taken yet: here, and in the system's buffer, which may hold seconds of a slow line."""
        held = array.array("i", [0])
        with contextlib.suppress(OSError):  # of a system that does not tell
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
        return self.transport.get_write_buffer_size() + held[0]

    def _close(self, error: RequestError) -> None:
        self._reading_since = None  # or it is refused again while this is on its way
        self.metrics.failed(error.label)
        body = orjson.dumps(error.content(False))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()


def _parsed_bytes() -> int:
    """Of the data before a request for another protocol ended: what the error that is being handled says."""
    error = sys.exception()
    assert isinstance(error, httptools.HttpParserUpgrade)
    return error.args[0]


def guarded(limits: Limits, metrics: Metrics) -> type[GuardedProtocol]:
    """The class of a server's connections. metrics: in which refusals are counted."""
    return type("LimitedProtocol", (GuardedProtocol,), {"limits": limits, "metrics": metrics})
