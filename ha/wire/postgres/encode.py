"""SQLite values as PostgreSQL's text and binary results.

A value that the reported type cannot hold is an error (22P02) that names column and value and
says how to read it. The table of what fits stands in docs/spec.md, "PostgreSQL types".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from ha.core.values import RawText, Value
from ha.wire.postgres import datetimes, numerics
from ha.wire.postgres import oids as t
from ha.wire.postgres.arrays import parse_array, write_array
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.oids import PgType

Encoder: TypeAlias = Callable[[Value], bytes]
"""Takes a value that is not None; raises Misfit."""


class Misfit(Exception):
    """The value is not one of the reported type."""


def misfit_error(column: str, kind: PgType, value: Value) -> PgError:
    shown = _shown(value)
    return PgError(
        "22P02",
        f'column "{column}" is reported as {t.sql_name(kind)} but holds {shown}',
        hint="SQLite lets a column hold any value: cast it, as in "
        f"CAST({column} AS {'BLOB' if isinstance(value, bytes) else 'TEXT'}), "
        "or SET ha.result_types = text",
        column=column,
    )


def _shown(value: Value) -> str:
    if isinstance(value, bytes | RawText):
        data = value if isinstance(value, bytes) else value.data
        body = data[:16].hex() + ("…" if len(data) > 16 else "")
        return f"the BLOB x'{body}'" if isinstance(value, bytes) else f"broken text x'{body}'"
    if isinstance(value, str):
        short = value if len(value) <= 40 else value[:40] + "…"
        return f"the text {short!r}"
    name = "integer" if isinstance(value, int) else "real"
    return f"the {name} {value!r}"


def encoder(kind: PgType, binary: bool, zone: tzinfo = UTC) -> Encoder:
    if kind.element is not None:
        return _array_encoder(kind, binary, zone)
    if kind is t.TIMESTAMPTZ and not binary:
        return lambda v: datetimes.write_timestamptz(_timestamptz(v), zone).encode()
    table = _BINARY if binary else _TEXT
    return table.get(kind) or (_text if kind not in t.INTEGERS else table[t.INT8])


# --- what a stored value means as a type ------------------------------------------------


def _integer(v: Value) -> int:
    if type(v) is int:
        return v
    if type(v) is float and v.is_integer() and abs(v) < 2**63:
        return int(v)
    raise Misfit


def _float(v: Value) -> float:
    if type(v) is float:
        return v
    if type(v) is int:
        return float(v)
    raise Misfit


def _decimal(v: Value) -> Decimal:
    if type(v) is int:
        return Decimal(v)
    if type(v) is float:
        return numerics.of_float(v)
    if type(v) is str:
        try:
            value = Decimal(v.strip())
        except InvalidOperation:
            raise Misfit from None
        if value.is_finite():
            return value
    raise Misfit


def _bool(v: Value) -> bool:
    if v == 0 and type(v) is int:
        return False
    if v == 1 and type(v) is int:
        return True
    raise Misfit


def _blob(v: Value) -> bytes:
    if type(v) is bytes:
        return v
    if type(v) is str:
        return v.encode("utf-8", "surrogatepass")
    raise Misfit


def _string(v: Value) -> str:
    if type(v) is str:
        if "\0" in v:
            raise Misfit
        return v
    if type(v) is int:
        return str(v)
    if type(v) is float:
        return float_text(v)
    raise Misfit


def _json(v: Value) -> str:
    if type(v) is str:
        try:
            json.loads(v)
        except ValueError:
            raise Misfit from None
        return v
    if type(v) is int:
        return str(v)
    if type(v) is float and math.isfinite(v):
        return repr(v)
    raise Misfit


def _uuid(v: Value) -> bytes:
    if type(v) is bytes and len(v) == 16:
        return v
    if type(v) is str:
        flat = v.strip("{}").replace("-", "")
        try:
            data = bytes.fromhex(flat)
        except ValueError:
            raise Misfit from None
        if len(data) == 16 and len(flat) == 32:
            return data
    raise Misfit


def _date(v: Value) -> date:
    try:
        if type(v) is str:
            return datetimes.read_date(v)
    except ValueError:
        pass
    raise Misfit


def _time(v: Value) -> time:
    try:
        if type(v) is str:
            return datetimes.read_time(v)
    except ValueError:
        pass
    raise Misfit


def _timestamp(v: Value) -> datetime:
    try:
        if type(v) is str:
            return datetimes.read_timestamp(v)
    except ValueError:
        pass
    raise Misfit


def _timestamptz(v: Value) -> datetime:
    try:
        if type(v) is str:
            return datetimes.read_timestamptz(v)
    except (ValueError, OverflowError):
        pass
    raise Misfit


# --- text ------------------------------------------------------------------------------


def float_text(v: float) -> str:
    """As PostgreSQL writes float8: the shortest digits, ``1`` for 1.0, ``Infinity``, ``NaN``."""
    if math.isfinite(v):
        text = repr(v)
        return text[:-2] if text.endswith(".0") else text
    return "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"


def _text(v: Value) -> bytes:
    try:
        return _string(v).encode()
    except UnicodeEncodeError:
        raise Misfit from None


def uuid_text(data: bytes) -> str:
    h = data.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


_TEXT: dict[PgType, Encoder] = {
    t.INT8: lambda v: b"%d" % _integer(v),
    t.FLOAT8: lambda v: float_text(_float(v)).encode(),
    t.FLOAT4: lambda v: float_text(_float(v)).encode(),
    t.NUMERIC: lambda v: numerics.text(_decimal(v)).encode(),
    t.BOOL: lambda v: b"t" if _bool(v) else b"f",
    t.BYTEA: lambda v: b"\\x" + _blob(v).hex().encode(),
    t.JSON: lambda v: _json(v).encode(),
    t.JSONB: lambda v: _json(v).encode(),
    t.UUID: lambda v: uuid_text(_uuid(v)).encode(),
    t.DATE: lambda v: _date(v).isoformat().encode(),
    t.TIME: lambda v: datetimes.write_time(_time(v)).encode(),
    t.TIMESTAMP: lambda v: datetimes.write_timestamp(_timestamp(v)).encode(),
    t.VOID: lambda _v: b"",
}


# --- binary ----------------------------------------------------------------------------


def _packed(format: str, read: Callable[[Value], object]) -> Encoder:
    pack = struct.Struct(format).pack

    def encode(v: Value) -> bytes:
        try:
            return pack(read(v))
        except (struct.error, OverflowError):
            raise Misfit from None

    return encode


_int32 = _packed("!i", _integer)
_uint32 = _packed("!I", _integer)

_BINARY: dict[PgType, Encoder] = {
    t.INT8: _packed("!q", _integer),
    t.INT4: _int32,
    t.INT2: _packed("!h", _integer),
    t.OID: _uint32,
    t.XID: _uint32,
    t.REGCLASS: _uint32,
    t.REGTYPE: _uint32,
    t.REGPROC: _uint32,
    t.REGNAMESPACE: _uint32,
    t.FLOAT8: _packed("!d", _float),
    t.FLOAT4: _packed("!f", _float),
    t.NUMERIC: lambda v: numerics.encode(_decimal(v)),
    t.BOOL: lambda v: b"\1" if _bool(v) else b"\0",
    t.BYTEA: _blob,
    t.JSON: lambda v: _json(v).encode(),
    t.JSONB: lambda v: b"\1" + _json(v).encode(),
    t.UUID: _uuid,
    t.DATE: _packed("!i", lambda v: datetimes.date_to_days(_date(v))),
    t.TIME: _packed("!q", lambda v: datetimes.time_to_microseconds(_time(v))),
    t.TIMESTAMP: _packed("!q", lambda v: datetimes.stamp_to_microseconds(_timestamp(v))),
    t.TIMESTAMPTZ: _packed("!q", lambda v: datetimes.stamp_to_microseconds(_timestamptz(v))),
    t.VOID: lambda _v: b"",
}


# --- arrays: their stored form is PostgreSQL's array literal ---------------------------------


def _array_encoder(kind: PgType, binary: bool, zone: tzinfo) -> Encoder:
    element = kind.element
    assert element is not None
    encode = encoder(element, binary, zone)
    vector = not kind.name.startswith("_")

    def elements(v: Value) -> list[Value]:
        if type(v) is not str:
            raise Misfit
        try:
            texts = v.split() if vector else parse_array(v)
        except (ValueError, IndexError):
            raise Misfit from None
        return [_element(e, element) for e in texts]

    def as_text(v: Value) -> bytes:
        parts = [None if e is None else encode(e).decode() for e in elements(v)]
        if vector:
            return " ".join(p or "" for p in parts).encode()
        return write_array(parts).encode()

    def as_binary(v: Value) -> bytes:
        values = elements(v)
        lower = 0 if vector else 1
        parts = [struct.pack("!iiI", 1 if values else 0, int(None in values), element.oid)]
        if values:
            parts.append(struct.pack("!ii", len(values), lower))
        for e in values:
            data = None if e is None else encode(e)
            parts.append(b"\xff\xff\xff\xff" if data is None else struct.pack("!i", len(data)))
            parts.append(data or b"")
        return b"".join(parts)

    return as_binary if binary else as_text


def _element(text: str | None, kind: PgType) -> Value:
    if text is None:
        return None
    try:
        if kind in t.INTEGERS:
            return int(text)
        if kind in t.FLOATS:
            return float(text)
        if kind is t.BOOL:
            return int(text.lower() in ("t", "true", "1"))
        if kind is t.BYTEA:
            return bytes.fromhex(text.removeprefix("\\x"))
    except ValueError:
        raise Misfit from None
    return text
