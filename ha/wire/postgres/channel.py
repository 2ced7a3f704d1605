"""The stream to one client: messages in, bytes out, collected and sent together."""

from __future__ import annotations

import os
import socket

import trio

from ha.wire.postgres.codec import FrontendDecoder
from ha.wire.postgres.messages import Message, Startup

RECEIVE_SIZE = 65_536
FLUSH_AT = 65_536
"""Output is sent when this many bytes wait, so that memory stays flat and slow readers
slow the server down."""


class Closed(Exception):
    """The client has gone."""


class Channel:
    """``write`` collects; nothing is sent before :meth:`flush` or :meth:`drain`."""

    def __init__(self, stream: trio.abc.Stream, decoder: FrontendDecoder) -> None:
        self.stream = stream
        self.decoder = decoder
        self.torn = False
        """Was sending given up in the middle of a message?"""
        self.parting = False
        """Has it said its last words?"""
        self._out: list[bytes] = []
        self._size = 0

    def close(self) -> None:
        """Give back what the channel has beside its stream."""

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)

    async def drain(self) -> None:
        """Send if much is waiting. Blocks while the client does not read."""
        if self._size >= FLUSH_AT:
            await self.flush()

    async def flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._size = 0
            self.torn = True
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Closed from error
            self.torn = False

    async def more(self) -> None:
        """Receive something. Nothing is sent first. Raises Closed."""
        try:
            data = await self.stream.receive_some(RECEIVE_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error
        if not data:
            raise Closed
        self.decoder.receive(data)

    async def startup(self) -> Startup:
        """The next packet of the start-up phase. Raises Closed, ProtocolError."""
        while True:
            packet = self.decoder.next_startup()
            if packet is not None:
                return packet
            await self.more()

    async def message(self) -> Message:
        """The next message; what waits to be sent is sent first if there is none yet.

        Raises Closed, ProtocolError.
        """
        next_message = self.decoder.next
        message = next_message()
        while message is None:
            if self._out:
                await self.flush()
            await self.more()
            message = next_message()
        return message


class PlainChannel(Channel):
    """Without TLS the socket is used directly: a third of the time of a short statement would
    else pass in layers that do nothing for it.

    It holds a file descriptor of its own; :meth:`close` gives it back.
    """

    def __init__(self, stream: trio.SocketStream, decoder: FrontendDecoder) -> None:
        super().__init__(stream, decoder)
        self._socket = socket.socket(fileno=os.dup(stream.socket.fileno()))
        self._socket.setblocking(False)
        self._number = self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    async def flush(self) -> None:
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._size = 0
        try:
            sent = self._send(data)
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])
        except (OSError, trio.ClosedResourceError) as error:
            raise Closed from error

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def _send_rest(self, data: memoryview) -> None:
        self.torn = True
        while data:
            await trio.lowlevel.wait_writable(self._number)
            data = data[self._send(data) :]
        self.torn = False

    async def more(self) -> None:
        """Waits first: nearly always the client has yet to ask."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._number)
                try:
                    data = self._socket.recv(RECEIVE_SIZE)
                    break
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError) as error:
            raise Closed from error
        if not data:
            raise Closed
        self.decoder.receive(data)
