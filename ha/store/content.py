"""What a file holds, beside its control tables: is it anything, and is it the same?"""

from __future__ import annotations

import hashlib
import struct

import apsw

from ha.store.parse import CONTROL_TABLES


def quoted(name: str) -> str:
    """An SQL identifier, whatever is in the name."""
    return '"' + name.replace('"', '""') + '"'


def is_empty(raw: apsw.Connection) -> bool:
    """No object but control tables, and nothing set in the header."""
    for (name,) in raw.execute("SELECT tbl_name FROM sqlite_schema"):
        if name not in CONTROL_TABLES:
            return False
    header = [
        next(iter(raw.execute(f"PRAGMA {name}")))[0] for name in ("user_version", "application_id")
    ]
    return header == [0, 0]


def digest(raw: apsw.Connection) -> str:
    """A SHA-256 over schema, rows with their rowids, and header values: equal for equal content.

    Reads every row once; the order of objects and the layout of pages do not count.
    """
    total = hashlib.sha256()
    for name in ("user_version", "application_id"):
        _add(total, next(iter(raw.execute(f"PRAGMA {name}"))))
    tables: list[tuple[str, bool]] = []
    for kind, name, table, sql in raw.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    ):
        if table in CONTROL_TABLES:
            continue
        _add(total, (kind, name, table, sql))
    for _schema, name, kind, _columns, without_rowid, _strict in raw.execute(
        "PRAGMA main.table_list"
    ):
        if kind in ("table", "shadow") and name not in CONTROL_TABLES and name != "sqlite_schema":
            tables.append((name, bool(without_rowid)))
    for name, without_rowid in sorted(tables):
        _add(total, (name,))
        for row in raw.execute(_all_rows(raw, name, without_rowid)):
            _add(total, row)
    return total.hexdigest()


def _all_rows(raw: apsw.Connection, table: str, without_rowid: bool) -> str:
    columns: list[str] = []
    keys: list[tuple[int, str]] = []
    for _cid, name, _type, _notnull, _default, pk, hidden in raw.execute(
        f"PRAGMA main.table_xinfo({quoted(table)})"
    ):
        if hidden:
            continue
        column = quoted(name)
        columns += [
            f"typeof({column})",
            f"iif(typeof({column}) = 'text', CAST({column} AS BLOB), {column})",
        ]
        if pk:
            keys.append((pk, column))
    if without_rowid:
        order = ", ".join(column for _, column in sorted(keys))
        return f"SELECT {', '.join(columns)} FROM main.{quoted(table)} ORDER BY {order}"
    return f"SELECT rowid, {', '.join(columns)} FROM main.{quoted(table)} ORDER BY rowid"


def _add(total: hashlib._Hash, row: tuple[object, ...]) -> None:
    for value in row:
        if isinstance(value, float):
            data = b"r" + struct.pack(">d", value)
        elif isinstance(value, bytes):
            data = b"b" + value
        else:
            data = repr(value).encode("utf-8", "surrogatepass")
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
