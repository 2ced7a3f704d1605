"""psycopg's asynchronous and pipeline faces, and asyncpg with its cursors, caches and pools."""

from __future__ import annotations

from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from tests.support.pg import PgServer, in_asyncio, in_thread, open_pg

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, n BIGINT)"


async def asyncpg_to(server: PgServer, **options: Any) -> Any:
    return await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="ha", password="ha", database="ha", **options
    )


async def test_psycopg_asynchronously() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        async def work() -> None:
            async with await psycopg.AsyncConnection.connect(server.dsn) as connection:
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (1, 'a', 2)")
                async with connection.cursor(binary=True) as cursor:
                    await cursor.executemany(
                        "INSERT INTO t VALUES (%s, %s, %s)", [(i, str(i), i) for i in range(2, 9)]
                    )
                    await cursor.execute("SELECT * FROM t WHERE id = %s", (3,))
                    assert await cursor.fetchone() == (3, "3", 3)
                async with connection.cursor("named") as cursor:
                    await cursor.execute("SELECT id FROM t ORDER BY id")
                    assert [row[0] async for row in cursor] == list(range(1, 9))

        await in_asyncio(work)


async def test_psycopg_in_pipeline_mode() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        def work(c: psycopg.Connection[Any]) -> None:
            with c.pipeline() as pipeline:
                cursors = [
                    c.execute("INSERT INTO t VALUES (%s, 'x', 1) RETURNING id", (i,))
                    for i in range(20)
                ]
                pipeline.sync()
                found = c.execute("SELECT count(*) FROM t")
                assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(20)]
                assert found.fetchone() == (20,)

            def clash() -> None:
                with c.pipeline():
                    for i in (100, 1, 101):
                        c.execute("INSERT INTO t VALUES (%s, 'x', 1)", (i,))

            with pytest.raises(psycopg.errors.UniqueViolation):
                clash()
            assert c.execute("SELECT count(*) FROM t").fetchone() == (20,)
            c.autocommit = False
            with c.pipeline(), c.transaction():
                c.execute("UPDATE t SET n = n + 1")
                total = c.execute("SELECT sum(n) FROM t")
            assert total.fetchone() == (40,)

        await server.psycopg(work)


async def test_psycopg_prepares_what_comes_often() -> None:
    """The sixth execution of a text is a prepared one; a changed table is prepared again."""
    async with open_pg() as server:
        await server.node.run(TABLE)

        def work(c: psycopg.Connection[Any]) -> None:
            for i in range(8):
                c.execute("INSERT INTO t VALUES (%s, %s, %s)", (i, f"v{i}", None))
                row = c.execute("SELECT * FROM t WHERE id = %s", (i,)).fetchone()
                assert row == (i, f"v{i}", None)
            with server.connect() as other:
                other.execute("ALTER TABLE t ADD COLUMN more TEXT")
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan"):
                c.execute("SELECT * FROM t WHERE id = %s", (1,))
            c.execute("DEALLOCATE ALL")
            c.prepare_threshold = None
            row = c.execute("SELECT * FROM t WHERE id = %s", (1,)).fetchone()
            assert row == (1, "v1", None, None)

        await server.psycopg(work)


async def test_asyncpg() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        async def work() -> None:
            c = await asyncpg_to(server)
            rows = [(i, f"v{i}", i * i) for i in range(200)]
            await c.executemany("INSERT INTO t VALUES ($1, $2, $3)", rows)
            assert await c.fetchval("SELECT count(*) FROM t") == 200
            assert dict(await c.fetchrow("SELECT * FROM t WHERE id = $1", 7)) == {
                "id": 7, "x": "v7", "n": 49,
            }  # fmt: skip
            found = await c.fetch("SELECT id FROM t WHERE id = ANY($1) ORDER BY id", [3, 5, 900])
            assert [r["id"] for r in found] == [3, 5]
            assert await c.execute("DELETE FROM t WHERE id >= $1", 100) == "DELETE 100"
            with pytest.raises(asyncpg.UniqueViolationError):
                await c.execute("INSERT INTO t VALUES (1, 'x', 1)")
            async with c.transaction():
                await c.execute("DELETE FROM t WHERE id = 0")
                with pytest.raises(asyncpg.UniqueViolationError):
                    async with c.transaction():
                        await c.execute("INSERT INTO t VALUES (1, 'x', 1)")
                seen = [r["id"] async for r in c.cursor("SELECT id FROM t ORDER BY id", prefetch=7)]
                assert seen == list(range(1, 100))
                cursor = await c.cursor("SELECT id FROM t ORDER BY id")
                assert [r["id"] for r in await cursor.fetch(2)] == [1, 2]
                assert (await cursor.fetchrow())["id"] == 3
                await cursor.forward(10)
                assert (await cursor.fetchrow())["id"] == 14
            await c.close()

        await in_asyncio(work)


async def test_asyncpg_reads_one_row_of_many_inside_and_outside_of_transactions() -> None:
    """fetchrow and fetchval ask for one row and Sync: the rest of the portal is not wanted."""
    async with open_pg() as server:
        await server.node.run(TABLE)
        await server.node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)")

        async def work() -> None:
            c = await asyncpg_to(server)
            one = await c.prepare("SELECT id FROM t WHERE id >= $1 ORDER BY id")
            for _ in range(3):
                assert await one.fetchval(2) == 2
                assert await one.fetchval(9) is None
                assert len(await one.fetch(1)) == 3
                async with c.transaction():
                    assert await one.fetchval(1) == 1
                    assert await one.fetchval(3) == 3
                    await c.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            assert await c.fetchval("SELECT n FROM t WHERE id = 1") == 4
            await c.close()

        await in_asyncio(work)


async def test_asyncpg_notices_a_changed_schema() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        async def work() -> None:
            c = await asyncpg_to(server)
            await c.execute("INSERT INTO t VALUES (1, 'a', 1)")
            assert len(await c.fetchrow("SELECT * FROM t")) == 3
            await c.execute("ALTER TABLE t ADD COLUMN more TEXT")
            assert len(await c.fetchrow("SELECT * FROM t")) == 4  # prepared again by the driver
            await c.close()

        await in_asyncio(work)


async def test_a_pool_of_asyncpg() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        async def work() -> None:
            pool = await asyncpg.create_pool(
                host="127.0.0.1", port=server.port, user="ha", password="ha", database="ha",
                min_size=1, max_size=3,
            )  # fmt: skip
            for i in range(5):
                async with pool.acquire() as c, c.transaction():
                    await c.execute("SET LOCAL statement_timeout = '5s'")
                    await c.execute("INSERT INTO t(id) VALUES ($1)", i)
            assert await pool.fetchval("SELECT count(*) FROM t") == 5
            assert await pool.fetchval("SHOW statement_timeout") == "0"
            await pool.close()

        await in_asyncio(work)


async def test_what_asyncpg_copies() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        async def work() -> bytes:
            c = await asyncpg_to(server)
            records = [(i, f"v{i}" if i % 3 else None, -i) for i in range(5_000)]
            assert await c.copy_records_to_table("t", records=records) == "COPY 5000"
            out = bytearray()

            async def keep(data: bytes) -> None:
                out.extend(data)

            await c.copy_from_query("SELECT * FROM t WHERE id < 3", output=keep, format="csv")
            found = [tuple(r) for r in await c.fetch("SELECT * FROM t ORDER BY id")]
            assert found == records
            await c.close()
            return bytes(out)

        assert await in_asyncio(work) == b"0,,0\n1,v1,-1\n2,v2,-2\n"


async def test_sessions_in_threads_share_nothing() -> None:
    async with open_pg() as server:
        await server.node.run(TABLE)

        def work() -> None:
            with server.connect() as one, server.connect() as two:
                one.execute("PREPARE p AS SELECT 1")
                with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                    two.execute("EXECUTE p")
                one.execute("SET TimeZone = 'Europe/Paris'")
                assert two.execute("SHOW TimeZone").fetchone() == ("UTC",)
                one.execute("INSERT INTO t(x) VALUES ('a')")
                assert two.execute("SELECT last_insert_rowid()").fetchone() == (0,)

        await in_thread(work)
