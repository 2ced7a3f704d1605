"""An operator brings file and log together again: one of the two gives way."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio
from trio.testing import MockClock

from ha.core.changeset import ChangeSet, Origin, encode
from ha.core.errors import Code, HaError
from ha.engine.repair import adopt, rebase
from ha.log.api import Ack, LogError, Outgoing
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.file import Store
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump
from tests.unit.test_identity import lose_everything, lose_the_end, refuses
from tests.unit.test_snapshots import eventually


async def fill(node: TestNode, first: int, count: int) -> None:
    for number in range(first, first + count):
        await node.run("INSERT INTO t VALUES (?)", [number])


async def numbers(node: TestNode) -> list[object]:
    return [row[0] for row in await node.rows("SELECT x FROM t ORDER BY x")]


async def a_file_ahead_of_its_log(path: Path) -> MemoryStream:
    """It holds 0 to 4, and its log no more than 0 to 2."""
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await node.run("CREATE TABLE t(x)")
        await fill(node, 0, 5)
    lose_the_end(stream)
    return stream


async def test_the_file_adopts_a_log_that_has_lost_its_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    stream = MemoryStream(epoch="one")
    path = tmp_path / "ha.db"
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await node.run("CREATE TABLE t(x)")
        await fill(node, 0, 5)
        with pytest.raises(HaError) as info:
            await adopt(node.database)
        assert info.value.code is Code.NOT_FOUND
    lose_the_end(stream)
    async with (
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker) as two,
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path) as one,
    ):
        await fill(two, 100, 1)
        await refuses(one, "")
        await adopt(one.database)
        await settle([one, two])
        assert await numbers(one) == [0, 1, 2, 100]
        await fill(one, 200, 1)
        await settle([one, two])
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_disk_that_fails_while_the_file_is_replaced_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way back then. Until it works clients are told to try again."""
    path = tmp_path / "ha.db"
    stream = await a_file_ahead_of_its_log(path)
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await refuses(node, "")
        raw = Store._raw
        works = trio.current_time() + 5

        def failing(store: Store, *incoming: str) -> apsw.Connection:
            if trio.current_time() < works and not incoming:
                raise HaError(Code.IO_ERROR, "disk I/O error")
            return raw(store, *incoming)

        monkeypatch.setattr(Store, "_raw", failing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, node.database)
            await trio.sleep(3)
            with pytest.raises(HaError) as info:
                await node.run("SELECT count(*) FROM t")
            assert info.value.code in (Code.UNAVAILABLE, Code.IO_ERROR)
        assert trio.current_time() >= works
        await settle([node])
        assert await numbers(node) == [0, 1, 2]
        await fill(node, 200, 1)
        assert await numbers(node) == [0, 1, 2, 200]


async def test_what_waits_is_in_the_new_file_before_that_takes_its_place(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MemoryStream(epoch="one")
    path = tmp_path / "ha.db"
    options = replace(OPTIONS, commit=replace(OPTIONS.commit, asynchronous=True))
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=options) as node,
    ):
        await node.run("CREATE TABLE t(x)")
        await fill(node, 0, 5)
        await settle([node])
        broker.connected = False
        await fill(node, 100, 2)
        lose_the_end(stream)
        broker.connected = True
        await refuses(node, "")

        class Crash(Exception):
            pass

        replace_by = Store.replace_by

        def crash(store: Store, incoming: str) -> None:
            replace_by(store, incoming)
            raise Crash

        monkeypatch.setattr(Store, "replace_by", crash)
        with pytest.raises(Crash):
            await adopt(node.database)
    monkeypatch.undo()
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, options=options, seed=1) as node,
    ):
        await eventually(lambda: node.database.relay.outbox.depth == 0)  # type: ignore[union-attr]
        await settle([node])
        assert [x for x in await numbers(node) if x >= 100] == [100, 101]  # type: ignore[operator]


async def test_what_a_crash_left_of_an_incoming_file_is_nothing_of_the_next_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "ha.db"
    stream = await a_file_ahead_of_its_log(path)
    left = tmp_path / "ha.db.incoming"
    with closing(apsw.Connection(str(left))) as db:
        db.execute("CREATE TABLE old(x); BEGIN IMMEDIATE; PRAGMA cache_size = 1")
        db.execute("INSERT INTO old VALUES (zeroblob(100000))")
        journal = tmp_path / "ha.db.incoming-journal"
        kept = left.read_bytes(), journal.read_bytes()
    left.write_bytes(kept[0])
    journal.write_bytes(kept[1])
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await refuses(node, "")
        await adopt(node.database)
        await settle([node])
        assert await numbers(node) == [0, 1, 2]
        assert await node.rows("SELECT name FROM sqlite_schema WHERE name = 'old'") == []
        assert not left.exists()


async def test_a_disk_that_fails_before_the_file_is_replaced_leaves_it_as_it_was(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ha.db"
    stream = await a_file_ahead_of_its_log(path)
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await refuses(node, "")

        def failing(connection: object, subject: str) -> None:
            raise HaError(Code.IO_ERROR, "disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr("ha.engine.recovery.control.ensure", failing)
            with pytest.raises(HaError) as info:
                await adopt(node.database)
        assert info.value.code is Code.IO_ERROR
        assert await numbers(node) == [0, 1, 2, 3, 4]
        await adopt(node.database)
        await settle([node])
        assert await numbers(node) == [0, 1, 2]


async def test_a_snapshot_that_holds_lost_messages_is_none_of_the_log(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Neither adopted, nor in the way of the next one."""
    stream = MemoryStream(epoch="one")
    path = tmp_path / "ha.db"
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await node.run("CREATE TABLE t(x)")
        await fill(node, 0, 5)
        taken = await node.database.snapshots.take()
        assert taken == node.database.committer.applied
    lose_the_end(stream)
    async with (
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker) as two,
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, seed=1) as one,
    ):
        await refuses(one, "")
        await adopt(one.database)
        await settle([one, two])
        assert await numbers(one) == [0, 1, 2]
        await fill(two, 100, 9)
        await settle([one, two])
        assert two.database.committer.applied > taken
        assert await two.database.snapshots.take() == two.database.committer.applied
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def two_files_ahead_of_their_log(stream: MemoryStream, paths: list[Path]) -> None:
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, paths[0]) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, paths[1]) as two,
    ):
        await one.run("CREATE TABLE t(x)")
        await fill(one, 0, 5)
        await settle([one, two])
    lose_the_end(stream)


async def test_a_base_whose_ack_is_lost_brings_its_content(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MemoryStream(epoch="one")
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    await two_files_ahead_of_their_log(stream, paths)
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, paths[0], seed=1) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, paths[1], seed=1) as two,
    ):
        log = one.database.log
        publish = log.publish_one

        async def publish_without_ack(message: Outgoing, timeout: float) -> Ack:
            monkeypatch.setattr(log, "publish_one", publish)
            await publish(message, timeout)
            raise LogError("no ack")

        monkeypatch.setattr(log, "publish_one", publish_without_ack)
        before = stream.last
        assert await rebase(one.database) == before + 1 == stream.last
        await adopt(two.database)
        await settle([one, two])
        assert await numbers(two) == [0, 1, 2, 3, 4]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_base_without_content_is_not_adopted(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored as soon as that can be; and who has the file still may make it a base again."""
    stream = MemoryStream(epoch="one")
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    await two_files_ahead_of_their_log(stream, paths)
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, paths[0], seed=1) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, paths[1], seed=1) as two,
    ):
        with monkeypatch.context() as patched:

            async def put_nothing(*_: object) -> None:
                raise LogError("no room for objects")

            patched.setattr(one_broker, "put_snapshot", put_nothing)
            await rebase(one.database)
            with pytest.raises(HaError) as info:
                await adopt(two.database)
            assert info.value.code is Code.UNAVAILABLE
            assert "POST /replications/rebase" in (info.value.hint or "")
            assert await numbers(two) == [0, 1, 2, 3, 4]
        await eventually(lambda: one.database.snapshots.taken > 0)
        await adopt(two.database)
        await settle([one, two])
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_a_node_that_waits_for_nobody_s_snapshot_may_be_the_base(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MemoryStream(epoch="one")
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    await two_files_ahead_of_their_log(stream, paths)
    async with (
        MemoryBroker(stream, node="n3") as three_broker,
        open_node("n3", three_broker) as three,
    ):
        async with (
            MemoryBroker(stream, node="n1") as one_broker,
            open_node("n1", one_broker, paths[0], seed=1) as one,
        ):

            async def put_nothing(*_: object) -> None:
                raise LogError("no room for objects")

            monkeypatch.setattr(one_broker, "put_snapshot", put_nothing)
            await rebase(one.database)
        await eventually(lambda: three.database.stranded)
        assert "POST /replications/rebase" in (three.database.not_ready() or "")
        await rebase(three.database)
        await fill(three, 7, 1)
        assert await numbers(three) == [0, 1, 2, 7]
        assert three.database.not_ready() is None


async def test_a_message_that_ran_on_lost_ones_is_no_gap(autojump_clock: MockClock) -> None:
    """As from an outbox that was filled before the broker lost messages: its base stands, if
    anywhere, behind it."""
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE TABLE t(x)")
        base = stream.last + 5
        for number in range(1, 9):
            message = ChangeSet(
                node="n2",
                process_id=7,
                database_id=node.database.id,
                changes=(),
                timestamp_ns=0,
                origin=Origin("n2", 7, number),
                uuid=node.database.fold.position.uuid,
                base=base,
            )
            stream.append(node.database.log.subject, Outgoing(f"n2-7-{number}", encode(message)))
        with trio.fail_after(60):
            await fill(node, 0, 7)
            await settle([node])
        assert await numbers(node) == [0, 1, 2, 3, 4, 5, 6]


async def test_a_node_goes_on_when_the_log_has_lost_what_halted_it(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="one")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE TABLE t(x)")
        for number in range(2):
            stream.append(node.database.log.subject, Outgoing(f"x-{number}", b"nonsense"))
        await eventually(lambda: node.database.committer.halted_at is not None)
        broker.connected = False
        lose_the_end(stream)
        broker.connected = True
        await eventually(lambda: node.database.not_ready() is None)
        await fill(node, 0, 3)
        assert await numbers(node) == [0, 1, 2]


async def test_a_new_base_forgets_what_it_knew_of_lost_messages(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A full-text table was changed by a message that is lost: a later one, at a lower place in
    the log, ran on its effects all the same."""
    stream = MemoryStream(epoch="one")
    path = tmp_path / "ha.db"
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker, path) as node:
        await node.run("CREATE TABLE t(x)")
        await node.run("CREATE VIRTUAL TABLE doc USING fts5(body)")
        await fill(node, 0, 5)
        await node.run("INSERT INTO doc VALUES ('old')")
    lose_the_end(stream)
    lose_the_end(stream)
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, seed=1) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker) as two,
    ):
        await rebase(one.database)
        await settle([one, two])
        await two.run("INSERT INTO doc VALUES ('new')")
        await settle([one, two])
        assert await one.rows("SELECT body FROM doc") == [("old",), ("new",)]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_the_file_becomes_the_base_of_a_stream_made_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    stream = MemoryStream(epoch="one")
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, paths[0]) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, paths[1]) as two,
    ):
        await one.run("CREATE TABLE t(x)")
        await fill(one, 0, 3)
        await settle([one, two])
    lose_everything(stream)
    async with (
        MemoryBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, paths[0], seed=1) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, paths[1], seed=1) as two,
    ):
        await refuses(one, "made anew")
        await rebase(one.database)
        await fill(one, 10, 1)
        await adopt(two.database)
        await settle([one, two])
        await fill(two, 20, 1)
        await settle([one, two])
        assert await numbers(one) == [0, 1, 2, 10, 20]
        assert dump(one.database.store.path) == dump(two.database.store.path)


async def test_nodes_that_follow_the_log_take_a_new_base_from_its_snapshot(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "ha.db"
    stream = await a_file_ahead_of_its_log(path)
    async with (
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker) as two,
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, path, seed=1) as one,
    ):
        await fill(two, 100, 1)
        await rebase(one.database)
        await settle([one, two])
        assert await numbers(two) == [0, 1, 2, 3, 4]
        await fill(two, 300, 1)
        await settle([one, two])
        assert await numbers(one) == [0, 1, 2, 3, 4, 300]
        assert dump(one.database.store.path) == dump(two.database.store.path)
