"""SQLite calls a COMMIT failed, but it stands in the file: a disk may fail after the last write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio
from trio.testing import MockClock

from ha.core.errors import Code, HaError
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.connection import Connection
from ha.store.fold import Fold
from tests.support.cluster import OPTIONS, TestNode, open_cluster, open_node, settle
from tests.support.dump import dump

FAST = replace(OPTIONS.commit, publish_timeout=1.0)


def fail_after_commit(connection: Connection) -> None:
    """Once."""
    execute = connection.execute

    def failing(sql, params=None):  # type: ignore[no-untyped-def]
        answer = execute(sql, params)
        if sql == "COMMIT":
            connection.execute = execute  # type: ignore[method-assign]
            raise apsw.IOError("disk I/O error")
        return answer

    connection.execute = failing  # type: ignore[method-assign]


async def history(node: TestNode) -> list[object]:
    return [row[0] for row in await node.rows("HISTORY 1")]


async def test_what_a_doubtful_commit_applied_counts(autojump_clock: MockClock) -> None:
    async with open_cluster(2, options=replace(OPTIONS, commit=FAST)) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)
        fail_after_commit(two.database.fold.connection)
        await one.run("INSERT INTO t VALUES (1, 'x')")
        await settle(nodes)
        assert await two.rows("SELECT * FROM t") == [(1, "x")]
        assert two.database.committer.counters.ignored == 0
        assert await history(one) == await history(two)
        await two.run("UPDATE t SET x = 'y'")
        await settle(nodes)
        assert dump(one.database.store.path) == dump(two.database.store.path)


@pytest.mark.parametrize("stands", [False, True])
async def test_a_base_whose_commit_failed_is_learned_at_the_next_try(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stands: bool
) -> None:
    """A file with content, and without its identity, is refused when its node starts again."""
    stream = MemoryStream(epoch="test")
    path = tmp_path / "ha.db"
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as one:
        await one.run("CREATE TABLE t(x)")
        execute = Connection.execute
        failed: list[str] = []

        def failing(connection, sql, params=None):  # type: ignore[no-untyped-def]
            here = sql == "COMMIT" and begun and connection.raw.filename == str(path)
            if here and not failed:
                failed.append(sql)
                if stands:
                    execute(connection, sql, params)
                raise apsw.IOError("disk I/O error")
            return execute(connection, sql, params)

        begun = False
        monkeypatch.setattr(Connection, "execute", failing)
        apply = Fold.apply

        def begin(fold, *arguments):  # type: ignore[no-untyped-def]
            nonlocal begun
            begun = True
            try:
                return apply(fold, *arguments)
            finally:
                begun = False

        monkeypatch.setattr(Fold, "apply", begin)
        async with (
            MemoryBroker(stream, node="n2") as other,
            open_node("n2", other, path) as two,
        ):
            await settle([one, two])
            assert failed
        async with (
            MemoryBroker(stream, node="n2") as other,
            open_node("n2", other, path, seed=1) as two,
        ):
            await one.run("INSERT INTO t VALUES (1)")
            await settle([one, two])
            assert await two.rows("SELECT * FROM t") == [(1,)]


async def test_a_doubtful_commit_of_an_own_write_says_that_it_is_written(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(2, options=replace(OPTIONS, commit=FAST)) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        fail_after_commit(one.database.store.executor)
        with pytest.raises(HaError) as info:
            await one.run("INSERT INTO t VALUES (1, 'x')")
        assert info.value.code is Code.WRITTEN_NOT_APPLIED
        await settle(nodes)
        assert one.database.committer.counters.ignored == 0
        assert await history(one) == await history(two)
        assert info.value.sequence in await history(one)
        await one.run("UNDO")
        await settle(nodes)
        assert [await node.rows("SELECT * FROM t") for node in nodes] == [[], []]


async def test_a_write_that_was_left_to_the_log_is_told_the_truth_after_one(
    autojump_clock: MockClock,
) -> None:
    """Its messages were met by the very apply whose COMMIT was in doubt."""
    async with open_cluster(2, options=replace(OPTIONS, commit=FAST)) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)
        outcomes: list[Code | None] = []

        async def write(node: TestNode, key: int) -> None:
            try:
                await node.run("INSERT INTO t VALUES (?, 'x')", [key])
                outcomes.append(None)
            except HaError as error:
                outcomes.append(error.code)

        fail_after_commit(one.database.fold.connection)
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(write, nodes[n % 2], n)
        await settle(nodes)
        assert outcomes == [None] * 10
        assert await two.rows("SELECT count(*) FROM t") == [(10,)]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_doubtful_commit_before_the_log_has_it_is_told_so(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test")
    commit = replace(FAST, asynchronous=True)
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=replace(OPTIONS, commit=commit)) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, options=replace(OPTIONS, commit=FAST)) as two,
    ):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        broker.connected = False
        await one.run("INSERT INTO t VALUES (1, 'x')")
        fail_after_commit(one.database.store.executor)
        with pytest.raises(HaError) as info:
            await one.run("INSERT INTO t VALUES (2, 'doubtful')")
        assert info.value.code is Code.OUTCOME_UNKNOWN
        await one.run("INSERT INTO t VALUES (3, 'z')")
        broker.connected = True
        with trio.fail_after(10):
            await two.database.committer.wait_applied(5)
        await settle([one, two])
        for node in (one, two):
            assert await node.rows("SELECT id FROM t") == [(1,), (2,), (3,)]
        assert one.database.relay is not None
        assert one.database.relay.outbox.depth == 0


async def test_an_outbox_that_cannot_be_counted_after_a_failed_commit_forgets_nothing(
    autojump_clock: MockClock,
) -> None:
    """What the log has waits no longer, or it would be published once more under new numbers."""
    stream = MemoryStream(epoch="test")
    asynchronous = replace(OPTIONS, commit=replace(FAST, asynchronous=True))
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=asynchronous) as one,
        MemoryBroker(stream, node="n2") as other,
        open_node("n2", other) as two,
    ):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle([one, two])
        fail_to_apply_and_to_count(one.database.fold.connection)
        await one.run("INSERT INTO t VALUES (1, 'x')")
        await settle([one, two])
        assert one.database.store.executor.execute("SELECT count(*) FROM ha_outbox") == 0
        await two.run("UPDATE t SET x = 'y'")
        await settle([one, two])
        assert await one.rows("SELECT * FROM t") == [(1, "y")]
        assert dump(one.database.store.path) == dump(two.database.store.path)


def fail_to_apply_and_to_count(connection: Connection) -> None:
    """The next COMMIT that takes a message out of the outbox fails, and does not stand; nor can
    it be read then."""
    execute = connection.execute
    removed = broken = False

    def failing(sql, params=None):  # type: ignore[no-untyped-def]
        nonlocal removed, broken
        if broken and sql == "SELECT count(*) FROM ha_outbox":
            connection.execute = execute  # type: ignore[method-assign]
            raise apsw.IOError("disk I/O error")
        removed = removed or sql.startswith("DELETE FROM ha_outbox")
        if removed and not broken and sql == "COMMIT":
            broken = True
            raise apsw.IOError("disk I/O error")
        return execute(sql, params)

    connection.execute = failing  # type: ignore[method-assign]
