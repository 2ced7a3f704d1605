"""One connection: hypercorn's HTTP/1.1 and HTTP/2 over a trio stream.

hypercorn's protocol classes do the protocols. Its own connection handler is not used, for
reasons that tests/unit/test_http_connection.py shows and docs/decisions/http-server.md tells:
one malformed HTTP/2 request ended the whole server, a client that does not read held up the
shutdown for ever, and each request cost three writes and a task for the idle timer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from ha.wire.http.asgi import Application, Message, Scope

_log = logging.getLogger("ha.http")

_Send: TypeAlias = Callable[[Message | None], Awaitable[None]]
ByteStream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_RECEIVE_BYTES = 64 * 1024
_WRITE_BYTES = 256 * 1024
_QUEUE_BYTES = 512 * 1024
_EVENT_BYTES = 64  # what an event without a body counts
_STREAM_WINDOW = 512 * 1024
_CONNECTION_WINDOW = 16 * 2**20
_TAKEN = "ha.taken"  # in an event: what to call when the application has it


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. ``idle``: between requests, and until the headers of the next are whole.
    ``stall``: a write of which the client takes nothing. ``linger``: how long what a client
    still sends is thrown away after an answer that came before the end of its request: closing
    at once could destroy that answer on its way."""

    handshake: float = 30.0
    idle: float = 75.0
    stall: float = 30.0
    linger: float = 5.0


class Connection:
    """Serves one client until one side closes."""

    def __init__(
        self,
        stream: ByteStream,
        app: Application,
        config: Config,
        context: WorkerContext,
        timeouts: Timeouts,
    ) -> None:
        self._stream = stream
        self._app = app
        self._config = config
        self._context = context
        self._timeouts = timeouts
        self._protocol: H11Protocol | _Http2
        self._reading = trio.CancelScope()
        self._write_lock = trio.Lock()
        self._held = b""
        self._idle = True
        self._headers_sent = False
        self._ending = False

    async def serve(self) -> None:
        """Until the connection is closed. Raises nothing but trio.Cancelled."""
        try:
            await self._serve()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone
        except* Exception:
            # What a client sends must never end more than its own connection.
            _log.warning("a connection was dropped", exc_info=True)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, from any task, whatever is under way."""
        stream = self._stream
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        transport.socket.close()

    def close_when_idle(self) -> None:
        """The server shuts down: no further request."""
        if self._idle:
            self._reading.cancel()

    async def _serve(self) -> None:
        stream = self._stream
        tls = isinstance(stream, trio.SSLStream)
        alpn = None
        if isinstance(stream, trio.SSLStream):
            with trio.move_on_after(self._timeouts.handshake) as handshake:
                await stream.do_handshake()
            if handshake.cancelled_caught:
                return
            alpn = stream.selected_alpn_protocol()
            socket = stream.transport_stream.socket
        else:
            socket = stream.socket
        async with trio.open_nursery() as nursery:
            common: tuple[Any, ...] = (
                self._app,
                self._config,
                self._context,
                _Requests(nursery, self._flush),
                ConnectionState({}),
                tls,
                parse_socket_addr(socket.family, socket.getpeername()),
                parse_socket_addr(socket.family, socket.getsockname()),
                self._send,
            )
            self._protocol = _Http2(*common) if alpn == "h2" else H11Protocol(*common)
            await self._protocol.initiate()
            self._set_idle(True)
            with self._reading:
                await self._read(common)
            await self._protocol.handle(Closed())
        with trio.move_on_after(self._timeouts.stall):
            await stream.aclose()

    async def _read(self, common: tuple[Any, ...]) -> None:
        while data := await self._stream.receive_some(_RECEIVE_BYTES):
            if self._ending:
                continue
            try:
                await self._protocol.handle(RawData(bytes(data)))
            except H2ProtocolAssumedError as switch:  # HTTP/2 with prior knowledge
                await self._switch_to_http2(common, None, None, switch.data)
            except H2CProtocolRequiredError as switch:  # Upgrade: h2c
                await self._switch_to_http2(common, switch.headers, switch.settings, switch.data)

    async def _switch_to_http2(
        self,
        common: tuple[Any, ...],
        headers: list[tuple[bytes, bytes]] | None,
        settings: bytes | None,
        data: bytes,
    ) -> None:
        protocol = self._protocol = _Http2(*common)
        await protocol.initiate(headers, settings)
        if data:
            await protocol.handle(RawData(data))
        if protocol.idle:  # the words that brought us here were taken for a request
            self._set_idle(True)

    async def _send(self, event: Event) -> None:
        """What the protocol wants: bytes out, an end, or a word on whether requests are open."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._set_idle(event.idle)
        elif isinstance(event, Closed):
            await self._end()

    async def _flush(self) -> None:
        """An application has taken data: say so, if the protocol has words for it."""
        if isinstance(self._protocol, _Http2):
            await self._protocol._flush()

    async def _write(self, data: bytes) -> None:
        if isinstance(self._protocol, H11Protocol):
            # Headers wait for the first piece of the body, or the end: one write, not three.
            if not self._headers_sent and self._protocol.connection.our_state is h11.SEND_BODY:
                self._headers_sent = True
                self._held = data
                return
            if self._held:
                data, self._held = self._held + data, b""
        if not data:
            return
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            # Half a frame would spoil the connection for the other requests on it, so the
            # cancellation of one request must not stop a write. abort() does.
            with trio.CancelScope(shield=True) as stall:
                for start in range(0, len(data), _WRITE_BYTES):
                    stall.deadline = trio.current_time() + self._timeouts.stall
                    await self._stream.send_all(data[start : start + _WRITE_BYTES])
            if stall.cancelled_caught:
                self._reading.cancel()
                self.abort()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._reading.cancel()
        finally:
            self._write_lock.release()

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        if self._ending:
            return
        if not idle:
            self._headers_sent = False
            self._reading.deadline = float("inf")
        elif self._context.terminated.is_set():
            self._reading.cancel()
        else:
            self._reading.deadline = trio.current_time() + self._timeouts.idle

    async def _end(self) -> None:
        """Close, but first take in what the client still has to say of an answered request."""
        if self._ending:
            return
        self._ending = True
        if self._held:
            await self._write(b"")
        if self._all_said():
            self._reading.cancel()
            return
        self._reading.deadline = trio.current_time() + self._timeouts.linger
        if isinstance(self._stream, trio.SocketStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()

    def _all_said(self) -> bool:
        return not isinstance(self._protocol, H11Protocol) or (
            self._protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        )


class _Http2(H2Protocol):
    """hypercorn's, with the flow control of HTTP/2, and without two ways in which one request
    took down everything.

    hypercorn acknowledges data before anybody wants it, and stops reading when a request has
    too much of it: then it does not hear the WINDOW_UPDATE either that an answer waits for. So
    data is acknowledged when the application has taken it. Reading never stops; what a client
    may send ahead is bounded by its windows.
    """

    def __init__(self, *common: Any) -> None:
        super().__init__(*common)
        settings = self.connection.local_settings
        initial = {h2.settings.SettingCodes(code): settings[code] for code in settings}
        initial[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = _STREAM_WINDOW
        self.connection.local_settings = h2.settings.Settings(client=False, initial_values=initial)

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        await super().initiate(headers, settings)
        # All requests share this window: one whose data nobody takes must not use it up.
        self.connection.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        await self._flush()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                await self._take_data(event)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _take_data(self, event: h2.events.DataReceived) -> None:
        acknowledge = partial(self._acknowledge, event.flow_controlled_length, event.stream_id)
        stream = self.streams.get(event.stream_id)
        if not isinstance(stream, HTTPStream) or stream.closed:
            # A websocket, or the rest of a request that was answered before its end.
            if stream is not None:
                await stream.handle(Body(stream_id=event.stream_id, data=event.data))
            acknowledge()
            return
        message: Message = {"type": "http.request", "body": event.data, "more_body": True}
        message[_TAKEN] = acknowledge
        await stream.app_put(message)  # type: ignore[arg-type]  # ASGI's, with a key of ours

    def _acknowledge(self, length: int, stream_id: int) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self.connection.acknowledge_received_data(length, stream_id)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        for name, value in request.headers:
            if name in (b":path", b":method") and not value.isascii():
                self.connection.reset_stream(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
                return
        await super()._create_stream(request)


class _Requests:
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
        self._closed = False
        self._news = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def put(self, event: Message) -> None:
        if event["type"] == "http.disconnect":
            self.gone = True
            self._room.unpark_all()
        else:
            # HTTP/2 has windows, which bound what comes; HTTP/1.1 has nothing but the socket.
            windowed = _TAKEN in event
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
    acknowledge = event.pop(_TAKEN, None)
    if acknowledge is None:
        return False
    acknowledge()
    return True
