"""What a client is told when publishing goes wrong: always the truth, and nothing half done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ha.core.changeset import Change, ChangeSet, Operation, Origin, decode
from ha.core.errors import Code, HaError
from ha.core.parts import encode_all
from ha.engine.api import Statement, Status
from ha.log.api import Ack, NotSent, Outgoing, Refused
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_cluster, open_node, settle

FAST = replace(OPTIONS, commit=replace(OPTIONS.commit, publish_timeout=2.0, transaction_hold=5.0))
Fault = Callable[[Outgoing], bool]


class FaultyStream(MemoryStream):
    """Loses or refuses messages on their way to the broker, as the test says."""

    def __init__(self) -> None:
        super().__init__(epoch="test")
        self.lose: Fault = lambda message: False
        self.refuse: Fault = lambda message: False
        self.before: Callable[[Outgoing], None] = lambda message: None

    def append(self, subject_name: str, message: Outgoing) -> Ack:
        self.before(message)
        if self.refuse(message):
            raise Refused("maximum bytes exceeded")
        if self.lose(message):
            raise Lost
        return super().append(subject_name, message)


class Lost(Exception):
    """The message never arrived; no ack will come."""


class FaultyBroker(MemoryBroker):
    """Turns a lost message into silence."""

    async def log(self, database_id: str):  # type: ignore[no-untyped-def]
        log = await super().log(database_id)
        publish = log.publish
        publish_one = log.publish_one

        def quiet(messages, on_ack):  # type: ignore[no-untyped-def]
            if not log.connected:
                raise NotSent("no connection to the log")
            for index, message in enumerate(messages):
                try:
                    publish([message], lambda _, outcome, index=index: on_ack(index, outcome))
                except Lost:
                    continue

        async def quiet_one(message, timeout):  # type: ignore[no-untyped-def]
            try:
                return await publish_one(message, timeout)
            except Lost:
                await trio.sleep(timeout)
                raise NotSent("lost") from None

        log.publish = quiet
        log.publish_one = quiet_one
        return log


@asynccontextmanager
async def faulty_node(options=FAST) -> AsyncIterator[tuple[TestNode, FaultyStream, MemoryBroker]]:  # type: ignore[no-untyped-def]
    stream = FaultyStream()
    async with (
        FaultyBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=options) as node,
    ):
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        yield node, stream, broker


async def all_outcomes(node: TestNode, count: int) -> list[Code | None]:
    """Insert ids 1…count at once, each by a client of its own; what each was told."""
    outcomes: list[Code | None] = [None] * count

    async def insert(index: int) -> None:
        try:
            await node.run("INSERT INTO t VALUES (?, ?)", [index + 1, "x"])
        except HaError as error:
            outcomes[index] = error.code

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(insert, index)
    return outcomes


def first_row(message: Outgoing) -> object:
    changes = decode(message.payload).changes
    return changes[0].new_values[0] if changes and changes[0].new_values else None


async def ids(node: TestNode) -> list[int]:
    return [row[0] for row in await node.rows("SELECT id FROM t ORDER BY id")]  # type: ignore[misc]


async def test_a_lost_ack_is_no_error_since_the_log_brings_the_message(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, _, broker):
        broker.lose_acks = True
        assert await all_outcomes(node, 3) == [None] * 3
        assert await ids(node) == [1, 2, 3]


async def test_a_message_that_never_arrived_is_made_void_and_its_client_told(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, stream, _):
        lost: list[str] = []

        def lose(message: Outgoing) -> bool:
            if first_row(message) == 2 and not lost:
                lost.append(message.message_id)
                return True
            return False

        stream.lose = lose
        outcomes = await all_outcomes(node, 4)
        assert outcomes == [None, Code.NOT_WRITTEN, None, None]
        assert await ids(node) == [1, 3, 4]
        # Should the first try arrive after all, it changes nothing.
        late = [e async for e in node.database.log.history(1)]
        assert lost[0] in [e.message_id for e in late]


async def test_a_refused_message_in_a_batch_costs_its_client_alone(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, stream, _):
        stream.refuse = lambda message: first_row(message) == 2
        assert await all_outcomes(node, 5) == [None, Code.NOT_WRITTEN, None, None, None]
        assert await ids(node) == [1, 3, 4, 5]


async def test_a_hole_in_a_published_batch_is_ignored_by_every_node(
    autojump_clock: MockClock,
) -> None:
    stream = FaultyStream()
    async with (
        FaultyBroker(stream, node="n1") as one_broker,
        open_node("n1", one_broker, options=FAST) as one,
        MemoryBroker(stream, node="n2") as two_broker,
        open_node("n2", two_broker, options=FAST) as two,
    ):
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        refused: list[object] = []

        def refuse(message: Outgoing) -> bool:
            if not refused and first_row(message) is not None:
                refused.append(first_row(message))
            return first_row(message) in refused

        stream.refuse = refuse
        outcomes = await all_outcomes(one, 6)
        assert sorted(map(str, outcomes)) == ["None"] * 5 + [Code.NOT_WRITTEN.value]
        await settle([one, two])
        assert await ids(one) == await ids(two) == [n for n in range(1, 7) if n not in refused]
        assert one.database.committer.counters.ignored > 0


async def test_without_the_log_nothing_is_written_and_the_client_knows(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, _, broker):
        broker.connected = False
        assert await all_outcomes(node, 2) == [Code.NOT_WRITTEN] * 2
        broker.connected = True
        assert await ids(node) == []
        assert await all_outcomes(node, 2) == [None] * 2


async def test_an_outcome_that_cannot_be_known_is_told_so_and_settled_later(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, stream, broker):

        def cut(message: Outgoing) -> None:
            broker.connected = False

        stream.before = cut
        broker.lose_acks = True
        outcomes = await all_outcomes(node, 1)
        assert outcomes == [Code.OUTCOME_UNKNOWN]
        stream.before = lambda message: None
        broker.lose_acks = False
        broker.connected = True
        await settle([node])
        assert await ids(node) == [1]  # it had reached the log
        assert await all_outcomes(node, 2) == [Code.UNIQUE_VIOLATION, None]


async def test_a_foreign_message_before_the_batch_costs_one_replay_and_no_error(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(2, options=FAST) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)
        async with trio.open_nursery() as nursery:
            for node in nodes:
                for index in range(20):
                    nursery.start_soon(
                        node.run, "INSERT OR REPLACE INTO t VALUES (?, ?)", [index, node.name]
                    )
        await settle(nodes)
        assert await nodes[0].rows("SELECT * FROM t") == await nodes[1].rows("SELECT * FROM t")
        assert sum(n.database.committer.counters.replayed for n in nodes) > 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR ROLLBACK INTO t VALUES (1, 'again')",
        "INSERT INTO u VALUES (1)",  # a trigger that raises ROLLBACK
    ],
)
async def test_a_statement_that_ends_the_whole_transaction_costs_its_client_alone(
    statement: str, autojump_clock: MockClock
) -> None:
    async with faulty_node() as (node, _, _):
        await node.run("INSERT INTO t VALUES (1, 'first')")
        await node.run("CREATE TABLE u(x)")
        await node.run(
            "CREATE TRIGGER r BEFORE INSERT ON u BEGIN SELECT RAISE(ROLLBACK, 'never'); END"
        )
        codes: list[Code] = []

        async def bad() -> None:
            try:
                await node.run(statement)
            except HaError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(node.run, "INSERT INTO t VALUES (?, 'x')", [10 + index])
                nursery.start_soon(bad)
        assert len(codes) == 5
        assert await ids(node) == [1, 10, 11, 12, 13, 14]


async def test_a_cancelled_statement_in_the_middle_of_a_batch_costs_its_client_alone() -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n)"
        " INSERT INTO t SELECT i, 'x' FROM n"
    )
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        batches = node.database.committer.counters.batches
        codes: list[Code] = []
        session = node.session()

        async def bad() -> None:
            try:
                await session.execute(endless)
            except HaError as error:
                codes.append(error.code)

        async def cancel() -> None:
            await trio.testing.wait_all_tasks_blocked()
            assert node.database.committer.waiting == 0
            while not codes:  # the others are done at once, this one never
                session.cancel()
                await trio.sleep(0.001)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for index in range(5):
                    nursery.start_soon(node.run, "INSERT INTO t VALUES (?, 'x')", [index])
                nursery.start_soon(bad)
                for index in range(5, 10):
                    nursery.start_soon(node.run, "INSERT INTO t VALUES (?, 'x')", [index])
                nursery.start_soon(cancel)
        assert codes == [Code.CANCELLED]
        assert await ids(node) == list(range(10))
        assert node.database.committer.counters.batches == batches + 1


async def test_a_full_disk_in_the_middle_of_a_batch_costs_its_client_alone(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        batches = node.database.committer.counters.batches
        raw = node.database.store.executor.raw
        raw.pragma("max_page_count", raw.pragma("page_count") + 20)
        codes: list[Code] = []

        async def bad() -> None:
            try:
                await node.run("INSERT INTO t VALUES (100, zeroblob(1000000))")
            except HaError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(node.run, "INSERT INTO t VALUES (?, 'x')", [index])
            nursery.start_soon(bad)
            for index in range(5, 10):
                nursery.start_soon(node.run, "INSERT INTO t VALUES (?, 'x')", [index])
        assert codes == [Code.DISK_FULL]
        assert await ids(node) == list(range(10))
        assert node.database.committer.counters.batches == batches + 1


async def test_a_deferred_foreign_key_fails_before_its_message_is_published(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, _, _):
        await node.run("CREATE TABLE p(id INTEGER PRIMARY KEY)")
        await node.run("CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        session = node.session()
        await session.execute("PRAGMA foreign_keys = ON")
        last = (await node.database.log.state()).last
        with pytest.raises(HaError) as info:
            await session.execute("INSERT INTO c VALUES (7)")
        assert info.value.code is Code.FOREIGN_KEY_VIOLATION
        assert (await node.database.log.state()).last == last
        await session.execute("BEGIN")
        await session.execute("INSERT INTO c VALUES (7)")
        await session.execute("INSERT INTO p VALUES (7)")
        await session.execute("COMMIT")


async def test_an_open_transaction_holds_foreign_messages_for_a_bound_only(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(2, options=FAST) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)
        session = one.session()
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'open')")
        await two.run("INSERT INTO t VALUES (1, 'two')")
        began = trio.current_time()
        await settle(nodes)
        assert 5 <= trio.current_time() - began <= 6
        assert session.status is Status.ABORTED
        with pytest.raises(HaError) as info:
            await session.execute("SELECT 1")
        assert info.value.code is Code.TRANSACTION_HOLD
        await session.execute("ROLLBACK")
        assert session.status is Status.IDLE
        assert await one.rows("SELECT x FROM t") == [("two",)]


async def test_a_commit_that_fails_after_the_order_is_fixed_says_that_it_is_written(
    autojump_clock: MockClock,
) -> None:
    async with faulty_node() as (node, _, _):
        connection = node.database.store.executor
        execute = connection.execute

        def failing(sql, params=None):  # type: ignore[no-untyped-def]
            if sql == "COMMIT":
                raise HaError(Code.DISK_FULL, "database or disk is full")
            return execute(sql, params)

        connection.execute = failing  # type: ignore[method-assign]
        with pytest.raises(HaError) as info:
            await node.run("INSERT INTO t VALUES (1, 'x')")
        assert info.value.code is Code.WRITTEN_NOT_APPLIED
        assert info.value.sequence == 3
        assert "disk is full" in (node.databases.not_ready() or "")
        connection.execute = execute  # type: ignore[method-assign]
        await settle([node])
        assert await ids(node) == [1]
        await node.run("INSERT INTO t VALUES (2, 'y')")
        assert node.databases.not_ready() is None


async def test_sessions_do_not_see_each_other(autojump_clock: MockClock) -> None:
    async with faulty_node() as (node, _, _):
        one, two = node.session(), node.session()
        await one.execute("INSERT INTO t VALUES (41, 'x')")
        assert (await one.execute("SELECT last_insert_rowid(), changes()")).rows == [(41, 1)]
        assert (await two.execute("SELECT last_insert_rowid(), changes()")).rows == [(0, 0)]
        await one.execute("PRAGMA query_only = ON")
        with pytest.raises(HaError) as info:
            await one.execute("DELETE FROM t")
        assert info.value.code is Code.READ_ONLY
        await two.execute("CREATE TEMP TABLE scratch(a)")
        await two.execute("INSERT INTO scratch VALUES (1)")
        await two.execute("INSERT INTO t SELECT 100, a FROM scratch")
        with pytest.raises(HaError):
            await one.execute("SELECT * FROM scratch")
        assert await ids(node) == [41, 100]


async def test_a_transaction_bigger_than_a_message_travels_in_parts(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test", max_payload=64 * 1024)
    async with open_cluster(2, stream=stream) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await one.run("INSERT INTO t VALUES (1, zeroblob(300000))")
        session = one.session()
        await session.transaction(
            [Statement("INSERT INTO t VALUES (?, ?)", [n, "y" * 100]) for n in range(2, 5000)]
        )
        last = await settle(nodes)
        assert last > 10
        for node in nodes:
            assert await node.rows("SELECT count(*), sum(length(x)) FROM t") == [
                (4999, 300000 + 4998 * 100)
            ]
            assert await node.rows("SELECT typeof(x) FROM t WHERE id = 1") == [("blob",)]
            assert await node.rows("SELECT count(*) FROM ha_parts") == [(0,)]
        await two.run("DELETE FROM t")
        await settle(nodes)
        assert await ids(one) == []


async def test_a_late_end_of_a_big_transaction_of_a_former_process_counts_nowhere() -> None:
    stream = MemoryStream(epoch="test")
    async with open_cluster(2, stream=stream) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await settle(nodes)
        rows = tuple(
            Change(Operation.INSERT, "t", ("id", "x"), ("id",), new_values=(n, "x" * 1_000))
            for n in range(1, 6)
        )
        former = ChangeSet("n1", 99, "ha.db", rows, origin=Origin("n1", 99, 1))
        *first, last = encode_all(former, 4_096)
        subject = nodes[0].database.log.subject
        for n, payload in enumerate(first):
            stream.append(subject, Outgoing(f"n1-99-1.{n}", payload))
        await settle(nodes)
        await nodes[0].run("INSERT INTO t VALUES (10, 'by the present process')")
        stream.append(subject, Outgoing("n1-99-1.last", last))
        await settle(nodes)
        assert [await node.rows("SELECT id FROM t") for node in nodes] == [[(10,)], [(10,)]]
