"""Responses of a session, as bytes: small fields by protobuf, rows by our own writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectrpc.codec import Codec, proto_binary_codec, proto_json_codec
from protobuf import Message

from ha.core.errors import HaError
from ha.engine.api import Column, Status
from ha.wire.grpc.sql_pb import ErrorDetail, QueryResponse, SessionState
from ha.wire.grpc.values import delimited, varint

_RESULT_SET = b"\x0a"  # field 1 of QueryResponse
_COLUMN = b"\x0a"  # field 1 of Data
ROW = b"\x12"  # field 2 of Data
_DECLARED_TYPE = b"\xc2\x3e"  # field 1000 of Data

_TRANSACTION = {
    Status.IDLE: SessionState.Transaction.NONE,
    Status.TRANSACTION: SessionState.Transaction.OPEN,
    Status.ABORTED: SessionState.Transaction.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A QueryResponse in its binary form."""

    data: bytes


class PassingCodec(Codec[Message | Encoded, Message]):
    """A codec that takes :class:`Encoded` too."""

    def __init__(self, inner: Codec[Message, Message]) -> None:
        self._inner = inner
        self._binary = inner.name() == "proto"

    def name(self) -> str:
        return self._inner.name()

    def encode(self, message: Message | Encoded) -> bytes:
        if not isinstance(message, Encoded):
            return self._inner.encode(message)
        if self._binary:
            return message.data
        return self._inner.encode(QueryResponse.from_binary(message.data))

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message:
        return self._inner.decode(data, message_class)


CODECS: tuple[PassingCodec, ...] = (
    PassingCodec(proto_binary_codec()),
    PassingCodec(proto_json_codec()),
)


def encode_header(columns: Sequence[Column], *, declared_types: bool) -> bytes:
    """The part of Data that comes before the rows."""
    # A name may hold what is no text: AS "…" takes any bytes.
    out = b"".join(delimited(_COLUMN, c.name.encode("utf-8", "replace")) for c in columns)
    if declared_types:
        out += b"".join(
            delimited(_DECLARED_TYPE, (c.decltype or "").encode("utf-8", "replace"))
            for c in columns
        )
    return out


def encode_result(fields: QueryResponse, header: bytes, rows: Sequence[bytes]) -> Encoded:
    """``fields``, and a result set: ``header``, and rows that carry their tag and length."""
    size = len(header) + sum(map(len, rows))
    data = b"".join((fields.to_binary(), _RESULT_SET, varint(size), header, *rows))
    return Encoded(data)


def encode_error(error: HaError) -> QueryResponse:
    """For people in ``error``, hint included, and for programs in ``error_detail``."""
    message = _text(error.message)
    hint = _text(error.hint or "")
    return QueryResponse(
        error=f"{message} ({hint})" if hint else message or error.code.value,
        error_detail=ErrorDetail(
            code=error.code.value,
            message=message,
            hint=hint,
            detail=_text(error.detail or ""),
            position=0 if error.offset is None else error.offset + 1,
            sequence=error.sequence or 0,
        ),
    )


def _text(text: str) -> str:
    """A message may quote a name with a lone surrogate, which protobuf's strings cannot hold."""
    return text.encode("utf-8", "replace").decode()


def session_state(status: Status, database_id: str) -> SessionState:
    return SessionState(transaction=_TRANSACTION[status], replication_id=database_id)
