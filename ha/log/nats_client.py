"""nats-py's client as a node uses it: it connects and logs in; reading and writing are direct.

Three things are done beside its public interface, since each batch of transactions waits for
them, and since it must be certain what was never sent (docs/decisions/0001-nats-client.md):
messages are taken before they are queued for a task each, commands are written past its
buffer, which would keep them over a reconnect, and a plain socket is read by a task of trio.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio_asyncio
from nats import errors
from nats.aio.client import Client as NatsClient

from ha.log.dialer import NoConnection
from ha.log.endpoint import Endpoint
from ha.log.frames import Deliver, Frames

_log = logging.getLogger("ha.log")

_READ = 256 * 1024
_CLOSE_TIMEOUT = 1.0
_PING_INTERVAL = 4
_MAX_UNANSWERED = 2


def discard(sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
    """A :data:`~ha.log.frames.Deliver` while nobody wants the messages."""


class NatsDialer:
    """A :class:`ha.log.dialer.Dialer`. ``tls``: the context for ``tls://`` servers and those that
    require TLS (default: the system's authorities)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """nats-py's tasks live in here, in an asyncio loop on trio."""
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(_on_stray_error)
            yield

    def wire(self) -> NatsWire:
        return NatsWire(self._tls)


class NatsWire(NatsClient):
    """A :class:`ha.log.dialer.Wire`: nats-py's client, without its own subscriptions."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._frames = Frames(self, discard)
        self._ps = self._frames
        self._tls = tls
        self._dialing = False
        self._problem: Exception | None = None
        self._tell: Callable[[str], None] | None = None

    async def dial(self, endpoint: Endpoint, name: str, timeout: float) -> None:
        self._dialing = True
        try:
            with trio.fail_after(timeout):
                await trio_asyncio.aio_as_trio(self.connect)(
                    servers=[str(endpoint)],
                    name=name,
                    tls=self._tls or (ssl.create_default_context() if endpoint.tls else None),
                    tls_hostname=endpoint.host if endpoint.tls or self._tls else None,
                    allow_reconnect=False,
                    connect_timeout=int(timeout),
                    ping_interval=_PING_INTERVAL,
                    max_outstanding_pings=_MAX_UNANSWERED,
                    pending_size=0,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    **endpoint.login(),
                )
        except (OSError, errors.Error, trio.TooSlowError, ssl.SSLError, ValueError) as error:
            text = _words(error)
            if isinstance(error, trio.TooSlowError | TimeoutError):
                text = f"no connection within {timeout:g} s"
            refused = "authorization" in text.lower() or "authentication" in text.lower()
            raise NoConnection(text, refused=refused) from error
        finally:
            self._dialing = False

    async def _on_error(self, error: Exception) -> None:
        self._problem = error
        if self._dialing:
            raise error  # else nats-py tries again by itself, on its own time
        if "permissions violation" in str(error).lower():
            _log.error("NATS: %s", error)  # of one subject only: the connection lives on

    async def _on_closed(self) -> None:
        if self._tell is not None:
            error = self.last_error or self._problem
            self._tell(_words(error) if error else "the server closed the connection")

    def when_closed(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        if self.is_closed:
            tell("the server closed the connection")

    async def aclose(self) -> None:
        self.deliver_to(discard)
        # It tells of a connection that was reset; there is none any more, that is all.
        with trio.move_on_after(_CLOSE_TIMEOUT) as scope, suppress(OSError, errors.Error):
            scope.shield = True
            await trio_asyncio.aio_as_trio(self.close)()

    @property
    def info(self) -> dict[str, Any]:
        """What the server said of itself."""
        return self._server_info

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        writer = getattr(self._transport, "_io_writer", None)
        return 0 if writer is None else int(writer.transport.get_write_buffer_size())

    def deliver_to(self, deliver: Deliver) -> None:
        """From now on."""
        self._frames.deliver = deliver

    def send(self, data: bytes) -> None:
        """Hand whole commands to the socket."""
        assert self._transport is not None
        self._transport.write(data)

    async def _read_loop(self) -> None:
        """Run by nats-py as a task, from when it is logged in until the connection ends."""
        reader = getattr(self._transport, "_io_reader", None)
        writer = getattr(self._transport, "_io_writer", None)
        if reader is None or writer is None or writer.get_extra_info("sslcontext") is not None:
            await super()._read_loop()
            return
        # What asyncio makes of a socket costs some turns of its loop a read, each a turn of trio's.
        writer.transport.pause_reading()
        reader.feed_eof()
        try:
            fileno = os.dup(writer.get_extra_info("socket").fileno())
            with socket.socket(fileno=fileno) as plain:
                plain.setblocking(False)
                await self._frames.parse(await reader.read())
                problem = await trio_asyncio.trio_as_aio(self._receive)(plain)
        except (OSError, errors.ProtocolError) as error:  # in what came with the login
            problem = error
        if isinstance(problem, errors.UnexpectedEOF):
            await self._error_cb(problem)
        await self._process_op_err(problem)

    async def _receive(self, plain: socket.socket) -> Exception:
        """Returns why no more can be read."""
        try:
            while True:
                await trio.lowlevel.wait_readable(plain)
                try:
                    data = plain.recv(_READ)
                except BlockingIOError:
                    continue
                if not data:
                    return errors.UnexpectedEOF()
                for line in self._frames.feed(data):
                    await trio_asyncio.aio_as_trio(self._frames.obey)(line)
        except (OSError, errors.ProtocolError) as error:
            return error


def _words(error: Exception) -> str:
    """What nats-py says, without its prefix."""
    return str(error).removeprefix("nats: ") or type(error).__name__


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Of a task of nats-py that nobody waits for. trio-asyncio would end the node with it; what
    it means for us shows in the connection: closed, or silent until the ping finds out."""
    error = context.get("exception")
    _log.warning("nats-py: %s", context.get("message") if error is None else _words(error))
