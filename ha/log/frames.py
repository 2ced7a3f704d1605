"""What a NATS server sends, cut into messages: nats-py's parser for all but messages themselves.

That one matches a regular expression after the other against its buffer and hands each message
to a coroutine; a node takes two messages for each transaction, often hundreds in one read.

Source: the NATS client protocol (MSG, HMSG).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

Deliver: TypeAlias = Callable[[int, bytes, bytes, bytes, bytes], None]
"""``sid, subject, reply, headers, payload``. It must not raise."""

_MAX_LINE = 4_096
_M, _H = b"MH"


class Frames(Parser):
    """``deliver`` takes the messages; everything else goes to the client, as nats-py does it."""

    def __init__(self, client: Any, deliver: Deliver) -> None:
        self.deliver = deliver
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Raises ProtocolError."""
        for line in self.feed(data):
            await self.obey(line)

    async def obey(self, line: bytes) -> None:
        """A line of :meth:`feed`. Raises ProtocolError."""
        await super().parse(line)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Deliver the messages; what comes between them is handed out, to be obeyed at once.

        Raises ProtocolError.
        """
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks = []
        start = 0
        self._need = 0
        deliver = self.deliver
        while (end := data.find(b"\r\n", start)) >= 0:
            kind = data[start]
            if kind != _M and kind != _H:
                yield data[start : end + 2]
                start = end + 2
                continue
            fields = data[start:end].split()
            body = end + 2
            try:
                size = int(fields[-1])
                sid = int(fields[2])
                head = int(fields[-2]) if kind == _H else 0
                reply = fields[3] if len(fields) == (5 if kind == _M else 6) else b""
            except (IndexError, ValueError):
                raise ProtocolError(f"nats: malformed message: {data[start:end]!r}") from None
            stop = body + size
            if len(data) < stop + 2:
                self._need = stop + 2 - start
                break
            deliver(sid, fields[1], reply, data[body : body + head], data[body + head : stop])
            start = stop + 2
        rest = data[start:] if start else data
        if rest:
            if not self._need and len(rest) > _MAX_LINE and rest[:4].upper() != b"INFO":
                raise ProtocolError("nats: a line without an end")
            self._chunks = [rest]
            self._have = len(rest)
