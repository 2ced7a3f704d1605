"""The catalogue, and giving logs up: what ha/log/api.py promises of every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from ha.log.api import LogError, Outgoing, Watch
from tests.support.log_harness import Harness, JetStreamHarness, MemoryHarness


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.processes)])
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "memory":
        return MemoryHarness()
    return JetStreamHarness(request.getfixturevalue("shared_nats_server"))


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.processes)])
def breakable(request: pytest.FixtureRequest) -> Harness:
    if request.param == "memory":
        return MemoryHarness()
    return JetStreamHarness(request.getfixturevalue("nats_server"))


async def hear(watch: Watch, count: int) -> list[bytes]:
    words: list[bytes] = []
    with trio.fail_after(20):
        while len(words) < count:
            words += await watch.receive()
    return words


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_the_last_word_under_each_key_is_kept(harness: Harness) -> None:
    async with harness.broker("a") as a, harness.broker("b") as b:
        assert await a.catalogue.read() == []
        await a.catalogue.put("x.db", b"1")
        await b.catalogue.put("ä/*> .db", b"2")
        await b.catalogue.put("x.db", b"3")
        assert await a.catalogue.read() == [b"2", b"3"]


async def test_a_watch_hears_what_stands_and_what_follows(harness: Harness) -> None:
    async with harness.broker("a") as a, harness.broker("b") as b:
        await a.catalogue.put("x", b"1")
        async with b.catalogue.watch() as watch:
            assert await hear(watch, 1) == [b"1"]
            await a.catalogue.put("y", b"2")
            await a.catalogue.put("x", b"3")
            assert (await hear(watch, 2))[-2:] == [b"2", b"3"]


async def test_a_watch_survives_the_broker(breakable: Harness) -> None:
    async with breakable.broker("a") as broker:
        await broker.catalogue.put("x", b"1")
        async with broker.catalogue.watch() as watch:
            assert await hear(watch, 1) == [b"1"]
            await breakable.cut()
            with pytest.raises(LogError):
                await broker.catalogue.put("x", b"2")
            await breakable.heal()
            with trio.fail_after(20):
                while True:
                    try:
                        await broker.catalogue.put("x", b"3")
                        break
                    except LogError:
                        await trio.sleep(0.05)
            assert (await hear(watch, 1))[-1] == b"3"


async def test_the_last_to_release_a_log_learns_so_and_may_forget_it(harness: Harness) -> None:
    async with harness.broker("a") as a, harness.broker("b") as b:
        log = await a.log("x.db")
        await b.log("x.db")
        other = await a.log("y.db")
        await log.publish_one(Outgoing("m1", b"one"), 5)
        await other.publish_one(Outgoing("m2", b"two"), 5)
        await a.put_snapshot("x.db", bytes_of(b"snap"), {"seq": "1"})
        assert await a.release("x.db") is False
        assert await b.release("x.db") is True
        await b.forget("x.db")
        assert await b.snapshot_headers("x.db") is None
        again = await a.log("x.db")
        state = await again.state()
        assert (state.subject_first, state.subject_last) == (0, 0)
        assert (await other.state()).subject_last == 2
        ack = await again.publish_one(Outgoing("m3", b"three", expect_last=0), 5)
        assert ack.sequence == 3
        await b.put_snapshot("x.db", bytes_of(b"new"), {"seq": "3"})
        assert await a.snapshot_headers("x.db") == {"seq": "3"}
        await b.forget("never.db")


async def test_a_released_name_is_free_for_another_node(harness: Harness) -> None:
    async with harness.broker("a") as first, harness.broker("a") as second:
        await first.log("x.db")
        await first.release("x.db")
        await second.log("x.db")
