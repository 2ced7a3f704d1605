"""A request and its answer: between a connection's protocol and the application."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio
from hypercorn.config import Config

from ha.wire.http.asgi import Application, Message, Scope

_log = logging.getLogger("ha.http")

TAKEN = "ha.taken"
"""In an event: what to call when the application has it."""

WHEN_GONE = "ha.when_gone"
"""In a scope's extensions: a function that takes what to call, once, when the client goes away.

A task that waits for ``http.disconnect`` could do the same; it would cost a tenth of all that a
short query costs. None: nothing any more.
"""

_QUEUE_BYTES = 512 * 1024
_EVENT_BYTES = 64  # what an event without a body counts

_Send: TypeAlias = Callable[[Message | None], Awaitable[None]]


class Requests:
    """hypercorn's TaskGroup: a task for each request of a connection."""

    def __init__(self, nursery: trio.Nursery, flush: Callable[[], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._flush = flush

    def spawn(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._nursery.start_soon(function, *args)

    async def spawn_app(
        self, app: Application, config: Config, scope: Scope, send: _Send
    ) -> Callable[[Message], Awaitable[None]]:
        events = _RequestEvents(self._flush)
        scope["extensions"][WHEN_GONE] = events.when_gone
        self._nursery.start_soon(_run, app, scope, events, send)
        return events.put


async def _run(app: Application, scope: Scope, events: _RequestEvents, send: _Send) -> None:
    async def send_while_there(message: Message) -> None:
        if events.gone:
            raise BrokenPipeError("the client is gone")
        await send(message)

    try:
        await app(scope, events.receive, send_while_there)
    except* BrokenPipeError:
        pass
    except* Exception:
        _log.exception("the application failed on a request")
    finally:
        events.close()
    await send(None)


class _RequestEvents:
    """What comes in for one request, bounded: a body waits on the wire until it is wanted.

    After :meth:`close` everything is dropped, so that nobody waits for a reader who has gone.
    """

    def __init__(self, flush: Callable[[], Awaitable[None]]) -> None:
        self._flush = flush
        self._events: deque[Message] = deque()
        self._size = 0
        self.gone = False
        self._on_gone: Callable[[], None] | None = None
        self._closed = False
        self._news = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    def when_gone(self, call: Callable[[], None] | None) -> None:
        self._on_gone = call
        if self.gone and call is not None:
            call()

    async def put(self, event: Message) -> None:
        if event["type"] == "http.disconnect":
            self.gone = True
            self._room.unpark_all()
            if self._on_gone is not None:
                self._on_gone()
        else:
            # HTTP/2 has windows, which bound what comes; HTTP/1.1 has nothing but the socket.
            windowed = TAKEN in event
            while self._size >= _QUEUE_BYTES and not (self._closed or self.gone or windowed):
                await self._room.park()
            if self._closed or self.gone:
                _take(event)
                return
            self._events.append(event)
            self._size += _EVENT_BYTES + len(event.get("body") or b"")
        self._news.unpark_all()

    async def receive(self) -> Message:
        while not self._events:
            if self.gone:
                return {"type": "http.disconnect"}
            await self._news.park()
        event = self._events.popleft()
        windowed = _take(event)
        if event.get("more_body") and self._events:
            # Mostly the end of the body, which is an event of its own, is here already.
            bodies = [event["body"]]
            while event["more_body"] and self._events:
                event = self._events.popleft()
                windowed |= _take(event)
                bodies.append(event["body"])
            event = {**event, "body": b"".join(bodies)}
        self._size = sum(_EVENT_BYTES + len(e.get("body") or b"") for e in self._events)
        self._room.unpark_all()
        if windowed:
            await self._flush()
        return event

    def close(self) -> None:
        self._closed = True
        for event in self._events:
            _take(event)
        self._events.clear()
        self._room.unpark_all()


def _take(event: Message) -> bool:
    """Open the windows of HTTP/2 again by what ``event`` has used of them; did it use any?"""
    acknowledge = event.pop(TAKEN, None)
    if acknowledge is None:
        return False
    acknowledge()
    return True
