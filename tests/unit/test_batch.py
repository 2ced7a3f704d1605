"""A batch of transactions on one connection: budgets, and units that end the whole transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from ha.engine.batch import run_batch
from ha.engine.unit import Unit
from ha.store.connection import Connection, OverBudget
from ha.store.executor import Executor
from ha.store.file import Store, StoreOptions
from ha.store.parse import Parsed

SCHEMA = """
    CREATE TABLE t(id INTEGER PRIMARY KEY, x);
    CREATE TABLE u(x UNIQUE);
    CREATE TABLE parent(id INTEGER PRIMARY KEY);
    CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO u VALUES (3);
"""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    store = Store.open(str(tmp_path / "a.db"), StoreOptions())
    connection = store.connect()
    connection.raw.execute(SCHEMA).fetchall()
    yield connection
    connection.close()
    store.close()


def units_of(*texts: str | list[str]) -> list[Unit]:
    lists = [[text] if isinstance(text, str) else text for text in texts]
    return [Unit([Statement(sql) for sql in sqls], deadline=0) for sqls in lists]


def test_a_budget_that_runs_out_anywhere_only_asks_for_a_thread(connection: Connection) -> None:
    """Also inside of BEGIN, SAVEPOINT or RELEASE, which no client has sent."""
    connection.raw.set_progress_handler(connection._tick, 1)
    executor = Executor(connection)
    ended = 0
    for ticks in range(400):
        units = units_of("INSERT INTO t(x) VALUES (1)", ["INSERT INTO t(x) VALUES (2)"] * 2)
        connection.ticks = ticks
        try:
            run_batch(executor, units)
        except OverBudget:
            assert not connection.in_transaction
        else:
            ended += 1
            assert all(u.error is None and u.captured is not None for u in units)
        finally:
            connection.ticks = None
            connection.rollback()
    assert 0 < ended < 400


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("INSERT OR FAIL INTO u VALUES (1), (2), (3)", Code.UNIQUE_VIOLATION),
        ("INSERT OR ROLLBACK INTO u VALUES (1), (2), (3)", Code.UNIQUE_VIOLATION),
        ("INSERT INTO u VALUES (1), (2), (3)", Code.UNIQUE_VIOLATION),
        ("INSERT INTO child VALUES (7)", Code.FOREIGN_KEY_VIOLATION),
        ("INSERT INTO nowhere VALUES (7)", Code.UNKNOWN_TABLE),
    ],
)
def test_a_unit_that_fails_leaves_nothing_and_costs_only_itself(
    connection: Connection, statement: str, code: Code
) -> None:
    connection.raw.execute("PRAGMA foreign_keys = ON").fetchall()
    executor = Executor(connection)
    first, failing, last = units_of(
        "INSERT INTO t(x) VALUES ('first')", statement, "INSERT INTO t(x) VALUES ('last')"
    )
    run_batch(executor, [first, failing, last])
    connection.raw.execute("COMMIT")
    assert failing.error is not None
    assert failing.error.code is code
    assert failing.captured is None
    assert first.error is None
    assert last.error is None
    assert [c.new_values for u in (first, last) if u.captured for c in u.captured.changes] == [
        (1, "first"),
        (2, "last"),
    ]
    assert connection.raw.execute("SELECT x FROM t ORDER BY id").fetchall() == [
        ("first",),
        ("last",),
    ]
    assert connection.raw.execute("SELECT x FROM u").fetchall() == [(3,)]
    assert connection.raw.execute("SELECT count(*) FROM child").fetchall() == [(0,)]


def test_a_list_of_one_text_tells_what_each_did_and_which_failed(connection: Connection) -> None:
    executor = Executor(connection)
    insert = "INSERT INTO u VALUES (?)"
    good = Unit([Statement(insert, [n]) for n in (10, 11)] + [Statement("DELETE FROM u")], 0)
    bad = Unit([Statement(insert, [n]) for n in (20, 21, 20)], 0)
    wrong = Unit([Statement(insert, [30]), Statement(insert, [])], 0)
    run_batch(executor, [good, bad, wrong])
    connection.raw.execute("COMMIT")
    assert good.error is None
    assert [(r.rows_affected, r.last_insert_id) for r in good.results] == [(1, 2), (1, 3), (3, 3)]
    assert bad.error is not None
    assert bad.error.code is Code.UNIQUE_VIOLATION
    assert bad.error.detail == "statement 3 of 3"
    assert wrong.error is not None
    assert wrong.error.code is Code.BAD_PARAMETERS
    assert wrong.error.detail == "statement 2 of 2"
    assert connection.raw.execute("SELECT * FROM u").fetchall() == []


def test_a_first_look_at_the_schema_that_was_broken_off_is_done_again(
    connection: Connection,
) -> None:
    """Else the rows of a virtual table would be written after its transaction was recorded."""
    connection.raw.execute("CREATE VIRTUAL TABLE doc USING fts5(text)").fetchall()
    connection.raw.set_progress_handler(connection._tick, 1)
    for ticks in range(60):
        executor = Executor(connection)
        connection.ticks = ticks
        with contextlib.suppress(OverBudget):
            run_batch(executor, units_of("INSERT INTO doc VALUES ('one')"))
        connection.ticks = None
        connection.rollback()
        [unit] = units = units_of("INSERT INTO doc VALUES ('two')")
        run_batch(executor, units)
        connection.rollback()
        assert unit.captured is not None
        assert unit.captured.virtual == ("doc",)
        assert "doc_data" in {change.table for change in unit.captured.changes}
        executor._recorder.close()


def test_a_disk_error_that_ends_the_whole_transaction_lets_nobody_commit_alone(
    connection: Connection,
) -> None:
    """SQLite rolls all back then; a savepoint would begin a transaction, and its release end it."""
    units = units_of("INSERT INTO t(x) VALUES (1)", *[["INSERT INTO t(x) VALUES (2)"] * 2] * 2)

    def broken(on: Connection, sql: str) -> Parsed:
        on.raw.execute("ROLLBACK")
        raise HaError(Code.IO_ERROR, "disk")

    units[0].parse = broken
    run_batch(Executor(connection), units)
    assert connection.in_transaction
    assert units[0].error is not None
    assert units[0].error.code is Code.IO_ERROR
    assert all(u.error is None and u.captured is not None for u in units[1:])
    connection.rollback()
    (left,) = connection.raw.execute("SELECT count(*) FROM t").fetchall()
    assert left == (0,)
