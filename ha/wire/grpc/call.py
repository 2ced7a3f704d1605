"""What a running request needs beside connectrpc: a nursery, and word of a client that is gone.

connectrpc hands a handler its messages and takes its answers, one after the other. While a
statement runs nobody reads, so a client that vanishes, or that wants to cancel, would not be
heard. So :class:`Watched` puts a nursery around each request in which a handler may read ahead,
and listens to what the server says on the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, TypeAlias

import trio

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def header_of(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


class Call:
    """One request. ``on_gone`` is called once, when its client went away."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    def lose(self) -> None:
        if not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()


_current: ContextVar[Call] = ContextVar("ha_grpc_call")


def current_call() -> Call:
    """The request that the running handler answers."""
    return _current.get()


class Watched:
    """An ASGI application around ``inner`` that gives each request a :class:`Call`."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            call = Call(nursery)

            async def listen() -> Message:
                message = await receive()
                if message["type"] == "http.disconnect":
                    call.lose()
                return message

            token = _current.set(call)
            try:
                await self._inner(scope, listen, send)
            except Exception as error:
                failure = error  # raised bare below, not in a group of the nursery
            finally:
                _current.reset(token)
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
