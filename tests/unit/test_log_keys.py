"""Buckets of keys and values: what ha/log/api.py promises of every implementation."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from ha.log.api import KeyValue, LogError, WrongRevision
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.log_harness import SimHarness


@pytest.fixture(params=["memory", "simulated", "jetstream"])
async def two(request: Any) -> AsyncIterator[tuple[KeyValue, KeyValue]]:
    """One bucket, as two nodes see it."""
    async with _brokers(request) as (a, b):
        yield a.keys("B_LEADER"), b.keys("B_LEADER")


@asynccontextmanager
async def _brokers(request: Any) -> AsyncIterator[tuple[Any, Any]]:
    if request.param == "memory":
        stream = MemoryStream(epoch="e")
        async with MemoryBroker(stream, node="a") as a, MemoryBroker(stream, node="b") as b:
            yield a, b
        return
    if request.param == "simulated":
        harness = SimHarness()
        async with harness.broker("a") as one, harness.broker("b") as other:
            yield one, other
        return
    url = request.getfixturevalue("nats_server").url
    rng = random.SystemRandom()
    async with (
        JetStreamBroker(JetStreamOptions(url, "a"), rng=rng) as first,
        JetStreamBroker(JetStreamOptions(url, "b"), rng=rng) as second,
    ):
        yield first, second


async def test_a_key_is_changed_only_at_the_revision_it_has(two: tuple[KeyValue, KeyValue]) -> None:
    a, b = two
    assert await a.get("leader") is None
    first = await a.update("leader", b"1", 0)
    with pytest.raises(WrongRevision) as refused:
        await b.update("leader", b"2", 0)
    assert refused.value.revision in (first, None)
    second = await b.update("leader", b"2", first)
    assert second > first
    with pytest.raises(WrongRevision):
        await a.update("leader", b"3", first)
    entry = await a.get("leader")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("leader", b"2", second)


async def test_one_of_many_at_once_succeeds(two: tuple[KeyValue, KeyValue]) -> None:
    won: list[int] = []

    async def race(keys: KeyValue, number: int) -> None:
        try:
            await keys.update("leader", b"%d" % number, 0)
        except WrongRevision:
            return
        won.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(race, two[number % 2], number)
    assert len(won) == 1
    entry = await two[0].get("leader")
    assert entry is not None
    assert entry.value == b"%d" % won[0]


async def test_a_watch_begins_with_what_there_is(two: tuple[KeyValue, KeyValue]) -> None:
    a, b = two
    await a.put("x", b"0")
    await a.put("x", b"1")
    await a.put("node/b.1", b"2")
    seen: list[tuple[str, bytes | None]] = []
    revisions: list[int] = []
    with trio.fail_after(10):
        async with b.watch() as watch:
            for changes in (2, 3, 4):
                while len(seen) < changes:
                    for entry in await watch.receive():
                        seen.append((entry.key, entry.value))
                        revisions.append(entry.revision)
                if changes == 2:
                    await a.put("x", b"3")
                elif changes == 3:
                    await a.delete("x")
    assert seen == [("x", b"1"), ("node/b.1", b"2"), ("x", b"3"), ("x", None)]
    assert revisions == sorted(revisions)


async def test_a_deleted_key_keeps_a_revision(two: tuple[KeyValue, KeyValue]) -> None:
    a, b = two
    await a.put("leader", b"1")
    await a.delete("leader")
    entry = await b.get("leader")
    assert entry is not None
    assert entry.value is None
    with pytest.raises(WrongRevision):
        await b.update("leader", b"2", 0)
    await b.update("leader", b"2", entry.revision)


async def test_a_node_that_is_cut_off_is_told() -> None:
    stream = MemoryStream(epoch="e")
    async with MemoryBroker(stream, node="a") as broker:
        broker.connected = False
        with pytest.raises(LogError):
            await broker.keys("B").get("leader")
