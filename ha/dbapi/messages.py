"""Requests as bytes, and responses from bytes: see ha/wire/grpc/sql.proto."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from protobuf.wkt.google.protobuf.timestamp_pb import Timestamp
from protobuf.wkt.google.protobuf.wrappers_pb import (
    BytesValue,
    DoubleValue,
    Int64Value,
    StringValue,
    UInt64Value,
)

from ha.core.values import Value
from ha.dbapi.errors import DataError, InterfaceError
from ha.wire.grpc.sql_pb import Begin, QueryRequest, QueryResponse, QueryType
from ha.wire.grpc.values import delimited, pack, timestamp_text, varint

PAGE_BYTES = 1 << 20

_PARAMS = b"\x1a"  # field 3 of QueryRequest
_BATCH = varint(1001 << 3 | 2)
_SET_PARAMS = b"\x0a"  # field 1 of Params
_NAME, _ORDINAL, _VALUE = b"\x0a", b"\x10", b"\x1a"  # of NamedValue

Bound = Sequence[Value] | Mapping[str, Value]


def encode_statement(
    sql: str,
    params: Bound = (),
    *,
    batch: Sequence[Bound] = (),
    database: str = "",
    begin: Begin = Begin.NONE,
) -> bytes:
    """Raises DataError for text that is no Unicode (lone surrogates)."""
    try:
        head = QueryRequest(sql=sql, replication_id=database, page_bytes=PAGE_BYTES, begin=begin)
        parts = [head.to_binary()]
        parts += [delimited(_PARAMS, value) for value in _named_values(params)]
        for one in batch:
            values = b"".join(delimited(_SET_PARAMS, value) for value in _named_values(one))
            parts.append(delimited(_BATCH, values))
        return b"".join(parts)
    except UnicodeEncodeError as error:
        raise DataError(f"text that is not Unicode cannot be sent: {error}") from error


def _named_values(params: Bound) -> list[bytes]:
    if isinstance(params, Mapping):
        return [
            delimited(_NAME, name.encode()) + delimited(_VALUE, pack(value))
            for name, value in params.items()
        ]
    return [
        b"%b%b%b" % (_ORDINAL, varint(n), delimited(_VALUE, pack(value)))
        for n, value in enumerate(params, 1)
    ]


FETCH = QueryRequest(type=QueryType.FETCH, page_bytes=PAGE_BYTES).to_binary()
CANCEL = QueryRequest(type=QueryType.CANCEL, page_bytes=PAGE_BYTES).to_binary()
PING = QueryRequest(type=QueryType.PING, page_bytes=PAGE_BYTES).to_binary()

_WELL_KNOWN = "type.googleapis.com/google.protobuf."
_READERS: dict[str, Callable[[bytes], Value]] = {
    _WELL_KNOWN + "Empty": lambda data: None,
    _WELL_KNOWN + "Int64Value": lambda data: Int64Value.from_binary(data).value,
    _WELL_KNOWN + "UInt64Value": lambda data: UInt64Value.from_binary(data).value,
    _WELL_KNOWN + "DoubleValue": lambda data: DoubleValue.from_binary(data).value,
    _WELL_KNOWN + "StringValue": lambda data: StringValue.from_binary(data).value,
    _WELL_KNOWN + "BytesValue": lambda data: BytesValue.from_binary(data).value,
    _WELL_KNOWN + "Timestamp": lambda data: timestamp_text(Timestamp.from_binary(data)),
}


@dataclass(slots=True)
class Reply:
    """One response. ``columns``: names with their declared types, None: no result."""

    message: QueryResponse
    columns: list[tuple[str, str]] | None
    rows: list[tuple[Value, ...]]


def decode_reply(data: bytes) -> Reply:
    """Raises InterfaceError for what is no response."""
    try:
        message = QueryResponse.from_binary(data)
        result = message.result_set
        if result is None:
            return Reply(message, None, [])
        rows = [
            tuple([_READERS[value.type_url](value.value) for value in row.values])
            for row in result.rows
        ]
    except (ValueError, KeyError) as error:
        raise InterfaceError(f"the node's answer cannot be read: {error!r}") from error
    types = result.declared_types or [""] * len(result.columns)
    return Reply(message, list(zip(result.columns, types, strict=True)), rows)
