"""What an undo is refused for; those that need no more than one table are in test_history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode, ObstacleKind
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.file import StoreOptions
from tests.support.cluster import TestNode, open_node
from tests.support.dump import dump

FAMILY = (
    "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
    "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent)",
)


@asynccontextmanager
async def one_node(*, foreign_keys: bool) -> AsyncIterator[TestNode]:
    pragmas = (("foreign_keys", "ON"),) if foreign_keys else ()
    options = StoreOptions(synchronous="OFF", pragmas=pragmas)
    async with (
        MemoryBroker(MemoryStream(epoch="test"), node="n1") as broker,
        open_node("n1", broker, store_options=options) as node,
    ):
        yield node


async def sequence(node: TestNode, sql: str) -> int:
    session = node.session()
    await session.execute(sql)
    return session.txseq


async def obstacles(node: TestNode, mode: Mode, place: int) -> list[tuple[ObstacleKind, str, str]]:
    """Of a dry run, after which the undo itself is refused with the same and changes nothing."""
    session = node.session()
    report = await session.undo(mode, Since(sequence=place), dry_run=True)
    before = dump(node.database.store.path)
    with pytest.raises(HaError) as info:
        await session.undo(mode, Since(sequence=place))
    assert info.value.code is Code.CONSTRAINT_VIOLATION
    assert info.value.detail == "\n".join(o.message for o in report.obstacles)
    assert dump(node.database.store.path) == before
    return [(o.kind, o.table, o.row) for o in report.obstacles]


async def test_a_row_that_others_refer_to_by_now_does_not_go() -> None:
    async with one_node(foreign_keys=True) as node:
        for sql in FAMILY:
            await node.run(sql)
        n = await sequence(node, "INSERT INTO parent VALUES (1), (2)")
        await node.run("INSERT INTO child VALUES (10, 1), (11, NULL)")
        found = await obstacles(node, Mode.ENTITIES, n)
        assert found == [(ObstacleKind.REFERENCE, "child", "10")]
        await node.run("UPDATE child SET p = NULL")
        await node.run(f"UNDOE {n}")
        assert await node.rows("SELECT * FROM parent") == []


async def test_a_row_whose_parent_is_gone_does_not_come_back() -> None:
    async with one_node(foreign_keys=True) as node:
        for sql in FAMILY:
            await node.run(sql)
        await node.run("INSERT INTO parent VALUES (1)")
        await node.run("INSERT INTO child VALUES (10, 1)")
        n = await sequence(node, "DELETE FROM child")
        await node.run("DELETE FROM parent")
        found = await obstacles(node, Mode.ENTITIES, n)
        assert found == [(ObstacleKind.REFERENCE, "child", "10")]
        await node.run(f"UNDO {n}")  # the parent comes back with it
        assert await node.rows("SELECT id, p FROM child") == [(10, 1)]


async def test_orphans_that_were_there_before_are_no_obstacle() -> None:
    async with one_node(foreign_keys=True) as node:
        for sql in FAMILY:
            await node.run(sql)
        session = node.session()
        await session.execute("PRAGMA foreign_keys = OFF")
        await session.execute("INSERT INTO child VALUES (10, 7)")
        n = await sequence(node, "INSERT INTO child VALUES (11, NULL)")
        await node.run("INSERT INTO parent VALUES (1)")
        await node.run(f"UNDOE {n}")
        assert await node.rows("SELECT id FROM child") == [(10,)]


async def test_without_foreign_keys_references_are_no_obstacle() -> None:
    async with one_node(foreign_keys=False) as node:
        for sql in FAMILY:
            await node.run(sql)
        n = await sequence(node, "INSERT INTO parent VALUES (1)")
        await node.run("INSERT INTO child VALUES (10, 1)")
        await node.run(f"UNDOE {n}")
        assert await node.rows("SELECT * FROM parent") == []


async def test_a_row_that_is_not_what_the_log_says_is_left_alone() -> None:
    async with one_node(foreign_keys=False) as node:
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await node.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        n = await sequence(node, "UPDATE t SET x = x || '!'")
        # As an interceptor may do, or a schema that differs between nodes.
        node.database.fold.connection.execute("UPDATE t SET x = 'elsewhere' WHERE id = 2")
        found = await obstacles(node, Mode.UNDO, n)
        assert found == [(ObstacleKind.UNEXPLAINED, "t", "2")]
