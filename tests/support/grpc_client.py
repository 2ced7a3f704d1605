"""The service as grpcio sees it: an independent client, with messages of Google's protobuf."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2, timestamp_pb2, wrappers_pb2

ROOT = Path(__file__).parents[2]


def _load() -> tuple[ModuleType, ModuleType]:
    import sys

    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return grpc.protos_and_services("ha/wire/grpc/sql.proto")  # type: ignore[return-value]


messages, services = _load()
Request = messages.QueryRequest
Response = messages.QueryResponse


def pack(value: object) -> any_pb2.Any:
    """As a Go or Java client packs it; messages as they are."""
    out = any_pb2.Any()
    match value:
        case None:
            out.Pack(empty_pb2.Empty())
        case bool():
            out.Pack(wrappers_pb2.BoolValue(value=value))
        case int():
            out.Pack(wrappers_pb2.Int64Value(value=value))
        case float():
            out.Pack(wrappers_pb2.DoubleValue(value=value))
        case str():
            out.Pack(wrappers_pb2.StringValue(value=value))
        case bytes():
            out.Pack(wrappers_pb2.BytesValue(value=value))
        case _:
            out.Pack(value)
    return out


_TYPES = {
    "Empty": empty_pb2.Empty,
    "Int64Value": wrappers_pb2.Int64Value,
    "UInt64Value": wrappers_pb2.UInt64Value,
    "DoubleValue": wrappers_pb2.DoubleValue,
    "StringValue": wrappers_pb2.StringValue,
    "BytesValue": wrappers_pb2.BytesValue,
    "Timestamp": timestamp_pb2.Timestamp,
}


def unpack(packed: any_pb2.Any) -> Any:
    kind = _TYPES[packed.type_url.removeprefix("type.googleapis.com/google.protobuf.")]
    message = kind()
    assert packed.Unpack(message)
    if kind is empty_pb2.Empty:
        return None
    return message if kind is timestamp_pb2.Timestamp else message.value


def rows(response: Any) -> list[tuple[Any, ...]]:
    assert not response.error, response.error
    return [tuple(unpack(v) for v in row.values) for row in response.result_set.rows]


def request(sql: str, *params: object, **fields: Any) -> Any:
    """Positional parameters, as the Go client numbers them."""
    named = [messages.NamedValue(ordinal=n, value=pack(v)) for n, v in enumerate(params, 1)]
    return Request(sql=sql, params=named, **fields)


def named(sql: str, **params: object) -> Any:
    return Request(
        sql=sql, params=[messages.NamedValue(name=n, value=pack(v)) for n, v in params.items()]
    )


class Stream:
    """A Query stream that is driven step by step."""

    def __init__(self, stub: Any, **options: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = stub.Query(iter(self._requests.get, None), **options)

    def send(self, *requests: Any) -> None:
        for one in requests:
            self._requests.put(one)

    def receive(self) -> Any:
        return next(self.call)

    def ask(self, sql: Any, *params: object, **fields: Any) -> Any:
        """One request, its one response."""
        self.send(request(sql, *params, **fields) if isinstance(sql, str) else sql)
        return self.receive()

    def rows(self, sql: Any, *params: object, **fields: Any) -> list[tuple[Any, ...]]:
        return rows(self.ask(sql, *params, **fields))

    def half_close(self) -> None:
        self._requests.put(None)

    def rest(self) -> Iterator[Any]:
        return self.call

    def close(self) -> None:
        self.half_close()
        assert list(self.call) == []


def channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A connection of its own, not one of the process's shared ones."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", 4 * 2**20),
    ]
    if credentials is not None:
        return grpc.secure_channel(target, credentials, options)
    return grpc.insecure_channel(target, options)
