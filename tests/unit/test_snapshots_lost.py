"""The bucket of snapshots is lost: nodes that hold a database publish it anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from ha.engine import snapshots
from ha.engine.snapshots import SnapshotOptions
from ha.log.api import LogError
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node

GUARDED = replace(OPTIONS, snapshots=SnapshotOptions(jitter=0.1))


class Bucketless(MemoryBroker):
    """While ``leaderless`` the log goes on, and the bucket of snapshots answers nothing."""

    leaderless = False

    def _require_leader(self) -> None:
        if self.leaderless:
            raise LogError("JetStream is not available")

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None:
        self._require_leader()
        return await super().snapshot_headers(database_id)

    async def put_snapshot(
        self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        self._require_leader()
        await super().put_snapshot(database_id, chunks, headers)


@asynccontextmanager
async def node(stream: MemoryStream) -> AsyncIterator[tuple[TestNode, Bucketless]]:
    """With a table, and a snapshot of it."""
    async with (
        Bucketless(stream, node="n1") as broker,
        open_node("n1", broker, options=GUARDED) as opened,
    ):
        await opened.run("CREATE TABLE t(x)")
        await opened.database.snapshots.take()
        yield opened, broker


async def appears(stream: MemoryStream, seconds: float) -> None:
    with trio.fail_after(seconds):
        while "ha.db" not in stream._snapshots:  # noqa: ASYNC110  # no event to wait for
            await trio.sleep(0.1)


async def test_a_bucket_that_was_removed_is_filled_again(autojump_clock: MockClock) -> None:
    stream = MemoryStream(epoch="test")
    async with node(stream):
        await trio.sleep(5)
        stream._snapshots.clear()
        await appears(stream, 700)


async def test_one_that_had_no_leader_and_was_removed_is_filled_within_seconds(
    autojump_clock: MockClock,
) -> None:
    stream = MemoryStream(epoch="test")
    async with node(stream) as (_, broker):
        await trio.sleep(5)
        broker.leaderless = True
        await trio.sleep(1_000)
        stream._snapshots.clear()
        broker.leaderless = False
        await appears(stream, 20)


async def test_one_without_a_leader_is_named_with_what_to_do(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MemoryStream(epoch="test")
    async with node(stream) as (opened, broker):
        await trio.sleep(5)
        said: list[str] = []
        monkeypatch.setattr(
            snapshots.logger, "warning", lambda text, *args: said.append(text % args)
        )
        broker.leaderless = True
        await trio.sleep(1_800)
        told = [line for line in said if "nats stream rm" in line]
        assert 1 <= len(told) <= 4, told
        assert "OBJ_ha_replication_SNAPSHOTS" in told[0]
        assert await opened.rows("SELECT 1") == [(1,)]


async def test_where_there_was_none_none_is_missing(autojump_clock: MockClock) -> None:
    """The log holds all of a database that began empty, until that is about to change."""
    stream = MemoryStream(epoch="test")
    async with (
        Bucketless(stream, node="n1") as broker,
        open_node("n1", broker, options=GUARDED) as opened,
    ):
        await trio.sleep(5)
        await opened.run("CREATE TABLE t(x)")
        await trio.sleep(2_000)
        assert not stream._snapshots
