"""What a database holds, as a value: read by plain SQL, from whatever driver has it open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

CONTROL_PREFIX = "ha_"
"""Tables of the product's own; no workload's table begins so."""
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


class Database(Protocol):
    """A connection of apsw or sqlite3."""

    def execute(self, sql: str, /) -> Iterable[Any]: ...


Table = tuple[tuple[Any, ...], ...]
Content = dict[str, Table]
"""Rows by table, each with its rowid in front (None if it has none), then type and value in
turn; and the schema, the header values and ``sqlite_sequence`` as if they were tables."""


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_content(db: Database) -> Content:
    """All of ``main`` but control tables. Text and names are bytes, floats their repr."""
    out: Content = {}
    schema = [
        tuple(_bytes(v) for v in row)
        for row in db.execute(
            "SELECT type, CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB)"
            " FROM main.sqlite_schema"
        )
    ]
    out["(schema)"] = tuple(
        sorted((r for r in schema if not r[2].decode().startswith(CONTROL_PREFIX)), key=repr)
    )
    for pragma in ("user_version", "application_id"):
        out[f"({pragma})"] = tuple(tuple(r) for r in db.execute(f"PRAGMA main.{pragma}"))
    listed = [
        (_text(name), _text(kind), wr)
        for name, kind, wr in db.execute(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'"
        )
    ]
    for name, kind, without_rowid in sorted(listed):
        if kind not in ("table", "shadow") or name == "sqlite_schema":
            continue
        if name.startswith(CONTROL_PREFIX):
            continue
        out[name] = _rows(db, name, bool(without_rowid) or name == "sqlite_sequence")
    return out


def _rows(db: Database, table: str, without_rowid: bool) -> Table:
    columns = [
        _text(row[0])
        for row in db.execute(
            f"SELECT name FROM pragma_table_xinfo({_literal(table)}, 'main') WHERE hidden <> 1"
        )
    ]
    rowid = "NULL"
    if not without_rowid:
        names = {c.lower() for c in columns}
        rowid = next((n for n in _ROWID_NAMES if n not in names), "NULL")
    parts = ", ".join(
        f"typeof({c}), iif(typeof({c}) = 'text', CAST({c} AS BLOB), {c})"
        for c in map(quote, columns)
    )
    rows = [
        tuple(_value(v) for v in row)
        for row in db.execute(f"SELECT {rowid}, {parts} FROM main.{quote(table)}")
    ]
    return tuple(sorted(rows, key=repr))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _bytes(value: object) -> bytes:
    if value is None:
        return b""
    return value if isinstance(value, bytes) else str(value).encode()


def _value(value: object) -> object:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return value.encode()
    return value


def digest(content: Content) -> str:
    """Equal for equal content."""
    return hashlib.blake2b(repr(sorted(content.items())).encode(), digest_size=16).hexdigest()


def difference(a: Content, b: Content, limit: int = 6) -> str:
    """The first few rows that only one of them has, in words."""
    lines: list[str] = []
    for table in sorted(a.keys() | b.keys()):
        if table not in a or table not in b:
            lines.append(f"{table}: only in the {'first' if table in a else 'second'}")
            continue
        left, right = set(a[table]), set(b[table])
        lines += [f"{table}: first has {row}" for row in sorted(left - right, key=repr)]
        lines += [f"{table}: second has {row}" for row in sorted(right - left, key=repr)]
    more = f"\n… {len(lines) - limit} more" if len(lines) > limit else ""
    return "\n".join(line[:600] for line in lines[:limit]) + more
