"""A node writes once it contains what its log held when it came, or came back, to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ha.core.errors import Code, HaError
from ha.engine.database import DatabaseOptions
from ha.log.api import Entry
from ha.log.memory import MemoryBroker, MemoryStream, MemorySubscription
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.simulated import outcome

PATIENT = replace(OPTIONS, commit=replace(OPTIONS.commit, publish_timeout=2.0))
ASYNC = replace(OPTIONS, commit=replace(OPTIONS.commit, asynchronous=True))


class Slow:
    """While it is on, no message reaches a subscription of the node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
        self.on = True
        self._waiting: set[MemorySubscription] = set()
        receive_nowait = MemorySubscription.receive_nowait

        def receive(subscription: MemorySubscription) -> Sequence[Entry]:
            if self.on and subscription._broker.node == node:
                self._waiting.add(subscription)
                return []
            return receive_nowait(subscription)

        monkeypatch.setattr(MemorySubscription, "receive_nowait", receive)

    def end(self) -> None:
        self.on = False
        for subscription in self._waiting:
            subscription.wake()


@asynccontextmanager
async def starting(
    stream: MemoryStream, folder: Path, options: DatabaseOptions = OPTIONS
) -> AsyncIterator[TestNode]:
    """n1, on its file."""
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, folder / "ha.db", seed=1, options=options) as node,
    ):
        yield node


@asynccontextmanager
async def both(
    stream: MemoryStream, folder: Path
) -> AsyncIterator[tuple[MemoryBroker, TestNode, TestNode]]:
    """n1 on its file, with its broker, and n2, at the end of the log."""
    async with (
        MemoryBroker(stream, node="n1") as broker,
        MemoryBroker(stream, node="n2") as other,
        open_node("n1", broker, folder / "ha.db", seed=1) as one,
        open_node("n2", other, seed=1) as two,
    ):
        await settle([one, two])
        yield broker, one, two


@pytest.fixture
async def stream(tmp_path: Path) -> MemoryStream:
    """A counter at 3, of which the file of n1 holds 0."""
    stream = MemoryStream(epoch="test")
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, tmp_path / "ha.db") as node,
    ):
        await node.run("CREATE TABLE counter(n)")
        await node.run("INSERT INTO counter VALUES (0)")
    async with MemoryBroker(stream, node="n2") as broker, open_node("n2", broker) as node:
        await settle([node])
        for _ in range(3):
            await node.run("UPDATE counter SET n = n + 1")
    return stream


@pytest.fixture
async def slow(stream: MemoryStream, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """n1 comes to the log, and gets nothing of it until this ends."""
    return Slow(monkeypatch, "n1")


async def test_what_a_node_writes_at_once_has_seen_what_it_wrote_before(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    async with starting(stream, tmp_path) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.run, "UPDATE counter SET n = n + 1")
        session = node.session()
        await session.execute("BEGIN")
        nursery.start_soon(session.execute, "UPDATE counter SET n = n + 10")
        await trio.sleep(1)
        slow.end()
        await trio.testing.wait_all_tasks_blocked()
        await session.execute("COMMIT")
        await settle([node])
        assert await node.rows("SELECT n FROM counter") == [(14,)]


async def test_what_a_node_writes_when_it_is_back_has_seen_what_others_wrote(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    slow.on = False
    async with both(stream, tmp_path) as (broker, one, two):
        slow.on = True
        broker.connected = False
        await two.run("UPDATE counter SET n = n + 1")
        broker.connected = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run, "UPDATE counter SET n = n + 1")
            await trio.sleep(1)
            slow.end()
        assert await one.rows("SELECT n FROM counter") == [(5,)]


@pytest.mark.parametrize("interactive", [True, False])
async def test_what_the_log_has_forgotten_is_seen_too_before_a_node_writes(
    interactive: bool,
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    """Nothing is left in it that would tell how far the others are."""
    async with MemoryBroker(stream, node="n2") as other, open_node("n2", other, seed=1) as two:
        await settle([two])
        await two.database.snapshots.take()
        stream.drop_before(stream.last + 1)
        async with starting(stream, tmp_path) as one:
            await _increment_in_time(one, interactive)
            slow.end()
            await settle([one, two])
            assert await two.rows("SELECT n FROM counter") == [(4,)]


async def test_what_the_log_has_forgotten_meanwhile_is_seen_before_a_node_commits(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    slow.on = False
    async with both(stream, tmp_path) as (broker, one, two):
        slow.on = True
        session = one.session()
        await session.execute("BEGIN")
        await session.execute("UPDATE counter SET n = n + 1")
        broker.connected = False
        await two.run("UPDATE counter SET n = n + 1")
        await two.database.snapshots.take()
        stream.drop_before(stream.last + 1)
        broker.connected = True
        assert await outcome(session.execute("COMMIT")) == "not_written"
        await _increment_in_time(one, interactive=False)
        slow.end()
        await settle([one, two])
        for node in (one, two):
            assert await node.rows("SELECT n FROM counter") == [(5,)]


async def _increment(node: TestNode, interactive: bool) -> None:
    if not interactive:
        await node.run("UPDATE counter SET n = n + 1")
        return
    session = node.session()
    await session.execute("BEGIN IMMEDIATE")
    await session.execute("UPDATE counter SET n = n + 1")
    await session.execute("COMMIT")


async def _increment_in_time(node: TestNode, interactive: bool) -> None:
    """While it is brought up by a snapshot it refuses."""
    while await outcome(_increment(node, interactive)) == "unavailable":  # noqa: ASYNC110
        await trio.sleep(0.1)


async def test_who_waits_too_long_for_a_node_to_catch_up_is_told_that_nothing_was_written(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    async with starting(stream, tmp_path, PATIENT) as node:
        with pytest.raises(HaError) as caught:
            await node.run("UPDATE counter SET n = n + 1")
        assert caught.value.code is Code.NOT_WRITTEN
        assert caught.value.message == "still catching up with the log after 2 s, at 3 of 6"
        slow.end()
        await node.run("UPDATE counter SET n = n + 1")
        assert await node.rows("SELECT n FROM counter") == [(4,)]


async def test_an_asynchronous_node_waits_when_it_starts_and_not_when_it_is_back(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, tmp_path / "ha.db", seed=1, options=ASYNC) as node,
        MemoryBroker(stream, node="n2") as other,
        open_node("n2", other, seed=1) as two,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run, "UPDATE counter SET n = n + 1")
            await trio.sleep(1)
            slow.end()
        assert await node.rows("SELECT n FROM counter") == [(4,)]
        await settle([node, two])
        slow.on = True
        broker.connected = False
        await node.run("UPDATE counter SET n = n + 1")
        await two.run("UPDATE counter SET n = 9")
        broker.connected = True
        await node.run("UPDATE counter SET n = n + 1")
        assert await node.rows("SELECT n FROM counter") == [(6,)]
        slow.end()
        await settle([node, two])
        assert await node.rows("SELECT n FROM counter") == [(6,)]


async def test_an_asynchronous_node_that_loses_the_log_while_it_starts_goes_on_without(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, tmp_path / "ha.db", seed=1, options=ASYNC) as node,
    ):
        broker.connected = False
        await node.run("UPDATE counter SET n = n + 1")
        assert await node.rows("SELECT n FROM counter") == [(1,)]
        slow.end()


@pytest.mark.parametrize("undo", ["UNDO", "UNDOE 6", "UNDO '1h'"])
async def test_an_undo_knows_all_that_the_log_held_when_it_began(
    undo: str,
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    """What others have written last is the last transaction, also where it has not arrived."""
    async with starting(stream, tmp_path) as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run, undo)
            await trio.sleep(1)
            slow.end()
        assert await node.rows("SELECT n FROM counter") == ([] if "h" in undo else [(2,)])


async def test_an_undo_that_waits_too_long_for_its_node_to_catch_up_says_so(
    stream: MemoryStream,
    tmp_path: Path,
    slow: Slow,
    autojump_clock: MockClock,
) -> None:
    async with starting(stream, tmp_path) as node:
        with pytest.raises(HaError) as caught:
            await node.run("UNDOE 6")
        assert caught.value.code is Code.NOT_WRITTEN
        assert caught.value.message == "still catching up with the log after 5 s, at 3 of 6"
