"""The log may lie: a file that is ahead of its log, or beside it, never goes on in silence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from ha.core.errors import Code, HaError
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.file import Store, StoreOptions
from tests.support.cluster import TestNode, open_node, settle
from tests.support.dump import dump


def lose_everything(stream: MemoryStream) -> None:
    stream.recreate("another epoch")


def lose_the_end(stream: MemoryStream) -> None:
    """As a power failure does to messages that were acknowledged before they were synced."""
    for subject in stream._subjects.values():
        subject.entries = subject.entries[:-2]
        subject.last = subject.entries[-1].sequence
        stream.last = subject.last


def replace_the_end(stream: MemoryStream) -> None:
    """Another message stands where the file's last one stood."""
    lose_the_end(stream)
    from ha.log.api import Outgoing

    name = next(iter(stream._subjects))
    for number in range(2):
        payload = b'{"node":"x","process_id":1,"filename":"ha.db","changes":[],"timestamp_ns":0}'
        stream.append(name, Outgoing(f"x-{number}", payload))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_everything, "made anew"),
        (lose_the_end, "lost or dropped"),
        (replace_the_end, "not the one"),
    ],
)
async def test_a_file_beside_its_log_stays_readable_and_refuses_writes(
    tmp_path: Path, damage: Callable[[MemoryStream], None], words: str
) -> None:
    stream = MemoryStream(epoch="one")
    path = tmp_path / "ha.db"
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await node.run("CREATE TABLE t(x)")
        for number in range(5):
            await node.run("INSERT INTO t VALUES (?)", [number])
    damage(stream)
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        assert await node.rows("SELECT count(*) FROM t") == [(5,)]
        await refuses(node, words)


async def refuses(node: TestNode, words: str) -> None:
    with pytest.raises(HaError) as info:
        await node.run("INSERT INTO t VALUES (9)")
    assert info.value.code is Code.UNAVAILABLE
    assert words in info.value.message
    assert "/replications/adopt" in (info.value.hint or "")
    not_ready = node.databases.not_ready() or ""
    assert words in not_ready
    assert "POST /replications/adopt" in not_ready  # what /readyz answers names the repair


@pytest.mark.parametrize("damage", [lose_everything, lose_the_end])
async def test_a_running_node_notices_when_it_comes_back(
    damage: Callable[[MemoryStream], None],
) -> None:
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE TABLE t(x)")
        for number in range(5):
            await node.run("INSERT INTO t VALUES (?)", [number])
        broker.connected = False
        damage(stream)
        broker.connected = True
        with trio.fail_after(5):
            while node.database.committer.severed is None:
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert await node.rows("SELECT count(*) FROM t") == [(5,)]
        await refuses(node, "")


async def test_a_file_with_content_becomes_the_base_and_others_join_it(tmp_path: Path) -> None:
    path = tmp_path / "ha.db"
    plain = sqlite3.connect(path)
    plain.executescript("CREATE TABLE t(x); INSERT INTO t(rowid, x) VALUES (7, 'old')")
    plain.close()
    stream = MemoryStream(epoch="one")
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, path) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker) as two,
    ):
        await two.run("INSERT INTO t VALUES ('new')")
        await settle([one, two])
        for node in (one, two):
            assert await node.rows("SELECT rowid, x FROM t") == [(7, "old"), (8, "new")]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_file_with_other_content_may_not_join(tmp_path: Path) -> None:
    path = tmp_path / "ha.db"
    plain = sqlite3.connect(path)
    plain.executescript("CREATE TABLE other(x)")
    plain.close()
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE TABLE t(x)")
        async with MemoryBroker(stream, node="n2") as two:
            with pytest.RaisesGroup(pytest.RaisesExc(HaError, match="other content")):
                async with open_node("n2", two, path):
                    raise AssertionError("it must not start")
    assert sqlite3.connect(path).execute("SELECT count(*) FROM other").fetchone() == (0,)


async def test_the_file_it_was_loaded_from_may_join_again(tmp_path: Path) -> None:
    """``ha -m mydatabase.db``, started a second time: the content is the log's base."""
    source = tmp_path / "source.db"
    plain = sqlite3.connect(source)
    plain.executescript("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    plain.close()
    stream = MemoryStream(epoch="one")
    for expected in ([(1,)], [(1,), (2,)]):
        async with MemoryBroker(stream, node="n1") as broker:
            copy = tmp_path / f"copy{len(expected)}" / "ha.db"
            copy.parent.mkdir()
            copy.write_bytes(source.read_bytes())
            async with open_node("n1", broker, copy) as node:
                await settle([node])
                assert await node.rows("SELECT * FROM t") == expected
                await node.run("INSERT INTO t VALUES (2)")


async def test_half_read_cursors_do_not_stop_writers(tmp_path: Path) -> None:
    """A slow reader over a million rows, while a thousand rows are written and applied; one
    node keeps the database in memory, the other on disk."""
    stream = MemoryStream(epoch="one")
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, tmp_path / "ha.db") as two,
    ):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
            " INSERT INTO t SELECT i, 'x' FROM n"
        )
        await settle([one, two], 240)
        readers = [one.session(), two.session()]
        async with (
            readers[0].query("SELECT * FROM t") as a,
            readers[1].query("SELECT * FROM t") as b,
        ):
            for rows in (a, b):
                assert len(await rows.fetch(10)) == 10
            for number in range(1_000):
                await one.run("INSERT INTO t VALUES (?, 'y')", [2_000_000 + number])
            await settle([one, two], 240)
            for rows in (a, b):
                count = 10
                while chunk := await rows.fetch(50_000):
                    count += len(chunk)
                assert count == 1_000_000
        for node in (one, two):
            assert await node.rows("SELECT count(*) FROM t") == [(1_001_000,)]


async def test_both_ways_to_keep_a_file_are_in_wal_mode(tmp_path: Path) -> None:
    for store in (
        Store.open_memory("ha.db", StoreOptions()),
        Store.open(str(tmp_path / "ha.db"), StoreOptions()),
    ):
        try:
            assert store.executor.execute("PRAGMA journal_mode") == "wal"
        finally:
            store.close()
