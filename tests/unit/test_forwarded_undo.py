"""An UNDO that a follower sends to the leader, and whose answer is lost, is settled in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode
from ha.engine.routing import RoutedSession
from tests.support.leaders import Held, Leaders, cut, die_before, lose_the_answer, open_leaders


async def with_a_change(cluster: Leaders) -> RoutedSession:
    """A session of the follower, after a change that can be undone."""
    session = cluster[1].session()
    assert isinstance(session, RoutedSession)
    await session.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
    await session.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await session.execute("UPDATE t SET x = x || '!'")
    return session


async def undo_by_sql(session: RoutedSession) -> None:
    await session.execute("UNDO")


async def undo_by_call(session: RoutedSession) -> None:
    await session.undo(Mode.UNDO, Since())


Undo = Callable[[RoutedSession], Awaitable[None]]
WAYS = pytest.mark.parametrize("undo", [undo_by_sql, undo_by_call])


async def history(cluster: Leaders) -> int:
    """How many transactions the log has."""
    async with cluster[0].session().history(Since(1)) as items:
        return len([item async for item in items])


@WAYS
async def test_one_that_is_in_the_log_is_told_so_and_is_not_done_again(undo: Undo) -> None:
    async with open_leaders() as cluster, trio.open_nursery() as nursery:
        session = await with_a_change(cluster)
        held = Held(cluster[0])
        nursery.start_soon(lose_the_answer, cluster, held)
        with pytest.raises(HaError) as caught:
            await undo(session)
        assert caught.value.code is Code.WRITTEN_NOT_APPLIED
        assert caught.value.sequence == session.txseq
        assert (await session.execute("SELECT x FROM t ORDER BY id")).rows == [("a",), ("b",)]
        assert await history(cluster) == 4


@WAYS
async def test_one_that_a_dead_leader_never_published_goes_to_the_next(undo: Undo) -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = await with_a_change(cluster)
        await cluster.settle()
        held = Held(cluster[0])
        nursery.start_soon(die_before, cluster, held, 2)
        await undo(session)
        rows = await cluster[2].node.rows("SELECT x FROM t ORDER BY id")
        assert rows == [("a",), ("b",)]


async def test_one_of_a_dead_leader_is_found_in_the_log_by_the_next() -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = await with_a_change(cluster)
        held = Held(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cut(cluster[1])
            cluster[0].kill()
            held.release()
            cluster.lead(2)

        nursery.start_soon(disturb)
        with pytest.raises(HaError) as caught:
            await undo_by_sql(session)
        assert caught.value.code is Code.WRITTEN_NOT_APPLIED
        assert (await session.execute("SELECT x FROM t ORDER BY id")).rows == [("a",), ("b",)]


async def test_one_that_nobody_can_tell_of_is_unknown() -> None:
    async with open_leaders(settle=0.3) as cluster, trio.open_nursery() as nursery:
        session = await with_a_change(cluster)
        held = Held(cluster[0])
        nursery.start_soon(die_before, cluster, held, None)
        with pytest.raises(HaError) as caught:
            await undo_by_sql(session)
        assert caught.value.code is Code.OUTCOME_UNKNOWN
