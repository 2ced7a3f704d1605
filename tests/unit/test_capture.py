"""What the recorder makes of each kind of statement: one test for each line of its table."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from ha.core.changeset import Change, Operation, SequenceChange
from ha.core.errors import Code, HaError
from ha.core.inverse import inverse_changes
from ha.core.values import RawText
from ha.store.capture import Captured, Recorder, Traced
from tests.support.dump import dump
from tests.support.law import Reader, Writer, message

INSERT, UPDATE, DELETE, SQL = Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.SQL


@pytest.fixture
def writer() -> Writer:
    return Writer()


def changes(captured: Captured | None) -> tuple[Change, ...]:
    assert captured is not None
    return captured.changes


def short(captured: Captured | None) -> list[tuple[object, ...]]:
    """(operation, table, old, new) of rows, (SQL, text) of statements."""
    return [
        (c.operation, c.command)
        if c.operation is SQL
        else (c.operation, c.table, c.old_values, c.new_values)
        for c in changes(captured)
    ]


# --- rows ----------------------------------------------------------------------------


def test_rows_carry_columns_key_rowids_and_whole_old_values(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(b TEXT, id INTEGER PRIMARY KEY, a)")
    captured = writer.transaction(
        "INSERT INTO t(a) VALUES (1.0)", "UPDATE t SET id = 5, b = 'x'", "DELETE FROM t"
    )
    columns, key = ("b", "id", "a"), ("id",)
    assert changes(captured) == (
        Change(INSERT, "t", columns, key, None, 1, None, (None, 1, 1.0)),
        Change(UPDATE, "t", columns, key, 1, 5, (None, 1, 1.0), ("x", 5, 1.0)),
        Change(DELETE, "t", columns, key, 5, None, ("x", 5, 1.0), None),
    )


def test_rows_of_one_table_share_its_columns(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a, b)")
    one, two = changes(writer.transaction("INSERT INTO t VALUES (1, 2), (3, 4)"))
    assert one.columns is two.columns
    assert one.pk_columns is two.pk_columns
    assert one.table is two.table


def test_rows_without_rowid_carry_none(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a, b, c, PRIMARY KEY (c, a)) WITHOUT ROWID")
    captured = writer.transaction("INSERT INTO t VALUES (1, 2, 3)", "UPDATE t SET a = 9")
    key = ("a", "c")  # in the order of the columns, for existing nodes
    assert changes(captured) == (
        Change(INSERT, "t", ("a", "b", "c"), key, None, None, None, (1, 2, 3)),
        Change(UPDATE, "t", ("a", "b", "c"), key, None, None, (1, 2, 3), (9, 2, 3)),
    )


def test_rows_that_replace_removes_come_before_the_new_one(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b UNIQUE)")
    writer.transaction("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    *removed, new = short(writer.transaction("REPLACE INTO t VALUES (3, 1, 2)"))
    assert new == (INSERT, "t", None, (3, 1, 2))
    assert sorted(removed, key=repr) == [
        (DELETE, "t", (1, 1, 1), None),
        (DELETE, "t", (2, 2, 2), None),
    ]


def test_effects_of_triggers_and_cascades_are_rows(writer: Writer) -> None:
    writer.transaction(
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(p REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE log(id)",
        "CREATE TRIGGER gone AFTER DELETE ON c BEGIN INSERT INTO log VALUES (old.p); END",
    )
    writer.transaction("INSERT INTO p VALUES (1)", "INSERT INTO c VALUES (1)")
    assert short(writer.transaction("DELETE FROM p")) == [
        (DELETE, "p", (1,), None),
        (DELETE, "c", (1,), None),
        (INSERT, "log", None, (1,)),
    ]


def test_delete_of_all_rows_shows_each(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2)")
    assert len(changes(writer.transaction("DELETE FROM t"))) == 2


def test_exact_values(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a)")
    captured = writer.transaction(
        "INSERT INTO t VALUES (NULL), (9223372036854775807), (1e999), (-1e999), (1.0), (x''),"
        " ('a' || char(0) || 'b'), (CAST(x'ff' AS TEXT))"
    )
    values = [c.new_values[0] for c in changes(captured) if c.new_values]
    assert values == [
        None, 2**63 - 1, float("inf"), float("-inf"), 1.0, b"", "a\0b", RawText(b"\xff"),
    ]  # fmt: skip
    assert type(values[4]) is float


# --- what the hook does not show -----------------------------------------------------


def test_generated_columns_are_never_named(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(s AS (a + 1) STORED, a, v AS (a + 2) VIRTUAL, b)")
    captured = writer.transaction("INSERT INTO t(a, b) VALUES (1, 2)")
    assert changes(captured) == (Change(INSERT, "t", ("a", "b"), (), None, 1, None, (1, 2)),)
    assert short(writer.transaction("UPDATE t SET a = a + 1", "DELETE FROM t")) == [
        (UPDATE, "t", (1, 2), (2, 2)),
        (DELETE, "t", (2, 2), None),
    ]


def test_rows_of_virtual_columns_are_read_at_each_step(writer: Writer) -> None:
    """The trigger changes the row again before the statement ends."""
    writer.transaction(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, v AS (a) VIRTUAL)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN UPDATE t SET a = a * 10 WHERE id = new.id; END",
    )
    assert short(writer.transaction("INSERT INTO t(a) VALUES (1), (2)")) == [
        (INSERT, "t", None, (1, 1)),
        (UPDATE, "t", (1, 1), (1, 10)),
        (INSERT, "t", None, (2, 2)),
        (UPDATE, "t", (2, 2), (2, 20)),
    ]


def test_text_that_is_not_utf8(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    raw = RawText(b"\xff\x00")
    assert short(
        writer.transaction(
            "INSERT INTO t VALUES (1, CAST(x'ff00' AS TEXT))",
            "UPDATE t SET id = 2",
            "UPDATE t SET a = 'good'",
        )
    ) == [
        (INSERT, "t", None, (1, raw)),
        (UPDATE, "t", (1, raw), (2, raw)),
        (UPDATE, "t", (2, raw), (2, "good")),
    ]


def test_without_rowid_rows_that_cannot_be_shown_are_a_difference(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(k PRIMARY KEY, a, v AS (a) VIRTUAL) WITHOUT ROWID")
    writer.transaction("INSERT INTO t(k, a) VALUES ('x', 1), ('y', 2), ('z', 3)")
    assert short(writer.transaction("UPDATE t SET a = 0, k = upper(k) WHERE k <> 'z'")) == [
        (DELETE, "t", ("x", 1), None),
        (DELETE, "t", ("y", 2), None),
        (INSERT, "t", None, ("X", 0)),
        (INSERT, "t", None, ("Y", 0)),
    ]


def test_without_rowid_difference_does_not_trust_a_covering_index(writer: Writer) -> None:
    """Found by the property: SQLite read the index, which had the row already."""
    writer.transaction(
        "CREATE TABLE t(id, a, v AS (a) VIRTUAL, b, PRIMARY KEY (id, a)) WITHOUT ROWID",
        "CREATE INDEX i ON t(b)",
    )
    assert short(writer.transaction("INSERT INTO t(id, a) VALUES (0, 0)")) == [
        (INSERT, "t", None, (0, 0, None))
    ]


def test_temp_and_control_tables_are_never_recorded(writer: Writer) -> None:
    writer.db.execute("CREATE TABLE ha_log(id)")
    assert (
        writer.transaction(
            "INSERT INTO ha_log VALUES (1)",
            "CREATE TEMP TABLE x(a)",
            "INSERT INTO x VALUES (1)",
            "CREATE INDEX temp.i ON x(a)",
            "ALTER TABLE x ADD b",
            "DROP TABLE x",
        )
        is None
    )


def test_effects_of_temp_triggers_are_rows(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a)")
    writer.db.execute(
        "CREATE TEMP TRIGGER r AFTER INSERT ON t WHEN new.a < 2 BEGIN"
        " INSERT INTO t VALUES (new.a + 1); END"
    )
    assert len(changes(writer.transaction("INSERT INTO t VALUES (1)"))) == 2


def test_a_table_whose_rowid_cannot_be_named_is_refused(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(rowid, _rowid_, oid)")
    with pytest.raises(HaError, match="t cannot be replicated: its columns hide its rowid") as e:
        writer.transaction("INSERT INTO t VALUES (1, 2, 3)")
    assert e.value.code is Code.UNSUPPORTED
    assert writer.db.execute("SELECT count(*) FROM t").get == 0


# --- DDL -----------------------------------------------------------------------------


def test_ddl_travels_as_its_text(writer: Writer) -> None:
    captured = writer.transaction(
        "CREATE TABLE t(a) ;",
        "  CREATE INDEX i ON t(a);",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;",
        "ALTER TABLE t RENAME a TO b",
        "DROP INDEX i -- gone",
    )
    assert [c.command for c in changes(captured)] == [
        "CREATE TABLE t(a)",
        "CREATE INDEX i ON t(a)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END",
        "ALTER TABLE t RENAME a TO b",
        "DROP INDEX i -- gone",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE IF NOT EXISTS t(b)",
        "CREATE INDEX IF NOT EXISTS i ON t(a)",
        "DROP TABLE IF EXISTS missing",
        "DROP VIEW IF EXISTS missing",
        "REINDEX",
        "UPDATE t SET a = 1 WHERE a = 7",
        "PRAGMA user_version = 0",
        "PRAGMA user_version",
        "SELECT 1",
    ],
)
def test_what_changes_nothing_is_not_recorded(writer: Writer, sql: str) -> None:
    writer.transaction("CREATE TABLE t(a)", "CREATE INDEX i ON t(a)")
    assert writer.transaction(sql) is None


def test_row_changes_of_drop_table_come_before_it_without_its_own(writer: Writer) -> None:
    writer.transaction(
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(p REFERENCES p ON DELETE SET NULL)",
        "INSERT INTO p VALUES (1), (2)",
        "INSERT INTO c VALUES (1)",
    )
    assert short(writer.transaction("INSERT INTO p VALUES (3)", "DROP TABLE P")) == [
        (INSERT, "p", None, (3,)),
        (UPDATE, "c", (1,), (None,)),
        (SQL, "DROP TABLE P"),
    ]


def test_alter_table_as_it_once_was_is_refused(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a)")
    writer.db.pragma("legacy_alter_table", True)
    with pytest.raises(HaError, match="legacy_alter_table") as e:
        writer.transaction("ALTER TABLE t RENAME TO u")
    assert e.value.code is Code.REFUSED
    writer.db.pragma("legacy_alter_table", False)
    assert len(changes(writer.transaction("ALTER TABLE t RENAME TO u"))) == 1


def test_create_table_as_travels_as_definition_and_rows(writer: Writer) -> None:
    captured = writer.transaction("CREATE TABLE t AS SELECT 1 AS a, 'x' AS \"b c\" WHERE random()")
    assert short(captured) == [(SQL, 'CREATE TABLE t(a,"b c")'), (INSERT, "t", None, (1, "x"))]
    assert changes(captured)[1].new_rowid == 1
    captured = writer.transaction("CREATE TABLE IF NOT EXISTS main.u AS SELECT a FROM t LIMIT 0")
    assert short(captured) == [(SQL, "CREATE TABLE IF NOT EXISTS u(a)")]


def test_virtual_tables_travel_as_shadow_rows(writer: Writer) -> None:
    sql = "CREATE VIRTUAL TABLE ft USING fts5(a)"
    created = writer.transaction(sql)
    assert created is not None
    assert short(created) == [(SQL, sql)]
    assert created.virtual == ()
    written = writer.transaction("INSERT INTO ft VALUES ('one')", "DELETE FROM ft")
    assert written is not None
    assert written.virtual == ("ft",)
    assert {c.table for c in written.changes} >= {"ft_data", "ft_idx", "ft_content", "ft_docsize"}


def test_what_a_virtual_table_holds_back_belongs_to_its_transaction(writer: Writer) -> None:
    """FTS writes its index at the next savepoint: before finish(), not in the next one."""
    writer.transaction("CREATE VIRTUAL TABLE ft USING fts5(a)", "CREATE TABLE t(a)")
    db, recorder = writer.db, writer.recorder
    db.execute("BEGIN")
    got = []
    for sql in ("INSERT INTO ft VALUES ('one')", "INSERT INTO t VALUES (1)"):
        db.execute("SAVEPOINT unit")
        recorder.start()
        writer.statement(sql)
        got.append(recorder.finish())
        db.execute("RELEASE unit")
    db.execute("COMMIT")
    assert "ft_idx" in {c.table for c in changes(got[0])}
    assert {c.table for c in changes(got[1])} == {"t"}


def test_a_failing_statement_does_not_take_what_was_held_back(writer: Writer) -> None:
    writer.transaction(
        "CREATE VIRTUAL TABLE ft USING fts5(a)",
        "CREATE TABLE t(a UNIQUE)",
        "INSERT INTO t VALUES (1)",
    )
    captured = writer.transaction(
        "INSERT INTO ft VALUES ('one')", "INSERT INTO t VALUES (2), (3), (1)", errors=True
    )
    assert "ft_idx" in {c.table for c in changes(captured)}
    assert "t" not in {c.table for c in changes(captured)}


def test_analyze_travels_as_rows(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(a)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES (1)")
    assert short(writer.transaction("ANALYZE"))[:2] == [
        (SQL, "ANALYZE sqlite_schema"),
        (INSERT, "sqlite_stat1", None, ("t", "i", "1 1")),
    ]
    assert writer.transaction("ANALYZE") is None
    writer.transaction("INSERT INTO t VALUES (1)")
    assert (UPDATE, "sqlite_stat1", ("t", "i", "1 1"), ("t", "i", "2 2")) in short(
        writer.transaction("ANALYZE t")
    )


def test_header_values_travel_as_pragmas(writer: Writer) -> None:
    assert short(
        writer.transaction(
            "PRAGMA user_version(7)", "PRAGMA main.application_id = -2", "PRAGMA user_version"
        )
    ) == [(SQL, "PRAGMA user_version = 7"), (SQL, "PRAGMA application_id = -2")]


# --- sqlite_sequence -----------------------------------------------------------------


def sequences(captured: Captured | None) -> list[SequenceChange]:
    assert captured is not None
    return list(captured.sequences)


def test_sequences(writer: Writer) -> None:
    writer.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE)")
    captured = writer.transaction("INSERT INTO t(a) VALUES (1), (2)")
    assert sequences(captured) == [SequenceChange("t", None, 2)]
    # ignored, and still it takes a number
    captured = writer.transaction("INSERT OR IGNORE INTO t(a) VALUES (1)")
    assert changes(captured) == ()
    assert sequences(captured) == [SequenceChange("t", 2, 3)]
    captured = writer.transaction("UPDATE sqlite_sequence SET seq = 1")
    assert changes(captured) == ()
    assert sequences(captured) == [SequenceChange("t", 3, 1)]
    captured = writer.transaction("ALTER TABLE t RENAME TO u")
    assert sequences(captured) == [SequenceChange("t", 1, None), SequenceChange("u", None, 1)]
    assert sequences(writer.transaction("DROP TABLE u")) == [SequenceChange("u", 1, None)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO sqlite_sequence VALUES ('t', 1)",
        "INSERT INTO sqlite_sequence VALUES ('x', 'y')",
        "INSERT INTO sqlite_sequence VALUES (NULL, 1)",
    ],
)
def test_sequences_of_no_sense_are_refused(writer: Writer, sql: str) -> None:
    writer.transaction(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (1)"
    )
    with pytest.raises(HaError, match="sqlite_sequence"):
        writer.transaction(sql)
    assert sequences(writer.transaction("INSERT INTO t VALUES (5)")) == [SequenceChange("t", 1, 5)]


def test_sequences_of_a_batch_follow_each_other(writer: Writer) -> None:
    """One unit is given up in between; the next one starts from the one before it."""
    writer.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)")
    db, recorder = writer.db, writer.recorder
    db.execute("BEGIN")
    got = []
    for keep in (True, False, True):
        db.execute("SAVEPOINT unit")
        recorder.start()
        writer.statement("INSERT INTO t DEFAULT VALUES")
        if keep:
            got += sequences(recorder.finish())
        else:
            recorder.discard()
            db.execute("ROLLBACK TO unit")
        db.execute("RELEASE unit")
    assert got == [SequenceChange("t", None, 1), SequenceChange("t", 1, 2)]
    db.execute("ROLLBACK")
    # the whole batch was rolled back after its messages were made
    assert sequences(writer.transaction("INSERT INTO t DEFAULT VALUES")) == [
        SequenceChange("t", None, 1)
    ]


# --- failing statements --------------------------------------------------------------


@pytest.fixture
def two(writer: Writer) -> Writer:
    writer.transaction(
        "CREATE TABLE t(a UNIQUE, b)", "CREATE TABLE log(a)", "INSERT INTO t VALUES (1, 1)"
    )
    return writer


def test_a_refused_statement_leaves_nothing(two: Writer) -> None:
    assert two.transaction("INSERT INTO t VALUES (2, 2), (1, 2)", errors=True) is None
    captured = two.transaction(
        "INSERT INTO t VALUES (3, 3)", "UPDATE t SET a = 9", "INSERT INTO t VALUES (4, 4)",
        errors=True,
    )  # fmt: skip
    assert [c[3] for c in short(captured)] == [(3, 3), (4, 4)]


def test_on_conflict_fail_keeps_what_came_before(two: Writer) -> None:
    captured = two.transaction("INSERT OR FAIL INTO t VALUES (2, 2), (3, 3), (1, 2)", errors=True)
    assert [c[3] for c in short(captured)] == [(2, 2), (3, 3)]


def test_fail_in_a_trigger_keeps_what_it_did(two: Writer) -> None:
    """No direct change is left, changes() is 0, and the log row is there."""
    two.transaction(
        "CREATE TRIGGER r BEFORE INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END",
        "CREATE TRIGGER s AFTER UPDATE ON t BEGIN SELECT RAISE(FAIL, 'no'); END",
    )
    captured = two.transaction("INSERT OR FAIL INTO t VALUES (1, 2)", errors=True)
    assert short(captured) == [(INSERT, "log", None, (1,))]
    captured = two.transaction("UPDATE t SET b = 5", errors=True)
    assert short(captured) == [(UPDATE, "t", (1, 1), (1, 5))]


def test_fail_on_rows_that_must_be_read(writer: Writer) -> None:
    writer.transaction(
        "CREATE TABLE t(a UNIQUE, v AS (a))",
        "CREATE TABLE w(a UNIQUE, k PRIMARY KEY, v AS (a)) WITHOUT ROWID",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO w VALUES (1, 1)",
    )
    for conflict, kept in (("FAIL", [(2,)]), ("ABORT", [])):
        captured = writer.transaction(f"INSERT OR {conflict} INTO t VALUES (2), (1)", errors=True)
        assert [c.new_values for c in (captured.changes if captured else ())] == kept
    for conflict, kept2 in (("FAIL", [(2, 2)]), ("ABORT", [])):
        captured = writer.transaction(
            f"INSERT OR {conflict} INTO w VALUES (2, 2), (1, 3)", errors=True
        )
        assert [c.new_values for c in (captured.changes if captured else ())] == kept2


def test_a_statement_undone_that_had_changed_and_changed_back(two: Writer) -> None:
    captured = two.transaction(
        "INSERT INTO log VALUES (7)",
        "INSERT OR REPLACE INTO t SELECT 1, 1 UNION ALL SELECT 1, abs(-9223372036854775808)",
        errors=True,
    )
    assert short(captured) == [(INSERT, "log", None, (7,))]


def test_or_rollback_ends_all(two: Writer) -> None:
    assert (
        two.transaction(
            "INSERT INTO t VALUES (2, 2)", "INSERT OR ROLLBACK INTO t VALUES (1, 1)", errors=True
        )
        is None
    )
    assert not two.db.in_transaction
    assert len(changes(two.transaction("INSERT INTO t VALUES (2, 2)"))) == 1


def test_a_result_given_up_half_way_keeps_its_rows(two: Writer) -> None:
    """RETURNING has changed everything before it answers its first row."""
    db, recorder = two.db, two.recorder
    db.execute("BEGIN")
    recorder.start()
    recorder.statement_begin(Traced("INSERT", "INSERT"))
    cursor = db.cursor()
    cursor.execute("INSERT INTO t VALUES (2, 2), (3, 3) RETURNING a")
    assert next(cursor) == (2,)
    cursor.close(True)
    recorder.statement_failed()
    assert len(changes(recorder.finish())) == 2
    assert db.execute("SELECT count(*) FROM t").get == 3


# --- savepoints and the life of the schema -------------------------------------------


def test_rollback_to_a_savepoint_forgets_rows_and_ddl(two: Writer) -> None:
    db, recorder = two.db, two.recorder
    db.execute("BEGIN")
    recorder.start()
    two.statement("INSERT INTO t VALUES (2, 2)")
    db.execute("SAVEPOINT s")
    mark = recorder.mark()
    two.statement("ALTER TABLE t ADD COLUMN c")
    two.statement("INSERT INTO t VALUES (3, 3, 3)")
    db.execute("ROLLBACK TO s")
    recorder.rewind(mark)
    two.statement("INSERT INTO t VALUES (4, 4)")
    assert short(recorder.finish()) == [
        (INSERT, "t", None, (2, 2)),
        (INSERT, "t", None, (4, 4)),
    ]


def test_shape_after_ddl_that_was_rolled_back(two: Writer) -> None:
    """The schema version is the same number again, for another schema."""
    db, recorder = two.db, two.recorder
    for column in ("c", "d"):
        db.execute("BEGIN")
        recorder.start()
        two.statement(f"ALTER TABLE t ADD COLUMN {column}")
        two.statement("INSERT INTO t VALUES (3, 3, 3)")
        assert changes(recorder.finish())[1].columns == ("a", "b", column)
        db.execute("ROLLBACK")
    assert changes(two.transaction("INSERT INTO t VALUES (3, 3)"))[0].columns == ("a", "b")


def test_schema_changed_by_another_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    other = apsw.Connection(path)
    other.pragma("journal_mode", "wal")
    other.execute("CREATE TABLE t(a)")
    writer = Writer(apsw.Connection(path))
    writer.transaction("INSERT INTO t VALUES (1)")
    other.execute("ALTER TABLE t ADD COLUMN b")
    assert changes(writer.transaction("INSERT INTO t VALUES (1, 2)"))[0].columns == ("a", "b")
    # DDL of ours is rolled back, then another's takes the same schema version
    writer.db.execute("BEGIN")
    writer.recorder.start()
    writer.statement("ALTER TABLE t ADD COLUMN mine")
    writer.statement("INSERT INTO t VALUES (1, 2, 3)")
    writer.recorder.discard()
    writer.db.execute("ROLLBACK")
    other.execute("ALTER TABLE t ADD COLUMN theirs")
    captured = writer.transaction("INSERT INTO t VALUES (1, 2, 3)")
    assert changes(captured)[0].columns == ("a", "b", "theirs")
    # and its virtual table is flushed in time
    other.execute("CREATE VIRTUAL TABLE ft USING fts5(a)")
    captured = writer.transaction("INSERT INTO ft VALUES ('one')")
    assert "ft_idx" in {c.table for c in changes(captured)}
    other.execute("CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert sequences(writer.transaction("INSERT INTO s VALUES (3)")) == [
        SequenceChange("s", None, 3)
    ]


# --- broken transactions -------------------------------------------------------------


def test_a_change_outside_of_a_transaction_is_loud(two: Writer) -> None:
    with pytest.raises(HaError, match="outside of a transaction"):
        two.db.execute("INSERT INTO t VALUES (8, 8)")


def test_what_cannot_be_recorded_is_raised_until_discarded(writer: Writer) -> None:
    """The recorder's own reading fails, where SQLite may finish the statement all the same."""
    writer.transaction("CREATE TABLE t(a, v AS (a))")
    db, recorder = writer.db, writer.recorder

    def no_select(operation: int, *_: object) -> int:
        return apsw.SQLITE_DENY if operation == apsw.SQLITE_SELECT else apsw.SQLITE_OK

    db.execute("BEGIN")
    recorder.start()
    recorder.statement_begin(Traced("INSERT", "INSERT"))
    db.authorizer = no_select
    with pytest.raises(apsw.AuthError):
        db.execute("INSERT INTO t VALUES (1)")
    db.authorizer = None
    for ask in (
        recorder.statement_failed,
        recorder.statement_end,
        lambda: recorder.statement_begin(Traced("INSERT", "INSERT")),
        recorder.finish,
    ):
        with pytest.raises(HaError, match="could not be recorded: not authorized") as e:
            ask()
        assert e.value.code is Code.INTERNAL
    db.execute("ROLLBACK")
    assert len(changes(writer.transaction("INSERT INTO t VALUES (1)"))) == 1


def test_a_recorder_on_the_applying_connection_tells_what_applying_did() -> None:
    """By the rules of the fold a message may do other things than its transaction did: what it
    did here is what must be taken back, should it be taken back."""
    one, two = Writer(), Reader()
    setup = one.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)")
    two.receive(setup)
    captured = one.transaction("INSERT INTO t VALUES (2, 'x')", "UPDATE t SET a = 'y'")
    assert captured is not None
    two.db.execute("INSERT INTO t VALUES (1, 'x'), (3, 'y')")
    before = dump(two.db)
    two.db.execute("BEGIN")
    recorder = Recorder(two.db)
    try:
        recorder.start()
        two.applier.apply(message(captured))
        done = recorder.finish()
    finally:
        recorder.close()
    assert short(done) == [
        (DELETE, "t", (1, "x"), None),
        (INSERT, "t", None, (2, "x")),
        (DELETE, "t", (3, "y"), None),
        (UPDATE, "t", (2, "x"), (2, "y")),
    ]
    two.applier.apply(message(Captured(tuple(inverse_changes(changes(done))), (), ())))
    two.db.execute("COMMIT")
    assert dump(two.db) == before
