"""The log lets go of a message between two questions about it: that is no damage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ha.engine.snapshots import SnapshotOptions, newest_of
from ha.log.api import Entry
from ha.log.memory import MemoryBroker, MemoryLog, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump

QUIET = replace(OPTIONS, snapshots=SnapshotOptions(base=False))


@pytest.fixture
def age_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the stream forget a message, and all before it, when that is looked up next."""

    def arrange(doomed: int) -> None:
        entry = MemoryLog.entry

        async def too_late(log: MemoryLog, sequence: int) -> Entry | None:
            if sequence == doomed:
                log._stream.drop_before(sequence + 1)
            return await entry(log, sequence)

        monkeypatch.setattr(MemoryLog, "entry", too_late)

    return arrange


async def _fill(node: TestNode) -> int:
    """Where the log is then."""
    await node.run("CREATE TABLE t(x)")
    for number in range(5):
        await node.run("INSERT INTO t VALUES (?)", [number])
    return node.database.committer.applied


async def test_a_file_whose_last_message_has_just_grown_too_old_goes_on(
    tmp_path: Path, age_at: Callable[[int], None], autojump_clock: MockClock
) -> None:
    stream = MemoryStream(epoch="one")
    async with (
        MemoryBroker(stream, node="n2") as other_broker,
        open_node("n2", other_broker) as other,
    ):
        path = tmp_path / "ha.db"
        async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as one:
            applied = await _fill(one)
            await settle([one, other])
        await other.run("INSERT INTO t VALUES (5)")
        age_at(applied)
        async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as one:
            await settle([one, other])
            assert await one.rows("SELECT count(*) FROM t") == [(6,)]


async def test_a_snapshot_whose_last_message_has_just_grown_too_old_is_one_of_the_log(
    age_at: Callable[[int], None],
) -> None:
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        applied = await _fill(node)
        await node.database.snapshots.take()
        await node.run("INSERT INTO t VALUES (5)")
        age_at(applied)
        found = await newest_of(node.database.log, broker, "ha.db")
        assert found is not None
        assert found.sequence == applied


async def test_a_snapshot_whose_digest_is_none_is_not_taken() -> None:
    """Anybody may write into the object store."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"content"

    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        applied = await _fill(node)
        headers = {"seq": str(applied), "epoch": "one", "digest": "no digest"}
        await broker.put_snapshot("ha.db", chunks(), headers)
        assert await newest_of(node.database.log, broker, "ha.db") is None


async def test_a_node_joins_a_log_whose_beginning_has_just_grown_too_old(
    age_at: Callable[[int], None], autojump_clock: MockClock
) -> None:
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as one:
        await _fill(one)
        await one.database.snapshots.take()
        await one.run("INSERT INTO t VALUES (5)")
        age_at(1)
        async with (
            MemoryBroker(stream, node="n2") as other_broker,
            open_node("n2", other_broker) as other,
        ):
            await settle([one, other])
            assert dump(other.database.store.path) == dump(one.database.store.path)


async def test_a_log_that_another_node_has_just_opened_has_let_go_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did so between two questions of a second one."""
    stream = MemoryStream(epoch="one")
    asked, opened = trio.Event(), trio.Event()
    consumers = MemoryBroker.consumers

    async def meanwhile(broker: MemoryBroker, database_id: str) -> list[dict[str, object]]:
        if broker.node == "n2" and not asked.is_set():
            asked.set()
            await opened.wait()
        return await consumers(broker, database_id)

    async def first() -> None:
        await asked.wait()
        async with (
            MemoryBroker(stream, node="n1") as broker,
            open_node("n1", broker, options=QUIET) as node,
        ):
            await node.run("CREATE TABLE t(x)")
            await trio.testing.wait_all_tasks_blocked()
            opened.set()
            await trio.sleep_forever()

    monkeypatch.setattr(MemoryBroker, "consumers", meanwhile)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        async with MemoryBroker(stream, node="n2") as broker, open_node("n2", broker) as node:
            with trio.fail_after(5):
                await settle([node])
                await node.run("INSERT INTO t VALUES (1)")
        nursery.cancel_scope.cancel()
