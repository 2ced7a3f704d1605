"""Leader mode in engines on one log in memory, under a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock

from ha.core.changeset import Kind, decode
from ha.core.election import Record
from ha.core.errors import Code, HaError
from ha.engine.appointed import Appointed
from ha.engine.elected import Elected, ElectionOptions
from ha.engine.leadership import Role
from ha.log.memory import MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.races import HoldingBroker

LEASE = 2.0


@dataclass
class Led:
    """A node in leader mode."""

    node: TestNode
    lead: Elected | Appointed
    broker: HoldingBroker

    async def outcome(self, sql: str) -> HaError | None:
        try:
            await self.node.run(sql)
        except HaError as error:
            return error
        return None


@asynccontextmanager
async def open_led(
    stream: MemoryStream, name: str, lead_of: str | None = None, *, together: bool = True
) -> AsyncIterator[Led]:
    """``lead_of``: the address of a static leader; None: there is an election. ``together``: when
    the log is not in reach, the bucket is not either."""
    async with (
        HoldingBroker(stream, node=name) as broker,
        HoldingBroker(stream, node=f"{name}-keys") as bucket,
    ):
        keys = (broker if together else bucket).keys("election")
        address = f"{name}:8080"
        lead: Elected | Appointed
        if lead_of is None:
            lead = Elected(keys, ElectionOptions(name, address), random.Random(name))
        else:
            lead = Appointed(keys, name, address, lead_of, leads=lead_of == address)
        options = replace(OPTIONS, leadership=lead, mandate=lead)
        async with (
            open_node(name, broker, options=options, seed=random.randrange(10**9)) as node,
            trio.open_nursery() as nursery,
        ):
            lead.ready = lambda: node.databases.not_ready() is None
            lead.positions = lambda: {"ha.db": node.database.committer.applied}
            lead.find = lambda database_id: node.databases.get(database_id).committer
            if isinstance(lead, Appointed):
                lead.highest = lambda: node.database.fold.term
            await nursery.start(lead.run)
            yield Led(node, lead, broker)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_two() -> AsyncIterator[tuple[Led, Led, MemoryStream]]:
    """The leader, its follower, and their stream, with an empty table ``t``."""
    stream = MemoryStream(epoch="test")
    async with open_led(stream, "n1") as one:
        await one.lead.wait_for_leader(10)
        await one.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        async with open_led(stream, "n2") as two:
            await settle([one.node, two.node])
            await two.lead.wait_for_leader(10)
            assert (one.lead.role, two.lead.role) == (Role.LEADER, Role.FOLLOWER)
            yield one, two, stream


async def _until_leads(led: Led) -> None:
    with trio.fail_after(2 * LEASE):
        while led.lead.role is not Role.LEADER:
            await led.lead.wait_for_change()


async def test_the_leader_writes_and_each_message_says_so(autojump_clock: MockClock) -> None:
    async with open_two() as (one, _, stream):
        await one.node.run("INSERT INTO t VALUES (1)")
        sent = [decode(e.payload) for e in stream.subject("ha_replication.ha_db").entries]
        assert [(cs.kind, cs.term) for cs in sent] == [
            (Kind.BASE, None),
            (Kind.TERM, 1),
            (Kind.TRANSACTION, 1),
            (Kind.TRANSACTION, 1),
        ]


async def test_a_follower_refuses_and_names_the_leader(autojump_clock: MockClock) -> None:
    async with open_two() as (one, two, _):
        error = await two.outcome("INSERT INTO t VALUES (1)")
        assert error is not None
        assert error.code is Code.NOT_LEADER
        assert "n1 at n1:8080" in error.message
        assert two.lead.leader == one.lead.leader
        assert 0 < two.lead.lease_left < 1.2 * LEASE
        await trio.sleep(LEASE)  # both have told of themselves by then
        assert {m.name: m.role for m in two.lead.members} == {
            "n2": Role.FOLLOWER,
            "n1": Role.LEADER,
        }


async def test_a_leader_that_is_cut_off_steps_down_before_another_may_write(
    autojump_clock: MockClock,
) -> None:
    async with open_two() as (one, two, _):
        one.broker.connected = False
        began = trio.current_time()
        while one.lead.role is Role.LEADER:
            assert two.lead.role is Role.FOLLOWER
            await one.lead.wait_for_change()
        assert trio.current_time() - began <= LEASE
        error = await one.outcome("INSERT INTO t VALUES (1)")
        assert error is not None
        assert error.code is Code.NO_LEADER
        assert two.lead.role is Role.FOLLOWER
        await _until_leads(two)
        assert await two.outcome("INSERT INTO t VALUES (2)") is None
        one.broker.connected = True
        await settle([one.node, two.node])
        assert await one.node.rows("SELECT * FROM t") == [(2,)]


@pytest.mark.parametrize("arrives", ["behind", "never"])
async def test_a_write_in_doubt_is_settled_by_the_next_term(
    autojump_clock: MockClock, arrives: str
) -> None:
    async with open_two() as (one, two, stream), trio.open_nursery() as nursery:
        outcomes: list[HaError | None] = []

        async def write() -> None:
            outcomes.append(await one.outcome("INSERT INTO t VALUES (1)"))

        one.broker.holding = True
        nursery.start_soon(write)
        await one.broker.arrived.wait()
        one.broker.connected = False
        await _until_leads(two)
        assert await two.outcome("INSERT INTO t VALUES (2)") is None
        if arrives == "behind":
            one.broker.held[0].arrive(stream)
        one.broker.holding = False
        assert outcomes == []
        one.broker.connected = True
        await settle([one.node, two.node])
        await trio.testing.wait_all_tasks_blocked()
        (error,) = outcomes
        assert error is not None
        assert error.code is Code.NOT_LEADER
        assert "n2" in error.message
        for led in (one, two):
            assert await led.node.rows("SELECT * FROM t") == [(2,)]
        ignored = two.node.database.store.executor.raw.execute("SELECT verdict FROM ha_ignored")
        assert list(ignored) == ([("fenced",)] if arrives == "behind" else [])


async def test_a_write_in_doubt_that_came_before_the_next_term_was_written(
    autojump_clock: MockClock,
) -> None:
    async with open_two() as (one, two, stream), trio.open_nursery() as nursery:
        outcomes: list[HaError | None] = []

        async def write() -> None:
            outcomes.append(await one.outcome("INSERT INTO t VALUES (1)"))

        one.broker.holding = True
        nursery.start_soon(write)
        await one.broker.arrived.wait()
        one.broker.connected = False
        one.broker.held[0].arrive(stream)
        await _until_leads(two)
        assert await two.outcome("INSERT INTO t VALUES (2)") is None
        one.broker.holding = False
        one.broker.connected = True
        await settle([one.node, two.node])
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [None]
        for led in (one, two):
            assert await led.node.rows("SELECT * FROM t") == [(1,), (2,)]


async def test_an_open_transaction_of_a_deposed_leader_ends(autojump_clock: MockClock) -> None:
    async with open_two() as (one, two, _):
        session = one.node.session()
        await session.execute("BEGIN IMMEDIATE")
        await session.execute("INSERT INTO t VALUES (1)")
        one.broker.connected = False
        await _until_leads(two)
        with pytest.raises(HaError) as told:
            await session.execute("COMMIT")
        assert told.value.code in (Code.NO_LEADER, Code.NOT_LEADER)
        one.broker.connected = True
        await two.node.run("INSERT INTO t VALUES (2)")
        await settle([one.node, two.node])
        assert await one.node.rows("SELECT * FROM t") == [(2,)]


async def test_a_leader_that_resigns_is_followed_at_once(autojump_clock: MockClock) -> None:
    async with open_two() as (one, two, _):
        began = trio.current_time()
        await one.lead.resign()
        await _until_leads(two)
        assert await two.outcome("INSERT INTO t VALUES (2)") is None
        assert trio.current_time() - began < 0.5


async def test_a_leader_whose_databases_are_not_well_lets_others_lead(
    autojump_clock: MockClock,
) -> None:
    async with open_two() as (one, two, _):
        two.lead.ready = lambda: False
        one.lead.ready = lambda: False
        await trio.sleep(5 * LEASE)
        assert one.lead.role is Role.LEADER, "nobody is better"
        two.lead.ready = lambda: True
        await trio.sleep(3 * LEASE)
        assert (one.lead.role, two.lead.role) == (Role.FOLLOWER, Role.LEADER)
        await trio.sleep(5 * LEASE)
        assert two.lead.role is Role.LEADER


async def test_confirming_asks_the_bucket_each_time(autojump_clock: MockClock) -> None:
    async with open_two() as (one, two, _):
        await one.node.run("INSERT INTO t VALUES (1)")
        assert await one.lead.confirm() == one.node.database.committer.applied
        with pytest.raises(HaError) as refused:
            await two.lead.confirm()
        assert refused.value.code is Code.NOT_LEADER
        one.broker.connected = False
        with pytest.raises(HaError) as refused:
            await one.lead.confirm()
        assert refused.value.code in (Code.NO_LEADER, Code.UNAVAILABLE)


async def test_a_term_waits_for_the_stream(autojump_clock: MockClock) -> None:
    """NATS may lead the bucket and not the stream; a node that spun would stop this clock."""
    stream = MemoryStream(epoch="test")
    async with open_led(stream, "n1", together=False) as led:
        await led.lead.wait_for_leader(10)
        await led.node.database.committer.wait_open()
        await led.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        led.broker.holding = True
        led.lead.learned(led.lead.term, lost=False)  # so that it takes a higher one
        await led.broker.arrived.wait()
        led.broker.connected = False
        await trio.sleep(3 * LEASE)
        assert (led.lead.role, led.lead.term) == (Role.LEADER, 2)
        led.broker.holding = False
        led.broker.connected = True
        assert await led.outcome("INSERT INTO t VALUES (1)") is None
        assert led.node.database.fold.term.number == 2


async def test_nobody_leads_while_there_is_no_nats(autojump_clock: MockClock) -> None:
    async with open_two() as (one, two, _):
        one.broker.connected = two.broker.connected = False
        await trio.sleep(3 * LEASE)
        for led in (one, two):
            assert led.lead.role is Role.NONE
            error = await led.outcome("INSERT INTO t VALUES (1)")
            assert error is not None
            assert error.code is Code.NO_LEADER
        with pytest.raises(HaError) as nobody:
            await one.lead.wait_for_leader(1.0)
        assert nobody.value.code is Code.NO_LEADER


async def test_a_node_without_the_flags_cannot_write(autojump_clock: MockClock) -> None:
    async with (
        open_two() as (_, _, stream),
        HoldingBroker(stream, node="n3") as broker,
        open_node("n3", broker) as node,
    ):
        await node.database.caught_up.wait()
        with pytest.raises(HaError) as refused:
            await node.run("INSERT INTO t VALUES (1)")
        assert refused.value.code is Code.NOT_LEADER
        assert "--leader-addr" in refused.value.message


async def test_a_new_leader_surpasses_what_the_log_holds(autojump_clock: MockClock) -> None:
    """The bucket was lost, the log was not."""
    stream = MemoryStream(epoch="test")
    for start in range(3):
        async with open_led(stream, f"n{start}") as led:
            await _until_leads_soon(led)
            await led.node.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY)")
            await led.node.run(f"INSERT INTO t VALUES ({start})")
            assert led.node.database.fold.term.number == start + 1
        stream.buckets.clear()


async def _until_leads_soon(led: Led) -> None:
    with trio.fail_after(4 * LEASE):
        await led.lead.wait_for_leader(4 * LEASE)
        await led.node.database.committer.wait_open()


# --- a static leader ---------------------------------------------------------------------


async def test_a_static_leader_has_terms_too(autojump_clock: MockClock) -> None:
    stream = MemoryStream(epoch="test")
    for start in (1, 2):
        async with (
            open_led(stream, "n1", "n1:8080") as one,
            open_led(stream, "n2", "n1:8080") as two,
        ):
            await one.node.database.committer.wait_open()
            await one.node.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY)")
            assert one.node.database.fold.term.number == start
            assert await one.lead.confirm() >= one.node.database.committer.applied - 1
            await settle([one.node, two.node])
            leader = two.lead.leader
            assert leader is not None
            assert (leader.name, leader.address, leader.term) == ("n1", "n1:8080", start)
            error = await two.outcome("INSERT INTO t VALUES (1)")
            assert error is not None
            assert error.code is Code.NOT_LEADER


async def test_of_two_static_leaders_the_later_one_stays(autojump_clock: MockClock) -> None:
    stream = MemoryStream(epoch="test")
    async with open_led(stream, "n1", "n1:8080") as one:
        await one.node.database.committer.wait_open()
        await one.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        async with open_led(stream, "n2", "n2:8080") as two:
            await two.node.database.committer.wait_open()
            await settle([one.node, two.node])
            await two.node.run("INSERT INTO t VALUES (1)")
            error = await one.outcome("INSERT INTO t VALUES (2)")
            assert error is not None
            assert error.code is Code.NO_LEADER
            assert one.lead.role is Role.NONE
            await trio.sleep(10)
            assert two.node.database.fold.term.number == 2


@pytest.mark.timeout(20)
async def test_a_bucket_that_has_lost_a_term_gives_a_higher_one(autojump_clock: MockClock) -> None:
    """A power failure may take from the bucket what the log still has."""
    stream = MemoryStream(epoch="test")
    async with open_led(stream, "n1") as led:
        await led.lead.wait_for_leader(10)
        await led.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        keys = led.broker.keys("election")
        early = await keys.get("leader")
        assert early is not None
        assert early.value is not None
        free = replace(Record.from_bytes(early.value), holder="")
        await keys.put("leader", free.to_bytes())  # so that it takes the next one
        await trio.sleep(2 * LEASE)
        await led.node.run("INSERT INTO t VALUES (1)")
        assert led.node.database.fold.term.number == 2
        await keys.put("leader", early.value)
        await trio.sleep(LEASE)
        assert await led.outcome("INSERT INTO t VALUES (2)") is None
        assert led.node.database.fold.term.number == 3
