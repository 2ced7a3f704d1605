"""The commit path on a log in memory: what a session is told, and what other nodes then hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from tests.support.cluster import OPTIONS, open_cluster, settle


async def test_a_write_is_read_back_and_reaches_the_other_node() -> None:
    async with open_cluster(2) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        result = await one.run("INSERT INTO t(x) VALUES (?), (?)", ["a", b"\x00\xff"])
        assert (result.rows_affected, result.last_insert_id) == (2, 2)
        assert await one.rows("SELECT * FROM t") == [(1, "a"), (2, b"\x00\xff")]
        await settle(nodes)
        assert await two.rows("SELECT * FROM t") == [(1, "a"), (2, b"\x00\xff")]


async def test_concurrent_writers_on_two_nodes_converge() -> None:
    async with open_cluster(2) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)

        async def write(node_index: int, writer: int) -> None:
            for n in range(10):
                await nodes[node_index].run(
                    "INSERT OR REPLACE INTO t VALUES (?, ?)", [n, f"{node_index}-{writer}-{n}"]
                )

        async with trio.open_nursery() as nursery:
            for index in range(2):
                for writer in range(5):
                    nursery.start_soon(write, index, writer)
        last = await settle(nodes)
        assert last == 102
        rows = await nodes[0].rows("SELECT * FROM t")
        assert len(rows) == 10
        assert rows == await nodes[1].rows("SELECT * FROM t")


async def test_a_list_is_one_transaction_or_none() -> None:
    async with open_cluster(1) as [node]:
        session = node.session()
        results = await session.transaction(
            [
                Statement("CREATE TABLE t(id INTEGER PRIMARY KEY, x UNIQUE)"),
                Statement("INSERT INTO t(x) VALUES (:x)", {"x": 1}),
                Statement("SELECT * FROM t"),
            ]
        )
        assert [r.rows for r in results] == [[], [], [(1, 1)]]
        with pytest.raises(HaError) as info:
            await session.transaction(
                [Statement("INSERT INTO t(x) VALUES (2)"), Statement("INSERT INTO t(x) VALUES (1)")]
            )
        assert info.value.code is Code.UNIQUE_VIOLATION
        assert await node.rows("SELECT count(*) FROM t") == [(1,)]


async def test_a_text_with_a_nul_character_is_a_syntax_error() -> None:
    async with open_cluster(1) as [node]:
        for sql in ("\0SELECT 1", "SELECT 1 \0", "INSERT INTO t VALUES ('\0')"):
            with pytest.raises(HaError) as info:
                await node.run(sql)
            assert info.value.code is Code.SYNTAX_ERROR
            with pytest.raises(HaError) as info:
                await node.session().transaction([Statement("SELECT 1"), Statement(sql)])
            assert info.value.code is Code.SYNTAX_ERROR


async def test_interactive_transaction_commits_and_rolls_back() -> None:
    async with open_cluster(2) as nodes:
        session = nodes[0].session()
        await session.execute("CREATE TABLE t(x)")
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1)")
        assert (await session.execute("SELECT * FROM t")).rows == [(1,)]
        assert await nodes[0].rows("SELECT * FROM t") == []
        await session.execute("COMMIT")
        await session.execute("BEGIN")
        await session.execute("DELETE FROM t")
        await session.execute("ROLLBACK")
        await settle(nodes)
        assert await nodes[1].rows("SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH 'x' AS y",
        "DETACH y",
        "VACUUM",
        "VACUUM INTO 'x'",
        "SELECT load_extension('x')",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "DELETE FROM ha_stats",
        "DROP TABLE ha_log",
    ],
)
async def test_what_would_break_the_file_is_refused_by_name(sql: str) -> None:
    async with open_cluster(1) as [node]:
        with pytest.raises(HaError) as info:
            await node.run(sql)
        assert info.value.code is Code.REFUSED


async def test_more_statements_than_allowed_wait_and_then_are_told() -> None:
    options = replace(OPTIONS, concurrent=1, patience=0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with open_cluster(1, options=options) as [node]:
        session = node.session()
        ended: list[Code] = []

        async def run_endless() -> None:
            with pytest.raises(HaError) as info:
                await session.execute(endless)
            ended.append(info.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_endless)
            await trio.testing.wait_all_tasks_blocked()
            for sql in ("SELECT 1", "CREATE TABLE t(x)"):
                with pytest.raises(HaError) as info:
                    await node.run(sql)
                assert info.value.code is Code.BUSY
            session.cancel()
        assert ended == [Code.CANCELLED]
        assert await node.rows("SELECT 1") == [(1,)]


async def test_query_only_is_the_sessions_own() -> None:
    async with open_cluster(1) as [node]:
        session = node.session()
        answers = []
        for sql in ("PRAGMA query_only", "PRAGMA query_only = ON", "PRAGMA query_only = OFF"):
            await session.execute(sql)
            answers.append((await session.execute("PRAGMA query_only")).rows)
        assert answers == [[(0,)], [(1,)], [(0,)]]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT outer"])
async def test_transactions_that_begin_with_a_write_wait_and_do_not_conflict(begin: str) -> None:
    """Nobody has been told anything from a snapshot that is old by the time of the write."""
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        done = 0

        async def write(number: int) -> None:
            nonlocal done
            session = node.session()
            for step in range(5):
                await session.execute(begin)
                await session.prepare("SELECT x FROM t")
                await session.execute("SAVEPOINT inner")
                await trio.lowlevel.checkpoint()
                await session.execute("INSERT INTO t VALUES (?)", (number * 10 + step,))
                await session.execute("SAVEPOINT more")
                await session.execute("INSERT INTO t VALUES (-1)")
                await session.execute("ROLLBACK TO inner" if step == 4 else "ROLLBACK TO more")
                await session.execute("RELEASE outer" if "outer" in begin else "COMMIT")
                done += 1

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, number)
        assert done == 40
        rows = {x for (x,) in await node.rows("SELECT x FROM t")}
        assert rows == {n * 10 + s for n in range(8) for s in range(4)}


async def test_a_transaction_that_has_read_conflicts_with_what_was_written_since() -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        session = node.session()
        await session.execute("BEGIN")
        assert (await session.execute("SELECT count(*) FROM t")).rows == [(0,)]
        await node.run("INSERT INTO t VALUES (1)")
        with pytest.raises(HaError) as info:
            await session.execute("INSERT INTO t SELECT count(*) FROM t")
        assert info.value.code is Code.SERIALIZATION_FAILURE


@pytest.mark.parametrize(
    "then", ["INSERT INTO t VALUES (2)", "DELETE FROM t", "SAVEPOINT s", "SELECT 1", "COMMIT"]
)
async def test_what_follows_a_disk_error_that_ended_the_transaction_does_not_commit_alone(
    then: str,
) -> None:
    """SQLite rolls all back then, also while a statement is only prepared."""
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        await node.run("INSERT INTO t VALUES (0)")
        last = node.database.committer.applied
        session = node.session()
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1)")
        assert session._own is not None
        session._own.connection.raw.execute("ROLLBACK")
        with pytest.raises(HaError) as caught:
            await session.execute(then)
        assert caught.value.code is Code.IO_ERROR
        if then != "COMMIT":
            with pytest.raises(HaError) as aborted:
                await session.execute("INSERT INTO t VALUES (3)")
            assert aborted.value.code is Code.IO_ERROR
            await session.execute("ROLLBACK")
        await session.execute("INSERT INTO t VALUES (4)")
        assert await node.rows("SELECT x FROM t") == [(0,), (4,)]
        assert node.database.committer.applied == last + 1
