"""Two nodes write the same thing at the same time: both end with what the log says.

Each case runs with either message first. ``Race.rows`` fails when the nodes differ.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha.core.changeset import Identify
from ha.core.errors import Code
from tests.support.cluster import OPTIONS
from tests.support.dump import dump
from tests.support.races import Race, open_race

FIRST = pytest.mark.parametrize("first", [0, 1])


def same_files(race: Race) -> None:
    """Everything is equal: schema, rows with their rowids and types, sequences, header."""
    one, two = [dump(node.database.store.path) for node in race.nodes]
    assert one == two


@FIRST
async def test_same_row_updated_on_two_nodes(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, x)", "INSERT INTO t VALUES (1, 0)")
        outcomes = await race.run(
            "UPDATE t SET x = 'one' WHERE id = 1",
            "UPDATE t SET x = 'two' WHERE id = 1",
            first=first,
        )
        assert outcomes == [None, None]
        assert await race.rows("SELECT x FROM t") == [("one",) if first == 1 else ("two",)]
        same_files(race)


@FIRST
async def test_update_against_delete(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, x)", "INSERT INTO t VALUES (1, 0)")
        await race.run("UPDATE t SET x = 'kept' WHERE id = 1", "DELETE FROM t", first=first)
        assert await race.rows("SELECT * FROM t") == ([] if first == 0 else [(1, "kept")])
        same_files(race)


@FIRST
async def test_two_inserts_that_clash_on_a_secondary_unique_index(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT UNIQUE)")
        await race.run(
            "INSERT INTO t VALUES (1, 'a@x')", "INSERT INTO t VALUES (2, 'a@x')", first=first
        )
        assert await race.rows("SELECT * FROM t") == [(2, "a@x") if first == 0 else (1, "a@x")]
        same_files(race)


@FIRST
async def test_swap_of_two_unique_values_in_one_transaction(first: int) -> None:
    async with open_race() as race:
        await race.setup(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, x)",
            "INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0)",
        )
        swap = [
            "UPDATE t SET u = NULL WHERE id = 1",
            "UPDATE t SET u = 'a' WHERE id = 2",
            "UPDATE t SET u = 'b' WHERE id = 1",
        ]
        await race.run(swap, "UPDATE t SET x = 9 WHERE id = 3", first=first)
        assert await race.rows("SELECT * FROM t") == [(1, "b", 0), (2, "a", 0), (3, "c", 9)]
        same_files(race)


@FIRST
async def test_primary_key_change(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(k TEXT PRIMARY KEY, x)", "INSERT INTO t VALUES ('a', 0)")
        await race.run("UPDATE t SET k = 'b'", "UPDATE t SET x = 1 WHERE k = 'a'", first=first)
        rows = await race.rows("SELECT * FROM t ORDER BY k")
        # Values are replayed, not intentions: an update of a row that is gone brings it back.
        assert rows == ([("a", 1), ("b", 0)] if first == 0 else [("b", 0)])
        same_files(race)


@FIRST
async def test_foreign_keys_with_cascades(first: int) -> None:
    options = OPTIONS
    async with open_race(options) as race:
        await race.setup(
            "CREATE TABLE p(id INTEGER PRIMARY KEY)",
            "CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE)",
            "INSERT INTO p VALUES (1), (2)",
            "INSERT INTO c VALUES (10, 1), (20, 2)",
        )
        for node in race.nodes:
            node.database.store.executor.raw.execute("PRAGMA foreign_keys = ON").fetchall()
        outcomes = await race.run(
            "DELETE FROM p WHERE id = 1", "INSERT INTO c VALUES (11, 1)", first=first
        )
        assert outcomes == [None, None]
        assert await race.rows("SELECT * FROM p") == [(2,)]
        # The orphan is kept, and can be counted: the cascade had not seen it.
        assert await race.rows("SELECT * FROM c ORDER BY id") == [(11, 1), (20, 2)]
        assert len(await race.rows("PRAGMA foreign_key_check")) == 1
        same_files(race)


@FIRST
async def test_replace_that_removes_other_rows(first: int) -> None:
    async with open_race() as race:
        await race.setup(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, x)",
            "INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0)",
        )
        await race.run(
            "REPLACE INTO t VALUES (1, 'b', 7)", "UPDATE t SET x = 5 WHERE id = 2", first=first
        )
        rows = await race.rows("SELECT * FROM t ORDER BY id")
        assert rows == ([(2, "b", 5)] if first == 0 else [(1, "b", 7)])
        same_files(race)


@FIRST
async def test_rows_of_a_table_dropped_meanwhile(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY)", "CREATE TABLE u(x)")
        outcomes = await race.run(
            "DROP TABLE t", ["INSERT INTO t VALUES (1)", "INSERT INTO u VALUES (1)"], first=first
        )
        assert outcomes == [None, None]
        assert await race.rows("SELECT name FROM sqlite_schema WHERE name = 't'") == []
        assert await race.rows("SELECT * FROM u") == [(1,)]
        same_files(race)


@FIRST
@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        ("ALTER TABLE t ADD COLUMN y DEFAULT 'd'", {0: [(1, "x", "d")], 1: [(1, "x", "d")]}),
        ("ALTER TABLE t DROP COLUMN x", {0: [(1,)], 1: [(1,)]}),
        ("ALTER TABLE t RENAME COLUMN x TO z", {0: [(1, None)], 1: [(1, "x")]}),
    ],
)
async def test_rows_of_a_table_altered_meanwhile(
    first: int, alter: str, expected: dict[int, list[tuple[object, ...]]]
) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        outcomes = await race.run(alter, "INSERT INTO t VALUES (1, 'x')", first=first)
        assert outcomes == [None, None]
        assert await race.rows("SELECT * FROM t") == expected[first]
        same_files(race)


@FIRST
async def test_autoincrement_keys_given_twice_leave_the_later_row(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x)")
        await race.run(
            "INSERT INTO t(x) VALUES ('one')", "INSERT INTO t(x) VALUES ('two')", first=first
        )
        assert await race.rows("SELECT * FROM t") == [(1, "two" if first == 0 else "one")]
        assert await race.rows("SELECT seq FROM sqlite_sequence") == [(1,)]
        same_files(race)


@FIRST
async def test_a_trigger_on_both_sides_fires_once_where_the_statement_ran(first: int) -> None:
    async with open_race() as race:
        await race.setup(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x)",
            "CREATE TABLE log(id INTEGER PRIMARY KEY, what)",
            "CREATE TRIGGER after_t AFTER INSERT ON t BEGIN"
            " INSERT INTO log VALUES (NEW.id, 'inserted ' || NEW.x); END",
        )
        await race.run(
            "INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'b')", first=first
        )
        assert await race.rows("SELECT * FROM log ORDER BY id") == [
            (1, "inserted a"), (2, "inserted b"),
        ]  # fmt: skip
        same_files(race)


@FIRST
@pytest.mark.parametrize("other", ["CREATE TABLE t(a)", "CREATE TABLE t(b, c)"])
async def test_a_table_created_twice_tells_the_later_client(first: int, other: str) -> None:
    async with open_race() as race:
        outcomes = await race.run("CREATE TABLE t(a)", other, first=first)
        later = 1 if first == 0 else 0
        assert outcomes[first] is None
        assert outcomes[later] is Code.OBJECT_EXISTS
        same_files(race)


@FIRST
async def test_a_table_created_twice_if_it_does_not_exist(first: int) -> None:
    async with open_race() as race:
        create = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)"
        assert await race.run(create, create, first=first) == [None, None]
        same_files(race)


@FIRST
async def test_full_text_index_written_on_two_nodes_stays_whole(first: int) -> None:
    async with open_race() as race:
        await race.setup("CREATE VIRTUAL TABLE f USING fts5(body)")
        outcomes = await race.run(
            "INSERT INTO f(rowid, body) VALUES (1, 'hello from one')",
            "INSERT INTO f(rowid, body) VALUES (2, 'hello from two')",
            first=first,
        )
        assert outcomes == [None, None]
        assert await race.rows("SELECT rowid FROM f('hello') ORDER BY rowid") == [(1,), (2,)]
        for node in race.nodes:
            await node.run("INSERT INTO f(f) VALUES ('integrity-check')")
        same_files(race)


@FIRST
@pytest.mark.parametrize("identify", list(Identify))
async def test_row_identification(first: int, identify: Identify) -> None:
    options = replace(OPTIONS, commit=replace(OPTIONS.commit, identify=identify))
    async with open_race(options) as race:
        await race.setup(
            "CREATE TABLE t(k TEXT PRIMARY KEY, x)", "INSERT INTO t VALUES ('a', NULL), ('b', 2)"
        )
        await race.run(
            "UPDATE t SET x = 'one' WHERE k = 'a'",
            "UPDATE t SET x = 'two' WHERE k = 'b'",
            first=first,
        )
        assert await race.rows("SELECT * FROM t ORDER BY k") == [("a", "one"), ("b", "two")]
        same_files(race)
