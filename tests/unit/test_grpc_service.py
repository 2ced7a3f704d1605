"""Everything beside the Query stream: lists, copies, health, reflection, tokens, TLS, the web."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from ha.wire.http.server import Tls
from tests.support.grpc_client import Request, Stream, channel, messages, request, rows, services
from tests.support.grpc_server import Served, serving

PROTO = "application/proto"


@pytest.fixture(scope="module")
def two() -> Iterator[Served]:
    with serving("one.db", "two.db") as node:
        yield node


@pytest.fixture
def stub(two: Served) -> Iterator[object]:
    with channel(two.target) as connection:
        yield services.DatabaseServiceStub(connection)


# --- databases -----------------------------------------------------------------------


def test_the_databases_of_a_node(stub: object) -> None:
    ids = stub.ReplicationIDs(messages.ReplicationIDsRequest(), timeout=10)  # type: ignore[attr-defined]
    assert list(ids.replication_id) == ["one.db", "two.db"]
    names = stub.DataSourceNames(messages.DataSourceNamesRequest(), timeout=10)  # type: ignore[attr-defined]
    assert [Path(dsn).name for dsn in names.dsn] == ["one.db", "two.db"]


def test_with_several_databases_one_must_be_named(stub: object) -> None:
    stream = Stream(stub, timeout=30)
    error = stream.ask("SELECT 1").error
    assert "one.db" in error
    assert "two.db" in error
    assert stream.rows("SHOW DATABASES") == [("one.db",), ("two.db",)]
    assert not stream.ask(Request(type=messages.QUERY_TYPE_PING)).error
    stream.ask("CREATE TABLE IF NOT EXISTS two(x)", replication_id="two.db")
    assert stream.rows("SELECT * FROM two", replication_id="two") == []
    assert stream.rows("SELECT * FROM two") == []
    assert "two" in stream.ask("SELECT * FROM two", replication_id="one.db").error
    assert "three" in stream.ask("SELECT 1", replication_id="three").error
    assert not stream.ask("SET DATABASE TO two.db").error
    assert stream.rows("SELECT * FROM two") == []
    assert not stream.ask("UNSET DATABASE").error
    assert "one.db" in stream.ask("SELECT 1").error
    stream.close()


def test_the_database_stays_while_a_transaction_is_open(stub: object) -> None:
    stream = Stream(stub, timeout=30)
    stream.ask("BEGIN", replication_id="one.db")
    assert stream.ask("SELECT 1", replication_id="two.db").error_detail.code == "in_transaction"
    assert stream.rows("SELECT 1", replication_id="one.db") == [(1,)]
    stream.ask("ROLLBACK")
    assert stream.rows("SELECT 1", replication_id="two.db") == [(1,)]
    stream.close()


def test_download_gives_the_database(stub: object, tmp_path: Path) -> None:
    stream = Stream(stub, timeout=30)
    stream.ask("CREATE TABLE IF NOT EXISTS big(x)", replication_id="one.db")
    stream.ask("INSERT INTO big VALUES (zeroblob(500000))")
    stream.close()
    pieces = [
        piece.data
        for piece in stub.Download(messages.DownloadRequest(replication_id="one"), timeout=30)  # type: ignore[attr-defined]
    ]
    assert max(map(len, pieces)) == 64 * 1024
    file = tmp_path / "copy.db"
    file.write_bytes(b"".join(pieces))
    copy = sqlite3.connect(file)
    assert copy.execute("SELECT length(x) FROM big").fetchall() == [(500_000,)]
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    copy.close()


def test_a_download_may_be_left_early(stub: object) -> None:
    call = stub.Download(messages.DownloadRequest(replication_id="one"), timeout=30)  # type: ignore[attr-defined]
    assert next(call).data.startswith(b"SQLite format 3\0")
    call.cancel()


@pytest.mark.parametrize(
    ("name", "status"),
    [("", grpc.StatusCode.INVALID_ARGUMENT), ("nowhere", grpc.StatusCode.NOT_FOUND)],
)
@pytest.mark.parametrize("method", ["Download", "LatestSnapshot"])
def test_a_download_of_what_is_not_there(
    stub: object, method: str, name: str, status: grpc.StatusCode
) -> None:
    ask = getattr(messages, f"{method}Request")(replication_id=name)
    with pytest.raises(grpc.RpcError, match=r"one\.db") as info:
        list(getattr(stub, method)(ask, timeout=10))
    assert info.value.code() is status


def test_the_latest_snapshot(two: Served, stub: object) -> None:
    ask = messages.LatestSnapshotRequest(replication_id="two.db")
    two.call(two.databases.broker.stream._snapshots.clear)  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError) as info:
        list(stub.LatestSnapshot(ask, timeout=10))  # type: ignore[attr-defined]
    assert info.value.code() is grpc.StatusCode.NOT_FOUND
    content = bytes(range(256)) * 1024

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    two.call(lambda: two.databases.broker.put_snapshot("two.db", chunks(), {"seq": "1"}))
    pieces = [p.data for p in stub.LatestSnapshot(ask, timeout=10)]  # type: ignore[attr-defined]
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) == 64 * 1024


# --- health and reflection -----------------------------------------------------------


def test_health_is_open_and_names_the_service() -> None:
    with serving(token="secret") as node, channel(node.target) as connection:
        health = health_pb2_grpc.HealthStub(connection)
        for service in ("", "sql.v1.DatabaseService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as info:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
        assert info.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        node.call(node.shutdown.set)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_reflection_describes_the_service(two: Served) -> None:
    with channel(two.target) as connection:
        database = ProtoReflectionDescriptorDatabase(connection)
        assert "sql.v1.DatabaseService" in database.get_services()
        service = DescriptorPool(database).FindServiceByName("sql.v1.DatabaseService")
        assert [m.name for m in service.methods] == [
            "Query",
            "DataSourceNames",
            "ReplicationIDs",
            "Download",
            "LatestSnapshot",
        ]


# --- who may ask ---------------------------------------------------------------------


@pytest.mark.parametrize("value", ["secret", "Bearer secret", "bearer secret"])
def test_a_token_is_taken_bare_or_as_bearer(value: str) -> None:
    with serving(token="secret") as node, channel(node.target) as connection:
        stub = services.DatabaseServiceStub(connection)
        stream = Stream(stub, timeout=30, metadata=[("authorization", value)])
        assert stream.rows("SELECT 1") == [(1,)]
        stream.close()


def test_without_the_token_nothing_is_answered() -> None:
    with serving(token="secret") as node:
        with channel(node.target) as connection:
            stub = services.DatabaseServiceStub(connection)
            for metadata in ([], [("authorization", "Bearer wrong")]):
                stream = Stream(stub, timeout=30, metadata=metadata)
                stream.send(request("SELECT 1"))
                with pytest.raises(grpc.RpcError, match="token") as info:
                    stream.receive()
                assert info.value.code() is grpc.StatusCode.UNAUTHENTICATED
                with pytest.raises(grpc.RpcError) as info:
                    stub.ReplicationIDs(messages.ReplicationIDsRequest(), metadata=metadata)
                assert info.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = httpx.post(f"http://{node.target}/sql.v1.DatabaseService/ReplicationIDs", json={})
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthenticated"


# --- TLS -----------------------------------------------------------------------------


def test_tls_and_certificates_of_clients(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, key, root = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    server.cert_chain_pems[0].write_to_path(certificate)
    server.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    with serving(tls=Tls(certificate, key, root)) as node:
        known = grpc.ssl_channel_credentials(
            root.read_bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
        )
        with channel(f"localhost:{node.port}", known) as connection:
            stream = Stream(services.DatabaseServiceStub(connection), timeout=30)
            assert stream.rows("SELECT 1") == [(1,)]
            stream.close()
        unknown = grpc.ssl_channel_credentials(root.read_bytes())
        with channel(f"localhost:{node.port}", unknown) as connection:
            stream = Stream(services.DatabaseServiceStub(connection), timeout=10)
            stream.send(request("SELECT 1"))
            with pytest.raises(grpc.RpcError) as info:
                stream.receive()
            assert info.value.code() is grpc.StatusCode.UNAVAILABLE


# --- Connect and gRPC-Web ------------------------------------------------------------


def envelope(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def envelopes(data: bytes) -> list[tuple[int, bytes]]:
    out = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        out.append((data[0], data[5 : 5 + size]))
        data = data[5 + size :]
    return out


def post(node: Served, method: str, content: bytes, content_type: str) -> httpx.Response:
    """By HTTP/1.1, as a browser or curl does."""
    answer = httpx.post(
        f"http://{node.target}/sql.v1.DatabaseService/{method}",
        content=content,
        headers={"content-type": content_type, "connect-protocol-version": "1"},
    )
    assert answer.status_code == 200, answer.text
    return answer


def test_connect_with_json_and_with_protobuf(two: Served) -> None:
    answer = post(two, "ReplicationIDs", b"{}", "application/json")
    assert answer.json() == {"replicationId": ["one.db", "two.db"]}
    answer = post(two, "ReplicationIDs", b"", PROTO)
    ids = messages.ReplicationIDsResponse.FromString(answer.content)
    assert list(ids.replication_id) == ["one.db", "two.db"]


def test_connect_streams_a_session_over_http_1(two: Served) -> None:
    asked = [
        request("SELECT 7, 'x'", replication_id="one.db"),
        request("nonsense"),
    ]
    body = b"".join(envelope(one.SerializeToString()) for one in asked)
    answer = post(two, "Query", body, "application/connect+proto")
    *data, (flags, end) = envelopes(answer.content)
    first, second = (messages.QueryResponse.FromString(d) for _, d in data)
    assert rows(first) == [(7, "x")]
    assert "syntax error" in second.error
    assert flags == 2
    assert "error" not in json.loads(end)


def test_connect_streams_in_json(two: Served) -> None:
    wrapper = "type.googleapis.com/google.protobuf.Int64Value"
    asked = {
        "sql": "SELECT ? + 1",
        "replicationId": "one.db",
        "params": [{"ordinal": "1", "value": {"@type": wrapper, "value": "41"}}],
    }
    answer = post(two, "Query", envelope(json.dumps(asked).encode()), "application/connect+json")
    (_, first), _end = envelopes(answer.content)
    (row,) = json.loads(first)["resultSet"]["rows"]
    assert row["values"] == [{"@type": wrapper, "value": "42"}]


def test_grpc_web_over_http_1(two: Served) -> None:
    body = envelope(request("SELECT 7", replication_id="one.db").SerializeToString())
    answer = post(two, "Query", body, "application/grpc-web+proto")
    (_, first), (flags, trailers) = envelopes(answer.content)
    assert rows(messages.QueryResponse.FromString(first)) == [(7,)]
    assert flags == 0x80
    assert b"grpc-status: 0" in trailers


def test_grpc_over_http_1_is_told_what_it_needs(two: Served) -> None:
    url = f"http://{two.target}/sql.v1.DatabaseService/Query"
    answer = httpx.post(url, content=b"", headers={"content-type": "application/grpc"})
    assert answer.status_code == 505
    assert "HTTP/2" in answer.text


def test_a_method_that_is_not_there(two: Served) -> None:
    with channel(two.target) as connection:
        call = connection.unary_unary("/sql.v1.DatabaseService/Nothing")
        with pytest.raises(grpc.RpcError) as info:
            call(b"", timeout=10)
        assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_http_answers_on_the_same_port(two: Served) -> None:
    answer = httpx.post(f"http://{two.target}/query", json={"sql": "SELECT 1 AS one"})
    assert answer.json() == {"columns": ["one"], "rows": [[1]]}
    assert httpx.get(f"http://{two.target}/sql.v1.DatabaseService/Query").status_code == 405
    missing = httpx.post(f"http://{two.target}/sql.v1.DatabaseService/Nothing")
    assert missing.status_code == 404
