"""One connection: hypercorn's HTTP/1.1 and HTTP/2 over a trio stream.

hypercorn's protocol classes do the protocols. Its own connection handler is not used, for
reasons that tests/unit/test_http_connection.py shows and docs/decisions/0003-http-server.md tells:
one malformed HTTP/2 request ended the whole server, a client that does not read held up the
shutdown for ever, and each request cost three writes and a task for the idle timer.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from ha.wire.http.asgi import Application
from ha.wire.http.exchange import Requests
from ha.wire.http.http2 import Http2

_log = logging.getLogger("ha.http")

ByteStream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_RECEIVE_BYTES = 64 * 1024
_WRITE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. ``idle``: between requests, and until the headers of the next are whole.
    ``stall``: a write of which the client takes nothing. ``linger``: how long what a client
    still sends is thrown away after an answer that came before the end of its request: closing
    at once could destroy that answer on its way. ``farewell``: when the server shuts down, how
    long a client that has just connected has for its first request, and one that speaks HTTP/2
    for closing the connection itself."""

    handshake: float = 30.0
    idle: float = 75.0
    stall: float = 30.0
    linger: float = 5.0
    farewell: float = 1.0


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
        self._protocol: H11Protocol | Http2
        self._reading = trio.CancelScope()
        self._write_lock = trio.Lock()
        self._held = b""
        self._idle = True
        self._used = False
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
            self._wind_up()

    def _wind_up(self) -> None:
        """Nothing is under way. The first request of a new connection may be on its way; without
        an answer its client could not know whether it was obeyed."""
        if self._used:
            self._reading.cancel()
        else:
            self._reading.deadline = trio.current_time() + self._timeouts.farewell

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
                Requests(nursery, self._flush),
                ConnectionState({}),
                tls,
                parse_socket_addr(socket.family, socket.getpeername()),
                parse_socket_addr(socket.family, socket.getsockname()),
                self._send,
            )
            self._protocol = Http2(*common) if alpn == "h2" else H11Protocol(*common)
            await self._protocol.initiate()
            self._set_idle(True)
            with self._reading:
                await self._read(common)
            if isinstance(self._protocol, Http2) and self._context.terminated.is_set():
                await self._take_leave(self._protocol)
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

    async def _take_leave(self, protocol: Http2) -> None:
        """To close with something unread, or before the client has closed its streams, can cost
        it the last answers. After GOAWAY it closes the connection itself."""
        await protocol.say_goodbye()
        with trio.move_on_after(self._timeouts.farewell):
            while await self._stream.receive_some(_RECEIVE_BYTES):
                pass

    async def _switch_to_http2(
        self,
        common: tuple[Any, ...],
        headers: list[tuple[bytes, bytes]] | None,
        settings: bytes | None,
        data: bytes,
    ) -> None:
        protocol = self._protocol = Http2(*common)
        await protocol.initiate(headers, settings)
        if data:
            await protocol.handle(RawData(data))
        if protocol.idle:  # the words that brought us here were taken for a request
            self._used = False
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
        if isinstance(self._protocol, Http2):
            await self._protocol.flush()

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
            self._used = True
            self._headers_sent = False
            self._reading.deadline = float("inf")
        elif self._context.terminated.is_set():
            self._wind_up()
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
            gone = (trio.BrokenResourceError, trio.ClosedResourceError)
            with suppress(*gone, trio.BusyResourceError):  # busy: an answer is being cut off
                await self._stream.send_eof()

    def _all_said(self) -> bool:
        return not isinstance(self._protocol, H11Protocol) or (
            self._protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        )
