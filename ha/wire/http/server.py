"""The listening side: a port, its connections, and an end within a bound."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from ha.wire.http.asgi import Application
from ha.wire.http.connection import ByteStream, Connection, Timeouts

_log = logging.getLogger("ha.http")

_BACKLOG = 1024
_NO_LIMIT = 2**62
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With ``client_ca`` only clients with a certificate signed by it are served."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError or ssl.SSLError for files that cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


async def serve(
    app: Application,
    *,
    host: str | None = None,
    port: int,
    tls: Tls | None = None,
    shutdown_trigger: Callable[[], Awaitable[object]] = trio.sleep_forever,
    grace: float = 10.0,
    timeouts: Timeouts | None = None,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` with HTTP/1.1 and HTTP/2 until ``shutdown_trigger`` returns.

    ``host``: a name or address, None for all interfaces. ``port`` 0: any free one; the
    addresses in use are what ``nursery.start`` returns. Without ``tls`` HTTP/2 is spoken with
    those who begin with it (prior knowledge), or ask by ``Upgrade``.

    Then no connection is taken any more, idle ones are closed, and requests in flight have
    ``grace`` seconds to finish; who has connected before still gets an answer. Raises OSError when
    the port cannot be had, or a file of ``tls`` not be read.
    """
    tls_context = tls.context() if tls is not None else None
    listeners = await _listen(host, port)
    config = _config()
    context = WorkerContext(None)
    timeouts = timeouts or Timeouts()
    connections = _Connections()

    def admit(stream: trio.SocketStream) -> Connection:
        byte_stream: ByteStream = stream
        if tls_context is not None:
            byte_stream = trio.SSLStream(
                stream, tls_context, server_side=True, https_compatible=True
            )
        connection = Connection(byte_stream, app, config, context, timeouts)
        connections.add(connection)
        return connection

    async def serve_one(connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            connections.discard(connection)

    async def handle(stream: trio.SocketStream) -> None:
        await serve_one(admit(stream))

    async with trio.open_nursery() as handlers:
        try:
            async with trio.open_nursery() as accepting:
                await accepting.start(
                    partial(trio.serve_listeners, handle, listeners, handler_nursery=handlers)
                )
                task_status.started([_address(listener) for listener in listeners])
                await shutdown_trigger()
                backlogs = [_Backlog(listener) for listener in listeners]
                accepting.cancel_scope.cancel()
            for backlog in backlogs:
                for stream in backlog.drain():
                    handlers.start_soon(serve_one, admit(stream))
            await context.terminated.set()
            for connection in connections:
                connection.close_when_idle()
            with trio.move_on_after(grace) as bound:
                await connections.wait_for_none()
            if bound.cancelled_caught:
                _log.warning(
                    "requests were cut off at the end of the grace period",
                    extra={"connections": len(connections), "grace": grace},
                )
        finally:
            # A write to a client that does not read is shielded from cancellation, but not
            # from its socket being closed.
            for connection in connections:
                connection.abort()
            handlers.cancel_scope.cancel()


class _Backlog:
    """Clients of a listener to whom the kernel has said yes, and who wait to be taken. Closing
    the listener would cut them off without a word."""

    def __init__(self, listener: trio.SocketListener) -> None:
        # A descriptor of its own: trio closes the other when nobody accepts any more.
        self._socket = socket.socket(fileno=os.dup(listener.socket.fileno()))
        self._socket.setblocking(False)

    def drain(self) -> Iterator[trio.SocketStream]:
        """The last ones; then the listener is closed."""
        with self._socket, suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                yield trio.SocketStream(trio.socket.from_stdlib_socket(client))


class _Connections:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._none = trio.Event()

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    async def wait_for_none(self) -> None:
        while self._open:
            self._none = trio.Event()
            await self._none.wait()


async def _listen(host: str | None, port: int) -> list[trio.SocketListener]:
    """Listeners on all addresses of ``host``, with one port."""
    for attempt in range(_TRIES):
        listeners = await _open(host, port)
        if port != 0 or len(listeners) == 1:
            return listeners
        # Each address has got a port of its own: move the others to the first one's.
        hosts = [_address(other).host for other in listeners[1:]]
        for other in listeners[1:]:
            await other.aclose()
        same = listeners[:1]
        try:
            for name in hosts:
                same += await trio.open_tcp_listeners(
                    _address(same[0]).port, host=name, backlog=_BACKLOG
                )
        except OSError:
            for listener in same:
                await listener.aclose()
            if attempt == _TRIES - 1:
                raise
        else:
            return same
    raise AssertionError("the loop returns or raises")


async def _open(host: str | None, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        if host is None and error.errno == errno.EADDRNOTAVAIL:  # IPv6 is switched off here
            return await trio.open_tcp_listeners(port, host="0.0.0.0", backlog=_BACKLOG)
        raise


def _address(listener: trio.SocketListener) -> Address:
    host, port = listener.socket.getsockname()[:2]
    return Address(host, port)


def _config() -> Config:
    config = Config()
    config.errorlog = _log
    config.include_server_header = False
    # At its limit hypercorn ends an HTTP/2 connection at once, with all requests on it.
    config.keep_alive_max_requests = _NO_LIMIT
    config.h2_max_concurrent_streams = 1000
    return config
