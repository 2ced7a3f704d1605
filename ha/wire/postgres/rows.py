"""DataRow messages, encoded by a function made for the types of one result.

A result of a million rows spends its time here, so the loop over the rows is generated: no
call per value for integers, floats and text, one join per row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any, TypeAlias

from ha.core.values import Value
from ha.wire.postgres import oids as t
from ha.wire.postgres.backend import Field
from ha.wire.postgres.encode import Encoder, Misfit, encoder, float_text, misfit_error
from ha.wire.postgres.oids import PgType

Row: TypeAlias = tuple[Value, ...]
BatchEncoder: TypeAlias = Callable[[Sequence[Row]], bytes]


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column as it is reported: fixed at Describe, before the statement runs."""

    name: str
    type: PgType
    table_oid: int = 0
    attribute: int = 0

    def field(self, format: int = 0) -> Field:
        return Field(
            self.name,
            self.type.oid,
            self.type.size,
            table_oid=self.table_oid,
            attribute=self.attribute,
            format=format,
        )


def batch_encoder(
    columns: Sequence[ResultColumn], formats: Sequence[int], zone: tzinfo = UTC
) -> BatchEncoder:
    """Encodes rows as DataRow messages. Raises PgError 22P02 for a value that does not fit."""
    types = tuple(c.type for c in columns)
    encoders, fast = _compiled(types, tuple(formats), zone)

    def encode(rows: Sequence[Row]) -> bytes:
        out: list[bytes] = []
        try:
            fast(rows, out.append)
        except (Misfit, ValueError, TypeError, OverflowError):
            raise _explain(columns, encoders, rows[len(out) // 2 :]) from None
        return b"".join(out)

    return encode


def _explain(
    columns: Sequence[ResultColumn], encoders: Sequence[Encoder], rows: Sequence[Row]
) -> Exception:
    for row in rows:
        for column, encode, value in zip(columns, encoders, row, strict=True):
            if value is None:
                continue
            try:
                encode(value)
            except (Misfit, ValueError, TypeError, OverflowError):
                return misfit_error(column.name, column.type, value)
    return AssertionError("a row that could not be encoded has no value that does not fit")


_LENGTHS = [struct.pack("!i", n) for n in range(1024)]
_HEADS = [b"D" + struct.pack("!i", n + 4) for n in range(4096)]


def _length(data: bytes) -> bytes:
    return struct.pack("!i", len(data))


def _head(data: bytes) -> bytes:
    return b"D" + struct.pack("!i", len(data) + 4)


_Fast: TypeAlias = Callable[[Sequence[Row], Callable[[bytes], None]], None]


@lru_cache(maxsize=1024)
def _compiled(
    types: tuple[PgType, ...], formats: tuple[int, ...], zone: tzinfo
) -> tuple[tuple[Encoder, ...], _Fast]:
    encoders = tuple(encoder(k, bool(f), zone) for k, f in zip(types, formats, strict=True))
    names: dict[str, Any] = {
        "LENGTHS": _LENGTHS,
        "HEADS": _HEADS,
        "length": _length,
        "head": _head,
        "float_text": float_text,
        "NULL": b"\xff\xff\xff\xff",
        "COUNT": struct.pack("!H", len(types)),
        "int8": struct.Struct("!iq").pack,
        "float8": struct.Struct("!id").pack,
        "join": b"".join,
    }
    lines = ["def encode(rows, append):", "  for row in rows:"]
    if types:
        lines.append(f"    {', '.join(f'v{i}' for i in range(len(types)))}, = row")
    for i, (kind, format) in enumerate(zip(types, formats, strict=True)):
        names[f"e{i}"] = encoders[i]
        lines.extend("    " + line for line in _column(i, kind, format))
    pieces = "".join(f", p{i}" for i in range(len(types)))
    lines += [
        f"    body = join((COUNT{pieces}))" if types else "    body = COUNT",
        "    append(HEADS[len(body)] if len(body) < 4096 else head(body))",
        "    append(body)",
    ]
    exec("\n".join(lines), names)
    fast: _Fast = names["encode"]
    return encoders, fast


def _column(i: int, kind: PgType, format: int) -> list[str]:
    """Lines that set ``p{i}``, the length and the bytes of value ``v{i}``."""
    v, p = f"v{i}", f"p{i}"
    counted = f"{p} = (LENGTHS[len(b)] if len(b) < 1024 else length(b)) + b"
    if format and kind is t.INT8:
        return [
            f"if type({v}) is int: {p} = int8(8, {v})",
            f"elif {v} is None: {p} = NULL",
            "else:",
            f"  b = e{i}({v}); {counted}",
        ]
    if format and kind is t.FLOAT8:
        return [
            f"if type({v}) is float: {p} = float8(8, {v})",
            f"elif {v} is None: {p} = NULL",
            "else:",
            f"  b = e{i}({v}); {counted}",
        ]
    quick = None
    if kind is t.INT8 or kind is t.INT4 or kind is t.OID:
        quick = f"if type({v}) is int: b = b'%d' % {v}" if not format else None
    elif kind is t.FLOAT8 and not format:
        quick = f"if type({v}) is float: b = float_text({v}).encode()"
    elif kind in t.TEXTS:
        quick = f"if type({v}) is str and '\\0' not in {v}: b = {v}.encode()"
    elif kind is t.BYTEA and format:
        quick = f"if type({v}) is bytes: b = {v}"
    if quick is None:
        return [f"if {v} is None: {p} = NULL", "else:", f"  b = e{i}({v}); {counted}"]
    return [
        f"if {v} is None: {p} = NULL",
        "else:",
        f"  {quick}",
        f"  else: b = e{i}({v})",
        f"  {counted}",
    ]
