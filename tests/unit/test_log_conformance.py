"""One suite for every implementation of the log: what ha/log/api.py promises of them all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import trio

from ha.log.api import (
    Ack,
    Entry,
    Log,
    LogError,
    LogReset,
    NodeNameTaken,
    NotSent,
    Outgoing,
    Refused,
    ResetReason,
    Subscription,
    WrongLast,
)
from tests.support.log_harness import Harness, JetStreamHarness, MemoryHarness, SimHarness

DB = "ha.db"


@pytest.fixture(
    params=["memory", "simulated", pytest.param("jetstream", marks=pytest.mark.processes)]
)
def harness(request: pytest.FixtureRequest) -> Harness:
    """A stream of this test alone, on a broker that may be shared: not to be broken."""
    if request.param == "memory":
        return MemoryHarness()
    if request.param == "simulated":
        return SimHarness()
    return JetStreamHarness(request.getfixturevalue("shared_nats_server"))


@pytest.fixture(
    params=["memory", "simulated", pytest.param("jetstream", marks=pytest.mark.processes)]
)
def breakable(request: pytest.FixtureRequest) -> Harness:
    """A stream on a broker of its own."""
    if request.param == "memory":
        return MemoryHarness()
    if request.param == "simulated":
        return SimHarness()
    return JetStreamHarness(request.getfixturevalue("nats_server"))


class Acks:
    """Collects outcomes. One object for each publish."""

    def __init__(self, count: int) -> None:
        self.outcomes: dict[int, Ack | LogError] = {}
        self._count = count
        self._done = trio.Event()

    def __call__(self, index: int, outcome: Ack | LogError) -> None:
        assert index not in self.outcomes, "acknowledged twice"
        self.outcomes[index] = outcome
        if len(self.outcomes) == self._count:
            self._done.set()

    async def all(self) -> list[Ack | LogError]:
        with trio.fail_after(20):
            await self._done.wait()
        return [self.outcomes[index] for index in range(self._count)]


def message(name: object, *, expect_last: int | None = None) -> Outgoing:
    return Outgoing(f"id-{name}", f"payload {name}".encode(), expect_last=expect_last)


async def publish(log: Log, *names: object) -> list[int]:
    acks = Acks(len(names))
    log.publish([message(name) for name in names], acks)
    sequences = []
    for outcome in await acks.all():
        assert isinstance(outcome, Ack)
        sequences.append(outcome.sequence)
    return sequences


async def read(subscription: Subscription, count: int) -> list[Entry]:
    entries: list[Entry] = []
    with trio.fail_after(30):
        while len(entries) < count:
            entries += await subscription.receive()
    return entries


async def collect(entries: AsyncIterator[Entry]) -> list[Entry]:
    with trio.fail_after(20):
        return [entry async for entry in entries]


async def bring_back(broken: Harness, log: Log) -> None:
    await broken.heal()
    with trio.fail_after(20):
        await log.wait_connected()


# --- publishing ----------------------------------------------------------------------------


async def test_a_new_log_is_empty(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        state = await log.state()
        assert (state.first, state.last, state.subject_first, state.subject_last) == (0, 0, 0, 0)
        assert state.epoch
        assert await log.entry(1) is None
        assert await collect(log.history(1)) == []
        assert await log.sequence_at(0) == 1


async def test_publish_acknowledges_each_message_in_the_order_of_the_log(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        acks = Acks(1000)
        log.publish([message(n) for n in range(1000)], acks)
        assert not acks.outcomes, "on_ack was called inside publish()"
        assert await acks.all() == [Ack(n) for n in range(1, 1001)]
        entries = await collect(log.history(1))
        assert [e.payload for e in entries] == [f"payload {n}".encode() for n in range(1000)]
        assert [e.message_id for e in entries] == [f"id-{n}" for n in range(1000)]


async def test_batches_in_flight_together_keep_their_order(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        batches = [Acks(50) for _ in range(20)]
        for number, acks in enumerate(batches):
            log.publish([message(f"{number}-{n}") for n in range(50)], acks)
        for number, acks in enumerate(batches):
            first = number * 50 + 1
            assert await acks.all() == [Ack(n) for n in range(first, first + 50)]


async def test_an_entry_is_what_was_published(harness: Harness) -> None:
    payload = bytes(range(256)) + b"\r\nMSG x 1 1\r\n"
    headers = {"part": "1/2", "text": "grüße: a b"}
    async with harness.broker() as broker:
        log = await broker.log(DB)
        outgoing = Outgoing("the-id", payload, headers=headers)
        async with log.subscribe(0) as subscription:
            before = await log.now_ns()
            ack = await log.publish_one(outgoing, 5)
            (received,) = await read(subscription, 1)
        looked_up = await log.entry(ack.sequence)
        (from_history,) = await collect(log.history(1))
        for entry in (received, looked_up, from_history):
            assert entry is not None
            assert entry.sequence == ack.sequence
            assert entry.payload == payload
            assert entry.message_id == "the-id"
            assert entry.headers == headers
            assert entry.time_ns == received.time_ns
        assert before <= received.time_ns <= await log.now_ns()


async def test_an_empty_payload_and_no_id_are_messages_too(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await log.publish_one(Outgoing("", b""), 5)
            await log.publish_one(Outgoing("", b""), 5)
            entries = await read(subscription, 2)
        assert [(e.sequence, e.message_id, e.payload) for e in entries] == [
            (1, "", b""),
            (2, "", b""),
        ]


async def test_a_known_id_is_acknowledged_as_a_duplicate(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        assert await publish(log, "a", "b") == [1, 2]
        assert await log.publish_one(message("a"), 5) == Ack(1, duplicate=True)
        acks = Acks(2)
        log.publish([message("b"), message("c")], acks)
        assert await acks.all() == [Ack(2, duplicate=True), Ack(3)]
        assert (await log.state()).last == 3


async def test_an_id_is_forgotten_after_the_window(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        window = await harness.shorten_window()
        await publish(log, "a", "b")
        assert await log.publish_one(message("a"), 5) == Ack(1, duplicate=True)
        with trio.fail_after(5):
            await trio.sleep(window)
            # The broker forgets in its own time: until then the repetition is no new message.
            while (ack := await log.publish_one(message("a"), 5)).duplicate:
                assert ack == Ack(1, duplicate=True)
                await trio.sleep(window / 10)
        assert ack == Ack(3)


async def test_expect_last_is_about_the_subject(harness: Harness) -> None:
    async with harness.broker() as broker:
        log, other = await broker.log(DB), await broker.log("other.db")
        assert await log.publish_one(message("a", expect_last=0), 5) == Ack(1)
        assert await publish(other, "x") == [2]
        assert await log.publish_one(message("b", expect_last=1), 5) == Ack(3)
        with pytest.raises(WrongLast) as refused:
            await log.publish_one(message("c", expect_last=1), 5)
        assert refused.value.last == 3
        with pytest.raises(WrongLast):
            await log.publish_one(message("d", expect_last=0), 5)
        acks = Acks(3)
        log.publish([message("e", expect_last=3), message("f", expect_last=3), message("g")], acks)
        first, second, third = await acks.all()
        assert first == Ack(4)
        assert isinstance(second, WrongLast)
        assert third == Ack(5)


async def test_a_repetition_with_expect_last_never_appears_twice(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await log.publish_one(message("a", expect_last=0), 5)
        with pytest.raises(WrongLast):  # and a cluster may say: duplicate
            await log.publish_one(message("a", expect_last=0), 5)
        assert (await log.state()).last == 1


async def test_a_payload_that_is_too_large_is_refused_and_nothing_sent(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        fits, too_large = bytes(log.max_payload), bytes(log.max_payload + 1)
        with pytest.raises(Refused, match="more than"):
            log.publish([message("a"), Outgoing("b", too_large)], Acks(0))
        with pytest.raises(Refused, match="more than"):
            await log.publish_one(Outgoing("b", too_large), 5)
        assert await log.publish_one(Outgoing("c", fits), 5) == Ack(1)
        entry = await log.entry(1)
        assert entry is not None
        assert entry.payload == fits


# --- reading -------------------------------------------------------------------------------


async def test_a_subscription_begins_after_its_position(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, *range(10))
        async with log.subscribe(0) as all_of_it, log.subscribe(7) as tail:
            assert [e.sequence for e in await read(tail, 3)] == [8, 9, 10]
            assert [e.sequence for e in await read(all_of_it, 10)] == list(range(1, 11))
            await publish(log, "more")
            assert [e.sequence for e in await read(tail, 1)] == [11]
            assert tail.receive_nowait() == []


async def test_receive_waits_and_can_be_cancelled_without_loss(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            with trio.move_on_after(0.05) as scope:
                await subscription.receive()
            assert scope.cancelled_caught
            await publish(log, "a")
            with trio.CancelScope() as cancelled:
                cancelled.cancel()
                await subscription.receive()
            assert cancelled.cancelled_caught
            assert [e.sequence for e in await read(subscription, 1)] == [1]


async def test_logs_of_one_stream_share_sequences_but_not_messages(harness: Harness) -> None:
    async with harness.broker() as broker:
        log, other = await broker.log(DB), await broker.log("other.db")
        async with log.subscribe(0) as mine, other.subscribe(0) as theirs:
            for n in range(20):
                await publish(log if n % 3 else other, n)
            expected = [n + 1 for n in range(20) if n % 3]
            assert [e.sequence for e in await read(mine, len(expected))] == expected
            assert len(await read(theirs, 20 - len(expected))) == 20 - len(expected)
        assert [e.sequence for e in await collect(log.history(1))] == expected
        assert await log.entry(1) is None
        assert (await other.entry(1)) is not None
        state = await log.state()
        assert (state.first, state.last) == (1, 20)
        assert (state.subject_first, state.subject_last) == (2, 20)


async def test_two_nodes_see_one_log(harness: Harness) -> None:
    async with harness.broker("a") as one, harness.broker("b") as two:
        first, second = await one.log(DB), await two.log(DB)
        assert first.subject == second.subject
        async with first.subscribe(0) as at_first, second.subscribe(0) as at_second:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, first, *[f"a{n}" for n in range(300)])
                nursery.start_soon(publish, second, *[f"b{n}" for n in range(300)])
            entries = await read(at_first, 600)
            assert entries == await read(at_second, 600)
        assert [e.sequence for e in entries] == list(range(1, 601))
        assert (await first.state()) == (await second.state())


async def test_history_has_bounds_and_an_end(harness: Harness) -> None:
    async with harness.broker() as broker:
        log, other = await broker.log(DB), await broker.log("other.db")
        await publish(log, *range(10))
        await publish(other, *[f"o{n}" for n in range(5)])
        await publish(log, *range(10, 13))
        mine = [*range(1, 11), 16, 17, 18]
        assert [e.sequence for e in await collect(log.history(1))] == mine
        assert [e.sequence for e in await collect(log.history(0))] == mine
        assert [e.sequence for e in await collect(log.history(4, 7))] == [4, 5, 6, 7]
        assert [e.sequence for e in await collect(log.history(10, 16))] == [10, 16]
        assert [e.sequence for e in await collect(log.history(11, 15))] == []
        assert [e.sequence for e in await collect(log.history(18))] == [18]
        assert [e.sequence for e in await collect(log.history(19))] == []
        assert [e.sequence for e in await collect(log.history(100, 200))] == []


async def test_sequence_at_finds_the_first_message_of_a_time(harness: Harness) -> None:
    async with harness.broker() as broker:
        log, other = await broker.log(DB), await broker.log("other.db")
        for n in range(5):
            await publish(log if n != 2 else other, n)
            await trio.sleep(0.002)
        entries = await collect(log.history(1))
        for entry in entries:
            assert await log.sequence_at(entry.time_ns) == entry.sequence
        assert await log.sequence_at(0) == 1
        assert await log.sequence_at(entries[1].time_ns + 1) == 4  # 3 is the other log's
        assert await log.sequence_at(await log.now_ns() + 10**9) == 6


# --- what happens to streams -----------------------------------------------------------------


async def test_messages_that_were_dropped_are_not_silently_passed_over(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, *range(10))
        await harness.drop_before(6)
        state = await log.state()
        assert (state.first, state.last, state.subject_first) == (6, 10, 6)
        assert await log.entry(5) is None
        async with log.subscribe(3) as subscription:
            with pytest.raises(LogReset) as reset, trio.fail_after(10):
                await subscription.receive()
        assert reset.value.reason is ResetReason.TRUNCATED
        assert reset.value.first == 6
        async with log.subscribe(reset.value.first - 1) as subscription:
            assert [e.sequence for e in await read(subscription, 5)] == [6, 7, 8, 9, 10]
        async with log.subscribe(0) as subscription:
            assert [e.sequence for e in await read(subscription, 5)] == [6, 7, 8, 9, 10]


async def test_all_messages_dropped_leave_the_position_good(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, *range(10))
        await harness.drop_before(11)
        state = await log.state()
        assert (state.first, state.last) == (11, 10)
        assert (state.subject_first, state.subject_last) == (0, 0)
        async with log.subscribe(10) as subscription:
            assert await publish(log, "next") == [11]
            assert [e.sequence for e in await read(subscription, 1)] == [11]


async def test_a_position_beyond_the_end_of_the_stream_is_told(harness: Harness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, *range(3))
        async with log.subscribe(7) as subscription:
            with pytest.raises(LogReset) as reset, trio.fail_after(10):
                await subscription.receive()
        assert reset.value.reason is ResetReason.BEHIND


async def test_a_stream_made_anew_is_another_log(breakable: Harness) -> None:
    async with breakable.broker() as broker:
        log = await broker.log(DB)
        await publish(log, *range(3))
        before = await log.state()
        async with log.subscribe(0) as subscription:
            await read(subscription, 3)
            await breakable.recreate()
            assert (await log.state()).epoch != before.epoch
            with pytest.raises(LogReset) as reset, trio.fail_after(20):
                await subscription.receive()
        assert reset.value.reason is ResetReason.EPOCH
        async with log.subscribe(0) as subscription:
            assert await log.publish_one(message("new"), 5) == Ack(1)
            assert [e.message_id for e in await read(subscription, 1)] == ["id-new"]


async def test_the_epoch_stays_over_a_restart(breakable: Harness) -> None:
    async with breakable.broker() as broker:
        log = await broker.log(DB)
        await publish(log, "a")
        before = await log.state()
        await breakable.cut()
        with trio.fail_after(10):
            await log.wait_disconnected()
        await bring_back(breakable, log)
        assert await log.state() == before


# --- broken connections ---------------------------------------------------------------------


async def test_nothing_is_sent_while_there_is_no_connection(breakable: Harness) -> None:
    async with breakable.broker() as broker:
        log = await broker.log(DB)
        assert log.connected
        await publish(log, "before")
        await breakable.cut()
        with trio.fail_after(10):
            await log.wait_disconnected()
        assert not log.connected
        with pytest.raises(NotSent):
            log.publish([message("lost")], Acks(0))
        with pytest.raises(NotSent):
            await log.publish_one(message("lost"), 5)
        with pytest.raises(LogError):
            await log.state()
        await bring_back(breakable, log)
        assert log.connected
        assert await publish(log, "after") == [2]
        assert [e.message_id for e in await collect(log.history(1))] == ["id-before", "id-after"]


async def test_without_an_ack_the_outcome_is_unknown_and_settles_by_the_id(
    breakable: Harness,
) -> None:
    async with breakable.broker() as broker:
        log = await broker.log(DB)
        await publish(log, "a")
        await breakable.freeze()
        acks = Acks(1)
        log.publish([message("b")], acks)
        with pytest.raises(LogError) as unknown:
            await log.publish_one(message("c"), 0.3)
        assert not isinstance(unknown.value, NotSent)
        assert not acks.outcomes
        await breakable.thaw()
        with trio.fail_after(20):
            await log.wait_connected()
            settled = {}
            for name in ("b", "c"):
                settled[name] = await log.publish_one(message(name), 5)
        assert [e.message_id for e in await collect(log.history(1))] == ["id-a", "id-b", "id-c"]
        assert (settled["b"].sequence, settled["c"].sequence) == (2, 3)


async def test_a_subscription_survives_the_broker(breakable: Harness) -> None:
    async with breakable.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await publish(log, *range(5))
            assert len(await read(subscription, 5)) == 5
            for round_ in range(3):
                await breakable.cut()
                with trio.fail_after(10):
                    await log.wait_disconnected()
                await bring_back(breakable, log)
                await publish(log, round_ + 100)
                (entry,) = await read(subscription, 1)
                assert entry.sequence == 6 + round_


async def test_no_message_is_missing_or_twice_over_a_restart_under_load(
    breakable: Harness,
) -> None:
    """A writer that sends again what was not acknowledged, two readers, and a crash each 1,250."""
    total = 5000
    acknowledged: dict[int, int] = {}

    async with breakable.broker("w") as writer, breakable.broker("r") as reader:
        log, elsewhere = await writer.log(DB), await reader.log(DB)

        async def write() -> None:
            waiting = list(range(total))
            while waiting:
                batch, waiting = waiting[:100], waiting[100:]
                try:
                    await _publish_batch(log, batch, acknowledged)
                except NotSent:
                    with trio.fail_after(20):
                        await log.wait_connected()
                waiting = [n for n in batch if n not in acknowledged] + waiting

        async def crash() -> None:
            for limit in range(1250, total, 1250):
                while len(acknowledged) < limit:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                await breakable.cut()
                await trio.sleep(0.05)
                await breakable.heal()

        async def follow(source: Log, into: list[Entry]) -> None:
            async with source.subscribe(0) as subscription:
                into += await read(subscription, total)

        seen: list[list[Entry]] = [[], []]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, log, seen[0])
                nursery.start_soon(follow, elsewhere, seen[1])
                nursery.start_soon(crash)
                nursery.start_soon(write)
        state = await log.state()
        history = await collect(log.history(1))
    assert sorted(acknowledged) == list(range(total))
    assert state.last == total, "a message that was sent again appears twice"
    for entries in (*seen, history):
        assert [e.sequence for e in entries] == list(range(1, total + 1))
        assert {int(e.message_id.removeprefix("id-")): e.sequence for e in entries} == acknowledged


async def _publish_batch(log: Log, batch: list[int], acknowledged: dict[int, int]) -> None:
    """Return when all are acknowledged, or when the connection is lost."""
    done = trio.Event()
    missing = len(batch)

    def on_ack(index: int, outcome: Ack | LogError) -> None:
        nonlocal missing
        missing -= 1
        if isinstance(outcome, Ack):
            former = acknowledged.setdefault(batch[index], outcome.sequence)
            assert former == outcome.sequence
        if not missing:
            done.set()

    log.publish([message(n) for n in batch], on_ack)
    await first(done.wait, log.wait_disconnected)


async def first(*waits: Callable[[], object]) -> None:
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], object]) -> None:
            await wait()  # type: ignore[misc]
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(run, wait)


# --- consumers ---------------------------------------------------------------------------------


async def shown_position(harness: Harness, node: str, sequence: int) -> dict[str, object]:
    """The node's consumer, once it shows ``sequence``."""
    async with harness.broker("onlooker") as broker:
        with trio.fail_after(10):
            while True:
                for info in await broker.consumers(DB):
                    floor = info["ack_floor"]
                    assert isinstance(floor, dict)
                    if info["name"] == f"ha_db_{node}" and floor["stream_seq"] == sequence:
                        return info
                await trio.sleep(0.02)


async def test_a_node_is_shown_with_its_position(harness: Harness) -> None:
    async with harness.broker("a") as broker:
        log = await broker.log(DB)
        await publish(log, *range(10))
        await log.mark(4)
        info = await shown_position(harness, "a", 4)
        assert info["num_pending"] == 6
        config = info["config"]
        assert isinstance(config, dict)
        assert config["durable_name"] == "ha_db_a"
        assert config["ack_policy"] == "explicit"
        assert config["max_ack_pending"] == 1
        assert config["filter_subject"] == log.subject
        await log.mark(10)
        await log.mark(9)  # late: never goes back
        info = await shown_position(harness, "a", 10)
        assert info["num_pending"] == 0
    async with harness.broker("a") as broker:
        await broker.log(DB)
        await shown_position(harness, "a", 10)


async def test_consumers_are_those_of_the_database(harness: Harness) -> None:
    async with harness.broker("a") as one, harness.broker("b") as two:
        log = await one.log(DB)
        await one.log("other.db")
        await two.log(DB)
        async with log.subscribe(0):
            names = {info["name"] for info in await one.consumers(DB)}
        assert names == {"ha_db_a", "ha_db_b"}
        assert {info["name"] for info in await one.consumers("other.db")} == {"other_db_a"}
        assert await one.consumers("none.db") == []


async def test_a_deleted_consumer_detaches_the_node_until_it_starts_again(
    harness: Harness,
) -> None:
    async with harness.broker("a") as broker:
        log = await broker.log(DB)
        await publish(log, *range(3))
        assert not await broker.delete_consumer(DB, "nobody")
        assert not await broker.delete_consumer("other.db", "ha_db_a")
        assert await broker.delete_consumer(DB, "ha_db_a")
        assert not await broker.delete_consumer(DB, "ha_db_a")
        await log.mark(3)
        with trio.fail_after(10):
            while not log.detached:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await broker.consumers(DB) == []
        assert await publish(log, "goes on") == [4]
    async with harness.broker("a") as broker:
        await broker.log(DB)
        assert [info["name"] for info in await broker.consumers(DB)] == ["ha_db_a"]


async def test_two_live_nodes_of_one_name_are_refused(harness: Harness) -> None:
    async with harness.broker("a") as first, harness.broker("a") as second:
        log = await first.log(DB)
        assert await first.log(DB) is log
        with pytest.raises(NodeNameTaken, match="'a'"):
            await second.log(DB)
        await second.log("other.db")
    async with harness.broker("a") as third:  # the name is free again
        await third.log(DB)


# --- snapshots -----------------------------------------------------------------------------------


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


async def fetch(broker: object) -> bytes:
    with trio.fail_after(20):
        pieces = [piece async for piece in broker.get_snapshot(DB)]  # type: ignore[attr-defined]
    return b"".join(pieces)


async def test_a_snapshot_is_read_as_it_was_written(harness: Harness) -> None:
    content = [bytes([n]) * 70_000 for n in range(60)]
    async with harness.broker("a") as one, harness.broker("b") as two:
        assert await one.snapshot_headers(DB) is None
        with pytest.raises(LogError, match="no snapshot"):
            await fetch(one)
        await one.put_snapshot(DB, chunks(*content), {"seq": "17", "uuid": "u"})
        assert await two.snapshot_headers(DB) == {"seq": "17", "uuid": "u"}
        assert await fetch(two) == b"".join(content)
        await two.put_snapshot(DB, chunks(b"small"), {"seq": "18"})
        assert await one.snapshot_headers(DB) == {"seq": "18"}
        assert await fetch(one) == b"small"
        await two.put_snapshot(DB, chunks(), {"seq": "19"})
        assert await fetch(one) == b""
        assert await one.snapshot_headers("other.db") is None


async def test_a_snapshot_that_fails_leaves_the_former_one(harness: Harness) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield bytes(3_000_000)
        raise OSError("disk")

    async with harness.broker() as broker:
        await broker.put_snapshot(DB, chunks(b"former"), {"seq": "1"})
        with pytest.raises(OSError, match="disk"):
            await broker.put_snapshot(DB, fails(), {"seq": "2"})
        with trio.CancelScope() as scope:

            async def cancelled() -> AsyncIterator[bytes]:
                yield bytes(3_000_000)
                scope.cancel()
                await trio.lowlevel.checkpoint()

            await broker.put_snapshot(DB, cancelled(), {"seq": "3"})
        assert scope.cancelled_caught
        assert await broker.snapshot_headers(DB) == {"seq": "1"}
        assert await fetch(broker) == b"former"


async def test_of_two_snapshots_at_once_one_is_refused(harness: Harness) -> None:
    async with harness.broker("a") as one, harness.broker("b") as two:

        async def overtaken() -> AsyncIterator[bytes]:
            yield bytes(200_000)
            await two.put_snapshot(DB, chunks(b"winner"), {"seq": "5"})
            yield bytes(200_000)

        with pytest.raises(WrongLast):
            await one.put_snapshot(DB, overtaken(), {"seq": "4"})
        assert await one.snapshot_headers(DB) == {"seq": "5"}
        assert await fetch(one) == b"winner"
