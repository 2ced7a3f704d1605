"""The HTTP interface as clients see it, over a real connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trio

from ha.core.errors import Code, HaError
from ha.wire.http.app import Observation, create_app, query_target
from ha.wire.http.health import Readiness
from tests.support.fake_session import FakeSessions
from tests.support.http_server import client_of, serving


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions("ha.db", "other.db")


async def ask(client: httpx.AsyncClient, document: Any, path: str = "/", **options: Any) -> Any:
    response = await client.post(path, json=document, **options)
    assert response.status_code == 200, response.text
    return response.json()


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document) == {"error"}
    error = document["error"]
    assert error["message"]
    return dict(error)


# Paths


@pytest.mark.parametrize("path", ["/", "/query", "/databases/ha.db", "/databases/ha.db/query"])
async def test_where_queries_go(sessions: FakeSessions, path: str) -> None:
    async with client_of(create_app(sessions)) as client:
        assert (await ask(client, {"sql": "SELECT 1 AS a"}, path))["rows"] == [[1]]
        assert (await ask(client, {"sql": "SELECT 1"}, path + "?local=true"))["rows"] == [[1]]
    assert [s.database_id for s in sessions.opened] == ["ha.db", "ha.db"]
    assert {s.protocol for s in sessions.opened} == {"http"}
    assert all(s.closed for s in sessions.opened)


async def test_another_database(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        await ask(client, {"sql": "CREATE TABLE t(a)"}, "/databases/other.db")
        assert (await client.post("/", json={"sql": "SELECT * FROM t"})).status_code == 400
        assert (await ask(client, {"sql": "SELECT * FROM t"}, "/databases/other.db"))["rows"] == []
        missing = await client.post("/databases/none.db", json={"sql": "SELECT 1"})
        assert missing.status_code == 404
        assert error_of(missing)["code"] == "not_found"
        assert (await client.get("/databases")).json() == {"databases": ["ha.db", "other.db"]}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/", ("/", None)),
        ("/query", ("/query", None)),
        ("/query/", None),
        ("/databases", None),
        ("/databases/", None),
        ("/databases/a b.db", ("/databases/<id>", "a b.db")),
        ("/databases/query", ("/databases/<id>", "query")),
        ("/databases/a/query", ("/databases/<id>/query", "a")),
        ("/databases//query", None),
        ("/databases/a/snapshot", None),
        ("/databases/a/query/x", None),
    ],
)
def test_query_targets(path: str, target: tuple[str, str | None] | None) -> None:
    assert query_target(path) == target


async def test_unknown_paths_and_wrong_methods_answer_json(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        nothing = await client.get("/nothing/here")
        assert nothing.status_code == 404
        assert "/nothing/here" in error_of(nothing)["message"]
        for path in ("/", "/query", "/databases/ha.db", "/databases/ha.db/query"):
            wrong = await client.patch(path, content=b"x" * 100)
            assert wrong.status_code == 405
            assert "POST" in wrong.headers["allow"]
            assert "PATCH" in error_of(wrong)["message"]
        wrong = await client.post("/healthz")
        assert wrong.status_code == 405
        assert "GET" in wrong.headers["allow"]
        assert error_of(wrong)["code"] == "bad_request"


# Errors


async def test_errors_are_json_with_the_status_of_their_code(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        assert (await client.post("/", content=b"{")).status_code == 400
        await ask(client, {"sql": "CREATE TABLE t(a UNIQUE)"})
        await ask(client, {"sql": "INSERT INTO t VALUES (1)"})
        clash = await client.post("/", json={"sql": "INSERT INTO t VALUES (1)"})
        assert clash.status_code == 409
        assert error_of(clash)["code"] == "unique_violation"
        for code, status in ((Code.REFUSED, 403), (Code.BUSY, 503), (Code.OUTCOME_UNKNOWN, 503)):
            fail_with(sessions, HaError(code, "because", hint="do that", sequence=9))
            response = await client.post("/", json={"sql": "SELECT 1"})
            assert response.status_code == status
            assert error_of(response) == {
                "code": code.value, "message": "because", "hint": "do that", "sequence": 9,
            }  # fmt: skip
            assert ("retry-after" in response.headers) is (code is Code.BUSY)
    assert all(s.closed for s in sessions.opened)


def fail_with(sessions: FakeSessions, error: Exception) -> None:
    async def fail(sql: str) -> None:
        raise error

    sessions.on_statement = fail


async def test_a_failed_list_leaves_nothing(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        await ask(client, {"sql": "CREATE TABLE t(a UNIQUE)"})
        insert = {"sql": "INSERT INTO t VALUES (?)", "params": [1]}
        assert (await client.post("/", json=[insert, insert])).status_code == 409
        assert (await ask(client, {"sql": "SELECT count(*) FROM t"}))["rows"] == [[0]]


async def test_our_own_faults_tell_an_id_and_nothing_else(
    sessions: FakeSessions, caplog: pytest.LogCaptureFixture
) -> None:
    def health() -> Readiness:
        raise ZeroDivisionError("the secret is 42")

    fail_with(sessions, ZeroDivisionError("the secret is 42"))
    async with client_of(create_app(sessions, health=health)) as client:
        for method, path in (("POST", "/"), ("GET", "/readyz")):
            response = await client.request(method, path, json={"sql": "SELECT 1"})
            assert response.status_code == 500
            assert "secret" not in response.text
            error = error_of(response)
            assert error["code"] == "internal"
            (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
            assert vars(record)["incident"] in error["message"]
            assert record.exc_info is not None
            caplog.clear()


async def test_a_transaction_cannot_stay_open(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        response = await client.post("/", json={"sql": "BEGIN"})
        assert response.status_code == 400
        assert "list" in error_of(response)["hint"]
        assert not sessions.databases["ha.db"].in_transaction


# Values and options


async def test_values_over_the_wire(sessions: FakeSessions) -> None:
    params = [{"base64": "AP8="}, {"real": "-inf"}, 2**63 - 1, "a\u0000\U0001f600", None, 1.0]
    query = {"sql": "SELECT ?, ?, ?, ?, ?, ?", "params": params}
    async with client_of(create_app(sessions)) as client:
        [row] = (await ask(client, query))["rows"]
        assert row == params
        [row] = (await ask(client, query, "/?blob=base64&bigint=string"))["rows"]
        assert row[0] == "AP8="
        assert row[2] == str(2**63 - 1)
        for bad in ("local=maybe", "blob=hex", "bigint=float"):
            response = await client.post(f"/?{bad}", json=query)
            assert response.status_code == 400
            assert bad.partition("=")[0] in error_of(response)["message"]


async def test_an_empty_list_is_an_empty_transaction(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        assert await ask(client, []) == {"results": []}
        assert (await client.post("/databases/none.db", json=[])).status_code == 404


# Read your writes


async def test_txseq_goes_both_ways(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        response = await client.post("/", json={"sql": "CREATE TABLE t(a)"})
        assert "x-txseq" not in response.headers
        sessions.txseq = 41
        response = await client.post("/", json={"sql": "INSERT INTO t VALUES (1)"})
        assert response.headers["x-txseq"] == "41"
        assert response.cookies["_txseq"] == "41"
        # httpx keeps the cookie, as a browser does: the next request presents it.
        response = await client.post("/", json={"sql": "SELECT * FROM t"})
        assert response.status_code == 503
        assert error_of(response)["code"] == "stale"
        assert response.headers["retry-after"] == "1"
        sessions.shown = 41
        await ask(client, {"sql": "SELECT * FROM t"})
        await ask(client, {"sql": "SELECT * FROM t"}, headers={"X-Txseq": "40"})
    assert [s.waited_for for s in sessions.opened[-3:]] == [[41], [41], [41]]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9223372036854775808", ""])
@pytest.mark.parametrize("header", ["X-Txseq: {}", "Cookie: a=b; _txseq={}"])
async def test_a_txseq_that_is_none_is_refused(
    sessions: FakeSessions, header: str, value: str
) -> None:
    name, _, content = header.format(value).partition(": ")
    async with client_of(create_app(sessions)) as client:
        response = await client.post("/", json={"sql": "SELECT 1"}, headers={name: content})
        assert response.status_code == 400
        assert "txseq" in error_of(response)["message"].lower()


# The token


async def test_the_token_opens_everything_but_what_is_open(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions, token="s3cret Bearer")) as client:
        for path in ("/healthz", "/readyz", "/openapi.yaml", "/docs"):
            assert (await client.get(path)).status_code == 200
        for path in ("/databases", "/nothing"):
            assert (await client.get(path)).status_code == 401
        for header in (
            None,
            "",
            "s3cret",
            "Bearer",
            "Bearer s3cret",
            "Basic s3cret Bearer",
            "\xe9",
        ):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            response = await client.post("/", json={"sql": "SELECT 1"}, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert error_of(response)["code"] == "unauthorized"
        assert sessions.opened == []
        for good in ("s3cret Bearer", "Bearer s3cret Bearer", "bearer  s3cret Bearer"):
            await ask(client, {"sql": "SELECT 1"}, headers={"Authorization": good})


# Limits


async def test_bodies_over_the_limit(sessions: FakeSessions) -> None:
    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b" " * 1000

    async with client_of(create_app(sessions, max_body=10_000)) as client:
        exact = json.dumps({"sql": "SELECT 1"}).ljust(10_000).encode()
        assert (await client.post("/", content=exact)).status_code == 200
        for body in (exact + b" ", b" " * 3_000_000, chunks(11), chunks(3000)):
            response = await client.post("/", content=body)
            assert response.status_code == 413
            assert "10000" in error_of(response)["message"]
        response = await client.post("/databases", content=b" " * 20_000)
        assert response.status_code in (405, 413)


async def test_the_answer_to_a_long_body_comes_before_its_end(sessions: FakeSessions) -> None:
    async with serving(create_app(sessions, max_body=1000)) as address:
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        async with stream:
            await stream.send_all(
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n" + b" " * 2000
            )
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in answer.lower()
            # What is still under way does not reset the connection under the answer.
            for _ in range(20):
                await stream.send_all(b" " * 65536)


async def test_results_over_the_limit(sessions: FakeSessions) -> None:
    query = {
        "sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
        " SELECT * FROM n"
    }
    async with client_of(create_app(sessions, max_rows=3000)) as client:
        assert len((await ask(client, {**query, "params": [3000]}))["rows"]) == 3000
        response = await client.post("/", json={**query, "params": [3001]})
        assert response.status_code == 413
        assert error_of(response)["code"] == "too_large"


async def test_a_large_body_does_not_hold_up_others(sessions: FakeSessions) -> None:
    async with client_of(create_app(sessions)) as client:
        await ask(client, {"sql": "CREATE TABLE t(a)"})
        many = [{"sql": "INSERT INTO t VALUES (?)", "params": ["x" * 50]}] * 20_000
        results = (await ask(client, many))["results"]
        assert len(results) == 20_000
        assert (await ask(client, {"sql": "SELECT count(*) FROM t"}))["rows"] == [[20_000]]


# Clients that go away


class Gate:
    """Statements stop at it: ``reached`` when one has come, ``go`` lets all pass."""

    def __init__(self, sessions: FakeSessions) -> None:
        self.reached = trio.Event()
        self.go = trio.Event()
        self.left = trio.Event()
        sessions.on_statement = self

    async def __call__(self, sql: str) -> None:
        self.reached.set()
        try:
            await self.go.wait()
        finally:
            self.left.set()


REQUEST = b'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n{"sql":"SELECT 1"}'


async def test_a_client_that_goes_away_stops_its_statement(sessions: FakeSessions) -> None:
    seen: list[Observation] = []
    gate = Gate(sessions)
    async with serving(create_app(sessions, observe=seen.append)) as address:
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        await stream.send_all(REQUEST)
        await gate.reached.wait()
        await stream.aclose()
        with trio.fail_after(5):
            await gate.left.wait()
    (session,) = sessions.opened
    assert session.cancelled
    assert session.closed
    assert [o.status for o in seen] == [499]


async def test_a_client_that_goes_away_before_its_body_is_whole(sessions: FakeSessions) -> None:
    seen: list[Observation] = []
    async with serving(create_app(sessions, observe=seen.append)) as address:
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        await stream.send_all(REQUEST[:-1])
        await stream.aclose()
    assert sessions.opened == []
    assert [o.status for o in seen] == [499]


# The end


async def test_shutdown_finishes_what_is_in_flight(sessions: FakeSessions) -> None:
    gate = Gate(sessions)
    stop = trio.Event()
    answers: list[httpx.Response] = []
    async with serving(create_app(sessions), shutdown_trigger=stop.wait) as address:
        url = f"http://127.0.0.1:{address.port}"
        async with httpx.AsyncClient(base_url=url) as client, trio.open_nursery() as nursery:
            assert (await client.get("/healthz")).status_code == 200  # leaves an idle connection

            async def request() -> None:
                answers.append(await client.post("/", json={"sql": "SELECT 1"}))

            nursery.start_soon(request)
            await gate.reached.wait()
            idle = await trio.open_tcp_stream("127.0.0.1", address.port)
            stop.set()
            with trio.fail_after(5):
                assert await idle.receive_some() == b""  # closed at once
            with pytest.raises(OSError):
                await trio.open_tcp_stream("127.0.0.1", address.port)
            gate.go.set()
    assert [a.status_code for a in answers] == [200]
    assert all(s.closed for s in sessions.opened)


async def test_shutdown_is_bounded(sessions: FakeSessions) -> None:
    gate = Gate(sessions)
    with trio.fail_after(10):
        async with serving(create_app(sessions), grace=0.05) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            await stream.send_all(REQUEST)
            await gate.reached.wait()
    assert sessions.opened[0].closed
    assert await stream.receive_some() == b""


async def test_a_port_in_use_is_an_os_error(sessions: FakeSessions) -> None:
    async with serving(create_app(sessions)) as address:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with serving(create_app(sessions), port=address.port):
                pass
    assert caught.group_contains(OSError)


async def test_all_interfaces_share_one_port(sessions: FakeSessions) -> None:
    async with trio.open_nursery() as nursery:
        from functools import partial

        from ha.wire.http.server import serve

        addresses = await nursery.start(partial(serve, create_app(sessions), port=0))
        assert len({address.port for address in addresses}) == 1
        assert addresses[0].port > 0
        nursery.cancel_scope.cancel()


# Health, counting, the log


async def test_health(sessions: FakeSessions) -> None:
    state = Readiness(details={"databases": {"ha.db": {"sequence": 3}}})
    async with client_of(create_app(sessions, health=lambda: state)) as client:
        assert (await client.get("/healthz")).json() == {"status": "up"}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"ready": True, "databases": {"ha.db": {"sequence": 3}}}
        state = Readiness("the log is out of reach", {"missing": 7})
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {
            "ready": False,
            "error": {"code": "unavailable", "message": "the log is out of reach"},
            "missing": 7,
        }
        assert (await client.head("/healthz")).status_code == 200


async def test_every_request_is_observed(sessions: FakeSessions) -> None:
    seen: list[Observation] = []
    async with client_of(create_app(sessions, token="t", observe=seen.append)) as client:
        client.headers["authorization"] = "t"
        await ask(client, {"sql": "SELECT 1"}, "/databases/ha.db")
        await client.get("/databases")
        await client.get("/nothing")
        await client.post("/query", content=b"{")
        await client.get("/databases", headers={"authorization": "no"})
    assert [(o.method, o.route, o.status) for o in seen] == [
        ("POST", "/databases/<id>", 200),
        ("GET", "/databases", 200),
        ("GET", "none", 404),
        ("POST", "/query", 400),
        ("GET", "none", 401),
    ]
    assert seen[0].received == len(b'{"sql":"SELECT 1"}')
    assert seen[0].sent == len(b'{"columns":["1"],"rows":[[1]]}')
    assert all(o.seconds >= 0 for o in seen)


@pytest.fixture
def debug_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "ha.http"):
        yield caplog


async def test_one_line_a_request_without_secrets(
    sessions: FakeSessions, debug_log: pytest.LogCaptureFixture
) -> None:
    async with client_of(create_app(sessions, token="s3cret")) as client:
        query = {"sql": "SELECT 'hidden'"}
        await ask(client, query, "/query?local=true", headers={"Authorization": "s3cret"})
    (record,) = [r for r in debug_log.records if r.getMessage() == "request"]
    fields = vars(record)
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", "/query", 200)
    assert "s3cret" not in str(fields)
    assert "hidden" not in str(fields)
