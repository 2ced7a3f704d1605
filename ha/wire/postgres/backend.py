"""The messages of the backend, as bytes.

Source: PostgreSQL documentation, "Message Formats" (protocol 3.0 and 3.2).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HEADER = struct.Struct("!ci")
_FIELD = struct.Struct("!ihihih")

AUTHENTICATION_OK: Final = b"R\0\0\0\x08\0\0\0\0"
AUTHENTICATION_CLEARTEXT: Final = b"R\0\0\0\x08\0\0\0\x03"
PARSE_COMPLETE: Final = b"1\0\0\0\x04"
BIND_COMPLETE: Final = b"2\0\0\0\x04"
CLOSE_COMPLETE: Final = b"3\0\0\0\x04"
NO_DATA: Final = b"n\0\0\0\x04"
EMPTY_QUERY: Final = b"I\0\0\0\x04"
PORTAL_SUSPENDED: Final = b"s\0\0\0\x04"
COPY_DONE: Final = b"c\0\0\0\x04"
READY: Final = {status: b"Z\0\0\0\x05" + status.encode() for status in "ITE"}

SSL_YES: Final = b"S"
SSL_NO: Final = b"N"


def message(kind: bytes, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body) + 4) + body


def text(value: str) -> bytes:
    """A String: NUL-terminated, so a NUL inside is cut out."""
    return value.replace("\0", "").encode("utf-8", "replace") + b"\0"


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    names = b"".join(text(m) for m in mechanisms)
    return message(b"R", struct.pack("!i", 10) + names + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return message(b"R", struct.pack("!i", 11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return message(b"R", struct.pack("!i", 12) + data)


def negotiate_protocol_version(minor: int, unknown_options: Sequence[str]) -> bytes:
    """The newest minor version that the server speaks, and the options it does not know.

    Since 3.2 (PostgreSQL 18) the field holds the whole version number; clients of 3.0 never
    see this message unless they asked for more.
    """
    body = struct.pack("!ii", (3 << 16) | minor, len(unknown_options))
    return message(b"v", body + b"".join(text(o) for o in unknown_options))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    return message(b"K", struct.pack("!i", process_id) + secret)


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", text(name) + text(value))


def ready_for_query(status: str) -> bytes:
    """``status``: I idle, T in a transaction, E in a failed transaction."""
    return READY[status]


def command_complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a row description. ``format`` 0 text, 1 binary."""

    name: str
    type_oid: int
    type_size: int
    table_oid: int = 0
    attribute: int = 0
    modifier: int = -1
    format: int = 0


def row_description(fields: Sequence[Field]) -> bytes:
    parts = [struct.pack("!H", len(fields))]
    for f in fields:
        parts.append(text(f.name))
        parts.append(
            struct.pack(
                "!IhIhih", f.table_oid, f.attribute, f.type_oid, f.type_size, f.modifier, f.format
            )
        )
    return message(b"T", b"".join(parts))


def data_row(values: Sequence[bytes | None]) -> bytes:
    parts = [struct.pack("!H", len(values))]
    for v in values:
        if v is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(struct.pack("!i", len(v)))
            parts.append(v)
    return message(b"D", b"".join(parts))


def copy_in_response(binary: bool, columns: int) -> bytes:
    return _copy_response(b"G", binary, columns)


def copy_out_response(binary: bool, columns: int) -> bytes:
    return _copy_response(b"H", binary, columns)


def _copy_response(kind: bytes, binary: bool, columns: int) -> bytes:
    formats = [int(binary)] * columns
    return message(kind, struct.pack(f"!bH{columns}h", int(binary), columns, *formats))


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


@dataclass(frozen=True, slots=True)
class Notice:
    """An error or a notice. ``position`` counts characters of the query from 1."""

    severity: str
    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    routine: str | None = None
    """Of PostgreSQL's source: drivers know by it what only a hint could tell them else."""


def error_response(notice: Notice) -> bytes:
    return message(b"E", _notice(notice))


def notice_response(notice: Notice) -> bytes:
    return message(b"N", _notice(notice))


def _notice(n: Notice) -> bytes:
    parts = [b"S" + text(n.severity), b"V" + text(n.severity), b"C" + text(n.sqlstate)]
    parts.append(b"M" + text(n.message))
    for letter, value in (
        (b"D", n.detail),
        (b"H", n.hint),
        (b"P", None if n.position is None else str(n.position)),
        (b"t", n.table),
        (b"c", n.column),
        (b"n", n.constraint),
        (b"R", n.routine),
    ):
        if value is not None:
            parts.append(letter + text(value))
    return b"".join(parts) + b"\0"
