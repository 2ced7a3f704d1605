"""Messages that no rule can take: kept, shown, and passed over by all nodes alike."""

from __future__ import annotations

from dataclasses import replace

import apsw
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ha.core.errors import Code, HaError
from ha.engine.dead_letters import dead_letters, skip
from ha.log.api import Ack, Outgoing
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.fold import Intercepted
from tests.support.cluster import OPTIONS, TestNode, open_cluster, open_node, settle


async def halted(node: TestNode) -> None:
    """Wait until the node stands before a message."""
    with trio.fail_after(5):
        while node.database.committer.halted_at is None:
            await trio.testing.wait_all_tasks_blocked(0.005)


@pytest.mark.parametrize("payload", [b"not json", b"[]", b'{"changes":[{"operation":"PUT"}]}'])
async def test_a_broken_message_halts_all_nodes_until_it_is_skipped(payload: bytes) -> None:
    async with open_cluster(2) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(x)")
        ack = await one.database.log.publish_one(Outgoing("bad", payload), 5)
        for node in nodes:
            await halted(node)
            [letter] = await dead_letters(node.database)
            assert (letter.sequence, letter.message, letter.state) == (
                ack.sequence, payload, "halted",
            )  # fmt: skip
            assert letter.error
            assert str(ack.sequence) in (node.databases.not_ready() or "")
            assert await node.rows("SELECT count(*) FROM t") == [(0,)]
            with pytest.raises(HaError) as info:
                await node.run("INSERT INTO t VALUES (1)")
            assert info.value.code is Code.UNAVAILABLE
        await skip(two.database, ack.sequence)
        await settle(nodes)
        await one.run("INSERT INTO t VALUES (1)")
        await settle(nodes)
        for node in nodes:
            assert node.databases.not_ready() is None
            assert await node.rows("SELECT * FROM t") == [(1,)]
            [letter] = await dead_letters(node.database)
            assert letter.state == "skipped"
            assert letter.error


async def test_there_is_nothing_to_skip_on_a_healthy_database() -> None:
    async with open_cluster(1) as [node]:
        with pytest.raises(HaError) as info:
            await skip(node.database, 1)
        assert info.value.code is Code.NOT_FOUND


async def test_what_is_skipped_waits_no_longer_in_an_outbox() -> None:
    class Picky:
        def before_apply(self, changeset: Intercepted, connection: apsw.Connection) -> bool | None:
            if any(c.new_values == ("bad",) for c in changeset.changes):
                raise ValueError("not this one")
            return None

        def after_apply(
            self, changeset: Intercepted, connection: apsw.Connection, error: Exception | None
        ) -> None:
            if error is not None:
                raise error

    commit = replace(OPTIONS.commit, asynchronous=True)
    options = replace(OPTIONS, commit=commit, interceptor=Picky())
    stream = MemoryStream(epoch="test", dedupe_window=0)
    async with open_cluster(2, options=options, stream=stream) as nodes:
        one = nodes[0]
        await one.run("CREATE TABLE t(x)")
        await settle(nodes)
        await one.run("INSERT INTO t VALUES ('bad')")
        for node in nodes:
            await halted(node)
        at = one.database.committer.halted_at
        assert at is not None
        await skip(nodes[1].database, at)
        await settle(nodes)
        assert one.database.relay is not None
        assert one.database.relay.outbox.depth == 0
        await one.run("INSERT INTO t VALUES ('good')")
        await one.database.committer.wait_applied(at + 2)
        await settle(nodes)
        for node in nodes:
            assert await node.rows("SELECT x FROM t") == [("good",)]
            assert node.databases.not_ready() is None


async def test_what_stands_behind_the_message_that_halts_is_not_known_to_count(
    autojump_clock: MockClock,
) -> None:
    """The log has it; what the fold will make of it, once the other is passed over, is open."""

    class Poisoned(MemoryStream):
        armed = False

        def append(self, subject_name: str, message: Outgoing) -> Ack:
            if self.armed:
                self.armed = False
                super().append(subject_name, Outgoing("bad", b"no message"))
            return super().append(subject_name, message)

    stream = Poisoned(epoch="test")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE VIRTUAL TABLE doc USING fts5(body)")
        stream.armed = True
        with pytest.raises(HaError) as info:
            await node.run("INSERT INTO doc VALUES ('mine')")
        assert info.value.code is Code.OUTCOME_UNKNOWN
        at = node.database.committer.halted_at
        assert at is not None
        await skip(node.database, at)
        await settle([node])
        assert await node.rows("SELECT body FROM doc") == [("mine",)]
