"""Snapshots: taken, loaded, and what saves a node that the log has left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio
from trio.testing import MockClock

from ha.core.changeset import Kind
from ha.core.errors import Code, HaError
from ha.engine import snapshots
from ha.engine.committer import CommitOptions
from ha.engine.database import DatabaseOptions
from ha.engine.dead_letters import skip
from ha.engine.snapshots import SnapshotInfo, SnapshotOptions
from ha.engine.unit import Unit
from ha.log.api import LogError, Outgoing
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.connection import Connection
from ha.store.copying import Copy
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump

QUIET = replace(OPTIONS, snapshots=SnapshotOptions(base=False))


@asynccontextmanager
async def node(
    stream: MemoryStream,
    name: str = "n1",
    path: Path | None = None,
    options: DatabaseOptions = QUIET,
) -> AsyncIterator[TestNode]:
    async with (
        MemoryBroker(stream, node=name) as broker,
        open_node(name, broker, path, options=options) as opened,
    ):
        yield opened


def content(opened: TestNode) -> object:
    return dump(opened.database.store.path)


@pytest.fixture
def stream() -> MemoryStream:
    return MemoryStream(epoch="test")


def snapshot_of(stream: MemoryStream) -> tuple[int, bytes] | None:
    found = stream._snapshots.get("ha.db")
    return None if found is None else (int(found.headers["seq"]), found.data)


async def eventually(condition: object, seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110  # no event to wait for
            await trio.sleep(0.01)


async def test_a_snapshot_holds_the_sequence_that_it_says(
    stream: MemoryStream, tmp_path: Path
) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(x)")
        await one.run("INSERT INTO t VALUES (1)")
        applied = one.database.committer.applied
        assert await one.database.snapshots.take() == applied
        assert await one.database.snapshots.take() == 0  # nothing new
        found = snapshot_of(stream)
        assert found is not None
        assert found[0] == applied
        file = tmp_path / "s.db"
        file.write_bytes(found[1])
        db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert db.execute("SELECT received_seq FROM ha_stats").get == applied
        assert db.pragma("journal_mode") == "delete"
        assert dump(file) == content(one)


@pytest.mark.parametrize("at", [0, 3, 7])
async def test_snapshot_and_the_rest_of_the_log_are_the_whole_log(
    stream: MemoryStream, at: int
) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x UNIQUE)")
        for n in range(8):
            if n == at:
                await one.database.snapshots.take()
            await one.run("INSERT OR REPLACE INTO t(x) VALUES (?)", [n % 5])
        options = replace(QUIET, from_snapshot=True)
        async with node(stream, "n2", options=options) as two, node(stream, "n3") as three:
            await settle([one, two, three])
            assert content(two) == content(one) == content(three)


async def test_a_node_begins_by_a_snapshot_when_the_log_has_forgotten_its_beginning(
    stream: MemoryStream,
) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(x)")
        await one.run("INSERT INTO t VALUES (1)")
        await one.database.snapshots.take()
        await one.run("INSERT INTO t VALUES (2)")
        stream.drop_before(stream.last)
        async with node(stream, "n2") as two:
            await settle([one, two])
            assert content(two) == content(one)
            await two.run("INSERT INTO t VALUES (3)")
            await settle([one, two])
            assert content(two) == content(one)


async def test_a_snapshot_replaced_while_it_is_loaded_is_taken_for_what_it_is(
    stream: MemoryStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(x)")
        await one.run("INSERT INTO t VALUES (1)")
        await one.database.snapshots.take()
        stream.drop_before(stream.last)
        await one.run("INSERT INTO t VALUES (2)")
        read = MemoryBroker.get_snapshot
        replaced = False

        async def get_snapshot(broker: MemoryBroker, database_id: str) -> AsyncIterator[bytes]:
            nonlocal replaced
            if not replaced:
                replaced = True
                await one.database.snapshots.take()
            async for chunk in read(broker, database_id):
                yield chunk

        monkeypatch.setattr(MemoryBroker, "get_snapshot", get_snapshot)
        positions: list[int] = []
        settle_position = snapshots.settle_position

        def settled(connection: Connection, subject: str, info: SnapshotInfo, epoch: str) -> None:
            settle_position(connection, subject, info, epoch)
            positions.append(info.sequence)
            assert dump(connection.raw.filename) == content(one)

        monkeypatch.setattr(snapshots, "settle_position", settled)
        async with node(stream, "n2") as two:
            await settle([one, two])
            assert replaced
            assert positions == [one.database.committer.applied]
            assert content(two) == content(one)


async def test_a_node_begins_by_a_snapshot_when_the_log_has_forgotten_all(
    stream: MemoryStream,
) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(x)")
        await one.database.snapshots.take()
        stream.drop_before(stream.last + 1)
        async with node(stream, "n2") as two:
            assert await two.rows("SELECT * FROM t") == []
            await two.run("INSERT INTO t VALUES (3)")
            await settle([one, two])
            assert await one.rows("SELECT * FROM t") == [(3,)]


async def test_a_node_left_behind_recovers_by_a_snapshot_under_running_sessions(
    stream: MemoryStream, tmp_path: Path
) -> None:
    async with node(stream) as one, node(stream, "n2", tmp_path / "two.db") as two:
        await one.run("CREATE TABLE t(x)")
        await settle([one, two])
        idle, reading, pinned = (two.session() for _ in range(3))
        await idle.execute("SELECT 1")
        await reading.execute("BEGIN")
        assert (await reading.execute("SELECT count(*) FROM t")).rows == [(0,)]
        await pinned.execute("CREATE TEMP TABLE own(x)")
        broker = two.database.broker
        assert isinstance(broker, MemoryBroker)
        broker.connected = False
        for n in range(5):
            await one.run("INSERT INTO t VALUES (?)", [n])
        await one.database.snapshots.take()
        last = await one.run("INSERT INTO t VALUES (5)")
        assert last.rows_affected == 1
        stream.drop_before(stream.last)
        broker.connected = True
        await settle([one, two])
        await eventually(lambda: two.database.not_ready() is None)
        assert content(two) == content(one)
        assert (await idle.execute("SELECT count(*) FROM t")).rows == [(6,)]
        with pytest.raises(HaError) as info:
            await reading.execute("SELECT count(*) FROM t")
        assert info.value.code is Code.SERIALIZATION_FAILURE
        await reading.execute("ROLLBACK")
        assert (await reading.execute("SELECT count(*) FROM t")).rows == [(6,)]
        with pytest.raises(HaError, match="replaced by a newer snapshot"):
            await pinned.execute("SELECT * FROM own")
        assert (await pinned.execute("SELECT count(*) FROM t")).rows == [(6,)]
        await two.run("INSERT INTO t VALUES (6)")
        await settle([one, two])
        assert content(two) == content(one)
        assert two.database.not_ready() is None


async def test_a_restarted_node_that_is_too_far_behind_recovers(
    stream: MemoryStream, tmp_path: Path
) -> None:
    path = tmp_path / "two.db"
    async with node(stream) as one:
        async with node(stream, "n2", path) as two:
            await one.run("CREATE TABLE t(x)")
            await settle([one, two])
        await one.run("INSERT INTO t VALUES (1)")
        await one.run("INSERT INTO t VALUES (2)")
        await one.database.snapshots.take()
        stream.drop_before(stream.last + 1)
        async with node(stream, "n2", path) as two:
            await settle([one, two])
            await eventually(lambda: two.database.not_ready() is None)
            assert content(two) == content(one)
            await two.run("INSERT INTO t VALUES (3)")
            await settle([one, two])
            assert content(two) == content(one)


async def test_a_quiet_database_lacks_nothing_when_others_filled_the_stream(
    stream: MemoryStream, tmp_path: Path
) -> None:
    path = tmp_path / "one.db"
    async with node(stream, path=path) as one:
        await one.run("CREATE TABLE t(x)")
        await one.database.snapshots.take()
        before = content(one)
    from ha.log.api import Outgoing

    for n in range(5):
        stream.append("ha_replication.other", Outgoing(f"o{n}", b"x"))
    stream.drop_before(stream.last)
    async with node(stream, path=path) as one:
        await one.run("INSERT INTO t VALUES (1)")
        await one.run("DELETE FROM t")
        assert content(one) == before


async def test_a_node_waits_for_a_snapshot_of_what_only_another_one_has(
    stream: MemoryStream, tmp_path: Path
) -> None:
    first, second = tmp_path / "one.db", tmp_path / "two.db"
    async with node(stream, path=first) as one:
        async with node(stream, "n2", second) as two:
            await one.run("CREATE TABLE t(x)")
            await settle([one, two])
        await one.run("INSERT INTO t VALUES ('only here')")
        await eventually(
            lambda: stream._durables["ha_db_n1"].position == one.database.committer.applied
        )
    stream.drop_before(stream.last + 1)
    async with node(stream, "n2", second) as two:
        await trio.sleep(0.3)
        assert "behind" in str(two.database.not_ready())
        with pytest.raises(HaError) as info:
            await two.run("INSERT INTO t VALUES ('lost')")
        assert info.value.code is Code.UNAVAILABLE
        assert await two.rows("SELECT * FROM t") == []
        # the one that has it starts, and publishes it by itself
        async with node(stream, "n1", first, options=OPTIONS) as one:
            await eventually(lambda: content(two) == content(one))
            assert await two.rows("SELECT * FROM t") == [("only here",)]


async def _one_missed(stream: MemoryStream, folder: Path) -> tuple[Path, Path]:
    """Two files, the second of which lacks a message that the stream has forgotten; nothing there
    tells of it."""
    first, second = folder / "one.db", folder / "two.db"
    async with node(stream, path=first) as one:
        async with node(stream, "n2", second) as two:
            await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
            await settle([one, two])
        await one.run("INSERT INTO t VALUES (1, 'missed')")
    del stream._durables["ha_db_n1"]
    stream.drop_before(stream.last + 1)
    return first, second


async def test_a_message_built_on_one_that_never_came_is_not_applied(
    stream: MemoryStream, tmp_path: Path
) -> None:
    """The stream forgets a message while a node is down, and nothing tells but the next one."""
    first, second = await _one_missed(stream, tmp_path)
    async with node(stream, "n2", second) as two:
        assert await two.rows("SELECT * FROM t") == []
        async with node(stream, "n1", first) as one:
            await one.run("INSERT INTO t VALUES (2, 'seen')")
            await eventually(lambda: two.database.not_ready() is not None)
            await one.database.snapshots.take()
            await settle([one, two])
            assert content(two) == content(one)
            assert len(await two.rows("SELECT * FROM t")) == 2


@pytest.mark.parametrize("kind", [Kind.VOID, Kind.TERM])
async def test_a_message_without_changes_tells_too_that_one_before_it_never_came(
    kind: Kind, stream: MemoryStream, tmp_path: Path
) -> None:
    """Else the next one, which is built on it, would hide what is missing."""
    first, second = await _one_missed(stream, tmp_path)
    async with node(stream, "n2", second) as two:
        await eventually(lambda: two.database.not_ready() is None)
        assert await two.rows("SELECT * FROM t") == []
        async with node(stream, "n1", first) as one:
            committer = one.database.committer
            if kind is Kind.VOID:
                unit = Unit((), deadline=0)
                unit.number = 1
                await committer._void("a message that was never acknowledged", unit)
            else:
                await committer.confirm_term()
            await one.run("INSERT INTO t VALUES (2, 'seen')")
            await eventually(lambda: two.database.not_ready() is not None)
            await one.database.snapshots.take()
            await settle([one, two])
            assert content(two) == content(one)
            assert len(await two.rows("SELECT * FROM t")) == 2


async def test_a_word_that_lets_nodes_pass_tells_too_that_messages_before_never_came(
    stream: MemoryStream, tmp_path: Path
) -> None:
    first, second = await _one_missed(stream, tmp_path)
    async with node(stream, "n1", first) as one:
        await one.database.log.publish_one(Outgoing("bad", b"no message"), 5)
        await eventually(lambda: one.database.committer.halted_at is not None)
        stream.drop_before(stream.last + 1)
        await skip(one.database, stream.last)
        async with node(stream, "n2", second) as two:
            await eventually(lambda: two.database.not_ready() is not None)
            await one.run("INSERT INTO t VALUES (2, 'seen')")
            await one.database.snapshots.take()
            await settle([one, two])
            assert content(two) == content(one)
            assert len(await two.rows("SELECT * FROM t")) == 2


@pytest.mark.parametrize("followed", [True, False])
async def test_a_log_that_begins_with_a_message_nobody_can_read_is_not_whole(
    stream: MemoryStream, followed: bool
) -> None:
    """Whatever stood before it, who joins does not begin with nothing."""
    async with node(stream) as one:
        await one.run("CREATE TABLE t(x)")
        await one.run("INSERT INTO t VALUES (1)")
        await one.database.snapshots.take()
        bad = await one.database.log.publish_one(Outgoing("bad", b"no message"), 5)
        await eventually(lambda: one.database.committer.halted_at is not None)
        stream.drop_before(bad.sequence)
        if followed:
            await skip(one.database, bad.sequence)
        async with node(stream, "n2") as two:
            assert await two.rows("SELECT * FROM t") == [(1,)]


def says_what_to_do(error: HaError) -> bool:
    remove = "nats consumer rm ha_replication NAME"
    return error.code is Code.UNAVAILABLE and remove in (error.hint or "")


async def test_a_log_that_has_let_go_of_all_its_messages_is_no_new_one(
    stream: MemoryStream, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who has lost its file does not open it again beside one that still has the database."""
    path = tmp_path / "one.db"
    async with node(stream, path=path) as one:
        await one.run("CREATE TABLE t(x)")
        await one.run("INSERT INTO t VALUES ('only here')")
    stream.drop_before(stream.last + 1)
    error = pytest.RaisesExc(HaError, match="ha_db_n1", check=says_what_to_do)
    with pytest.RaisesGroup(error, flatten_subgroups=True):
        async with node(stream, "n2"):
            raise AssertionError("it has opened the log again")
    async with trio.open_nursery() as nursery:

        async def comes_late() -> None:
            async with node(stream, path=path, options=OPTIONS):
                await trio.sleep_forever()

        nursery.start_soon(comes_late)
        async with node(stream, "n2") as two:
            assert await two.rows("SELECT * FROM t") == [("only here",)]
        nursery.cancel_scope.cancel()
    del stream._durables["ha_db_n1"]  # and who has nothing has only its own
    stream._snapshots.clear()
    async with node(stream, "n2") as two:  # somebody has said that nobody has it any more
        await two.run("CREATE TABLE anew(x)")


async def test_the_base_of_a_file_with_content_reaches_those_who_join(
    stream: MemoryStream, tmp_path: Path
) -> None:
    path = tmp_path / "old.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE t(x); INSERT INTO t VALUES ('from before')")
    db.close()
    async with node(stream, path=path) as one, node(stream, "n2") as two:
        await settle([one, two])
        assert await two.rows("SELECT * FROM t") == [("from before",)]
        assert content(two) == content(one)


async def test_at_its_start_a_node_publishes_what_no_snapshot_holds(
    stream: MemoryStream, tmp_path: Path
) -> None:
    path = tmp_path / "one.db"
    async with node(stream, path=path) as one:
        await one.run("CREATE TABLE t(x)")
        applied = one.database.committer.applied
    assert snapshot_of(stream) is None
    async with node(stream, path=path, options=OPTIONS):
        await eventually(lambda: snapshot_of(stream) is not None)
    found = snapshot_of(stream)
    assert found is not None
    assert found[0] == applied


async def test_before_the_stream_forgets_a_message_a_snapshot_is_taken() -> None:
    now = 0
    stream = MemoryStream(epoch="test", now_ns=lambda: now)
    stream.max_age = 4.0
    options = replace(OPTIONS, snapshots=SnapshotOptions(jitter=0))
    async with node(stream, options=options) as one, node(stream, "n2", options=options) as two:
        await trio.sleep(0.2)  # past what they do at their start
        await one.run("CREATE TABLE t(x)")
        await settle([one, two])
        await trio.sleep(1)  # two rounds
        assert snapshot_of(stream) is None
        now += 3 * 10**9
        applied = one.database.committer.applied
        await eventually(lambda: (snapshot_of(stream) or (0,))[0] == applied)
        await trio.sleep(1)
        assert one.database.snapshots.taken + two.database.snapshots.taken == 1


async def test_snapshots_by_time(stream: MemoryStream) -> None:
    options = replace(OPTIONS, snapshots=SnapshotOptions(interval=0.1, base=False))
    async with node(stream, options=options) as one:
        await one.run("CREATE TABLE t(x)")
        await eventually(lambda: snapshot_of(stream) is not None)
        await one.run("INSERT INTO t VALUES (1)")
        applied = one.database.committer.applied
        await eventually(lambda: (snapshot_of(stream) or (0,))[0] == applied)


async def test_of_two_nodes_one_takes_a_snapshot(stream: MemoryStream) -> None:
    async with node(stream) as one, node(stream, "n2") as two:
        await one.run("CREATE TABLE t(x)")
        await settle([one, two])
        taken: list[int] = []

        async def take(opened: TestNode) -> None:
            taken.append(await opened.database.snapshots.take())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, one)
            nursery.start_soon(take, two)
        assert sorted(taken) == [0, one.database.committer.applied]


async def test_an_older_snapshot_never_replaces_one_put_just_before_it(
    stream: MemoryStream,
) -> None:
    """The other node's comes when this one has looked, and has not yet begun to put its own."""

    class Overtaken(MemoryBroker):
        async def put_snapshot(
            self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
        ) -> None:
            if newer is not None:
                await newer.run("INSERT INTO t VALUES (1)")
                assert await newer.database.snapshots.take() > int(headers["seq"])
            await super().put_snapshot(database_id, chunks, headers)

    newer: TestNode | None = None
    async with (
        Overtaken(stream, node="n1") as broker,
        open_node("n1", broker, options=QUIET) as one,
        node(stream, "n2") as two,
    ):
        await one.run("CREATE TABLE t(x)")
        await settle([one, two])
        newer = two
        assert await one.database.snapshots.take() == 0
        assert (snapshot_of(stream) or (0,))[0] == two.database.committer.applied


async def test_a_copy_is_consistent_while_writes_go_on(stream: MemoryStream) -> None:
    async with node(stream) as one:
        await one.run("CREATE TABLE t(a, b)")
        await one.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
            " INSERT INTO t SELECT randomblob(1000), 0 FROM n"
        )
        stop = False

        async def write() -> None:
            while not stop:
                await one.run("UPDATE t SET b = b + 1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(3):
                copy = await one.database.runtime.run_stoppable(one.database.store.copy)
                db = apsw.Connection(copy.path, flags=apsw.SQLITE_OPEN_READONLY)
                assert db.execute("SELECT count(DISTINCT b), count(*) FROM t").get == (1, 5000)
                assert db.execute("PRAGMA integrity_check").get == "ok"
                db.close()
                copy.remove()
            stop = True


async def test_a_copy_that_nobody_waits_for_ends(stream: MemoryStream, tmp_path: Path) -> None:
    async with node(stream, path=tmp_path / "one.db") as one:
        await one.run("CREATE TABLE t(a)")
        await one.run("INSERT INTO t VALUES (zeroblob(50000000))")
        made: list[Copy] = []
        with trio.move_on_after(0.001) as scope:
            made.append(await one.database.runtime.run_stoppable(one.database.store.copy))
        assert scope.cancelled_caught or made
        for copy in made:
            copy.remove()
        assert left_over(tmp_path) == []


def left_over(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".ha-copy-")]


class Electing(MemoryBroker):
    """Of a cluster that has no leader of the snapshots' bucket for a while, or never again."""

    until = 9.0

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None:
        if trio.current_time() < self.until:
            raise LogError("no answer within 2 s")
        return await super().snapshot_headers(database_id)


async def test_a_node_starts_through_an_election(autojump_clock: MockClock) -> None:
    """However short the time-out of writes is: its cluster takes longer to find a leader."""
    commit = CommitOptions(node="unnamed", publish_timeout=2.0)
    async with (
        Electing(MemoryStream(epoch="test"), node="n1") as broker,
        open_node("n1", broker, options=DatabaseOptions(commit, from_snapshot=True)) as opened,
    ):
        assert trio.current_time() >= 9.0
        assert await opened.rows("SELECT 1") == [(1,)]


async def test_without_its_bucket_of_snapshots_a_node_reads_the_log(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test")
    async with node(stream) as first:
        await first.run("CREATE TABLE t(x)")
        await first.run("INSERT INTO t VALUES (1)")
    broker = Electing(stream, node="n2")
    broker.until = float("inf")
    options = replace(QUIET, from_snapshot=True)
    async with broker, open_node("n2", broker, options=options) as second:
        await settle([second])
        assert await second.rows("SELECT x FROM t") == [(1,)]
