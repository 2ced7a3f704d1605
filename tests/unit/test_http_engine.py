"""HTTP over the engine itself: one node, a log in memory."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from ha.log.memory import MemoryBroker, MemoryStream
from ha.wire.http.app import create_app
from tests.support.cluster import TestNode, open_cluster, open_node, settle
from tests.support.http_server import client_of, serving

CURL = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says
WRITE = ["rows_affected", "last_insert_id"]


@asynccontextmanager
async def node_and_client(**options: Any) -> AsyncIterator[tuple[TestNode, httpx.AsyncClient]]:
    async with (
        MemoryBroker(MemoryStream(epoch="test"), node="n1") as broker,
        open_node("n1", broker) as node,
        client_of(create_app(node.databases, **options)) as client,
    ):
        yield node, client


async def ask(client: httpx.AsyncClient, document: Any, path: str = "/") -> Any:
    response = await client.post(path, json=document)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(client: httpx.AsyncClient, document: Any, status: int) -> dict[str, Any]:
    response = await client.post("/", json=document)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


# The manual, sections 2, 5.1 and 5.2, word by word

CREATE = """[
  {
    "sql": "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)"
  }
]"""
INSERT_LIST = """[
  {
    "sql": "INSERT INTO users(name) VALUES(:name)",
    "params": {"name": "HA User"}
  }
]"""
INSERT = """{
  "sql": "INSERT INTO users(name) VALUES(:name)",
  "params": {"name": "HA user"}
}"""
TRANSACTION = """[
  {
    "sql": "INSERT INTO users(name) VALUES(:name)",
    "params": {"name": "new HA user"}
  },
  {
    "sql": "DELETE FROM users WHERE name = :name",
    "params": {"name": "new HA user"}
  },
  {
    "sql": "SELECT * FROM users"
  }
]"""


async def test_the_manuals_examples() -> None:
    async with node_and_client() as (_, client):

        async def curl(body: str, path: str) -> Any:
            response = await client.post(path, content=body, headers=CURL)
            assert response.status_code == 200, response.text
            return response.json()

        created = await curl(CREATE, "/")
        assert [result["columns"] for result in created["results"]] == [WRITE]
        assert await curl(INSERT_LIST, "/") == {"results": [{"columns": WRITE, "rows": [[1, 1]]}]}
        assert await curl(INSERT, "/query") == {"columns": WRITE, "rows": [[1, 2]]}
        assert await curl(TRANSACTION, "/query") == {
            "results": [
                {"columns": WRITE, "rows": [[1, 3]]},
                {"columns": WRITE, "rows": [[1, 3]]},
                {"columns": ["id", "name"], "rows": [[1, "HA User"], [2, "HA user"]]},
            ]
        }


# Parameters, as SQLite understands them


@pytest.mark.parametrize(
    ("sql", "params", "row"),
    [
        ("SELECT :a, :b", {"a": 1, "b": 2}, [1, 2]),
        ("SELECT :a, $b, @c", {":a": 1, "$b": 2, "@c": 3}, [1, 2, 3]),
        ("SELECT ?, ?", {"$1": "a", "$2": "b"}, ["a", "b"]),
        ("SELECT $2, $1", {"$1": "a", "$2": "b"}, ["b", "a"]),
        ("SELECT ?2, ?1", {"$1": "a", "$2": "b"}, ["b", "a"]),
        ("SELECT ?, ?", [1, "b"], [1, "b"]),
        ("SELECT 1", {}, [1]),
        ("SELECT 1", [], [1]),
        ("SELECT typeof(?), typeof(?), typeof(?)", [1, 1.0, True], ["integer", "real", "integer"]),
    ],
)
async def test_parameters(sql: str, params: Any, row: list[Any]) -> None:
    async with node_and_client() as (_, client):
        assert (await ask(client, {"sql": sql, "params": params}))["rows"] == [row]


@pytest.mark.parametrize(
    ("sql", "params"), [("SELECT ?", []), ("SELECT ?", [1, 2]), ("SELECT :a", {"b": 1})]
)
async def test_parameters_that_do_not_fit(sql: str, params: Any) -> None:
    async with node_and_client() as (_, client):
        error = await refused(client, {"sql": sql, "params": params}, 400)
        assert error["code"] == "bad_parameters"


async def test_values_are_stored_and_answered_exactly() -> None:
    values = [
        None, -(2**63), 2**63 - 1, 0, 1.0, -0.5, 1e300, "", "a\x00b", "\U0001f600",
        {"base64": ""}, {"base64": "AP8="}, {"real": "inf"}, {"real": "-inf"},
    ]  # fmt: skip
    async with node_and_client() as (node, client):
        await ask(client, {"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"})
        insert = "INSERT INTO t(v) VALUES (?)"
        await ask(client, [{"sql": insert, "params": [value]} for value in values])
        answer = await ask(client, {"sql": "SELECT v FROM t ORDER BY id"})
        assert [row[0] for row in answer["rows"]] == values
        stored = await node.rows("SELECT typeof(v) FROM t ORDER BY id")
        assert [row[0] for row in stored] == (
            ["null"] + ["integer"] * 3 + ["real"] * 3 + ["text"] * 3 + ["blob"] * 2
            + ["real"] * 2
        )  # fmt: skip
        bare = await ask(client, {"sql": "SELECT x'00ff', 9223372036854775807"}, "/?blob=base64")
        assert bare["rows"] == [["AP8=", 2**63 - 1]]
        (infinite,) = await node.rows("SELECT v FROM t WHERE v = 9e999")
        assert infinite == (math.inf,)


# What answers rows


async def test_whatever_has_columns_answers_rows() -> None:
    async with node_and_client() as (_, client):
        await ask(client, {"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"})
        returning = "INSERT INTO t(v) VALUES ('a'), ('b') RETURNING id, v"
        for sql, columns, rows in (
            (returning, ["id", "v"], [[1, "a"], [2, "b"]]),
            ("VALUES (1, 2)", ["column1", "column2"], [[1, 2]]),
            ("WITH x AS (SELECT 1 AS a) SELECT a, a FROM x", ["a", "a"], [[1, 1]]),
            ("PRAGMA user_version", ["user_version"], [[0]]),
            ("SELECT * FROM t WHERE 0", ["id", "v"], []),
            ("UPDATE t SET v = 'c'", WRITE, [[2, 2]]),
        ):
            answer = await ask(client, {"sql": sql})
            assert (answer["columns"], answer["rows"]) == (columns, rows) or (
                columns == WRITE and answer["rows"][0][0] == 2
            )


# What is refused


async def test_errors_of_sqlite() -> None:
    async with node_and_client() as (_, client):
        await ask(
            client, {"sql": "CREATE TABLE t(a INTEGER PRIMARY KEY, b NOT NULL, CHECK (b > 0))"}
        )
        await ask(client, {"sql": "INSERT INTO t VALUES (1, 1)"})
        for sql, status, code in (
            ("SELEC 1", 400, "syntax_error"),
            ("SELECT * FROM u", 400, "unknown_table"),
            ("SELECT c FROM t", 400, "unknown_column"),
            ("CREATE TABLE t(a)", 400, "object_exists"),
            ("INSERT INTO t VALUES (1, 1)", 409, "unique_violation"),
            ("INSERT INTO t VALUES (2, NULL)", 409, "not_null_violation"),
            ("INSERT INTO t VALUES (2, 0)", 409, "check_violation"),
            ("ATTACH 'x.db' AS x", 403, "refused"),
        ):
            error = await refused(client, {"sql": sql}, status)
            assert error["code"] == code
            assert error["message"]
        offset = (await refused(client, {"sql": "SELECT 1,, 2"}, 400))["offset"]
        assert offset == 9


async def test_a_list_is_all_or_nothing() -> None:
    async with node_and_client() as (node, client):
        await ask(client, {"sql": "CREATE TABLE t(a UNIQUE)"})
        insert = {"sql": "INSERT INTO t VALUES (1)"}
        assert (await refused(client, [insert, insert], 409))["code"] == "unique_violation"
        assert await node.rows("SELECT * FROM t") == []


@pytest.mark.parametrize("sql", ["BEGIN", "SAVEPOINT a"])
async def test_no_transaction_outlives_its_request(sql: str) -> None:
    async with node_and_client() as (_, client):
        assert "list" in (await refused(client, {"sql": sql}, 400))["hint"]
        await refused(client, {"sql": "ROLLBACK"}, 400)
        await ask(client, {"sql": "CREATE TABLE t(a)"})


async def test_nothing_leaks_from_one_request_into_another() -> None:
    async with node_and_client() as (_, client):
        await ask(client, {"sql": "CREATE TABLE t(a)"})
        await ask(client, {"sql": "PRAGMA query_only = 1"})
        await ask(client, {"sql": "PRAGMA foreign_keys = 1"})
        await ask(client, {"sql": "CREATE TEMP TABLE mine(a)"})
        assert (await ask(client, {"sql": "PRAGMA foreign_keys"}))["rows"] == [[0]]
        assert (await refused(client, {"sql": "SELECT * FROM mine"}, 400))[
            "code"
        ] == "unknown_table"
        await ask(client, {"sql": "INSERT INTO t VALUES (1)"})
        assert (await ask(client, {"sql": "SELECT last_insert_rowid()"}))["rows"] == [[0]]


# Read your writes, here and elsewhere


async def test_txseq_holds_across_nodes() -> None:
    async with open_cluster(2) as (one, two):
        async with (
            client_of(create_app(one.databases)) as writer,
            client_of(create_app(two.databases)) as reader,
        ):
            await ask(writer, {"sql": "CREATE TABLE t(a)"})
            for n in range(20):
                response = await writer.post("/", json={"sql": f"INSERT INTO t VALUES ({n})"})
                txseq = response.headers["x-txseq"]
                assert response.cookies["_txseq"] == txseq
                query = json.dumps({"sql": "SELECT count(*) FROM t"})
                answer = await reader.post("/", content=query, headers={"x-txseq": txseq})
                assert answer.json()["rows"] == [[n + 1]]
                assert "x-txseq" not in answer.headers
        await settle([one, two])


# Clients that go away


async def test_a_vanished_client_stops_its_query() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    body = json.dumps({"sql": endless}).encode()
    async with (
        MemoryBroker(MemoryStream(epoch="test"), node="n1") as broker,
        open_node("n1", broker) as node,
    ):
        seen = trio.Event()
        app = create_app(node.databases, observe=lambda _: seen.set())
        async with serving(app) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            await stream.send_all(head + body)
            with trio.move_on_after(0.3):  # it runs, and would for ever
                await seen.wait()
            assert not seen.is_set()
            await stream.aclose()
            with trio.fail_after(10):
                await seen.wait()
        # Its connection is free again, and whole.
        assert await node.rows("SELECT 1") == [(1,)]


async def test_many_clients_at_once() -> None:
    async with node_and_client() as (node, client):
        await ask(client, {"sql": "CREATE TABLE t(a)"})
        async with trio.open_nursery() as nursery:
            for n in range(100):
                insert = {"sql": "INSERT INTO t VALUES (?)", "params": [n]}
                nursery.start_soon(ask, client, insert)
        assert await node.rows("SELECT count(DISTINCT a) FROM t") == [(100,)]
