"""The stream to one client: messages in, bytes out, collected and sent together."""

from __future__ import annotations

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
        self._out: list[bytes] = []
        self._size = 0

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
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Closed from error

    async def _fill(self) -> None:
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
            await self._fill()

    async def message(self) -> Message:
        """The next message; what waits to be sent is sent first if there is none yet.

        Raises Closed, ProtocolError.
        """
        next_message = self.decoder.next
        message = next_message()
        while message is None:
            if self._out:
                await self.flush()
            await self._fill()
            message = next_message()
        return message
