"""SET ha.txseq and SHOW ha.txseq."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from ha.core.errors import Code, HaError
from ha.store.file import Store, StoreOptions
from tests.support.cluster import OPTIONS, open_cluster, settle


async def test_a_session_shows_what_it_wrote_and_another_waits_for_it() -> None:
    async with open_cluster(2) as [one, two]:
        writer, reader = one.session(), two.session()
        assert (await writer.execute("SHOW ha.txseq")).rows == [(0,)]
        await writer.execute("CREATE TABLE t(x)")
        await writer.execute("INSERT INTO t VALUES (1)")
        shown = (await writer.execute('show "ha.txseq" ;')).rows
        assert shown == [(writer.txseq,)]
        for form in ("SET ha.txseq = {}", "set ha.txseq to '{}';"):
            await reader.execute(form.format(writer.txseq))
        assert (await reader.execute("SELECT x FROM t")).rows == [(1,)]


async def test_a_sequence_that_does_not_come_is_an_error_after_a_bound(
    autojump_clock: MockClock,
) -> None:
    options = replace(OPTIONS, staleness=3.0)
    async with open_cluster(2, options=options) as [one, two]:
        await one.run("CREATE TABLE t(x)")
        await settle([one, two])
        behind = two.database
        two.scope.cancel()
        await one.run("INSERT INTO t VALUES (1)")
        last = one.database.committer.applied
        began = trio.current_time()
        with pytest.raises(HaError, match=f"not yet at {last}") as info:
            await behind.wait_for(last)
        assert info.value.code is Code.STALE
        assert trio.current_time() - began == pytest.approx(3.0)


async def test_a_sequence_of_another_stream_is_an_error_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster(1) as [node]:
        began = trio.current_time()
        with pytest.raises(HaError, match="another stream") as info:
            await node.session().execute("SET ha.txseq = 1000")
        assert info.value.code is Code.STALE
        assert trio.current_time() - began < 1


async def test_a_sequence_of_another_database_is_no_wait(autojump_clock: MockClock) -> None:
    """A client with one cookie for all: it writes to one database, and reads from another."""
    async with open_cluster(1) as [node], trio.open_nursery() as nursery:
        other = Store.open_memory("other.db", StoreOptions())
        await node.databases.open("other.db", other, nursery)
        await node.run("CREATE TABLE t(x)")
        last = node.database.committer.applied
        began = trio.current_time()
        await node.databases.get("other.db").wait_for(last)
        assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "", str(2**64)])
async def test_what_is_no_sequence_is_refused(value: str) -> None:
    async with open_cluster(1) as [node]:
        with pytest.raises(HaError) as info:
            await node.session().execute(f"SET ha.txseq = {value}")
        assert info.value.code is Code.BAD_REQUEST
