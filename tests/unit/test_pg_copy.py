"""COPY in and out through real clients: atomic, replicated, in every format."""

from __future__ import annotations

from typing import Any

import asyncpg
import psycopg
import pytest

from tests.support.cluster import settle
from tests.support.pg import in_asyncio, open_pg

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, f REAL, b BLOB, at TIMESTAMP, n NUMERIC)"
ROWS = [
    (1, "plain", 1.5, b"\0\xff", "2024-01-02 03:04:05", 1.25),
    (2, 'tab\tnew\nline\\ "quoted", comma', None, b"", None, 7),
    (3, "", -0.0, None, "2024-01-02 00:00:00.5", None),
]
FORMATS = [
    "", "(FORMAT csv)", "(FORMAT csv, HEADER)", "(FORMAT binary)",
    "(FORMAT csv, FORCE_QUOTE *, DELIMITER ';', NULL 'NULL')", "(DELIMITER '|', NULL 'none')",
    "WITH CSV HEADER QUOTE ''''", "BINARY",
]  # fmt: skip


def read(connection: psycopg.Connection[Any], sql: str) -> bytes:
    with connection.cursor().copy(sql) as copy:
        return b"".join(bytes(piece) for piece in copy)


def write(connection: psycopg.Connection[Any], sql: str, data: bytes, step: int = 1 << 16) -> Any:
    cursor = connection.cursor()
    with cursor.copy(sql) as copy:
        for i in range(0, len(data), step):
            copy.write(data[i : i + step])
    return cursor.statusmessage


@pytest.mark.parametrize("words", FORMATS)
async def test_what_is_copied_out_is_copied_in(words: str) -> None:
    async with open_pg(nodes=2) as server:
        await server.node.run(TABLE)
        for row in ROWS:
            await server.node.run("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", row)

        def work(c: psycopg.Connection[Any]) -> None:
            data = read(c, f"COPY t TO STDOUT {words}")
            c.execute("DELETE FROM t")
            assert write(c, f"COPY t FROM STDIN {words}", data, 7) == "COPY 3"
            assert read(c, f"COPY t TO STDOUT {words}") == data

        await server.psycopg(work)
        await settle(server.nodes)
        for node in server.nodes:
            assert await node.rows("SELECT * FROM t ORDER BY id") == ROWS


async def test_psql_copies() -> None:
    async with open_pg() as server:
        await server.psql("CREATE TABLE t(a INTEGER, b TEXT DEFAULT 'd')")
        script = (
            "COPY t FROM STDIN;\n1\tx\n2\t\\N\n\\.\nCOPY t (a) FROM STDIN CSV;\n3\n\\.\nTABLE t;\n"
        )
        out = await server.psql(stdin=script)
        assert "COPY 2" in out
        assert [line.split("|")[1].strip() for line in out.splitlines() if "|" in line] == [
            "b", "x", "", "d",
        ]  # fmt: skip
        out = await server.psql(r"\copy (SELECT a, b FROM t WHERE a < 3 ORDER BY a) TO STDOUT CSV")
        assert "1,x\n2,\n" in out


BROKEN = [
    ("", b"1\tx\t1\n", "22P04", "missing data"),
    ("", b"1\tx\t1\t\\N\t\\N\t1\textra\n", "22P04", "extra data"),
    ("", b"9\tx\t1\t\\N\t\\N\t1\nx\ty\t1\t\\N\t\\N\t1\n", "22P02", "line 2, column id"),
    ("", b"9\tx\t1\t\\N\tsoon\t1\n", "22007", "column at"),
    ("", b"9\tx\t1\t\\N\t\\N\t1\n1\tx\t1\t\\N\t\\N\t1\n", "23505", "COPY t"),
    ("", b"9\t\xff\t1\t\\N\t\\N\t1\n", "22021", "column x"),
    ("(FORMAT csv)", b'9,"open', "22P04", "unterminated"),
    ("(FORMAT csv, HEADER match)", b"id,y,f,b,at,n\n", "22P04", "header"),
    ("(FORMAT binary)", b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\2\0\0\0\1x", "22P04", "EOF"),
]


@pytest.mark.parametrize(("words", "data", "sqlstate", "message"), BROKEN)
async def test_all_of_it_or_nothing(words: str, data: bytes, sqlstate: str, message: str) -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)
        await server.node.run("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", ROWS[0])

        def work(c: psycopg.Connection[Any]) -> None:
            with pytest.raises(psycopg.Error) as info:
                write(c, f"COPY t FROM STDIN {words}", data)
            assert info.value.sqlstate == sqlstate
            shown = f"{info.value.diag.message_primary} {info.value.diag.message_detail}"
            assert message in shown
            assert c.execute("SELECT count(*) FROM t").fetchone() == (1,)

        await server.psycopg(work)


async def test_a_client_can_give_up() -> None:
    async with open_pg() as server:
        await server.node.run("CREATE TABLE t(id INTEGER)")

        def give_up(c: psycopg.Connection[Any]) -> None:
            with c.cursor().copy("COPY t FROM STDIN") as copy:
                copy.write(b"1\n")
                raise ValueError("changed my mind")

        def work(c: psycopg.Connection[Any]) -> None:
            with pytest.raises(ValueError, match="mind"):
                give_up(c)
            assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)
            c.execute("BEGIN")
            write(c, "COPY t FROM STDIN", b"1\n2\n")
            c.execute("ROLLBACK")
            assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)

        await server.psycopg(work)


async def test_copy_through_asyncpg() -> None:
    async with open_pg() as server:

        async def work() -> None:
            c = await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="ha", password="ha", database="ha"
            )
            await c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, ok BOOLEAN)")
            records = [(i, None if i % 3 else str(i), bool(i % 2)) for i in range(2500)]
            assert await c.copy_records_to_table("t", records=records) == "COPY 2500"
            assert [tuple(r) for r in await c.fetch("SELECT * FROM t")] == records
            await c.close()

        await in_asyncio(work)


async def test_many_rows_are_one_transaction() -> None:
    async with open_pg(nodes=2) as server:
        await server.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)")
        await settle(server.nodes)
        before = server.node.database.committer.applied
        data = b"".join(b"%d\trow %d\n" % (i, i) for i in range(20_000))

        def work(c: psycopg.Connection[Any]) -> None:
            assert write(c, "COPY t FROM STDIN", data) == "COPY 20000"
            assert read(c, "COPY t TO STDOUT") == data

        await server.psycopg(work)
        await settle(server.nodes)
        assert server.node.database.committer.applied - before <= 2
        assert await server.nodes[1].rows("SELECT count(*) FROM t") == [(20_000,)]


async def test_generated_columns_are_left_out() -> None:
    async with open_pg() as server:
        await server.node.run("CREATE TABLE t(a INTEGER, b INTEGER GENERATED ALWAYS AS (a * 2))")

        def work(c: psycopg.Connection[Any]) -> None:
            write(c, "COPY t FROM STDIN", b"1\n2\n")
            assert c.execute("SELECT a, b FROM t").fetchall() == [(1, 2), (2, 4)]
            with pytest.raises(psycopg.Error):
                write(c, "COPY nothing FROM STDIN", b"1\n")

        await server.psycopg(work)
