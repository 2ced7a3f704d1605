"""CREATE and DROP DATABASE that a follower sends to the leader, and whose answer is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from ha.core.dsn import Dsn
from ha.core.errors import Code, HaError
from ha.engine.place import Place
from ha.store.file import Store, StoreOptions
from tests.support.leaders import (
    LeaderNode,
    Leaders,
    cut,
    die_before,
    lose_the_answer,
    open_leaders,
)


def in_memory(dsn: Dsn) -> Store:
    return Store.open_memory(dsn.path, StoreOptions(synchronous="OFF"))


@asynccontextmanager
async def open_cluster(
    count: int = 2, *, settle: float = 10.0
) -> AsyncIterator[tuple[Leaders, trio.Nursery]]:
    """Nodes that make databases in memory, and a nursery for what disturbs them."""
    async with (
        open_leaders(count, settle=settle, place=Place(None, True, "", in_memory)) as cluster,
        trio.open_nursery() as nursery,
    ):
        yield cluster, nursery
        nursery.cancel_scope.cancel()


class HeldWord:
    """What a node says in the catalogue, kept back until :meth:`release`."""

    def __init__(self, node: LeaderNode) -> None:
        self.reached = trio.Event()
        self._released = trio.Event()
        self._catalogue: Any = node.node.databases.broker.catalogue
        self._put = self._catalogue.put
        self._catalogue.put = self._keep

    async def _keep(self, key: str, word: bytes) -> None:
        self.reached.set()
        await self._released.wait()
        await self._put(key, word)

    def release(self) -> None:
        self._catalogue.put = self._put
        self._released.set()


def ids(node: LeaderNode) -> list[str]:
    return node.node.databases.database_ids()


async def until(node: LeaderNode, expected: list[str]) -> None:
    with trio.fail_after(20):
        while ids(node) != expected:  # noqa: ASYNC110  # another node's doing has no event here
            await trio.sleep(0.01)


async def test_both_are_carried_out_by_the_leader_and_followed() -> None:
    async with open_cluster() as (cluster, _):
        session = cluster[1].session()
        await session.execute("CREATE DATABASE shop.db")
        assert ids(cluster[0]) == ids(cluster[1]) == ["ha.db", "shop.db"]
        await session.execute("DROP DATABASE shop")
        assert ids(cluster[0]) == ids(cluster[1]) == ["ha.db"]


async def test_a_create_that_was_carried_out_is_told_as_done() -> None:
    async with open_cluster() as (cluster, nursery):
        nursery.start_soon(lose_the_answer, cluster, HeldWord(cluster[0]))
        result = await cluster[1].session().execute("CREATE DATABASE shop.db")
        assert result.verb == "CREATE DATABASE"
        assert ids(cluster[0]) == ids(cluster[1]) == ["ha.db", "shop.db"]


async def test_a_drop_that_was_carried_out_is_told_as_done() -> None:
    async with open_cluster() as (cluster, nursery):
        session = cluster[1].session()
        await session.execute("CREATE DATABASE shop.db")
        nursery.start_soon(lose_the_answer, cluster, HeldWord(cluster[0]))
        result = await session.execute("DROP DATABASE shop")
        assert result.verb == "DROP DATABASE"
        assert ids(cluster[0]) == ids(cluster[1]) == ["ha.db"]


async def test_a_drop_is_not_done_again_to_a_database_made_since() -> None:
    """The one of the same name, that somebody made after the drop, is another's."""
    async with open_cluster(3) as (cluster, nursery):
        session = cluster[1].session()
        await session.execute("CREATE DATABASE shop.db")
        await until(cluster[2], ["ha.db", "shop.db"])
        held = HeldWord(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cut(cluster[1])
            cluster.lead(None)
            held.release()
            await until(cluster[2], ["ha.db"])
            cluster.lead(2)
            await cluster[2].session().execute("CREATE DATABASE shop.db")

        nursery.start_soon(disturb)
        await session.execute("DROP DATABASE shop.db")
        await until(cluster[2], ["ha.db", "shop.db"])


async def test_a_create_that_a_dead_leader_never_announced_goes_to_the_next() -> None:
    async with open_cluster(3) as (cluster, nursery):
        held = HeldWord(cluster[0])
        nursery.start_soon(die_before, cluster, held, 2)
        await cluster[1].session().execute("CREATE DATABASE shop.db")
        assert ids(cluster[2]) == ids(cluster[1]) == ["ha.db", "shop.db"]


async def test_a_create_that_a_dead_leader_had_announced_is_told_as_done() -> None:
    async with open_cluster(3) as (cluster, nursery):
        held = HeldWord(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cluster[0].kill()
            held.release()
            await until(cluster[2], ["ha.db", "shop.db"])
            cluster.lead(2)

        nursery.start_soon(disturb)
        await cluster[1].session().execute("CREATE DATABASE shop.db")
        assert ids(cluster[2]) == ids(cluster[1]) == ["ha.db", "shop.db"]


async def test_a_create_of_what_another_made_is_still_refused() -> None:
    async with open_cluster(3) as (cluster, nursery):
        held = HeldWord(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cluster[0].kill()
            cluster.lead(None)
            await cluster[2].node.databases.create("shop.db")
            cluster.lead(2)

        nursery.start_soon(disturb)
        with pytest.raises(HaError) as caught:
            await cluster[1].session().execute("CREATE DATABASE shop.db")
        assert caught.value.code is Code.ALREADY_EXISTS


async def test_a_drop_that_a_dead_leader_may_yet_announce_is_unknown() -> None:
    """The next leader must not drop what may have been made anew when that comes."""
    async with open_cluster(3) as (cluster, nursery):
        session = cluster[1].session()
        await session.execute("CREATE DATABASE shop.db")
        await until(cluster[2], ["ha.db", "shop.db"])
        held = HeldWord(cluster[0])
        nursery.start_soon(die_before, cluster, held, 2)
        with pytest.raises(HaError) as caught:
            await session.execute("DROP DATABASE shop.db")
        assert caught.value.code is Code.OUTCOME_UNKNOWN
        assert "shop.db" in ids(cluster[2])


async def test_what_nobody_can_tell_is_unknown() -> None:
    async with open_cluster(settle=0.3) as (cluster, nursery):
        held = HeldWord(cluster[0])
        nursery.start_soon(die_before, cluster, held, None)
        with pytest.raises(HaError) as caught:
            await cluster[1].session().execute("CREATE DATABASE shop.db")
        assert caught.value.code is Code.OUTCOME_UNKNOWN
