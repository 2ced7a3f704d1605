"""PostgreSQL's parameters, text and binary, as the SQLite values that stand for them.

Stored forms: docs/spec.md, "PostgreSQL types". SQLite compares ``'1'`` and ``1`` differently
and silently, so a parameter is converted by its type before it is bound.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from ha.core.values import Value
from ha.wire.postgres import datetimes, encode, numerics
from ha.wire.postgres import oids as t
from ha.wire.postgres.arrays import parse_array
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.oids import PgType

Decoder: TypeAlias = Callable[[bytes], Value]


def decoder(kind: PgType, binary: bool, zone: tzinfo = UTC) -> Decoder:
    """Raises PgError 0A000 for a binary type that is not spoken here; what it answers raises
    PgError 22P02, 22P03, 22003, 22007 or 22021."""
    if kind.element is not None:
        return _array_decoder(kind, binary, zone)
    if binary:
        decode = _BINARY.get(kind)
        if decode is None:
            raise unsupported(
                f"parameters of type {t.sql_name(kind)} are not supported in binary format",
                "send it as text",
            )
        return _checked_binary(kind, decode)
    if kind is t.INT8:
        return _text_int8
    if kind in t.TEXTS:
        return utf8
    if kind is t.TIMESTAMPTZ:
        return _checked_text(
            kind, lambda s: datetimes.write_timestamp(datetimes.read_timestamptz(s, zone))
        )
    return _checked_text(kind, _TEXT.get(kind, _same))


def _checked_text(kind: PgType, read: Callable[[str], Value]) -> Decoder:
    name = t.sql_name(kind)

    def decode(data: bytes) -> Value:
        text = utf8(data)
        try:
            return read(text)
        except OverflowError:
            raise out_of_range(text, name) from None
        except (ValueError, InvalidOperation):
            state = "22007" if kind in t.TIMES else "22P02"
            shown = text if len(text) <= 60 else text[:60] + "…"
            raise PgError(state, f'invalid input syntax for type {name}: "{shown}"') from None

    return decode


def _checked_binary(kind: PgType, read: Decoder) -> Decoder:
    name = t.sql_name(kind)

    def decode(data: bytes) -> Value:
        try:
            return read(data)
        except OverflowError:
            raise out_of_range("the value", name) from None
        except (struct.error, ValueError, IndexError):
            raise PgError("22P03", f"incorrect binary data format for type {name}") from None

    return decode


def _text_int8(data: bytes) -> Value:
    """The type that is read most, without going through text."""
    try:
        value = int(data)
    except ValueError:
        return _slow_int8(data)
    if -(2**63) <= value < 2**63 and b"_" not in data:
        return value
    return _slow_int8(data)


def out_of_range(shown: str, name: str) -> PgError:
    return PgError(
        "22003",
        f"{shown} is out of range for type {name} here",
        hint="SQLite holds integers of 64 bits and floats of 53: keep exact decimals as TEXT",
    )


def utf8(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PgError(
            "22021",
            f'invalid byte sequence for encoding "UTF8": 0x{data[error.start]:02x}',
        ) from None
    if "\0" in text:
        raise PgError("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


# --- text --------------------------------------------------------------------------------


def _same(text: str) -> Value:
    return text


def _integer(low: int, high: int) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        value = int(text)
        if "_" in text:
            raise ValueError(text)
        if not low <= value <= high:
            raise OverflowError
        return value

    return read


def read_float(text: str) -> Value:
    if "_" in text:
        raise ValueError(text)
    return _finite(float(text))


def _finite(value: float) -> float:
    if math.isnan(value):
        raise OverflowError  # SQLite would store NULL
    return value


def read_numeric(text: str) -> Value:
    if "_" in text:
        raise ValueError(text)
    return numerics.to_sqlite(Decimal(text.strip()))


_TRUE = {"t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"}
_FALSE = {"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"}


def read_bool(text: str) -> Value:
    word = text.strip().lower()
    if word in _TRUE:
        return 1
    if word in _FALSE:
        return 0
    raise ValueError(text)


def read_bytea(text: str) -> Value:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    out = bytearray()
    i = 0
    while i < len(text):
        if text[i] != "\\":
            out += text[i].encode()
            i += 1
        elif text[i + 1 : i + 2] == "\\":
            out.append(0x5C)
            i += 2
        else:
            octal = text[i + 1 : i + 4]
            if len(octal) != 3:
                raise ValueError(text)
            out.append(int(octal, 8))
            i += 4
    return bytes(out)


def read_json(text: str) -> Value:
    json.loads(text)
    return text


def read_uuid(text: str) -> Value:
    try:
        return encode.uuid_text(encode._uuid(text.strip()))
    except encode.Misfit:
        raise ValueError(text) from None


_INT64 = _integer(-(2**63), 2**63 - 1)
_UINT32 = _integer(0, 2**32 - 1)

_TEXT: dict[PgType, Callable[[str], Value]] = {
    t.INT2: _integer(-(2**15), 2**15 - 1),
    t.INT4: _integer(-(2**31), 2**31 - 1),
    t.OID: _UINT32,
    t.XID: _UINT32,
    t.FLOAT4: read_float,
    t.FLOAT8: read_float,
    t.NUMERIC: read_numeric,
    t.BOOL: read_bool,
    t.BYTEA: read_bytea,
    t.JSON: read_json,
    t.JSONB: read_json,
    t.UUID: read_uuid,
    t.DATE: lambda s: datetimes.read_date(s).isoformat(),
    t.TIME: lambda s: datetimes.write_time(datetimes.read_time(s)),
    t.TIMESTAMP: lambda s: datetimes.write_timestamp(datetimes.read_timestamp(s)),
}


_slow_int8 = _checked_text(t.INT8, _INT64)


# --- binary ------------------------------------------------------------------------------


def _unpacked(format: str) -> Decoder:
    shape = struct.Struct(format)

    def read(data: bytes) -> Value:
        (value,) = shape.unpack(data)
        return _finite(value) if isinstance(value, float) else value

    return read


def _binary_bool(data: bytes) -> Value:
    if data not in (b"\0", b"\1"):
        raise ValueError
    return data[0]


def _binary_uuid(data: bytes) -> Value:
    if len(data) != 16:
        raise ValueError
    return encode.uuid_text(data)


def _binary_jsonb(data: bytes) -> Value:
    if data[:1] != b"\1":
        raise ValueError
    return read_json(utf8(data[1:]))


def _binary_date(data: bytes) -> Value:
    (days,) = struct.unpack("!i", data)
    try:
        return datetimes.days_to_date(days).isoformat()
    except ValueError:
        raise OverflowError from None


def _binary_timestamp(data: bytes) -> Value:
    (microseconds,) = struct.unpack("!q", data)
    return datetimes.write_timestamp(datetimes.microseconds_to_stamp(microseconds))


def _binary_time(data: bytes) -> Value:
    (microseconds,) = struct.unpack("!q", data)
    return datetimes.write_time(datetimes.microseconds_to_time(microseconds))


_BINARY: dict[PgType, Decoder] = {
    t.INT2: _unpacked("!h"),
    t.INT4: _unpacked("!i"),
    t.INT8: _unpacked("!q"),
    t.OID: _unpacked("!I"),
    t.XID: _unpacked("!I"),
    t.REGCLASS: _unpacked("!I"),
    t.REGTYPE: _unpacked("!I"),
    t.FLOAT4: _unpacked("!f"),
    t.FLOAT8: _unpacked("!d"),
    t.NUMERIC: lambda data: numerics.to_sqlite(numerics.decode(data)),
    t.BOOL: _binary_bool,
    t.BYTEA: bytes,
    t.JSON: lambda data: read_json(utf8(data)),
    t.JSONB: _binary_jsonb,
    t.UUID: _binary_uuid,
    t.DATE: _binary_date,
    t.TIME: _binary_time,
    t.TIMESTAMP: _binary_timestamp,
    t.TIMESTAMPTZ: _binary_timestamp,
} | dict.fromkeys((t.TEXT, t.VARCHAR, t.BPCHAR, t.NAME, t.UNKNOWN, t.CHAR, t.XML), utf8)


# --- arrays: bound as a JSON array, which json_each() reads ------------------------------------


def _array_decoder(kind: PgType, binary: bool, zone: tzinfo) -> Decoder:
    element = kind.element
    assert element is not None
    if element is t.BYTEA:
        raise unsupported("arrays of bytea are not supported", "pass the values one by one")
    decode = decoder(element, binary, zone)

    def as_text(data: bytes) -> Value:
        try:
            texts = parse_array(utf8(data))
        except (ValueError, IndexError) as error:
            raise PgError("22P02", f"malformed array literal: {error}") from None
        return _json_array([None if e is None else decode(e.encode()) for e in texts])

    def as_binary(data: bytes) -> Value:
        try:
            return _json_array(_binary_elements(data, decode))
        except struct.error:
            raise PgError("22P03", "incorrect binary data format for an array") from None

    return as_binary if binary else as_text


def _binary_elements(data: bytes, decode: Decoder) -> list[Value]:
    dimensions, _has_null, _oid = struct.unpack_from("!iiI", data)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise unsupported("arrays of more than one dimension are not supported")
    count, _lower = struct.unpack_from("!ii", data, 12)
    position = 20
    out: list[Value] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", data, position)
        position += 4
        if length < 0:
            out.append(None)
            continue
        if position + length > len(data):
            raise struct.error
        out.append(decode(data[position : position + length]))
        position += length
    return out


def _json_array(values: list[Value]) -> str:
    return json.dumps(values, allow_nan=False, separators=(",", ":"))
