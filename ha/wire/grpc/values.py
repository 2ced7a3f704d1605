"""SQLite values as ``google.protobuf.Any``, there and back.

Parameters come as any of the well-known wrapper types. Results are written straight to bytes:
message objects for each value cost three times as much, and their exact size is wanted anyway,
row by row, for the limit on results.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from protobuf.wkt import Any
from protobuf.wkt.google.protobuf.timestamp_pb import Timestamp
from protobuf.wkt.google.protobuf.wrappers_pb import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from ha.core.errors import Code, HaError
from ha.core.values import RawText, Value

_URL = "type.googleapis.com/google.protobuf."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# --- what clients send ---------------------------------------------------------------


def timestamp_text(value: Timestamp) -> str:
    """As the existing system's SQLite driver writes it: ``2026-01-31 12:00:00.5+00:00``."""
    moment = _EPOCH + timedelta(seconds=value.seconds)
    fraction = f".{value.nanos:09d}".rstrip("0") if value.nanos else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction}+00:00"


_READERS: dict[str, Callable[[bytes], Value]] = {
    "google.protobuf.Empty": lambda data: None,
    "google.protobuf.StringValue": lambda data: StringValue.from_binary(data).value,
    "google.protobuf.BytesValue": lambda data: BytesValue.from_binary(data).value,
    "google.protobuf.BoolValue": lambda data: int(BoolValue.from_binary(data).value),
    "google.protobuf.Int32Value": lambda data: Int32Value.from_binary(data).value,
    "google.protobuf.Int64Value": lambda data: Int64Value.from_binary(data).value,
    "google.protobuf.UInt32Value": lambda data: UInt32Value.from_binary(data).value,
    "google.protobuf.UInt64Value": lambda data: UInt64Value.from_binary(data).value,
    "google.protobuf.FloatValue": lambda data: FloatValue.from_binary(data).value,
    "google.protobuf.DoubleValue": lambda data: DoubleValue.from_binary(data).value,
    "google.protobuf.Timestamp": lambda data: timestamp_text(Timestamp.from_binary(data)),
}


def value_of(packed: Any | None, what: str) -> Value:
    """The value in ``packed``; ``what`` names it in the HaError for one that cannot be taken."""
    if packed is None or not packed.type_url:
        return None
    name = packed.type_url.rpartition("/")[2]
    read = _READERS.get(name)
    if read is None:
        known = ", ".join(known.removeprefix("google.protobuf.") for known in _READERS)
        raise HaError(
            Code.BAD_PARAMETERS, f"{what} has the unknown type {name!r}", hint=f"it takes {known}"
        )
    try:
        value = read(packed.value)
    except (ValueError, OverflowError) as error:
        raise HaError(Code.BAD_PARAMETERS, f"{what} is no valid {name}: {error}") from error
    if type(value) is int and value >= 2**63:
        raise HaError(
            Code.NUMERIC_OUT_OF_RANGE, f"{what} is {value}, beyond SQLite's largest, {2**63 - 1}"
        )
    return value


# --- what clients get ----------------------------------------------------------------


def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = [_long_varint(number) for number in range(1 << 14)]


def varint(number: int) -> bytes:
    """A base-128 varint; ``number`` is not negative."""
    return _SHORT[number] if number < 16384 else _long_varint(number)


def delimited(tag: bytes, data: bytes) -> bytes:
    """A field of wire type 2 (length-delimited)."""
    return tag + varint(len(data)) + data


def _head(name: str) -> bytes:
    return delimited(b"\x0a", (_URL + name).encode())


# Any: field 1 the URL, field 2 the bytes of the message. Row: field 1 an Any.
_INT = _head("Int64Value")
_UINT = _head("UInt64Value")
_REAL = _head("DoubleValue")
_TEXT = _head("StringValue")
_BLOB = _head("BytesValue")
_TIME = _head("Timestamp")
_EMPTY = _head("Empty")
_double = struct.Struct("<d").pack

Pack = Callable[[Value], bytes]


def pack(value: Value) -> bytes:
    """The bytes of an Any that holds ``value`` by its storage class.

    TEXT that is not valid UTF-8, which StringValue cannot hold, goes as its bytes.
    """
    if value is None:
        return _EMPTY
    if type(value) is int:
        if 0 < value < 16384:
            data = _SHORT[value]
            return b"%b\x12%c\x08%b" % (_INT, len(data) + 1, data)
        return _any(_INT, b"\x08" + varint(value & 0xFFFF_FFFF_FFFF_FFFF) if value else b"")
    if type(value) is str:
        if not value:
            return _TEXT
        text = value.encode()
        if len(text) < 126:
            return b"%b\x12%c\x0a%c%b" % (_TEXT, len(text) + 2, len(text), text)
        return _any(_TEXT, delimited(b"\x0a", text))
    if type(value) is float:
        return _any(_REAL, b"\x09" + _double(value))
    if isinstance(value, RawText):
        value = value.data
    assert isinstance(value, bytes)
    return _any(_BLOB, delimited(b"\x0a", value) if value else b"")


def pack_sequence(value: Value) -> bytes:
    """An integer that is not negative, as UInt64Value."""
    if type(value) is not int or value < 0:
        return pack(value)
    return _any(_UINT, b"\x08" + varint(value) if value else b"")


def pack_time(value: Value) -> bytes:
    """``YYYY-MM-DD HH:MM:SS[.fraction]`` in UTC, as Timestamp; anything else by storage class."""
    if type(value) is not str:
        return pack(value)
    whole, _, fraction = value.removesuffix("Z").removesuffix("+00:00").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        nanos = int(fraction.ljust(9, "0")[:9]) if fraction else 0
    except ValueError:
        return pack(value)
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    data = b"\x08" + varint(seconds & 0xFFFF_FFFF_FFFF_FFFF) if seconds else b""
    return _any(_TIME, data + (b"\x10" + varint(nanos) if nanos else b""))


def _any(head: bytes, data: bytes) -> bytes:
    return head + delimited(b"\x12", data) if data else head


def encode_row(row: Sequence[Value], packs: Sequence[Pack] | None = None) -> bytes:
    """The bytes of a Row. ``packs``: how to write each column, where not by storage class."""
    if packs is None:
        values: Iterable[bytes] = map(pack, row)
    else:
        values = (write(value) for write, value in zip(packs, row, strict=True))
    return b"".join([b"\x0a%b%b" % (varint(len(value)), value) for value in values])
