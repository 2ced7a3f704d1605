"""nats-py's client as a node uses it: it connects and logs in; reading and writing are direct.

Three things are done beside its public interface, since each batch of transactions waits for
them, and since it must be certain what was never sent (docs/decisions/0001-nats-client.md):
messages are taken before they are queued for a task each, commands are written past its
buffer, which would keep them over a reconnect, and a plain socket is read by a task of trio.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import trio
import trio_asyncio
from nats import errors
from nats.aio.client import Client as NatsClient

from ha.log.frames import Deliver, Frames

_READ = 256 * 1024


def discard(sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
    """A :data:`~ha.log.frames.Deliver` while nobody wants the messages."""


class Wire(NatsClient):
    """nats-py's client, without its own subscriptions: every message goes to ``deliver``."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = Frames(self, discard)
        self._ps = self._frames

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
