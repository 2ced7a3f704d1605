"""The asynchronous twin, under trio and under asyncio, on a real node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

import ha.dbapi as db
import ha.dbapi.aio as aio
from tests.support.grpc_server import Served, serving

FOREVER = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n"

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's body under a loop, within a bound."""

    def run(body: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(30):
                await body()

        anyio.run(bounded, backend=request.param)

    return run


def test_statements_transactions_and_rows(node: Served, run: Run) -> None:
    async def body() -> None:
        connection = await aio.connect(f"ha://{node.target}/ha")
        await connection.execute("DROP TABLE IF EXISTS t")
        await connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await connection.commit()
        cursor = connection.cursor()
        await cursor.executemany("INSERT INTO t(x) VALUES (?)", [(n,) for n in range(100)])
        assert cursor.rowcount == 100
        assert connection.in_transaction
        await connection.rollback()
        async with await aio.connect(f"ha://{node.target}") as other:
            await other.execute("INSERT INTO t(x) VALUES ('a'), (2.5), (x'00'), (NULL)")
        await cursor.execute("SELECT x FROM t ORDER BY id")
        assert cursor.description is not None
        assert await cursor.fetchone() == ("a",)
        assert await cursor.fetchmany(2) == [(2.5,), (b"\x00",)]
        assert [row async for row in cursor] == [(None,)]
        assert await cursor.fetchall() == []
        with pytest.raises(db.IntegrityError):
            await connection.execute("INSERT INTO t(id) VALUES (1)")
        await connection.close()
        with pytest.raises(db.InterfaceError):
            await connection.execute("SELECT 1")

    run(body)


def test_a_large_result_comes_in_pages(node: Served, run: Run) -> None:
    async def body() -> None:
        async with await aio.connect(f"ha://{node.target}", autocommit=True) as connection:
            numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 50)"
            cursor = await connection.execute(f"{numbers} SELECT i, zeroblob(100000) FROM n")
            other = await connection.execute("SELECT 'between'")
            assert [row[0] async for row in cursor] == list(range(1, 51))
            assert await other.fetchone() == ("between",)

    run(body)


def test_a_cancelled_task_drops_the_connection_and_its_transaction(node: Served, run: Run) -> None:
    async def body() -> None:
        connection = await aio.connect(f"ha://{node.target}")
        await connection.execute("CREATE TABLE IF NOT EXISTS c(x)")
        await connection.commit()
        await connection.execute("INSERT INTO c VALUES (1)")
        with anyio.move_on_after(0.1) as scope:
            await connection.execute(FOREVER)
        assert scope.cancelled_caught
        with pytest.raises(db.ConnectionLost, match="given up") as info:
            await connection.commit()
        assert info.value.code == "not_written"
        async with await aio.connect(f"ha://{node.target}", autocommit=True) as other:
            await other.execute("DELETE FROM c")  # nobody holds the writer any more
        rows = await (await connection.execute("SELECT * FROM c")).fetchall()
        assert rows == []
        await connection.close()

    run(body)


def test_interrupt_ends_the_statement_and_keeps_the_session(node: Served, run: Run) -> None:
    async def body() -> None:
        connection = await aio.connect(f"ha://{node.target}", autocommit=True)
        await connection.execute("CREATE TEMP TABLE mine(x)")
        async with anyio.create_task_group() as tasks:

            async def interrupt() -> None:
                while True:
                    await anyio.sleep(0.02)
                    await connection.interrupt()

            tasks.start_soon(interrupt)
            with pytest.raises(db.OperationalError) as info:
                await connection.execute(FOREVER)
            tasks.cancel_scope.cancel()
        assert info.value.code == "cancelled"
        assert await (await connection.execute("SELECT * FROM mine")).fetchall() == []
        assert connection.reconnected == 0
        await connection.close()

    run(body)


def test_a_statement_may_take_so_long(node: Served, run: Run) -> None:
    async def body() -> None:
        connection = await aio.connect(f"ha://{node.target}", timeout=0.2, autocommit=True)
        with pytest.raises(db.OperationalError) as info:
            await connection.execute(FOREVER)
        assert info.value.code == "timeout"
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
        await connection.close()

    run(body)


def test_tasks_that_share_a_connection_take_turns(node: Served, run: Run) -> None:
    async def body() -> None:
        async with await aio.connect(f"ha://{node.target}", autocommit=True) as connection:

            async def work(number: int) -> None:
                for n in range(10):
                    cursor = await connection.execute("SELECT ?, ?", (number, n))
                    assert await cursor.fetchall() == [(number, n)]

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(work, number)

    run(body)


def test_failover(run: Run) -> None:
    with serving(node="n1") as one, serving(node="n2") as two:

        async def body() -> None:
            dsn = f"ha://{one.target},{two.target}/ha.db"
            connection = await aio.connect(dsn, autocommit=True)
            first, second = (one, two) if str(connection.address) == one.target else (two, one)
            await anyio.to_thread.run_sync(first.kill)
            await connection.execute("CREATE TABLE t(x)")
            assert str(connection.address) == second.target
            await anyio.to_thread.run_sync(second.kill)
            with pytest.raises(db.OperationalError, match="cannot connect"):
                await connection.execute("SELECT 1")
            await connection.close()

        run(body)
