"""A schema change lands on the very state that it ran on, or it is not written."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import trio

from ha.core.changeset import Operation, decode
from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from tests.support.cluster import OPTIONS, TestNode, open_cluster, settle
from tests.support.dump import dump
from tests.support.races import open_race


async def places_of_schema_changes(node: TestNode) -> list[tuple[int, int | None]]:
    """Of each message with SQL in it: the sequence before it, and the one on which it ran."""
    entries = [e async for e in node.database.log.history(1)]
    out: list[tuple[int, int | None]] = []
    for before, entry in pairwise(entries):
        cs = decode(entry.payload)
        if any(c.operation is Operation.SQL for c in cs.changes):
            out.append((before.sequence, cs.base))
    return out


async def test_a_row_that_came_before_a_unique_index_is_seen_by_it() -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, u)", "INSERT INTO t VALUES (1, 1)")
        before = await places_of_schema_changes(race.nodes[0])
        outcomes = await race.run(
            "CREATE UNIQUE INDEX i ON t(u)", "INSERT INTO t VALUES (2, 1)", first=1
        )
        assert outcomes == [Code.UNIQUE_VIOLATION, None]
        assert await race.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'i'") == [(0,)]
        assert await race.rows("SELECT * FROM t") == [(1, 1), (2, 1)]
        assert await places_of_schema_changes(race.nodes[0]) == before


async def test_a_list_with_a_schema_change_is_executed_again_behind_what_came_first() -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, x)", "INSERT INTO t VALUES (1, 1)")
        outcomes = await race.run(
            ["ALTER TABLE t ADD COLUMN total", "UPDATE t SET total = (SELECT sum(x) FROM t)"],
            "INSERT INTO t VALUES (2, 10)",
            first=1,
        )
        assert outcomes == [None, None]
        assert await race.rows("SELECT * FROM t") == [(1, 1, 11), (2, 10, 11)]


async def test_schema_changes_among_writers_on_other_nodes() -> None:
    async with open_cluster(3) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x, u UNIQUE)")
        await settle(nodes)
        done = trio.Event()

        async def write(node: TestNode, start: int) -> None:
            number = start
            while not done.is_set():
                await node.run("INSERT INTO t(id, x, u) VALUES (?1, 'x', ?1)", [number])
                number += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, nodes[1], 1_000_000)
            nursery.start_soon(write, nodes[2], 2_000_000)
            for number in range(10):
                await nodes[0].run(f"ALTER TABLE t ADD COLUMN c{number} DEFAULT {number}")
                await nodes[0].run(f"CREATE UNIQUE INDEX i{number} ON t(u, c{number})")
            done.set()
        await settle(nodes)
        places = await places_of_schema_changes(nodes[0])
        assert len(places) == 21
        assert [place for place in places if place[0] != place[1]] == []
        written = [await node.rows("SELECT count(*), sum(c9) FROM t") for node in nodes]
        assert written[0] == written[1] == written[2]
        count, total = written[0][0]
        assert isinstance(count, int)
        assert count > 2
        assert total == 9 * count


async def test_a_transaction_with_a_schema_change_that_others_overtook_is_not_written() -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        one, two = race.nodes
        session = one.session()
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'gone')")
        await session.execute("CREATE INDEX i ON t(x)")
        await two.run("INSERT INTO t VALUES (2, 'first')")
        code: Code | None = None
        try:
            await session.execute("COMMIT")
        except HaError as error:
            code = error.code
        assert code is Code.SERIALIZATION_FAILURE
        await settle(race.nodes)
        assert await race.rows("SELECT * FROM t") == [(2, "first")]
        await session.transaction([Statement("CREATE INDEX i ON t(x)")])
        await settle(race.nodes)
        assert await race.rows("SELECT name FROM sqlite_schema WHERE name = 'i'") == [("i",)]


FORMS = (
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE u RENAME COLUMN x TO y",
    "ALTER TABLE u ADD COLUMN z DEFAULT 7",
    "ALTER TABLE u DROP COLUMN y",
    "ALTER TABLE u ALTER COLUMN z SET NOT NULL",
    "ALTER TABLE u ALTER COLUMN z DROP NOT NULL",
    "ALTER TABLE u ADD CONSTRAINT k CHECK (z > 0)",
    "ALTER TABLE u DROP CONSTRAINT k",
)
OPENING = "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"
CLOSING = [(1, 7)]


async def test_every_form_of_alter_table_reaches_the_other_node() -> None:
    async with open_cluster(2) as nodes:
        await nodes[0].run(OPENING)
        await nodes[0].run("INSERT INTO t VALUES (1, 'x')")
        for sql in FORMS:
            await nodes[0].run(sql)
        await settle(nodes)
        assert [await node.rows("SELECT * FROM u") for node in nodes] == [CLOSING, CLOSING]
        assert dump(nodes[0].database.store.path) == dump(nodes[1].database.store.path)


async def test_every_form_of_alter_table_in_one_list() -> None:
    async with open_cluster(2) as nodes:
        session = nodes[0].session()
        texts = [OPENING, "INSERT INTO t VALUES (1, 'x')", *FORMS]
        await session.transaction([Statement(sql) for sql in texts])
        await settle(nodes)
        assert [await node.rows("SELECT * FROM u") for node in nodes] == [CLOSING, CLOSING]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ddl_sync", [False, True])
async def test_every_form_of_alter_table_in_every_mode(asynchronous: bool, ddl_sync: bool) -> None:
    commit = replace(OPTIONS.commit, asynchronous=asynchronous, ddl_sync=ddl_sync)
    async with open_cluster(1, options=replace(OPTIONS, commit=commit)) as [node]:
        await node.run(OPENING)
        await node.run("INSERT INTO t VALUES (1, 'x')")
        for sql in FORMS:
            await node.run(sql)
        assert await node.rows("SELECT * FROM u") == CLOSING


async def test_an_alter_of_a_temp_table_stays_in_its_session() -> None:
    async with open_cluster(2) as nodes:
        session = nodes[0].session()
        await session.execute("CREATE TEMP TABLE h(a, b)")
        before = (await nodes[0].database.log.state()).subject_last
        await session.execute("ALTER TABLE h RENAME a TO c")
        await session.execute("ALTER TABLE h DROP COLUMN b")
        await session.execute("INSERT INTO h VALUES (1)")
        assert (await session.execute("SELECT c FROM h")).rows == [(1,)]
        assert (await nodes[0].database.log.state()).subject_last == before


async def test_temp_tables_keep_what_a_transaction_did_to_them_alone() -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        session = node.session()
        await session.execute("CREATE TEMP TABLE h(a)")
        await session.execute("BEGIN IMMEDIATE")
        await session.execute("INSERT INTO h VALUES (1)")
        await session.execute("DELETE FROM t")
        await session.execute("COMMIT")
        assert (await session.execute("SELECT a FROM h")).rows == [(1,)]
