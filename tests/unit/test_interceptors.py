"""A user's rules as part of the fold; the files of examples/interceptors are tested as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ha.core.changeset import Change, ChangeSet, Operation, encode
from ha.core.errors import Code, HaError
from ha.engine.interceptors import load_interceptor
from ha.log.api import Outgoing
from ha.log.memory import MemoryStream
from tests.support.cluster import OPTIONS, open_cluster, settle

EXAMPLES = Path(__file__).parents[2] / "examples" / "interceptors"


async def test_the_merging_interceptor_on_two_nodes_loses_no_increment() -> None:
    options = replace(OPTIONS, interceptor=load_interceptor(EXAMPLES / "merge_counters.py"))
    async with open_cluster(2, options=options) as nodes:
        await nodes[0].run("CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER)")
        await nodes[0].run("INSERT INTO counters VALUES ('hits', 0)")
        await settle(nodes)
        async with trio.open_nursery() as nursery:
            for node in nodes:
                for _ in range(20):
                    nursery.start_soon(
                        node.run, "UPDATE counters SET value = value + 1 WHERE name = 'hits'"
                    )
        await settle(nodes)
        for node in nodes:
            assert await node.rows("SELECT value FROM counters") == [(40,)]


async def test_without_it_increments_are_lost_but_the_nodes_agree() -> None:
    async with open_cluster(2) as nodes:
        await nodes[0].run("CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER)")
        await nodes[0].run("INSERT INTO counters VALUES ('hits', 0)")
        await settle(nodes)
        async with trio.open_nursery() as nursery:
            for node in nodes:
                for _ in range(20):
                    nursery.start_soon(
                        node.run, "UPDATE counters SET value = value + 1 WHERE name = 'hits'"
                    )
        await settle(nodes)
        one, two = [await node.rows("SELECT value FROM counters") for node in nodes]
        assert one == two
        assert one != [(40,)]


@pytest.mark.parametrize("ignoring", [False, True])
async def test_alter_table_errors_can_be_ignored(ignoring: bool) -> None:
    """An ALTER of an existing node that does not work here: it counts with the interceptor only."""
    path = EXAMPLES / "ignore_alter_table_errors.py"
    options = replace(OPTIONS, interceptor=load_interceptor(path) if ignoring else None)
    stream = MemoryStream(epoch="test")
    async with open_cluster(2, options=options, stream=stream) as nodes:
        await nodes[0].run("CREATE TABLE t(a)")
        await settle(nodes)
        before = [await node.rows("SELECT sql FROM sqlite_schema") for node in nodes]
        alter = Change(Operation.SQL, command="ALTER TABLE t RENAME COLUMN missing TO b")
        subject = nodes[0].database.log.subject
        ack = stream.append(
            subject, Outgoing("old", encode(ChangeSet("old", 1, "ha.db", (alter,))))
        )
        await nodes[1].run("INSERT INTO t VALUES (1)")
        await settle(nodes)
        for node, schema in zip(nodes, before, strict=True):
            assert await node.rows("SELECT sql FROM sqlite_schema") == schema
            assert await node.rows("SELECT a FROM t") == [(1,)]
            counted = [row[0] for row in await node.rows("HISTORY 1")]
            assert (ack.sequence in counted) is ignoring


async def test_an_interceptor_that_raises_halts_the_node(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def before_apply(changeset, connection):\n    raise KeyError('oops')\n")
    options = replace(OPTIONS, interceptor=load_interceptor(file))
    async with open_cluster(1, options=options) as [node]:
        with pytest.raises(HaError) as info:
            with trio.fail_after(5):
                await node.run("CREATE TABLE t(a)")
        assert info.value.code is Code.WRITTEN_NOT_APPLIED
        assert "KeyError" in (node.databases.not_ready() or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", "neither before_apply nor after_apply"),
        ("def before_apply(:\n", "SyntaxError"),
        ("raise ValueError('at load')\n", "at load"),
    ],
)
def test_a_bad_file_is_refused_by_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(HaError, match=expected):
        load_interceptor(file)
