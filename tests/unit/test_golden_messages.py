"""Messages of the existing system, as it writes them, and ours, as it must be able to read them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ha.core.changeset import Change, Identify, Operation, decode, encode
from ha.core.values import RawText
from tests.support.law import Reader, Writer, message

INSERT, UPDATE, DELETE, SQL = Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.SQL

# The example of the manual, section 6.1: no process_id, no filename, no pk_columns.
CDC = """
{
  "node": "ha_node_name",
  "changes": [
    {
      "database": "main",
      "table": "users",
      "columns": ["id", "name"],
      "operation": "INSERT",
      "new_rowid": 2,
      "new_values": [2, "new HA user"]
    },
    {
      "database": "main",
      "table": "users",
      "columns": ["id", "name"],
      "operation": "DELETE",
      "old_rowid": 2,
      "old_values": [2, "new HA user"]
    }
  ],
  "timestamp_ns": 1758574275504509677
}
"""


def theirs(*changes: dict[str, Any], **members: Any) -> bytes:
    """A whole message as the existing encoder writes it: zero and empty members left out."""
    text = json.dumps(
        {
            "node": "old",
            "process_id": 1758574275504509677,
            "filename": "ha.db",
            "changes": list(changes) or None,
            "timestamp_ns": 1758574275504509678,
            **members,
        }
    )
    return text.encode()


def change(operation: str, table: str, columns: str, **members: Any) -> dict[str, Any]:
    return {
        "database": "main",
        "table": table,
        "columns": columns.split(),
        "operation": operation,
        "ts_ns": 1758574275504509677,
        **members,
    }


def apply(reader: Reader, payload: bytes, identify: Identify = Identify.PK) -> None:
    applied = reader.apply(decode(payload), identify)
    assert applied.applied, applied.reason
    assert applied.skipped == 0


def rows(reader: Reader, sql: str) -> list[tuple[Any, ...]]:
    return reader.db.execute(sql).fetchall()


# --- theirs, read here ---------------------------------------------------------------


def test_the_example_of_the_manual() -> None:
    cs = decode(CDC.encode())
    assert (cs.node, cs.process_id, cs.origin, cs.identify) == ("ha_node_name", 0, None, None)
    assert cs.timestamp_ns == 1758574275504509677
    assert cs.changes == (
        Change(INSERT, "users", ("id", "name"), (), None, 2, None, (2, "new HA user")),
        Change(DELETE, "users", ("id", "name"), (), 2, None, (2, "new HA user"), None),
    )
    reader = Reader()
    reader.db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)")
    reader.db.execute("INSERT INTO users VALUES (1, 'HA user')")
    apply(reader, CDC.encode())
    assert rows(reader, "SELECT * FROM users") == [(1, "HA user")]


def test_a_life_in_their_messages() -> None:
    reader = Reader()
    ddl = "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)"
    apply(reader, theirs({"operation": "SQL", "command": ddl, "database": "main"}))
    apply(reader, theirs({"operation": "SQL", "command": ddl + ";"}))
    apply(
        reader,
        theirs(
            change(
                "INSERT", "users", "id name", pk_columns=["id"], new_rowid=1, new_values=[1, "a"]
            ),
            change(
                "INSERT", "users", "id name", pk_columns=["id"], new_rowid=2, new_values=[2, "b"]
            ),
        ),
    )
    apply(
        reader,
        theirs(
            change(
                "UPDATE",
                "users",
                "id name",
                pk_columns=["id"],
                old_rowid=2,
                new_rowid=2,
                old_values=[2, "b"],
                new_values=[2, None],
            ),
            change(
                "DELETE", "users", "id name", pk_columns=["id"], old_rowid=1, old_values=[1, "a"]
            ),
        ),
    )
    assert rows(reader, "SELECT * FROM users") == [(2, None)]
    assert rows(reader, "SELECT * FROM sqlite_sequence") == [("users", 2)]
    apply(reader, theirs({"operation": "SQL", "command": "DROP TABLE IF EXISTS users"}))
    apply(reader, theirs({"operation": "SQL", "command": "DROP TABLE IF EXISTS users"}))


def test_a_table_without_a_key_by_rowid() -> None:
    reader = Reader()
    reader.db.execute("CREATE TABLE t(a, b)")
    apply(reader, theirs(change("INSERT", "t", "a b", new_rowid=7, new_values=[1, 1.5])))
    apply(
        reader,
        theirs(
            change(
                "UPDATE",
                "t",
                "a b",
                old_rowid=7,
                new_rowid=7,
                old_values=[1, 1.5],
                new_values=["x", True],
            )
        ),
    )
    assert rows(reader, "SELECT rowid, a, b FROM t") == [(7, "x", 1)]
    # rowid 0 is a zero member, and so not there
    reader.db.execute("INSERT INTO t(rowid, a) VALUES (0, 'zero')")
    apply(reader, theirs(change("DELETE", "t", "a b", old_values=["zero", None])))
    assert rows(reader, "SELECT rowid FROM t") == [(7,)]


@pytest.mark.parametrize("identify", list(Identify))
def test_every_identification(identify: Identify) -> None:
    reader = Reader()
    reader.db.execute("CREATE TABLE t(k TEXT PRIMARY KEY, a)")
    reader.db.execute("INSERT INTO t VALUES ('x', NULL), ('y', 1)")
    apply(
        reader,
        theirs(
            change(
                "UPDATE",
                "t",
                "k a",
                pk_columns=["k"],
                old_rowid=1,
                new_rowid=1,
                old_values=["x", None],
                new_values=["z", 2],
            ),
            change("DELETE", "t", "k a", pk_columns=["k"], old_rowid=2, old_values=["y", 1]),
            change("INSERT", "t", "k a", pk_columns=["k"], new_rowid=2, new_values=["w", 1]),
        ),
        identify,
    )
    assert rows(reader, "SELECT rowid, k, a FROM t ORDER BY 1") == [(1, "z", 2), (2, "w", 1)]


def test_their_blobs_are_base64_text() -> None:
    reader = Reader()
    reader.db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB, name TEXT)")
    coded = base64.b64encode(b"\x00\xff\x10").decode()
    apply(
        reader,
        theirs(
            change(
                "INSERT",
                "t",
                "id data name",
                pk_columns=["id"],
                new_rowid=1,
                new_values=[1, coded, coded],
            )
        ),
    )
    assert rows(reader, "SELECT data, name FROM t") == [(b"\x00\xff\x10", coded)]


def test_their_control_table_and_custom_changes_are_passed_over() -> None:
    reader = Reader()
    reader.db.execute("CREATE TABLE ha_stats(subject TEXT UNIQUE, received_seq, updated_at)")
    values = ["ha_replication.ha_db", 7, "2026-01-01T00:00:00Z"]
    columns = "subject received_seq updated_at"
    applied = reader.apply(
        decode(
            theirs(
                change("INSERT", "ha_stats", columns, new_rowid=1, new_values=values),
                {"operation": "CUSTOM", "command": "whatever", "args": [1, "x", None]},
            )
        )
    )
    assert (applied.applied, applied.skipped) == (True, 1)
    assert rows(reader, "SELECT * FROM ha_stats") == []


def test_a_message_without_changes() -> None:
    assert decode(theirs()).changes == ()
    assert decode(b'{"node":"a"}').changes == ()


def test_their_ddl_with_args_and_dml_that_calls_itself_sql() -> None:
    reader = Reader()
    reader.db.execute("CREATE TABLE t(a)")
    refused = reader.apply(
        decode(theirs({"operation": "SQL", "command": "INSERT INTO t VALUES (?)", "args": [1]}))
    )
    assert not refused.applied
    assert "not a statement that changes the schema: INSERT INTO t VALUES (?)" in refused.reason
    made = {
        "operation": "SQL",
        "command": "CREATE TABLE u AS SELECT ? AS a, ? AS b",
        "args": [1, "x"],
    }
    apply(reader, theirs(made))
    assert rows(reader, "SELECT * FROM u") == [(1, "x")]


# --- ours, as they see it ------------------------------------------------------------


def ours(*statements: str) -> Any:
    writer = Writer()
    writer.transaction(
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, data BLOB)",
        "CREATE TABLE w(b, a, PRIMARY KEY (a, b)) WITHOUT ROWID",
    )
    captured = writer.transaction(*statements)
    assert captured is not None
    return json.loads(encode(message(captured)))


def test_ours_has_their_members() -> None:
    got = ours(
        "INSERT INTO users VALUES (1, 'x', x'00ff')",
        "UPDATE users SET name = 'y'",
        "DELETE FROM users",
        "INSERT INTO w VALUES (1, 2)",
        "DROP TABLE w",
    )
    assert got.pop("ha") == {"v": 1, "n": 1}
    columns, key = ["id", "name", "data"], ["id"]
    head = {"database": "main", "table": "users", "columns": columns, "pk_columns": key}
    assert got == {
        "node": "n",
        "process_id": 1,
        "filename": "t.db",
        "timestamp_ns": 0,
        "changes": [
            {
                **head,
                "operation": "INSERT",
                "new_rowid": 1,
                "new_values": [1, "x", "AP8="],
                "new_types": "..b",
            },
            {
                **head,
                "operation": "UPDATE",
                "old_rowid": 1,
                "new_rowid": 1,
                "old_values": [1, "x", "AP8="],
                "old_types": "..b",
                "new_values": [1, "y", "AP8="],
                "new_types": "..b",
            },
            {
                **head,
                "operation": "DELETE",
                "old_rowid": 1,
                "old_values": [1, "y", "AP8="],
                "old_types": "..b",
            },
            {
                "database": "main",
                "operation": "INSERT",
                "table": "w",
                "columns": ["b", "a"],
                # in the order of the columns: they look for them one after the other
                "pk_columns": ["b", "a"],
                "new_values": [1, 2],
            },
            {"database": "main", "operation": "SQL", "command": "DROP TABLE w"},
        ],
    }


def test_ours_is_json_that_any_reader_takes() -> None:
    """ASCII, no NaN, no infinities, nothing but JSON's own types in the rows."""
    writer = Writer()
    writer.transaction("CREATE TABLE t(a)")
    captured = writer.transaction(
        "INSERT INTO t VALUES (1e999), (-1e999), ('ü𝄞' || char(0)), (CAST(x'eda080' AS TEXT)),"
        " (x'00'), (9007199254740993), (0.1), (NULL)"
    )
    assert captured is not None
    payload = encode(message(captured))
    assert payload.isascii()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    raw = json.loads(payload, parse_constant=refuse)
    assert [c["new_values"][0] for c in raw["changes"]] == [
        "inf",
        "-inf",
        "ü𝄞\0",
        "7aCA",
        "AA==",
        9007199254740993,
        0.1,
        None,
    ]
    assert [c.get("new_types") for c in raw["changes"]] == [
        "r",
        "r",
        None,
        "x",
        "b",
        None,
        None,
        None,
    ]
    assert [c.new_values for c in decode(payload).changes] == [
        (float("inf"),),
        (float("-inf"),),
        ("ü𝄞\0",),
        (RawText(b"\xed\xa0\x80"),),
        (b"\0",),
        (9007199254740993,),
        (0.1,),
        (None,),
    ]


def test_golden_bytes_of_ours() -> None:
    """The format does not change by accident: databases and logs live longer than releases."""
    writer = Writer()
    writer.transaction("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)")
    captured = writer.transaction("INSERT INTO t(a) VALUES ('x'), (x'ff'), (2.5)", "DROP TABLE t")
    assert captured is not None
    row = (
        '{"database":"main","operation":"INSERT","table":"t","columns":["id","a"],'
        '"pk_columns":["id"],"new_rowid":'
    )
    assert encode(message(captured, Identify.FULL)).decode() == (
        '{"node":"n","process_id":1,"filename":"t.db","changes":['
        f'{row}1,"new_values":[1,"x"]}},'
        f'{row}2,"new_values":[2,"/w=="],"new_types":".b"}},'
        f'{row}3,"new_values":[3,2.5]}},'
        '{"database":"main","operation":"SQL","command":"DROP TABLE t"}],'
        '"timestamp_ns":0,"ha":{"v":1,"n":1,"identify":"full"}}'
    )
