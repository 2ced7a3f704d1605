"""Answered before the log has it: the file is the fold, and then the tentative suffix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import MockClock

from ha.core.changeset import ChangeSet, decode
from ha.core.errors import Code, HaError
from ha.engine.relay import WINDOW
from ha.log.api import Ack, Outgoing, Refused
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.apply import Applier
from ha.store.file import StoreOptions
from ha.store.fold import Intercepted
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump

ASYNC = replace(OPTIONS, commit=replace(OPTIONS.commit, asynchronous=True, publish_timeout=1.0))
SYNC = replace(OPTIONS, commit=replace(OPTIONS.commit, publish_timeout=1.0))


@asynccontextmanager
async def async_and_sync(
    stream: MemoryStream,
) -> AsyncIterator[tuple[MemoryBroker, TestNode, TestNode]]:
    """n1, which is asynchronous, with its broker, and n2, which is not."""
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=ASYNC) as one,
        MemoryBroker(stream, node="n2") as other,
        open_node("n2", other, options=SYNC) as two,
    ):
        yield broker, one, two


async def drained(node: TestNode) -> None:
    """Wait until nothing waits for the log."""
    relay = node.database.relay
    assert relay is not None
    with trio.fail_after(10):
        while relay.outbox.depth:
            await node.database.committer.wait_applied(node.database.committer.applied + 1)


async def test_writes_go_on_without_the_log_and_the_fold_decides_afterwards(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test")
    async with async_and_sync(stream) as (one_broker, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x, u UNIQUE)")
        await one.run("INSERT INTO t VALUES (1, 'base', 1)")
        await drained(one)
        await settle([one, two])
        one_broker.connected = False
        await one.run("UPDATE t SET x = 'tentative' WHERE id = 1")
        await one.run("INSERT INTO t(x, u) VALUES ('mine', 2)")
        await one.run("INSERT INTO t(x, u) VALUES ('third', 3)")
        assert await one.rows("SELECT id, x FROM t") == [
            (1, "tentative"), (2, "mine"), (3, "third"),
        ]  # fmt: skip
        await two.run("UPDATE t SET x = 'two' WHERE id = 1")
        await two.run("INSERT INTO t(x, u) VALUES ('other', 9)")
        await two.run("INSERT INTO t(id, x, u) VALUES (50, 'rival', 3)")
        one_broker.connected = True
        await drained(one)
        await settle([one, two])
        expected = [(1, "tentative"), (2, "mine"), (3, "third")]
        for node in (one, two):
            assert await node.rows("SELECT id, x FROM t") == expected
        assert dump(one.database.store.path) == dump(two.database.store.path)
        assert one.database.fold.redone > 0


async def test_a_node_with_waiting_writes_does_not_begin_with_a_snapshot(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The snapshot would take the place of the only file that holds them."""
    stream = MemoryStream(epoch="test")
    path = tmp_path / "ha.db"
    async with (
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, options=SYNC) as two,
    ):
        async with (
            MemoryBroker(stream, node="n1") as broker,
            open_node("n1", broker, path, options=ASYNC) as one,
        ):
            await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
            await drained(one)
            await settle([one, two])
            broker.connected = False
            await one.run("INSERT INTO t VALUES (1, 'waiting')")
        await two.run("INSERT INTO t VALUES (2, 'other')")
        await two.database.snapshots.take()
        options = replace(ASYNC, from_snapshot=True)
        async with (
            MemoryBroker(stream, node="n1") as broker,
            open_node("n1", broker, path, options=options) as one,
        ):
            await drained(one)
            await settle([one, two])
            for node in (one, two):
                assert await node.rows("SELECT x FROM t") == [("waiting",), ("other",)]


async def test_the_outbox_survives_a_crash(tmp_path: Path, autojump_clock: MockClock) -> None:
    stream = MemoryStream(epoch="test")
    path = tmp_path / "ha.db"
    store_options = StoreOptions()
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=ASYNC, store_options=store_options) as node,
    ):
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        broker.connected = False
        for n in range(20):
            await node.run("INSERT INTO t VALUES (?, 'x')", [n])
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=ASYNC, seed=1) as node,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, options=SYNC) as two,
    ):
        await node.run("INSERT INTO t VALUES (100, 'later')")
        await drained(node)
        await settle([node, two])
        assert await two.rows("SELECT count(*), max(id) FROM t") == [(21, 100)]
        assert dump(path) == dump(two.database.store.path)


async def test_a_schema_change_waits_for_the_log_and_is_refused_without_it(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test")
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=ASYNC) as node,
    ):
        await node.run("CREATE TABLE t(x)")
        broker.connected = False
        await node.run("INSERT INTO t VALUES (1)")
        with pytest.raises(HaError) as info:
            await node.run("ALTER TABLE t ADD COLUMN y")
        assert info.value.code is Code.NOT_WRITTEN
        broker.connected = True
        await node.run("ALTER TABLE t ADD COLUMN y")
        assert await node.rows("SELECT * FROM t") == [(1, None)]
        session = node.session()
        await session.execute("BEGIN")
        with pytest.raises(HaError) as info:
            await session.execute("CREATE TABLE u(x)")
        assert info.value.code is Code.UNSUPPORTED
        await session.execute("INSERT INTO t VALUES (2, 2)")
        await session.execute("COMMIT")
        await drained(node)
        assert await node.rows("SELECT count(*) FROM t") == [(2,)]


async def test_a_message_refused_in_the_middle_is_no_lost_write(autojump_clock: MockClock) -> None:
    class Refusing(MemoryStream):
        refused = 0

        def append(self, subject_name, message):  # type: ignore[no-untyped-def]
            from ha.log.api import Refused

            if b'"third"' in message.payload and self.refused == 0:
                self.refused += 1
                raise Refused("no space")
            return super().append(subject_name, message)

    stream = Refusing(epoch="test")
    async with async_and_sync(stream) as (broker, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await drained(one)
        broker.connected = False
        for n, word in enumerate(["first", "second", "third", "fourth", "fifth"]):
            await one.run("INSERT INTO t VALUES (?, ?)", [n, word])
        broker.connected = True
        await drained(one)
        await settle([one, two])
        for node in (one, two):
            assert [r[0] for r in await node.rows("SELECT x FROM t ORDER BY id")] == [
                "first", "second", "third", "fourth", "fifth",
            ]  # fmt: skip
        assert stream.refused == 1


async def test_what_a_redo_did_is_taken_back_as_it_was(autojump_clock: MockClock) -> None:
    """Applied again to another state, a transaction does other things: those are undone."""
    stream = MemoryStream(epoch="test")
    async with async_and_sync(stream) as (_, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)")
        await one.run("INSERT INTO t VALUES (5, 0), (6, 6)")
        await drained(one)
        await settle([one, two])
        publish, relay = one.database.log.publish, one.database.relay
        assert relay is not None
        one.database.log.publish = lambda messages, on_ack: None  # type: ignore[method-assign]
        await one.run("UPDATE t SET a = 1 WHERE id = 5")
        await two.run("UPDATE t SET a = 9 WHERE id = 5")
        await two.run("UPDATE t SET a = 1 WHERE id = 6")
        await settle([one, two])
        await two.run("INSERT INTO t VALUES (7, 7)")
        await settle([one, two])
        connection = one.database.fold.connection
        connection.execute("BEGIN IMMEDIATE")
        relay.outbox.undo(connection, Applier(connection.raw))
        prefix = connection.raw.execute("SELECT * FROM t ORDER BY id").fetchall()
        connection.execute("ROLLBACK")
        assert prefix == [(5, 9), (6, 1), (7, 7)] == await two.rows("SELECT * FROM t ORDER BY id")
        one.database.log.publish = publish  # type: ignore[method-assign]
        relay.again()
        await drained(one)
        await settle([one, two])
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_row_that_comes_back_does_not_move_autoincrement_on(
    autojump_clock: MockClock,
) -> None:
    """Its number had been given by UPDATE, which does not; taking back inserts it."""
    stream = MemoryStream(epoch="test")
    async with async_and_sync(stream) as (one_broker, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE)")
        await one.run("CREATE TABLE other(x)")
        await one.run("INSERT INTO t(u) VALUES ('a'), ('b')")
        await one.run("UPDATE t SET id = 6 WHERE u = 'b'")
        await drained(one)
        await settle([one, two])
        one_broker.connected = False
        await one.run("UPDATE OR REPLACE t SET u = 'b' WHERE id = 1")
        await two.run("INSERT INTO other VALUES (1)")
        one_broker.connected = True
        await drained(one)
        await settle([one, two])
        assert await one.rows("SELECT seq FROM sqlite_sequence") == [(2,)]
        assert dump(one.database.store.path) == dump(two.database.store.path)


class Losing(MemoryStream):
    """Refuses the first message that ``lose`` names, or loses it without a word."""

    def __init__(
        self, lose: Callable[[ChangeSet], bool], *, silent: bool = False, **options: Any
    ) -> None:
        super().__init__(epoch="test", **options)
        self.lose = lose
        self.lost: list[str] = []
        self._silent = silent

    def append(self, subject_name: str, message: Outgoing) -> Ack:
        if not self.lost and self.lose(decode(message.payload)):
            self.lost.append(message.message_id)
            if self._silent:
                return Ack(self.last)
            raise Refused("no space")
        return super().append(subject_name, message)


async def test_a_part_that_was_lost_is_a_hole_for_its_own_node_too(
    autojump_clock: MockClock,
) -> None:
    stream = Losing(
        lambda cs: (cs.extra.get("part") or [0])[0] == 1, silent=True, max_payload=8_192
    )
    async with async_and_sync(stream) as (broker, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await one.run("INSERT INTO t VALUES (0, 'small')")
        await drained(one)
        broker.connected = False
        many = ", ".join(f"({n}, hex(zeroblob(1000)))" for n in range(1, 11))
        await one.run(f"INSERT INTO t VALUES {many}")
        await one.run("UPDATE t SET x = 'later' WHERE id = 3")
        broker.connected = True
        await drained(one)
        await settle([one, two])
        assert stream.lost
        assert await two.rows("SELECT count(*), max(x) FROM t") == [(11, "small")]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_big_transaction_gets_through_although_many_of_its_parts_are_refused(
    autojump_clock: MockClock,
) -> None:
    class Refusing(MemoryStream):
        attempts = 0

        def append(self, subject_name: str, message: Outgoing) -> Ack:
            self.attempts += 1
            if self.attempts % 5 == 0:
                raise Refused("no space")
            return super().append(subject_name, message)

    stream = Refusing(epoch="test", max_payload=8_192)
    rows = 700
    async with async_and_sync(stream) as (broker, one, two):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await drained(one)
        broker.connected = False
        many = ", ".join(f"({n}, hex(zeroblob(3000)))" for n in range(rows))
        await one.run(f"INSERT INTO t VALUES {many}")
        relay = one.database.relay
        assert relay is not None
        parts = relay.outbox.depth
        assert parts > WINDOW
        await one.run("UPDATE t SET x = 'later' WHERE id = 3")
        broker.connected = True
        await drained(one)
        await settle([one, two])
        assert await two.rows("SELECT count(*), max(x) FROM t") == [(rows, "later")]
        assert dump(one.database.store.path) == dump(two.database.store.path)
        assert parts < stream.last < 2 * parts + 20


async def test_an_interceptor_decides_about_own_messages_too(autojump_clock: MockClock) -> None:
    class Upper:
        def before_apply(self, changeset: Intercepted, connection: apsw.Connection) -> bool | None:
            changes = changeset.changes
            if any(c.new_values and c.new_values[1] == "never" for c in changes):
                return True
            for c in changes:
                if c.new_values:
                    c.new_values = (c.new_values[0], str(c.new_values[1]).upper())
            return None

        def after_apply(
            self, changeset: Intercepted, connection: apsw.Connection, error: Exception | None
        ) -> None:
            if error is not None:
                raise error

    stream = MemoryStream(epoch="test")
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n1", one_broker, options=replace(ASYNC, interceptor=Upper())) as one,
        open_node("n2", two_broker, options=replace(SYNC, interceptor=Upper())) as two,
    ):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await one.run("INSERT INTO t VALUES (1, 'a')")
        await one.run("INSERT INTO t VALUES (2, 'never')")
        await one.run("INSERT INTO t VALUES (3, 'c')")
        await drained(one)
        await settle([one, two])
        for node in (one, two):
            assert await node.rows("SELECT * FROM t") == [(1, "A"), (3, "C")]


async def test_writes_of_an_earlier_process_stay_in_front_of_later_ones(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    stream = Losing(lambda cs: any(c.new_values == (1, "older") for c in cs.changes))
    path = tmp_path / "ha.db"
    store_options = StoreOptions()
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=ASYNC, store_options=store_options) as node,
    ):
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        broker.connected = False
        await node.run("INSERT INTO t VALUES (1, 'older')")
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=ASYNC, seed=1) as node,
    ):
        broker.connected = False
        await node.run("UPDATE t SET x = 'newer' WHERE id = 1")
        broker.connected = True
        await drained(node)
        assert stream.lost
        assert await node.rows("SELECT * FROM t") == [(1, "newer")]


async def test_a_stale_index_write_is_lost_aloud(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Shadow rows of FTS5 that were written on an older index cannot be done again on another."""
    stream = MemoryStream(epoch="test")
    async with async_and_sync(stream) as (broker, one, two):
        await one.run("CREATE VIRTUAL TABLE f USING fts5(body)")
        await drained(one)
        await settle([one, two])
        broker.connected = False
        await one.run("INSERT INTO f(body) VALUES ('mine')")
        await two.run("INSERT INTO f(body) VALUES ('theirs')")
        broker.connected = True
        await drained(one)
        await settle([one, two])
        for node in (one, two):
            assert await node.rows("SELECT body FROM f") == [("theirs",)]
            await node.run("INSERT INTO f(f) VALUES ('integrity-check')")
        (warning,) = [r for r in caplog.records if "does not count" in r.message]
        assert warning.__dict__["verdict"] == "stale"
        assert one.database.committer.counters.ignored == 1
