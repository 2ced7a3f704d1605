"""What the faults of the simulated broker look like to the product's client of JetStream."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from ha.log.api import Ack, Entry, Log, LogError, LogReset, NotSent, Outgoing, Refused, ResetReason
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from sim.broker import Server
from sim.network import Link, LinkFaults, Timeline
from sim.trace import Trace

DB = "ha.db"


class World:
    """A server, the nodes' cables to it, and time that jumps."""

    def __init__(self, **options: object) -> None:
        self.timeline = Timeline()
        trace = Trace(time=trio.current_time)
        self.server = Server(self.timeline, random.Random(1), trace, **options)  # type: ignore[arg-type]
        self.links: dict[str, Link] = {}
        self.brokers: dict[str, JetStreamBroker] = {}

    @asynccontextmanager
    async def log(self, node: str) -> AsyncIterator[Log]:
        faults = LinkFaults(latency=0.001, reconnect=0.1)
        link = self.links[node] = self.server.connect(node, random.Random(node), faults)
        options = JetStreamOptions(
            self.server.urls, node, replicas=3 if self.server.clustered else 1
        )
        dialer = self.server.dialer(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.timeline.run)
            async with JetStreamBroker(options, rng=random.Random(node), dialer=dialer) as broker:
                self.brokers[node] = broker
                yield await broker.log(DB)
            nursery.cancel_scope.cancel()


def message(number: int) -> Outgoing:
    return Outgoing(f"id-{number}", b"%d" % number)


async def publish(log: Log, numbers: range) -> None:
    """Until each of them is in the log, in this order."""
    for number in numbers:
        while True:
            try:
                await log.publish_one(message(number), 2)
            except LogError:
                await log.wait_connected()
                await trio.sleep(0.1)
            else:
                break


async def read(log: Log, count: int) -> list[Entry]:
    entries: list[Entry] = []
    async with log.subscribe(0) as subscription:
        while len(entries) < count:
            entries += await subscription.receive()
    return entries


@pytest.mark.parametrize("fault", ["stall", "repeat", "gap", "lose_ack", "late_ack", "refuse"])
async def test_whatever_the_broker_does_a_reader_gets_each_message_once(
    fault: str, autojump_clock: MockClock
) -> None:
    world = World(clustered=True)
    async with world.log("a") as one, world.log("b") as other:
        setattr(world.server.faults, fault, 0.2)
        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, one, range(300))
                entries = await read(other, 300)
        assert [e.sequence for e in entries] == list(range(1, 301))
        assert [e.message_id for e in entries] == [f"id-{n}" for n in range(300)]
        assert world.server.struck


@pytest.mark.parametrize("up", [True, False])
async def test_a_reader_goes_on_after_a_cut_that_nobody_was_told_of(
    up: bool, autojump_clock: MockClock
) -> None:
    world = World()
    async with world.log("a") as one, world.log("b") as other, trio.open_nursery() as nursery:
        await publish(one, range(10))
        entries: list[Entry] = []

        async def follow() -> None:
            entries.extend(await read(other, 30))

        nursery.start_soon(follow)
        await trio.sleep(1)
        world.links["b"].block(up=up, down=not up)
        await publish(one, range(10, 20))
        await trio.sleep(30)
        assert not other.connected
        world.links["b"].unblock()
        await publish(one, range(20, 30))
        with trio.fail_after(60):
            while len(entries) < 30:  # noqa: ASYNC110 (on virtual time)
                await trio.sleep(0.1)
    assert [e.sequence for e in entries] == list(range(1, 31))


async def test_history_is_whole_though_each_server_in_turn_is_behind(
    autojump_clock: MockClock,
) -> None:
    world = World(clustered=True)
    async with world.log("a") as log:
        await publish(log, range(10))
        for behind in ("s1", "s2", "s3"):
            world.server.lag(behind)
            first = (await log.state()).last + 1
            await publish(log, range(first, first + 10))
            found = [e.sequence async for e in log.history(1)]
            assert found == list(range(1, first + 10))
            world.server.catch_up(behind)


async def test_while_nobody_leads_nothing_is_taken_and_nothing_lost(
    autojump_clock: MockClock,
) -> None:
    world = World(clustered=True)
    async with world.log("a") as one, world.log("b") as other:
        await publish(one, range(5))
        world.server.lose_leader()
        outcomes = []
        for number in range(5, 25):
            try:
                outcomes.append(str(await one.publish_one(message(number), 1)))
            except LogError as error:
                outcomes.append(type(error).__name__)
        assert set(outcomes) == {"NotSent"} or set(outcomes) == {"NotSent", "LogError"}
        world.server.elect_leader()
        await publish(one, range(25, 30))
        with trio.fail_after(60):
            entries = await read(other, 10)
        assert [e.message_id for e in entries] == [f"id-{n}" for n in [*range(5), *range(25, 30)]]


async def test_after_a_power_failure_who_knows_more_than_the_log_is_told(
    autojump_clock: MockClock,
) -> None:
    world = World(durable=False)
    async with world.log("a") as log:
        await publish(log, range(5))
        world.server.sync()
        await publish(log, range(5, 9))
        async with log.subscribe(9) as subscription:
            loss = world.server.power_failure()
            assert loss is not None
            assert 5 <= loss.kept < 9
            assert [e.sequence for _, e in loss.lost] == list(range(loss.kept + 1, 10))
            world.server.start()
            with pytest.raises(LogReset) as reset, trio.fail_after(60):
                await subscription.receive()
        assert reset.value.reason is ResetReason.BEHIND
        assert await log.publish_one(message(9), 5) == Ack(loss.kept + 1)


async def test_a_publish_that_is_dropped_is_in_doubt_and_one_that_is_refused_is_not(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with world.log("a") as log:
        world.server.faults.drop = 1.0
        with pytest.raises(LogError) as dropped:
            await log.publish_one(message(1), 2)
        assert not isinstance(dropped.value, NotSent | Refused)
        world.server.faults.clear()
        world.server.censor = lambda message_id: "refuse"
        with pytest.raises(Refused, match="insufficient resources"):
            await log.publish_one(message(2), 2)


async def test_a_name_is_free_when_the_server_has_given_its_dead_holder_up(
    autojump_clock: MockClock,
) -> None:
    """A machine without power says no farewell; who takes its name over need not wait for long."""
    world = World()
    async with world.log("a") as log:
        await publish(log, range(3))
        world.links["a"].kill(power=True)
        begun = trio.current_time()
        async with world.log("a") as successor:
            assert [e.sequence async for e in successor.history(1)] == [1, 2, 3]
        assert trio.current_time() - begun < 10


async def test_each_server_of_a_cluster_may_die_and_a_node_goes_on_with_another(
    autojump_clock: MockClock,
) -> None:
    world = World(clustered=True)
    async with world.log("a") as one, world.log("b") as other, trio.open_nursery() as nursery:
        entries: list[Entry] = []

        async def follow() -> None:
            entries.extend(await read(other, 40))

        nursery.start_soon(follow)
        await publish(one, range(10))
        hosts = set()
        for number, host in enumerate(("s1", "s2", "s3"), 1):
            world.server.lose_server(host)
            if not world.server.leader:
                await trio.sleep(1)
                world.server.elect_leader()
            with trio.fail_after(60):
                await publish(one, range(10 * number, 10 * number + 10))
            hosts.add(world.links["a"].host)
            world.server.bring_back(host)
        with trio.fail_after(60):
            while len(entries) < 40:  # noqa: ASYNC110 (on virtual time)
                await trio.sleep(0.1)
        assert len(hosts) > 1
    assert [e.sequence for e in entries] == list(range(1, 41))


async def test_a_floor_above_the_end_of_the_stream_is_none(autojump_clock: MockClock) -> None:
    """Up to there nothing was missing in a stream that has lost its end since."""
    world = World(durable=False, sync_interval=1e9)
    server = world.server
    subject = "ha_replication.other_db"
    async with world.log("a") as log, world.log("b") as other:
        await publish(log, range(10))
        for number in range(10):
            server.append(subject, Outgoing(f"before-{number}", b""))
        server.sync()
        for number in range(80):
            server.append(subject, Outgoing(f"lost-{number}", b""))
        async with log.subscribe(10) as subscription:
            await trio.sleep(300)  # meanwhile it learns that there is no more for it up to 100
            loss = server.power_failure()
            assert loss is not None
            server.start()
            await trio.sleep(60)
            world.links["a"].block(up=True, down=True)
            await publish(other, range(10, 15))
            for number in range(100):
                server.append(subject, Outgoing(f"after-{number}", b""))
            assert server.stream is not None
            server.stream.purge(before=loss.kept + 6)
            await trio.sleep(60)
            world.links["a"].unblock()
            with pytest.raises(LogReset) as reset, trio.fail_after(60):
                await subscription.receive()
        assert reset.value.reason is ResetReason.TRUNCATED


@pytest.mark.parametrize("how", ["a consumer was moved", "a snapshot holds it"])
async def test_a_log_that_ages_keeps_what_nothing_else_tells_of(
    how: str, autojump_clock: MockClock
) -> None:
    world = World(max_age=10.0)

    def held() -> list[int]:
        assert world.server.stream is not None
        world.server.stream.expire()
        return world.server.stream.sequences()

    async with world.log("n1") as log:
        await publish(log, range(3))
        await trio.sleep(60)
        assert held() == [1, 2, 3]
        moved = how == "a consumer was moved"
        if moved:
            await log.mark(2)
            await trio.sleep(60)
            assert held() == [1, 2, 3]  # there is no snapshot at all
        await world.brokers["n1"].put_snapshot(DB, _chunks(), {"seq": "1" if moved else "2"})
        await trio.sleep(60)
        assert held() == [3]


async def _chunks() -> AsyncIterator[bytes]:
    yield b"content"
