"""Which writes run on the event loop inside of a transaction: only those that are short."""

from __future__ import annotations

import apsw
import pytest

from ha.store.brief import is_brief

SCHEMA = """
    CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT UNIQUE);
    CREATE INDEX ta ON t(a);
    CREATE TABLE w(a TEXT, b TEXT, c, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE TABLE parent(id INTEGER PRIMARY KEY);
    CREATE TABLE child(id INTEGER PRIMARY KEY, p INT REFERENCES parent(id) ON DELETE CASCADE);
    CREATE TABLE fired(id INTEGER PRIMARY KEY);
    CREATE TRIGGER fires AFTER INSERT ON fired BEGIN UPDATE t SET a = a + 1; END;
    CREATE VIRTUAL TABLE f USING fts5(x);
    PRAGMA foreign_keys = ON;
"""


@pytest.fixture
def connection() -> apsw.Connection:
    found = apsw.Connection(":memory:")
    found.execute(SCHEMA)
    found.preupdate_hook(lambda _update: None)
    return found


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t(a, b) VALUES (?, ?)",
        "INSERT INTO t VALUES (?, ?, ?) RETURNING id",
        "INSERT OR REPLACE INTO t VALUES (?, ?, ?)",
        "INSERT INTO w VALUES (?, ?, ?)",
        "INSERT INTO child(p) VALUES (?)",
        "UPDATE t SET a = a + 1 WHERE id = ?",
        "UPDATE t SET a = ? WHERE b = ?",
        "UPDATE w SET c = ? WHERE a = ? AND b = ?",
        "DELETE FROM t WHERE id = ?",
        "DELETE FROM t WHERE id = ? RETURNING *",
    ],
)
def test_one_row_by_its_key_is_brief(connection: apsw.Connection, sql: str) -> None:
    assert is_brief(connection, sql, sql.count("?"))


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = 1 WHERE a = ?",
        "UPDATE t SET a = 1 WHERE id > ?",
        "UPDATE w SET c = 1 WHERE a = ?",
        "UPDATE t SET a = (SELECT max(b) FROM w) WHERE id = 1",
        "UPDATE t SET a = 1 WHERE id IN (SELECT a FROM w)",
        "DELETE FROM t",
        "DELETE FROM t RETURNING *",
        "DELETE FROM parent WHERE id = ?",
        "INSERT INTO t SELECT * FROM t",
        "INSERT INTO t VALUES ((SELECT count(*) FROM w), 1, 1)",
        "INSERT INTO t(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
        " SELECT x FROM c LIMIT 1000",
        "INSERT INTO fired DEFAULT VALUES",
        "INSERT INTO f VALUES (?)",
        "INSERT INTO nowhere VALUES (?)",
    ],
)
def test_what_may_be_long_is_not(connection: apsw.Connection, sql: str) -> None:
    assert not is_brief(connection, sql, sql.count("?"))


@pytest.mark.parametrize("literal", ["x'ff'", "CAST(x'ff' AS TEXT)"])
def test_bytes_that_are_no_text_are_a_doubt(literal: str) -> None:
    """SQLite shows them in the program as they are."""
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    assert not is_brief(db, f"INSERT INTO t VALUES (1, {literal})", 0)
    db.close()
