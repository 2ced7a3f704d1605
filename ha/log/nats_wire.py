"""The NATS client protocol without I/O: bytes in, messages out; commands as bytes.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol, and ADR-4 (headers).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

CRLF = b"\r\n"
HEADER_START = b"NATS/1.0"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_CONTROL = {b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"}
MAX_LINE = 1 << 20  # a control line longer than this (INFO of a huge cluster apart) is no NATS

Deliver: TypeAlias = Callable[[int, bytes, bytes, bytes, bytes], None]
"""``sid, subject, reply, headers, payload`` of a message; headers with their first line."""

Control: TypeAlias = Callable[[bytes, bytes], None]
"""``operation, arguments`` of anything else: INFO, PING, PONG, +OK, -ERR."""


class WireError(Exception):
    """What came is not the NATS protocol: the connection is of no use any more."""


class Parser:
    """Cuts what arrives into messages and control lines, each handed on at once."""

    def __init__(self, deliver: Deliver, control: Control) -> None:
        self._deliver = deliver
        self._control = control
        self._rest = b""
        self._needed = 0  # bytes that the rest must have before it is worth a look

    def feed(self, data: bytes) -> None:
        """Raises WireError, and whatever a callback raises."""
        if self._rest:
            data = self._rest + data
            if len(data) < self._needed:
                self._rest = data
                return
        position, length = 0, len(data)
        deliver = self._deliver
        self._needed = 0
        while position < length:
            end = data.find(CRLF, position)
            if end < 0:
                if length - position > MAX_LINE:
                    raise WireError("a control line without an end")
                break
            kind = data[position : position + 4]
            if kind == b"HMSG" or kind == b"MSG ":
                fields = data[position:end].split()
                count = len(fields)
                start = end + 2
                try:
                    stop = start + int(fields[-1])
                    if stop + 2 > length:
                        self._needed = stop + 2 - position
                        break
                    if kind == b"HMSG":
                        body = start + int(fields[-2])
                        reply = fields[3] if count == 6 else b""
                        sid = int(fields[2])
                    else:
                        body = start
                        reply = fields[3] if count == 5 else b""
                        sid = int(fields[2])
                except (ValueError, IndexError) as error:
                    raise WireError(f"bad message line {data[position:end][:200]!r}") from error
                deliver(sid, fields[1], reply, data[start:body], data[body:stop])
                position = stop + 2
            else:
                operation, _, arguments = data[position:end].partition(b" ")
                if operation not in _CONTROL:
                    raise WireError(f"not the NATS protocol: {data[position:end][:200]!r}")
                self._control(operation, arguments)
                position = end + 2
        self._rest = data[position:]


# --- commands --------------------------------------------------------------------------


def connect(options: dict[str, object]) -> bytes:
    return b"CONNECT " + json.dumps(options, separators=(",", ":")).encode() + CRLF


def subscribe(subject: str, sid: int) -> bytes:
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


def publish(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """``headers`` as :func:`encode_headers` gives them, or empty; ``reply`` may be empty."""
    if reply:
        reply += b" "
    if not headers:
        return b"PUB %b %b%d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    size = len(headers)
    return b"HPUB %b %b%d %d\r\n%b%b\r\n" % (
        subject,
        reply,
        size,
        size + len(payload),
        headers,
        payload,
    )


# --- headers ---------------------------------------------------------------------------


def encode_headers(headers: dict[str, str]) -> bytes:
    """Raises ValueError when a name or value would break the frame."""
    lines = [HEADER_START]
    for name, value in headers.items():
        if "\r" in value or "\n" in value or not name.isprintable() or ":" in name or " " in name:
            raise ValueError(f"not a message header: {name!r}: {value!r}")
        lines.append(f"{name}: {value}".encode())
    lines += (b"", b"")
    return CRLF.join(lines)


def decode_headers(raw: bytes) -> dict[str, str]:
    """The headers of a message; a name that stands twice has its first value."""
    headers: dict[str, str] = {}
    for line in raw.split(CRLF)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(
                name.decode(errors="replace").strip(), value.decode(errors="replace").strip()
            )
    return headers


def status(raw: bytes) -> int:
    """The status on the first header line (``NATS/1.0 503``), 0 if there is none."""
    code = raw[len(HEADER_START) + 1 : len(HEADER_START) + 4]
    return int(code) if code.isdigit() else 0


def description(raw: bytes) -> str:
    """The words after the status, e.g. ``Idle Heartbeat``."""
    return raw.split(CRLF, 1)[0][len(HEADER_START) + 4 :].decode(errors="replace").strip()
