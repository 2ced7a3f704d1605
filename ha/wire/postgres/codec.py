"""Bytes from the frontend in, messages out. No I/O.

Source: PostgreSQL documentation, "Message Formats" and "Message Flow" (protocol 3.0 and 3.2).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ha.wire.postgres.messages import (
    Bind,
    CancelRequest,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    GSSENCRequest,
    Message,
    Parse,
    PasswordMessage,
    Query,
    SSLRequest,
    Startup,
    StartupMessage,
    Sync,
    Terminate,
)

MAX_STARTUP: Final = 10_000
"""Bytes of a start-up packet; PostgreSQL's own limit."""

MAX_BEFORE_LOGIN: Final = 65_536
"""Bytes of a message before the user is known."""

_CANCEL_CODE: Final = 80877102
_SSL_CODE: Final = 80877103
_GSS_CODE: Final = 80877104

_DESCRIBE_PORTAL: Final = b"D\0\0\0\6P\0"
_EXECUTE: Final = b"E\0\0\0\x09\0"
"""Of the unnamed portal; its number of rows follows."""
_SYNC_MESSAGE: Final = b"S\0\0\0\4"

_HEAD = struct.Struct("!Bi")
_INT32 = struct.Struct("!i")
_UINT16 = struct.Struct("!H")


class ProtocolError(Exception):
    """Input that breaks the protocol: the session ends with FATAL 08P01."""

    def __init__(self, message: str, sqlstate: str = "08P01") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


class FrontendDecoder:
    """Cuts the stream of bytes into messages.

    Until the start-up is over packets have no type byte: take them with :meth:`next_startup`,
    messages with :meth:`next`, until it answers None; then feed bytes with :meth:`receive`.
    """

    __slots__ = ("_buffer", "_pieces", "_position", "_size", "_unread", "_wanted", "limit")

    def __init__(self, limit: int = MAX_BEFORE_LOGIN) -> None:
        self.limit = limit
        self._buffer = b""
        self._position = 0
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces
        self._unread: deque[Message] = deque()
        self._wanted = 0  # bytes that the next message needs, with those in the buffer

    @property
    def buffered(self) -> int:
        """Bytes received and not yet given out as messages."""
        return len(self._buffer) - self._position + self._size

    def receive(self, data: bytes | bytearray) -> None:
        left = len(self._buffer) - self._position
        if not left and not self._pieces:
            self._buffer = bytes(data)
            self._position = 0
            return
        # A large message comes in many pieces: they are joined once, when it is there.
        self._pieces.append(bytes(data))
        self._size += len(data)
        if left + self._size >= self._wanted:
            self._buffer = b"".join((self._buffer[self._position :], *self._pieces))
            self._position = 0
            self._pieces.clear()
            self._size = 0

    def next_startup(self) -> Startup | None:
        """The next packet of the start-up phase; None: more bytes are needed.

        Raises ProtocolError.
        """
        start = self._position
        available = len(self._buffer) - start
        if available < 4:
            self._wanted = 4
            return None
        (length,) = _INT32.unpack_from(self._buffer, start)
        if not 8 <= length <= MAX_STARTUP:
            raise ProtocolError(
                f"invalid length of startup packet: {length}; is this a PostgreSQL client?"
            )
        if available < length:
            self._wanted = length
            return None
        self._position = start + length
        return _decode_startup(self._buffer[start + 4 : start + length])

    def next(self) -> Message | None:
        """The next message; None: more bytes are needed. Raises ProtocolError."""
        if self._unread:
            return self._unread.popleft()
        buffer = self._buffer
        start = self._position
        available = len(buffer) - start
        if available < 5:
            self._wanted = 5
            return None
        kind, length = _HEAD.unpack_from(buffer, start)
        decode = _DECODERS.get(kind)
        if decode is None:
            raise ProtocolError(f"invalid frontend message type {kind}")
        if length < 4:
            raise ProtocolError(f"invalid message length {length} of message {chr(kind)!r}")
        if length > self.limit:
            raise ProtocolError(
                f"message {chr(kind)!r} of {length} bytes is over the limit of {self.limit} bytes",
                "54000",
            )
        if available <= length:
            self._wanted = length + 1
            return None
        end = start + 1 + length
        self._position = end
        return decode(buffer[start + 5 : end])

    def take_execution(self) -> tuple[bool, int] | None:
        """Directly after a Bind of the unnamed portal: its Execute and the Sync behind it, if that
        is what has arrived. Most clients send all of them at once.

        Answers (is there a Describe of the portal before it, most rows); None if anything else
        stands there, which :meth:`next` gives out then.
        """
        buffer, position = self._buffer, self._position
        described = buffer.startswith(_DESCRIBE_PORTAL, position)
        if described:
            position += len(_DESCRIBE_PORTAL)
        end = position + len(_EXECUTE) + 4
        if self._unread or not (
            buffer.startswith(_EXECUTE, position) and buffer.startswith(_SYNC_MESSAGE, end)
        ):
            return None
        self._position = end + len(_SYNC_MESSAGE)
        return described, max(_INT32.unpack_from(buffer, end - 4)[0], 0)

    def unread(self, messages: Sequence[Message]) -> None:
        """Give ``messages`` out again, before all others."""
        self._unread.extendleft(reversed(messages))

    def peek_types(self) -> bytes:
        """The type bytes of the complete messages that wait in the buffer, in order.

        Lets a server see whether a Sync follows at once. Stops at anything incomplete.
        """
        out = bytearray()
        for message in self._unread:
            out.append(_LETTERS[type(message)])
            if out[-1] in b"SEQP":
                return bytes(out)
        buffer = self._buffer
        position = self._position
        end = len(buffer)
        while position + 5 <= end:
            kind, length = _HEAD.unpack_from(buffer, position)
            if length < 4 or position + 1 + length > end:
                break
            out.append(kind)
            if kind in b"SEQP":
                break
            position += 1 + length
        return bytes(out)


def _decode_startup(packet: bytes) -> Startup:
    (code,) = _INT32.unpack_from(packet)
    if code == _SSL_CODE:
        _exact(packet, 4, "SSLRequest")
        return SSLRequest()
    if code == _GSS_CODE:
        _exact(packet, 4, "GSSENCRequest")
        return GSSENCRequest()
    if code == _CANCEL_CODE:
        if not 8 < len(packet) <= 8 + 256:
            raise ProtocolError("invalid length of cancel request")
        (process_id,) = struct.unpack_from("!i", packet, 4)
        return CancelRequest(process_id, packet[8:])
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        raise ProtocolError(
            f"unsupported frontend protocol {major}.{minor}: this server speaks 3.0 to 3.2",
            "0A000",
        )
    return StartupMessage(minor, _decode_parameters(packet))


def _decode_parameters(packet: bytes) -> dict[str, str]:
    if not packet.endswith(b"\0"):
        raise ProtocolError("invalid startup packet layout: expected terminator as last byte")
    words = packet[4:-1].split(b"\0")
    if words and words[-1] == b"":
        words.pop()
    if len(words) % 2:
        raise ProtocolError("invalid startup packet layout: a name without a value")
    out: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        if not name:
            raise ProtocolError("invalid startup packet layout: an empty name")
        out[_utf8(name)] = _utf8(value)
    return out


def _exact(packet: bytes, length: int, what: str) -> None:
    if len(packet) != length:
        raise ProtocolError(f"invalid length of {what}")


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(
            f'invalid byte sequence for encoding "UTF8": 0x{data[error.start]:02x}', "22021"
        ) from error


class _Reader:
    """Reads the fields of one message; every overrun is a protocol error."""

    __slots__ = ("data", "position", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.position = 0
        self.what = what

    def text(self) -> str:
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise ProtocolError(f"invalid string in message {self.what}: no terminator")
        raw = self.data[self.position : end]
        self.position = end + 1
        return _utf8(raw)

    def uint32s(self) -> tuple[int, ...]:
        count = self.count()
        return self._many("I", count, 4 * count)

    def _many(self, letter: str, count: int, size: int) -> tuple[int, ...]:
        if not count:
            return ()
        if self.position + size > len(self.data):
            raise self.short()
        out = struct.unpack_from(f"!{count}{letter}", self.data, self.position)
        self.position += size
        return out

    def count(self) -> int:
        if self.position + 2 > len(self.data):
            raise self.short()
        count = int.from_bytes(self.data[self.position : self.position + 2], "big")
        self.position += 2
        return count

    def int32(self) -> int:
        if self.position + 4 > len(self.data):
            raise self.short()
        (value,) = _INT32.unpack_from(self.data, self.position)
        self.position += 4
        return int(value)

    def take(self, length: int) -> bytes:
        if length < 0 or self.position + length > len(self.data):
            raise self.short()
        raw = self.data[self.position : self.position + length]
        self.position += length
        return raw

    def end(self) -> None:
        if self.position != len(self.data):
            raise ProtocolError(f"invalid message format: data left over in message {self.what}")

    def short(self) -> ProtocolError:
        return ProtocolError(f"insufficient data left in message {self.what}")


def _query(body: bytes) -> Query:
    reader = _Reader(body, "Query")
    sql = reader.text()
    reader.end()
    return Query(sql)


def _parse(body: bytes) -> Parse:
    reader = _Reader(body, "Parse")
    name, sql = reader.text(), reader.text()
    oids = reader.uint32s()
    reader.end()
    return Parse(name, sql, oids)


def _bind(body: bytes) -> Bind:
    """The message that is read most: without a reader object."""
    try:
        end = body.index(0)
        after = body.index(0, end + 1)
        portal, statement = body[:end].decode(), body[end + 1 : after].decode()
        parameter_formats, position = _formats(body, after + 1)
        (count,) = _UINT16.unpack_from(body, position)
        position += 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = _INT32.unpack_from(body, position)
            position += 4
            if length == -1:
                values.append(None)
                continue
            if length < -1:
                raise ProtocolError(f"invalid length {length} of a parameter in message Bind")
            stop = position + length
            values.append(body[position:stop])
            position = stop
        result_formats, position = _formats(body, position)
    except UnicodeDecodeError as error:
        raise ProtocolError("invalid byte sequence in a name of message Bind", "22021") from error
    except (struct.error, ValueError) as error:
        raise ProtocolError("insufficient data left in message Bind") from error
    if position != len(body):
        raise ProtocolError("invalid message format: data left over in message Bind")
    return Bind(portal, statement, parameter_formats, tuple(values), result_formats)


_ONE_FORMAT = {b"\0\1\0\0": (0,), b"\0\1\0\1": (1,)}


def _formats(body: bytes, position: int) -> tuple[tuple[int, ...], int]:
    one = _ONE_FORMAT.get(body[position : position + 4])
    if one is not None:
        return one, position + 4
    (count,) = _UINT16.unpack_from(body, position)
    position += 2
    if not count:
        return (), position
    codes: tuple[int, ...] = struct.unpack_from(f"!{count}h", body, position)
    for code in codes:
        if code not in (0, 1):
            raise ProtocolError(f"unsupported format code: {code}", "22023")
    return codes, position + 2 * count


def _describe(body: bytes) -> Describe:
    return Describe(*_target(body, "Describe"))


def _close(body: bytes) -> Close:
    return Close(*_target(body, "Close"))


def _target(body: bytes, what: str) -> tuple[str, str]:
    if body == b"P\0":
        return "P", ""
    reader = _Reader(body, what)
    kind = reader.take(1)
    name = reader.text()
    reader.end()
    if kind not in (b"S", b"P"):
        raise ProtocolError(f"invalid {what} message subtype {kind[0]}")
    return kind.decode(), name


def _execute(body: bytes) -> Execute:
    if body == b"\0\0\0\0\0":
        return Execute("", 0)
    reader = _Reader(body, "Execute")
    portal = reader.text()
    max_rows = reader.int32()
    reader.end()
    return Execute(portal, max(max_rows, 0))


_SYNC, _FLUSH, _TERMINATE, _COPY_DONE = Sync(), Flush(), Terminate(), CopyDone()


def _empty(message: Message, what: str) -> Callable[[bytes], Message]:
    def decode(body: bytes) -> Message:
        if body:
            raise ProtocolError(f"invalid message format: data left over in message {what}")
        return message

    return decode


def _copy_fail(body: bytes) -> CopyFail:
    reader = _Reader(body, "CopyFail")
    reason = reader.text()
    reader.end()
    return CopyFail(reason)


def _function_call(_body: bytes) -> FunctionCall:
    return FunctionCall()


_LETTERS: dict[type, int] = {
    Query: ord("Q"), Parse: ord("P"), Bind: ord("B"), Describe: ord("D"), Execute: ord("E"),
    Close: ord("C"), Sync: ord("S"), Flush: ord("H"), Terminate: ord("X"), CopyData: ord("d"),
    CopyDone: ord("c"), CopyFail: ord("f"), PasswordMessage: ord("p"), FunctionCall: ord("F"),
}  # fmt: skip

_DECODERS: dict[int, Callable[[bytes], Message]] = {
    ord("Q"): _query,
    ord("P"): _parse,
    ord("B"): _bind,
    ord("D"): _describe,
    ord("E"): _execute,
    ord("C"): _close,
    ord("S"): _empty(_SYNC, "Sync"),
    ord("H"): _empty(_FLUSH, "Flush"),
    ord("X"): _empty(_TERMINATE, "Terminate"),
    ord("d"): CopyData,
    ord("c"): _empty(_COPY_DONE, "CopyDone"),
    ord("f"): _copy_fail,
    ord("p"): PasswordMessage,
    ord("F"): _function_call,
}
