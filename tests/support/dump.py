"""The whole content of a database, read by APSW alone: nothing of ha/ is used here.

The oracle of every comparison of databases: two are equal when their dumps are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

CONTROL_TABLES = frozenset(
    {
        "ha_stats",
        "ha_log",
        "ha_origins",
        "ha_virtual",
        "ha_parts",
        "ha_dead_letters",
        "ha_outbox",
        "ha_redone",
        "ha_ignored",
        "ha_term",
    }
)
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


def dump(
    source: str | Path | apsw.Connection, exclude: frozenset[str] = CONTROL_TABLES
) -> dict[str, Any]:
    """Schema, rows, header values; comparable with ``==``, printable, sorted.

    Rows are (rowid, (type, value)…): the rowid is None for tables WITHOUT ROWID and where it is
    a column; text and BLOBs are their bytes, floats their repr. Virtual tables show as their
    shadow tables.
    """
    if isinstance(source, apsw.Connection):
        return _dump(source, exclude)
    connection = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return _dump(connection, exclude)
    finally:
        connection.close()


def _dump(db: apsw.Connection, exclude: frozenset[str]) -> dict[str, Any]:
    schema = [
        row
        for row in db.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema")
        if row[2].lower() not in exclude
    ]
    tables = {
        name: _rows(db, name, bool(without_rowid))
        for name, kind, without_rowid in db.execute(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'"
        ).fetchall()
        if kind in ("table", "shadow")
        and name.lower() not in exclude
        and name not in ("sqlite_schema", "sqlite_sequence")
    }
    out: dict[str, Any] = {
        "schema": sorted(schema, key=repr),
        "tables": tables,
        "user_version": db.pragma("user_version"),
        "application_id": db.pragma("application_id"),
    }
    if any(row[1] == "sqlite_sequence" for row in schema):
        out["sequence"] = sorted(db.execute("SELECT name, seq FROM sqlite_sequence"), key=repr)
    return out


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _rows(db: apsw.Connection, table: str, without_rowid: bool) -> list[tuple[Any, ...]]:
    columns = [
        row[0]
        for row in db.execute(
            "SELECT name FROM pragma_table_xinfo(?, 'main') WHERE hidden <> 1", (table,)
        )
    ]
    rowid = "NULL"
    if not without_rowid:
        names = {c.lower() for c in columns}
        rowid = next((n for n in _ROWID_NAMES if n not in names), "NULL")
    parts = ", ".join(
        f"typeof({c}), iif(typeof({c}) = 'text', CAST({c} AS BLOB), {c})"
        for c in map(_quote, columns)
    )
    out = []
    for row in db.execute(f"SELECT {rowid}, {parts} FROM main.{_quote(table)}"):
        values = tuple(
            (kind, repr(value) if kind == "real" else value)
            for kind, value in zip(row[1::2], row[2::2], strict=True)
        )
        out.append((row[0], *values))
    return sorted(out, key=repr)


def problems(db: apsw.Connection) -> list[str]:
    """What PRAGMA integrity_check and FTS's own check have to complain of; [] if nothing."""
    found = [row[0] for row in db.execute("PRAGMA main.integrity_check") if row[0] != "ok"]
    for name, sql in db.execute(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0"
    ).fetchall():
        if "fts" not in sql.lower():
            continue
        quoted = _quote(name)
        try:
            db.execute(f"INSERT INTO {quoted}({quoted}) VALUES ('integrity-check')")
        except apsw.Error as error:
            found.append(f"{name}: {error}")
    return found
