"""History and undo on a node without NATS: the history file, and what it may not claim."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from random import Random

import apsw
import pytest
import trio

from ha.core.errors import Code, HaError
from ha.engine.databases import Databases
from ha.engine.joining import LOCAL_EPOCH
from ha.engine.runtime import Runtime
from ha.log.local import LocalBroker, LocalStream
from ha.store.file import Store, StoreOptions
from tests.support.cluster import OPTIONS

clock = 10**18


@asynccontextmanager
async def alone(folder: Path, max_age: float = 3600.0) -> AsyncIterator[Databases]:
    """A node that has no log but its own."""
    stream = LocalStream(
        epoch=LOCAL_EPOCH,
        name="ha_replication",
        path=str(folder / "ha.db.history"),
        max_age=max_age,
        now_ns=lambda: clock,
    )
    async with LocalBroker(stream, node="n1") as broker:
        options = replace(OPTIONS, standalone=True)
        databases = Databases(broker, options, Runtime(random=Random(1)), stream="ha_replication")
        store = Store.open(str(folder / "ha.db"), StoreOptions(synchronous="OFF"))
        try:
            async with trio.open_nursery() as nursery:
                await databases.open("ha.db", store, nursery)
                yield databases
                nursery.cancel_scope.cancel()
        finally:
            databases.close()
            stream.close()


async def run(databases: Databases, sql: str) -> list[tuple[object, ...]]:
    session = databases.session(protocol="test")
    try:
        return list((await session.execute(sql)).rows)
    finally:
        await session.aclose()


async def fill(databases: Databases) -> None:
    await run(databases, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    await run(databases, "INSERT INTO t VALUES (1, 'a')")
    await run(databases, "UPDATE t SET x = 'b'")


async def test_history_outlives_the_process(tmp_path: Path) -> None:
    async with alone(tmp_path) as databases:
        await fill(databases)
        before = await run(databases, "HISTORY 1")
        assert len(before) == 3
    async with alone(tmp_path) as databases:
        assert await run(databases, "HISTORY 1") == before
        await run(databases, "UNDO")
        assert await run(databases, "SELECT x FROM t") == [("a",)]
        await run(databases, "UNDO 1")
        assert await run(databases, "SELECT x FROM t") == []
        assert len(await run(databases, "HISTORY 1")) == 5


async def test_pages_of_history_are_read_from_the_file(tmp_path: Path) -> None:
    async with alone(tmp_path) as databases:
        await run(databases, "CREATE TABLE t(x)")
        for n in range(600):
            await run(databases, f"INSERT INTO t VALUES ({n})")
    async with alone(tmp_path) as databases:
        rows = await run(databases, "HISTORY 1")
        assert len(rows) == 601
        assert str(rows[-1][1]).startswith("INSERT INTO t (rowid, x) VALUES (600, 599)")


async def test_what_the_file_never_acknowledged_is_no_history(tmp_path: Path) -> None:
    async with alone(tmp_path) as databases:
        await fill(databases)
        known = await run(databases, "HISTORY 1")
    history = apsw.Connection(str(tmp_path / "ha.db.history"))
    history.execute("INSERT INTO messages SELECT subject, sequence + 1, 'x', payload, time_ns"
                    " FROM messages ORDER BY sequence DESC LIMIT 1")  # fmt: skip
    history.close()
    async with alone(tmp_path) as databases:
        assert await run(databases, "SELECT x FROM t") == [("b",)]
        assert await run(databases, "HISTORY 1") == known
        await run(databases, "INSERT INTO t VALUES (2, 'c')")
        assert len(await run(databases, "HISTORY 1")) == 4


async def test_a_history_with_a_gap_begins_anew(tmp_path: Path) -> None:
    async with alone(tmp_path) as databases:
        await fill(databases)
    history = apsw.Connection(str(tmp_path / "ha.db.history"))
    history.execute("DELETE FROM messages WHERE sequence = (SELECT max(sequence) FROM messages)")
    history.close()
    async with alone(tmp_path) as databases:
        assert await run(databases, "HISTORY 1") == []
        with pytest.raises(HaError) as info:
            await run(databases, "UNDO 2")
        assert info.value.code is Code.NOT_FOUND
        await run(databases, "INSERT INTO t VALUES (2, 'c')")
        await run(databases, "UNDO")
        assert await run(databases, "SELECT id FROM t") == [(1,)]


async def test_messages_older_than_max_age_are_forgotten(tmp_path: Path) -> None:
    global clock
    async with alone(tmp_path, max_age=60) as databases:
        await fill(databases)
        clock += 90 * 10**9
        await run(databases, "INSERT INTO t VALUES (2, 'c')")
    async with alone(tmp_path, max_age=60) as databases:
        assert len(await run(databases, "HISTORY 1")) == 1
        with pytest.raises(HaError) as info:
            await run(databases, "UNDO 2")
        assert info.value.code is Code.NOT_FOUND
        assert len(await run(databases, "HISTORY '1m'")) == 1
        clock += 30 * 10**9
        assert len(await run(databases, "HISTORY '1s'")) == 0


async def test_a_file_with_content_is_not_copied_into_memory(tmp_path: Path) -> None:
    """Nobody joins a node that is alone: the base of its log is the file itself."""
    with closing(apsw.Connection(str(tmp_path / "ha.db"))) as db:
        db.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    async with alone(tmp_path) as databases:
        assert await databases.broker.snapshot_headers("ha.db") is None
        await run(databases, "INSERT INTO t VALUES (2)")
    async with alone(tmp_path) as databases:
        assert await run(databases, "SELECT x FROM t") == [(1,), (2,)]
        assert await databases.broker.snapshot_headers("ha.db") is None
