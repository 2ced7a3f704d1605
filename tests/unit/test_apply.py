"""The rules of the fold for rows and SQL, each on a state that its transaction did not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import pytest

from ha.core.changeset import (
    Change,
    ChangeSet,
    FormatError,
    Identify,
    Operation,
    Origin,
    SequenceChange,
)
from ha.core.values import RawText, Value
from ha.store import apply
from ha.store.apply import MAX_ROWID, Applied, NotCapable
from tests.support.dump import dump
from tests.support.law import Reader, Writer, copy_of

INSERT, UPDATE, DELETE, SQL = Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.SQL


class Race:
    """Two nodes that start alike and write without seeing each other; the log has one order."""

    def __init__(self, *setup: str) -> None:
        writer = Writer()
        writer.transaction(*setup)
        self.setup = writer.db

    def run(self, one: Sequence[str], two: Sequence[str]) -> None:
        self.messages = [
            Writer(copy_of(self.setup)).transaction(*one),
            Writer(copy_of(self.setup)).transaction(*two),
        ]

    def fold(self, *order: int, identify: Identify | None = None) -> Reader:
        """What the messages give in this order (default: one, two)."""
        reader = Reader(copy_of(self.setup))
        self.applied = [reader.receive(self.messages[i], identify) for i in (order or (0, 1))]
        assert reader.db.pragma("integrity_check") == "ok"
        return reader


def rows(where: Reader | Writer, sql: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[Any, ...]]:
    return where.db.execute(sql).fetchall()


def reader_of(*setup: str) -> Reader:
    reader = Reader()
    for sql in setup:
        reader.db.execute(sql)
    return reader


def row(
    operation: Operation,
    columns: str,
    old: tuple[Value, ...] | None = None,
    new: tuple[Value, ...] | None = None,
    rowids: tuple[int | None, int | None] = (None, None),
    table: str = "t",
) -> Change:
    return Change(operation, table, tuple(columns.split()), (), *rowids, old, new)


def message(*changes: Change | str, existing: bool = False, **members: Any) -> ChangeSet:
    listed = tuple(Change(SQL, command=c) if isinstance(c, str) else c for c in changes)
    origin = None if existing else Origin("n", 1, 1)
    return ChangeSet("n", 1, "x.db", listed, origin=origin, **members)


# --- named races of issue 3 ----------------------------------------------------------


def test_same_row_updated_on_two_nodes() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES (1, 0, 0)")
    race.run(["UPDATE t SET a = 1"], ["UPDATE t SET b = 2"])
    assert rows(race.fold(0, 1)) == [(1, 0, 2)]
    assert rows(race.fold(1, 0)) == [(1, 1, 0)]


def test_update_against_delete() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES (1, 0)")
    race.run(["UPDATE t SET a = 1"], ["DELETE FROM t"])
    assert rows(race.fold(0, 1)) == []
    assert rows(race.fold(1, 0)) == [(1, 1)]


def test_two_inserts_that_clash_on_a_secondary_unique_index() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)")
    race.run(["INSERT INTO t VALUES (1, 'x')"], ["INSERT INTO t VALUES (2, 'x')"])
    assert rows(race.fold(0, 1)) == [(2, "x")]
    assert rows(race.fold(1, 0)) == [(1, "x")]


def test_update_onto_a_unique_value_given_away() -> None:
    race = Race(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)", "INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    race.run(["UPDATE t SET a = 9 WHERE id = 1"], ["UPDATE t SET a = 9 WHERE id = 2"])
    assert rows(race.fold(0, 1)) == [(2, 9)]
    assert rows(race.fold(1, 0)) == [(1, 9)]


def test_swap_of_two_unique_values_in_one_transaction() -> None:
    race = Race(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)", "INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    race.run(
        [
            "UPDATE t SET a = -1 WHERE id = 1",
            "UPDATE t SET a = 1 WHERE id = 2",
            "UPDATE t SET a = 2 WHERE id = 1",
        ],
        ["INSERT INTO t VALUES (3, 3)"],
    )
    for order in ((0, 1), (1, 0)):
        assert rows(race.fold(*order)) == [(1, 2), (2, 1), (3, 3)]


def test_primary_key_change() -> None:
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('x', 0)")
    race.run(["UPDATE t SET id = 'y'"], ["UPDATE t SET a = 1"])
    # the update of the row that went away brings it back, as it was written
    assert rows(race.fold(0, 1)) == [("x", 1), ("y", 0)]
    assert rows(race.fold(1, 0)) == [("y", 0)]


def test_primary_key_change_onto_a_row_of_another() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES (1, 0)")
    race.run(["UPDATE t SET id = 2"], ["INSERT INTO t VALUES (2, 5)"])
    assert rows(race.fold(0, 1)) == [(2, 5)]
    assert rows(race.fold(1, 0)) == [(2, 0)]


def test_foreign_keys_with_cascades_leave_orphans_only_in_a_race() -> None:
    race = Race(
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE)",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO t VALUES (1, 1)",
    )
    race.run(["DELETE FROM p"], ["INSERT INTO t VALUES (2, 1)"])
    for order in ((0, 1), (1, 0)):
        folded = race.fold(*order)
        assert rows(folded) == [(2, 1)]
        assert rows(folded, "PRAGMA foreign_key_check") == [("t", 2, "p", 0)]


def test_replace_that_removes_other_rows() -> None:
    race = Race(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)", "INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    race.run(["REPLACE INTO t VALUES (3, 1)"], ["UPDATE t SET a = 5 WHERE id = 1"])
    assert rows(race.fold(0, 1)) == [(1, 5), (2, 2), (3, 1)]
    assert rows(race.fold(1, 0)) == [(2, 2), (3, 1)]


def test_rows_of_a_table_dropped_meanwhile() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY)", "CREATE TABLE u(a)")
    race.run(["DROP TABLE t"], ["INSERT INTO t VALUES (1)", "INSERT INTO u VALUES (1)"])
    folded = race.fold(0, 1)
    assert race.applied[1] == Applied(True, "", rows=2, skipped=1)
    assert rows(folded, "SELECT * FROM u") == [(1,)]
    assert "t" not in dump(race.fold(1, 0).db)["tables"]


def test_rows_of_a_table_altered_meanwhile() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES (1, 1, 1)")
    race.run(
        ["ALTER TABLE t DROP COLUMN a", "ALTER TABLE t ADD COLUMN c DEFAULT 7"],
        ["INSERT INTO t VALUES (2, 2, 2)", "UPDATE t SET b = 5 WHERE id = 1"],
    )
    for order in ((0, 1), (1, 0)):
        assert rows(race.fold(*order)) == [(1, 5, 7), (2, 2, 7)]


def test_a_column_renamed_meanwhile() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES (1, 1)")
    race.run(["ALTER TABLE t RENAME a TO z"], ["UPDATE t SET a = 5", "INSERT INTO t VALUES (2, 2)"])
    assert rows(race.fold(0, 1)) == [(1, 1), (2, None)]
    assert rows(race.fold(1, 0)) == [(1, 5), (2, 2)]


def test_the_key_renamed_meanwhile() -> None:
    """The message does not say the key: the rowid does."""
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('x', 1), ('y', 1)")
    race.run(["ALTER TABLE t RENAME id TO k"], ["UPDATE t SET a = 5 WHERE id = 'y'"])
    assert rows(race.fold(0, 1)) == [("x", 1), ("y", 5)]
    race = Race("CREATE TABLE t(id PRIMARY KEY, a) WITHOUT ROWID", "INSERT INTO t VALUES ('x', 1)")
    race.run(["ALTER TABLE t RENAME id TO k"], ["UPDATE t SET a = 5", "DELETE FROM t"])
    assert rows(race.fold(0, 1)) == [("x", 1)]


def test_autoincrement_keys_given_twice() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)")
    race.run(["INSERT INTO t(a) VALUES ('one')"], ["INSERT INTO t(a) VALUES ('two'), ('more')"])
    assert rows(race.fold(0, 1)) == [(1, "two"), (2, "more")]
    assert rows(race.fold(1, 0)) == [(1, "one"), (2, "more")]
    for order in ((0, 1), (1, 0)):
        assert dump(race.fold(*order).db)["sequence"] == [("t", 2)]


def test_a_trigger_on_both_sides_fires_once() -> None:
    race = Race(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n)",
        "CREATE TABLE log(id)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END",
    )
    race.run(["INSERT INTO t VALUES (1, 1)"], ["UPDATE t SET n = 1"])
    assert rows(race.fold(), "SELECT * FROM log") == [(1,)]
    # log has no key: the rows of both were given one rowid, and the last in the log stays
    race.run(["INSERT INTO t VALUES (2, 1)"], ["INSERT INTO t VALUES (3, 1)"])
    assert rows(race.fold(0, 1), "SELECT * FROM log") == [(3,)]
    assert rows(race.fold(1, 0), "SELECT * FROM log") == [(2,)]


def test_a_unique_index_created_meanwhile() -> None:
    race = Race("CREATE TABLE t(a, b)", "INSERT INTO t VALUES (1, 1)")
    race.run(["CREATE UNIQUE INDEX i ON t(a)"], ["INSERT INTO t VALUES (1, 2)"])
    assert rows(race.fold(0, 1)) == [(1, 2)]
    assert rows(race.fold(1, 0)) == [(1, 1), (1, 2)]
    assert race.applied[1] is not None
    assert not race.applied[1].applied
    assert "UNIQUE constraint failed: t.a: CREATE UNIQUE INDEX" in race.applied[1].reason


def test_an_index_created_meanwhile_that_fails_on_a_row() -> None:
    race = Race("CREATE TABLE t(a)", "INSERT INTO t VALUES ('{}')")
    race.run(
        ["CREATE INDEX i ON t(json_extract(a, '$.x'))"],
        ["INSERT INTO t VALUES ('no json')", "INSERT INTO t VALUES ('[]')"],
    )
    assert rows(race.fold(0, 1)) == [("[]",), ("{}",)]
    assert race.applied[1] == Applied(True, "", rows=2, skipped=1)


# --- INSERT --------------------------------------------------------------------------


def test_an_innocent_row_never_vanishes_for_its_rowid() -> None:
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY, a)")
    race.run(["INSERT INTO t VALUES ('x', 1)"], ["INSERT INTO t VALUES ('y', 2)"])
    assert rows(race.fold(), "SELECT rowid, * FROM t") == [(1, "x", 1), (2, "y", 2)]


def test_a_replaced_row_gives_its_rowid() -> None:
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('z', 0)")
    race.run(
        ["INSERT INTO t(rowid, id, a) VALUES (5, 'a', 1), (6, 'x', 1)"],
        ["INSERT INTO t(rowid, id, a) VALUES (5, 'x', 2)"],
    )
    # 5 is another's, 6 was its own
    assert rows(race.fold(), "SELECT rowid, * FROM t") == [(1, "z", 0), (5, "a", 1), (6, "x", 2)]
    race.run(
        ["INSERT INTO t(rowid, id, a) VALUES (6, 'x', 1)"],
        ["INSERT INTO t(rowid, id, a) VALUES (5, 'x', 2)"],
    )
    # 5 is free: the message's
    assert rows(race.fold(), "SELECT rowid, * FROM t") == [(1, "z", 0), (5, "x", 2)]


def test_the_rowid_after_the_greatest_is_the_lowest_free_one() -> None:
    reader = reader_of("CREATE TABLE t(id TEXT PRIMARY KEY)")
    reader.db.execute("INSERT INTO t(rowid, id) VALUES (1, 'a'), (2, 'b'), (?, 'c')", (MAX_ROWID,))
    for name in ("d", "e"):
        reader.apply(message(row(INSERT, "id", new=(name,), rowids=(None, 2))))
    assert rows(reader, "SELECT rowid, id FROM t") == [
        (1, "a"), (2, "b"), (3, "d"), (4, "e"), (MAX_ROWID, "c"),
    ]  # fmt: skip
    reader = reader_of("CREATE TABLE t(id TEXT PRIMARY KEY)")
    reader.db.execute("INSERT INTO t(rowid, id) VALUES (?, 'c')", (MAX_ROWID,))
    reader.apply(message(row(INSERT, "id", new=("d",), rowids=(None, MAX_ROWID))))
    assert rows(reader, "SELECT rowid, id FROM t") == [(1, "d"), (MAX_ROWID, "c")]


def test_without_a_key_rows_are_their_rowids() -> None:
    race = Race("CREATE TABLE t(a)")
    race.run(["INSERT INTO t VALUES ('x')"], ["INSERT INTO t VALUES ('y')"])
    assert rows(race.fold(), "SELECT rowid, a FROM t") == [(1, "y")]


def test_a_key_with_null_is_itself_and_its_rowid() -> None:
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY, a)")
    race.run(["INSERT INTO t VALUES (NULL, 1)"], ["INSERT INTO t VALUES (NULL, 2), (NULL, 3)"])
    assert rows(race.fold(), "SELECT rowid, a FROM t") == [(1, 2), (2, 3)]
    race.run(["INSERT INTO t VALUES ('x', 1)"], ["INSERT INTO t VALUES (NULL, 2)"])
    assert rows(race.fold(), "SELECT rowid, id FROM t ORDER BY 1") == [(1, "x"), (2, None)]
    race = Race("CREATE TABLE t(id PRIMARY KEY, a)", "INSERT INTO t VALUES (NULL, 1), (NULL, 2)")
    race.run(["DELETE FROM t WHERE a = 2"], ["UPDATE t SET a = 5 WHERE a = 2"])
    assert rows(race.fold(1, 0), "SELECT rowid, a FROM t") == [(1, 1)]
    assert rows(race.fold(0, 1), "SELECT rowid, a FROM t") == [(1, 1), (2, 5)]


def test_the_key_is_compared_as_its_index_compares() -> None:
    race = Race(
        "CREATE TABLE t(id TEXT COLLATE NOCASE, a, PRIMARY KEY (id COLLATE BINARY))",
        "INSERT INTO t VALUES ('x', 1), ('X', 2)",
    )
    race.run(["UPDATE t SET a = 5 WHERE a = 2"], ["DELETE FROM t WHERE a = 1"])
    assert rows(race.fold()) == [("X", 5)]
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY COLLATE NOCASE, a)")
    race.run(["INSERT INTO t VALUES ('x', 1)"], ["INSERT INTO t VALUES ('X', 2)"])
    assert rows(race.fold()) == [("X", 2)]


def test_values_go_in_exactly() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    values: list[Value] = [
        None, 2**63 - 1, -(2**63), 1.0, float("inf"), "", "a\0b", b"", b"\0\xff",
        RawText(b"\xff"), "\ud800",
    ]  # fmt: skip
    for i, value in enumerate(values):
        reader.apply(message(row(INSERT, "id a", new=(i, value))))
    got = [r[1:] for r in dump(reader.db)["tables"]["t"]]
    assert [r[1] for r in sorted(got)] == [
        ("null", None), ("integer", 2**63 - 1), ("integer", -(2**63)), ("real", "1.0"),
        ("real", "inf"), ("text", b""), ("text", b"a\0b"), ("blob", b""), ("blob", b"\0\xff"),
        ("text", b"\xff"), ("text", b"\xed\xa0\x80"),
    ]  # fmt: skip


def test_raw_text_in_keys_and_names_with_question_marks() -> None:
    reader = reader_of('CREATE TABLE "t?"("k?" TEXT PRIMARY KEY, "a?""" TEXT)')
    raw, other = RawText(b"\xff"), RawText(b"\xfe")

    def change(operation: Operation, old: Any, new: Any) -> Change:
        return Change(operation, "t?", ("k?", 'a?"'), (), 1, 1, old, new)

    def content() -> list[Any]:
        return reader.db.execute('SELECT CAST("k?" AS BLOB), CAST("a?""" AS BLOB) FROM "t?"').get

    reader.apply(message(change(INSERT, None, (raw, "x"))))
    reader.apply(message(change(UPDATE, (raw, "x"), (raw, other))))
    assert content() == (b"\xff", b"\xfe")
    reader.apply(message(change(UPDATE, (raw, other), (other, raw))))
    assert content() == (b"\xfe", b"\xff")
    reader.apply(message(change(DELETE, (other, raw), None)))
    assert content() is None


@pytest.mark.parametrize(
    "definition",
    [
        "id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT IGNORE",
        "id INTEGER PRIMARY KEY ON CONFLICT IGNORE, a UNIQUE ON CONFLICT FAIL",
        "id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK, a UNIQUE ON CONFLICT ROLLBACK",
    ],
)
def test_conflict_clauses_of_the_table_are_not_asked(definition: str) -> None:
    reader = reader_of(f"CREATE TABLE t({definition})", "INSERT INTO t VALUES (1, 1), (2, 2)")
    reader.apply(message(row(INSERT, "id a", new=(3, 1)), row(INSERT, "id a", new=(2, 9))))
    assert rows(reader) == [(2, 9), (3, 1)]


def test_checks_triggers_and_foreign_keys_are_off() -> None:
    reader = reader_of(
        "CREATE TABLE t(a CHECK (a > 0), b REFERENCES u)",
        "CREATE TABLE u(id INTEGER PRIMARY KEY)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    )
    reader.apply(message(row(INSERT, "a b", new=(-1, 5), rowids=(None, 1))))
    assert rows(reader) == [(-1, 5)]


# --- UPDATE and DELETE ---------------------------------------------------------------


def test_update_of_a_missing_row_inserts_it() -> None:
    reader = reader_of("CREATE TABLE t(id TEXT PRIMARY KEY, a UNIQUE)")
    reader.db.execute("INSERT INTO t VALUES ('x', 1), ('y', 2)")
    reader.apply(message(row(UPDATE, "id a", ("gone", 1), ("gone", 2), (9, 9))))
    assert rows(reader, "SELECT rowid, * FROM t") == [(1, "x", 1), (9, "gone", 2)]


def test_an_explicit_change_of_the_rowid() -> None:
    race = Race("CREATE TABLE t(id TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('x'), ('y')")
    race.run(
        ["UPDATE t SET rowid = 5 WHERE id = 'x'"], ["INSERT INTO t(rowid, id) VALUES (5, 'z')"]
    )
    assert rows(race.fold(0, 1), "SELECT rowid, id FROM t") == [(2, "y"), (5, "x"), (6, "z")]
    # taken: the row stays where it is
    assert rows(race.fold(1, 0), "SELECT rowid, id FROM t") == [(1, "x"), (2, "y"), (5, "z")]
    race = Race("CREATE TABLE t(a)", "INSERT INTO t VALUES ('x')")
    race.run(["UPDATE t SET rowid = 5"], ["INSERT INTO t(rowid, a) VALUES (5, 'z')"])
    assert rows(race.fold(1, 0), "SELECT rowid, a FROM t") == [(5, "x")]


def test_delete_of_a_missing_row_does_nothing() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    applied = reader.apply(message(row(DELETE, "id", old=(2,), rowids=(2, None))))
    assert applied == Applied(True, "", rows=1)
    assert rows(reader) == [(1,)]


# --- row identification --------------------------------------------------------------


def test_identify_rowid() -> None:
    setup = ("CREATE TABLE t(id TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('x', 1), ('y', 2)")
    race = Race(*setup)
    race.run(["UPDATE t SET id = 'z' WHERE id = 'x'"], ["UPDATE t SET a = 5 WHERE id = 'x'"])
    assert rows(race.fold(identify=Identify.ROWID)) == [("x", 5), ("y", 2)]
    assert rows(race.fold(identify=Identify.PK)) == [("x", 5), ("y", 2), ("z", 1)]
    race = Race(*setup)
    race.run(["INSERT INTO t VALUES ('p', 1)"], ["INSERT INTO t VALUES ('q', 1)"])
    assert rows(race.fold(identify=Identify.ROWID)) == [("q", 1), ("x", 1), ("y", 2)]
    assert len(rows(race.fold(identify=Identify.PK))) == 4


def test_identify_full() -> None:
    race = Race(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES (1, NULL, x'00')"
    )
    race.run(["UPDATE t SET a = 1"], ["UPDATE t SET b = 2"])
    # the second does not find the row it saw: it is a missing one, and so inserted
    assert rows(race.fold(identify=Identify.FULL)) == [(1, None, 2)]
    race.run(["UPDATE t SET id = 7, a = 7"], ["DELETE FROM t"])
    assert rows(race.fold(identify=Identify.FULL)) == [(7, 7, b"\0")]


def test_identify_full_finds_null_and_one_row_only_the_lowest() -> None:
    reader = reader_of("CREATE TABLE t(a, b)")
    reader.db.execute("INSERT INTO t VALUES (NULL, 'x'), (NULL, 'x'), (NULL, 'X'), (NULL, 'x')")
    delete = row(DELETE, "a b", old=(None, "x"), rowids=(77, None))
    reader.apply(message(delete), Identify.FULL)
    assert rows(reader, "SELECT rowid FROM t") == [(2,), (3,), (4,)]
    # the one it was, if that is still so
    delete = row(DELETE, "a b", old=(None, "x"), rowids=(4, None))
    reader.apply(message(delete), Identify.FULL)
    assert rows(reader, "SELECT rowid FROM t") == [(2,), (3,)]
    update = row(UPDATE, "a b", (None, "x"), (1, "x"), (3, 3))
    reader.apply(message(update), Identify.FULL)
    assert rows(reader, "SELECT rowid, a FROM t") == [(2, 1), (3, None)]


def test_identify_full_inserts_beside_another_row() -> None:
    race = Race("CREATE TABLE t(a)")
    race.run(["INSERT INTO t VALUES ('x')"], ["INSERT INTO t VALUES ('y')"])
    folded = race.fold(identify=Identify.FULL)
    assert rows(folded, "SELECT rowid, a FROM t") == [(1, "x"), (2, "y")]
    folded.receive(race.messages[0], Identify.FULL)
    assert rows(folded, "SELECT rowid, a FROM t") == [(1, "x"), (2, "y")]


def test_identify_full_leaves_equal_rows_elsewhere_when_an_insert_finds_its_rowid_taken() -> None:
    reader = reader_of("CREATE TABLE t(a)")
    reader.db.execute("INSERT INTO t VALUES ('x'), ('y'), ('x')")
    insert = row(INSERT, "a", new=("x",), rowids=(None, 2))
    reader.apply(message(insert), Identify.FULL)
    assert rows(reader, "SELECT rowid, a FROM t") == [(1, "x"), (2, "y"), (3, "x"), (4, "x")]
    # at its own place it is the same row, and so is there once
    insert = row(INSERT, "a", new=("x",), rowids=(None, 3))
    reader.apply(message(insert), Identify.FULL)
    assert rows(reader, "SELECT rowid, a FROM t") == [(1, "x"), (2, "y"), (3, "x"), (4, "x")]


@pytest.mark.parametrize("identify", list(Identify))
def test_without_rowid_is_by_key_always(identify: Identify) -> None:
    race = Race("CREATE TABLE t(id PRIMARY KEY, a) WITHOUT ROWID", "INSERT INTO t VALUES (1, 1)")
    race.run(["UPDATE t SET a = 2"], ["UPDATE t SET a = a"])
    assert rows(race.fold(identify=identify)) == [(1, 1)]


def test_the_message_says_how_else_the_node() -> None:
    reader = reader_of("CREATE TABLE t(id TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('x')")
    change = row(UPDATE, "id", ("gone",), ("new",), (1, 1))
    reader.apply(message(change, identify=Identify.PK), Identify.ROWID)
    assert rows(reader) == [("new",), ("x",)]
    reader.apply(message(change), Identify.ROWID)
    assert rows(reader) == [("new",)]


# --- rows that do not fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "new"),
    [
        ("id INTEGER PRIMARY KEY, a NOT NULL", (1, None)),
        ("id INTEGER PRIMARY KEY, a", ("x", 1)),
        ("id INTEGER PRIMARY KEY, a INT) STRICT --", (1, "x")),
        ("id PRIMARY KEY, a) WITHOUT ROWID --", (None, 1)),
    ],
)
def test_a_row_that_does_not_fit_is_left_out(definition: str, new: tuple[Value, ...]) -> None:
    reader = reader_of(f"CREATE TABLE t({definition}\n)".replace("--\n)", ""))
    applied = reader.apply(
        message(
            row(INSERT, "id a", new=(5, 5)),
            row(INSERT, "id a", new=new, rowids=(None, 1)),
            row(UPDATE, "id a", (5, 5), new, (5, 5)),
        )
    )
    assert applied.skipped == 2
    assert rows(reader) == [(5, 5)]


def test_not_null_takes_the_default() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a NOT NULL DEFAULT 7)")
    reader.apply(message(row(INSERT, "id a", new=(1, None)), row(INSERT, "id", new=(2,))))
    assert rows(reader) == [(1, 7), (2, 7)]


def test_a_row_that_does_not_fit_removes_nothing() -> None:
    reader = reader_of(
        "CREATE TABLE t(id TEXT PRIMARY KEY, a NOT NULL)", "INSERT INTO t VALUES ('x', 1)"
    )
    applied = reader.apply(message(row(INSERT, "id a", new=("x", None), rowids=(None, 1))))
    assert applied.skipped == 1
    assert rows(reader) == [("x", 1)]


@pytest.mark.parametrize("name", ["v", "ft", "ha_log", "sqlite_sequence", "sqlite_schema", "none"])
def test_rows_go_into_ordinary_tables_only(name: str) -> None:
    reader = reader_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE ha_log(name)",
        "CREATE VIEW v AS SELECT id AS name FROM t",
        "CREATE VIRTUAL TABLE ft USING fts5(name)",
    )
    before = dump(reader.db, frozenset())
    applied = reader.apply(message(row(INSERT, "name", new=("x",), table=name)))
    assert applied == Applied(True, "", rows=1, skipped=1)
    assert dump(reader.db, frozenset()) == before


def test_only_main_is_written() -> None:
    reader = reader_of("CREATE TABLE t(a)")
    change = Change(INSERT, "t", ("a",), (), None, 1, None, (1,), database="temp")
    assert reader.apply(message(change)).skipped == 1
    assert rows(reader) == []


def test_generated_columns_are_never_written() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (a * 2) STORED)")
    reader.apply(message(row(INSERT, "b a id", new=(99, 3, 1))))
    reader.apply(message(row(UPDATE, "b a id", (6, 3, 1), (99, 4, 1), (1, 1))))
    assert rows(reader) == [(1, 4, 8)]


def test_column_names_are_compared_as_sqlite_does() -> None:
    reader = reader_of('CREATE TABLE t(Id INTEGER PRIMARY KEY, "Ü", "order" UNIQUE)')
    reader.apply(message(row(INSERT, "ID ü ORDER", new=(1, 2, 3))))
    assert rows(reader) == [(1, None, 3)]


# --- SQL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t(a, b DEFAULT 'x y')",
        "create /* c */ table MAIN.T ( A , b default 'x y' )",
        'CREATE TABLE IF NOT EXISTS "t"(a, other)',
        "CREATE UNIQUE INDEX i ON t(a) -- again",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END;",
        "CREATE VIRTUAL TABLE ft USING fts5(a)",
        "DROP TABLE missing",
        "DROP INDEX missing",
        "DROP TRIGGER missing",
        "DROP VIEW IF EXISTS missing",
        "DROP TRIGGER k",
        "CREATE TRIGGER t AFTER DELETE ON t BEGIN SELECT 2; END",
        "ALTER TABLE t ADD COLUMN b DEFAULT 'x y'",
        "ALTER TABLE t ADD b default 'x y'",
        "ALTER TABLE missing RENAME TO t",
        "ALTER TABLE t RENAME COLUMN missing TO a",
        "ALTER TABLE t RENAME missing TO b",
        "ALTER TABLE t DROP COLUMN missing",
        "ALTER TABLE t DROP CONSTRAINT missing",
        "ALTER TABLE k ADD CONSTRAINT c CHECK (a > 0)",
        "REINDEX",
    ],
)
def test_ddl_that_is_done_already(sql: str) -> None:
    reader = reader_of(
        "CREATE TABLE t(a, b DEFAULT 'x y')",
        "CREATE TABLE k(a, CONSTRAINT c CHECK (a > 0))",
        "CREATE UNIQUE INDEX i ON t(a)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER t AFTER DELETE ON t BEGIN SELECT 2; END",
        "CREATE VIRTUAL TABLE ft USING fts5(a)",
    )
    before = dump(reader.db)
    applied = reader.apply(message(sql, row(INSERT, "a", new=(1,), rowids=(None, 1))))
    assert applied.applied, applied.reason
    assert len(rows(reader)) == 1
    reader.db.execute("DELETE FROM t")
    assert dump(reader.db) == before


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("CREATE TABLE t(a, c)", "table t already exists"),
        ("CREATE TABLE v(a)", "already exists"),
        ("CREATE INDEX i ON t(b)", "index i already exists"),
        ("CREATE UNIQUE INDEX i ON t(a)", "index i already exists"),
        ("CREATE INDEX j ON missing(b)", "no such table"),
        ("DROP TABLE v", "use DROP VIEW"),
        ("ALTER TABLE t ADD COLUMN a INTEGER", "duplicate column name: a"),
        ("ALTER TABLE t RENAME x TO y", "no such column"),
        ("ALTER TABLE t RENAME TO v", "already another table"),
        ("ALTER TABLE missing ADD COLUMN a", "no such table"),
        ("ALTER TABLE t DROP COLUMN a", "error in index i"),
        ("CREATE TABLE", "not a statement that changes the schema"),
        ("CREATE TABLE x(", "incomplete input"),
        ("INSERT INTO t VALUES (1)", "not a statement that changes the schema"),
        ("VACUUM", "not a statement that changes the schema"),
        ("ATTACH 'x' AS y", "not a statement that changes the schema"),
        ("", "not a statement that changes the schema"),
        ("PRAGMA writable_schema = 1", "a pragma that is not replicated"),
        ("PRAGMA journal_mode = delete", "a pragma that is not replicated"),
        ("CREATE TEMP TABLE x(a)", "only the schema main is replicated"),
        ("CREATE TABLE temp.x(a)", "only the schema main is replicated"),
        ("DROP TABLE ha_log", "a control table"),
        ("ALTER TABLE ha_log RENAME TO x", "a control table"),
        ("CREATE INDEX x ON ha_log(a)", "changing ha_log is not allowed"),
        ("CREATE TRIGGER x AFTER INSERT ON ha_log BEGIN SELECT 1; END", "changing ha_log"),
        ("DROP INDEX hidden", "changing ha_log is not allowed"),
        ("ALTER TABLE t RENAME TO ha_stats", "a control table"),
        ("CREATE TABLE x(a); DROP TABLE t", "not a statement that changes the schema"),
        (
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END; DELETE FROM t",
            "more than one statement",
        ),
        ("CREATE TABLE x AS SELECT load_extension('x')", "load_extension() is not allowed"),
    ],
)
def test_other_failures_of_sql_ignore_the_whole_message(sql: str, reason: str) -> None:
    reader = reader_of(
        "CREATE TABLE t(a, b)",
        "CREATE TABLE ha_log(a)",
        "CREATE INDEX hidden ON ha_log(a)",
        "CREATE INDEX i ON t(a)",
        "CREATE VIEW v AS SELECT 1",
        "INSERT INTO t VALUES (1, 1)",
    )
    before = dump(reader.db, frozenset())
    applied = reader.apply(
        message("CREATE TABLE other(a)", row(DELETE, "a b", (1, 1), None, (1, None)), sql)
    )
    assert not applied.applied
    assert reason in applied.reason
    assert dump(reader.db, frozenset()) == before
    assert reader.db.authorizer is None


def test_ddl_race_of_two_nodes_that_create_the_same_table() -> None:
    race = Race("CREATE TABLE seed(a)")
    race.run(
        ["CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES (1, 1)"],
        ["CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (2, 2)"],
    )
    assert rows(race.fold(0, 1)) == [(1, 1), (2, None)]
    race = Race("CREATE TABLE seed(a)")
    race.run(["CREATE TABLE t(a)"], ["CREATE TABLE t(b)", "INSERT INTO t VALUES (2)"])
    assert rows(race.fold(0, 1)) == []
    assert race.applied[1] is not None
    assert not race.applied[1].applied


def test_plans_follow_the_schema() -> None:
    """Columns of the same names, in tables of another shape each time."""
    reader = reader_of()
    change = row(INSERT, "a b", new=(1, 2), rowids=(None, 1))
    for definition in ("a, b", "b, a", "a, b, PRIMARY KEY (a)) WITHOUT ROWID --", "b", "a, b"):
        applied = reader.apply(
            message(f"CREATE TABLE t({definition}\n)".replace("--\n)", ""), change)
        )
        assert applied.applied, applied.reason
        assert rows(reader, "SELECT b FROM t") == [(2,)]
        reader.apply(message("DROP TABLE t"))
    # rolled back by the caller, then another with the same schema version
    for definition in ("a, b", "b"):
        reader.db.execute("BEGIN")
        reader.applier.apply(message(f"CREATE TABLE t({definition})", change))
        reader.applier.apply(message(change))
        assert rows(reader, "SELECT b FROM t") == [(2,)]
        reader.db.execute("ROLLBACK")
    assert reader.apply(message(change)).skipped == 1


def test_a_schema_change_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many messages are one transaction: those behind it there must not all be planned anew."""
    reader = reader_of("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    looked: list[str] = []
    load_table = vars(apply)["load_table"]

    def counted(connection: apsw.Connection, table: str) -> object:
        looked.append(table)
        return load_table(connection, table)

    monkeypatch.setattr(apply, "load_table", counted)
    reader.db.execute("BEGIN")
    reader.applier.apply(message("CREATE TABLE u(x)"))
    for number in range(20):
        reader.applier.apply(message(row(INSERT, "a b", new=(number, 2))))
    reader.db.execute("COMMIT")
    assert looked == ["t"]


def test_a_missing_extension_halts_and_is_not_skipped() -> None:
    reader = reader_of("CREATE TABLE t(a)")
    for sql in (
        "CREATE VIRTUAL TABLE x USING nothing_known(a)",
        "CREATE INDEX i ON t(nothing_known(a))",
        "CREATE INDEX i ON t(a COLLATE nothing_known)",
        "CREATE VIRTUAL TABLE x USING fts5(a, tokenize = nothing_known)",
    ):
        with pytest.raises(NotCapable, match="nothing_known"):
            reader.apply(message(row(INSERT, "a", new=(1,), rowids=(None, 1)), sql))
        assert rows(reader) == []


def test_header_pragmas() -> None:
    reader = reader_of()
    reader.apply(message("PRAGMA user_version = -7", "PRAGMA application_id = 5"))
    assert (reader.db.pragma("user_version"), reader.db.pragma("application_id")) == (-7, 5)


# --- the message as a whole ----------------------------------------------------------


def test_an_error_that_is_not_the_messages_leaves_nothing() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    reader.db.pragma("max_page_count", reader.db.pragma("page_count") + 5)
    big = row(INSERT, "id a", new=(2, b"x" * 100_000))
    reader.db.execute("BEGIN")
    with pytest.raises(apsw.FullError):
        reader.applier.apply(message(row(INSERT, "id a", new=(1, 1)), big))
    if reader.db.in_transaction:
        assert rows(reader) == []
        reader.db.execute("ROLLBACK")
    assert reader.apply(message(row(INSERT, "id a", new=(1, 1)))).applied


def test_parts_are_one_message() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)")
    last = message(sequences=(SequenceChange("t", None, 1),))
    parts = [(row(INSERT, "id", new=(i,)),) for i in (1, 2, 50)]
    reader.db.execute("BEGIN")
    applied = reader.applier.apply(last, earlier=iter(parts))
    assert applied == Applied(True, "", rows=3)
    # the number that its transaction left, though the rows alone would give 50
    assert dump(reader.db)["sequence"] == [("t", 1)]
    with pytest.raises(FormatError, match="broken"):
        reader.applier.apply(last, earlier=breaking(parts))
    assert len(rows(reader)) == 3
    reader.db.execute("COMMIT")


def breaking(parts: list[tuple[Change, ...]]) -> Any:
    yield (row(DELETE, "id", old=(1,), rowids=(1, None)),)
    raise FormatError("broken")


def test_custom_is_ignored() -> None:
    reader = reader_of("CREATE TABLE t(a)")
    assert reader.apply(message(Change(Operation.CUSTOM, command="x"))).applied


# --- sqlite_sequence -----------------------------------------------------------------


def test_sequence_lowered_by_hand_is_exact_only_without_a_race() -> None:
    setup = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO t VALUES (7)",
    )
    race = Race(*setup)
    race.run(["INSERT INTO t VALUES (9)", "UPDATE sqlite_sequence SET seq = 2"], ["SELECT 1"])
    assert dump(race.fold(0).db)["sequence"] == [("t", 2)]
    race = Race(*setup)
    race.run(["INSERT INTO t VALUES (20)"], ["DELETE FROM sqlite_sequence"])
    assert dump(race.fold(0, 1).db)["sequence"] == [("t", 20)]
    assert dump(race.fold(1, 0).db)["sequence"] == [("t", 20)]


def test_sequence_of_a_table_renamed_in_a_race() -> None:
    race = Race("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (1)")
    race.run(["INSERT INTO t VALUES (20)"], ["ALTER TABLE t RENAME TO u"])
    assert dump(race.fold(0, 1).db)["sequence"] == [("u", 20)]
    # the rows of a table renamed meanwhile are lost with its name, and its number with them
    assert dump(race.fold(1, 0).db)["sequence"] == [("u", 1)]


def test_sequences_where_there_is_no_sequence_table() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    applied = reader.apply(message(sequences=(SequenceChange("t", None, 4),)))
    assert applied.applied


# --- messages of existing nodes ------------------------------------------------------


def test_base64_in_blob_columns_of_existing_nodes_is_a_blob() -> None:
    reader = reader_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB, b TEXT, c)")
    new = (1, "AP8=", "AP8=", "AP8=")
    reader.apply(message(row(INSERT, "id a b c", new=new), existing=True))
    assert rows(reader) == [(1, b"\x00\xff", "AP8=", "AP8=")]
    reader.apply(message(row(UPDATE, "id a b c", new, (1, "not base64!", "x", 1)), existing=True))
    assert rows(reader) == [(1, "not base64!", "x", 1)]
    reader.apply(message(row(INSERT, "id a b c", new=new)))
    assert rows(reader) == [new]


def test_a_message_without_rowids() -> None:
    """Zero and empty members may be absent: rows are found by their values then."""
    reader = reader_of("CREATE TABLE t(a, b)", "INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)")
    reader.apply(message(row(DELETE, "a b", old=(1, 1)), existing=True))
    assert rows(reader, "SELECT rowid, * FROM t") == [(2, 1, 1), (3, 2, 2)]
    reader.apply(message(row(UPDATE, "a b", (2, 2), (3, 3)), existing=True))
    reader.apply(message(row(INSERT, "a b", new=(3, 3)), existing=True))
    assert rows(reader, "SELECT rowid, * FROM t") == [(2, 1, 1), (3, 3, 3), (4, 3, 3)]


def test_a_message_without_old_values() -> None:
    reader = reader_of("CREATE TABLE t(id TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('x', 1)")
    reader.apply(message(row(UPDATE, "id a", None, ("x", 2), (1, 1)), existing=True))
    assert rows(reader) == [("x", 2)]
    reader.apply(message(row(DELETE, "id a", None, None, (1, None)), existing=True))
    assert rows(reader) == []
