"""SET ha.txseq and SHOW ha.txseq."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha.core.errors import Code, HaError
from tests.support.cluster import OPTIONS, open_cluster


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


async def test_a_sequence_that_does_not_come_is_an_error_after_a_bound() -> None:
    options = replace(OPTIONS, staleness=0.01)
    async with open_cluster(1, options=options) as [node]:
        with pytest.raises(HaError) as info:
            await node.session().execute("SET ha.txseq = 1000")
        assert info.value.code is Code.STALE


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "", str(2**64)])
async def test_what_is_no_sequence_is_refused(value: str) -> None:
    async with open_cluster(1) as [node]:
        with pytest.raises(HaError) as info:
            await node.session().execute(f"SET ha.txseq = {value}")
        assert info.value.code is Code.BAD_REQUEST
