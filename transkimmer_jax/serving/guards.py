"""What stands before the application: who may ask, and how much."""

import asyncio
import hmac
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transkimmer_jax.serving import errors
from transkimmer_jax.serving.errors import RequestError
from transkimmer_jax.serving.exchange import json_response

# Bytes of a body that is too large, and is dropped as it comes, that are read all the same: a client that still writes reads no answer.
_DRAINED = 64 * 2**20


class Stop:
    """Refuses requests that the server cancels, which it does where they are not answered within a drain.

    Args:
      app: behind it.
      refused: is told the label of a refusal.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[str], None]):
        self._app, self._refused = app, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if has_begun:  # nothing else can be said on this connection, which closes
                self._refused(errors.stopped().label)
            else:
                await _refuse(errors.stopped(), scope, receive, send, self._refused, {"connection": "close"})


class ApiKey:
    """Refuses requests without the key, which is compared in a time that does not depend on how much of it is right.

    Args:
      app: behind it.
      key: that requests carry as 'Authorization: Bearer KEY'.
      open_paths: that GET and HEAD requests need no key for.
      refused: is told the label of a refusal.
    """

    def __init__(self, app: ASGIApp, key: str, open_paths: frozenset[str], refused: Callable[[str], None]):
        self._app, self._open, self._refused = app, open_paths, refused
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and not (scope["method"] in ("GET", "HEAD") and scope["path"] in self._open):
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, credentials = given.partition(b" ")
            if not (scheme.lower() == b"bearer" and hmac.compare_digest(credentials.strip(), self._key)):
                await _refuse(errors.unauthorized(), scope, receive, send, self._refused, {"www-authenticate": "Bearer"})
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more bytes than there may be, without keeping them.

    Args:
      app: behind it.
      most: bytes of a body.
      refused: is told the label of a refusal.
    """

    def __init__(self, app: ASGIApp, most: int, refused: Callable[[str], None]):
        self._app, self._most, self._refused = app, most, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size <= self._most:
                body.append(message.get("body", b""))
            else:
                body.clear()
                if size > self._most + _DRAINED:
                    break
        if size > self._most:
            told = errors.too_large(f"the body has more than {self._most} bytes: send fewer texts at a time")
            await _refuse(told, scope, receive, send, self._refused, {"connection": "close"})
            return
        whole: list[Message] = [{"type": "http.request", "body": b"".join(body), "more_body": False}]

        async def receive_again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, receive_again, send)


async def _refuse(
    error: RequestError, scope: Scope, receive: Receive, send: Send, refused: Callable[[str], None], headers: dict[str, str]
) -> None:
    refused(error.label)
    await json_response(error.content(errors.has_openai_shape(scope["path"])), error.status, headers)(scope, receive, send)
