"""Changes as SQL that a person can read, and that SQLite would run.

Nothing is executed by it: history shows it, and what an undo would do.
Sources: https://sqlite.org/lang_keywords.html, https://sqlite.org/lang_expr.html#literal_values_constants_.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ha.core.changeset import Change, Operation
from ha.core.values import RawText, Value

SHOWN = 256
"""Characters of a text and bytes of a BLOB that are shown; what is longer is cut, and says so."""

_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "abort action add after all alter always analyze and as asc attach autoincrement before "
        "begin between by cascade case cast check collate column commit conflict constraint "
        "create cross current current_date current_time current_timestamp database default "
        "deferrable deferred delete desc detach distinct do drop each else end escape except "
        "exclude exclusive exists explain fail filter first following for foreign from full "
        "generated glob group groups having if ignore immediate in index indexed initially inner "
        "insert instead intersect into is isnull join key last left like limit match materialized "
        "natural no not nothing notnull null nulls of offset on or order others outer over "
        "partition plan pragma preceding primary query raise range recursive references regexp "
        "reindex release rename replace restrict returning right rollback row rows savepoint "
        "select set table temp temporary then ties to transaction trigger unbounded union unique "
        "update using vacuum values view virtual when where window with without",
    )
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def identifier(name: str) -> str:
    """``name``, in quotes where SQL needs them."""
    if _PLAIN.fullmatch(name) and name.lower() not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(value: Value, shown: int = SHOWN) -> str:
    """``value`` as SQL; one that is cut is followed by a comment with its length."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        cut = value[:shown]
        tail = "" if len(cut) == len(value) else f" /* … {len(value)} characters */"
        try:
            data = cut.encode()
        except UnicodeEncodeError:
            data = cut.encode("utf-8", "surrogatepass")
        else:
            if "\0" not in cut:
                return "'" + cut.replace("'", "''") + "'" + tail
        return f"CAST(x'{data.hex()}' AS TEXT)" + tail
    if isinstance(value, bytes):
        tail = "" if len(value) <= shown else f" /* … {len(value)} bytes */"
        return f"x'{value[:shown].hex()}'{tail}"
    if isinstance(value, RawText):
        tail = "" if len(value.data) <= shown else f" /* … {len(value.data)} bytes */"
        return f"CAST(x'{value.data[:shown].hex()}' AS TEXT){tail}"
    if isinstance(value, float):
        return {"inf": "9e999", "-inf": "-9e999", "nan": "NULL"}.get(repr(value), repr(value))
    return str(value)


def statement(change: Change) -> str:
    """``change`` as one SQL statement, without semicolon."""
    if change.operation is Operation.SQL:
        return change.command
    if change.operation is Operation.CUSTOM:
        return f"/* {_comment(change.command) or 'a change of a kind that is ignored'} */"
    table = identifier(change.table)
    if change.operation is Operation.INSERT:
        return _insert(table, change)
    if change.operation is Operation.DELETE:
        return f"DELETE FROM {table} WHERE {_where(change)}"
    return f"UPDATE {table} SET {_assignments(change)} WHERE {_where(change)}"


def _insert(table: str, change: Change) -> str:
    columns = list(map(identifier, change.columns))
    values = list(map(literal, change.new_values or ()))
    if not change.pk_columns and change.new_rowid is not None and "rowid" not in columns:
        columns.insert(0, "rowid")
        values.insert(0, str(change.new_rowid))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(values)})"


def _assignments(change: Change) -> str:
    new = change.new_values or ()
    old: Sequence[Value | None] = change.old_values or ()
    changed = [
        f"{identifier(c)} = {literal(value)}"
        for i, (c, value) in enumerate(zip(change.columns, new, strict=True))
        if not (i < len(old) and old[i] == value and type(old[i]) is type(value))
    ]
    moved = change.new_rowid != change.old_rowid and not change.pk_columns
    if moved and change.new_rowid is not None:
        changed.insert(0, f"rowid = {change.new_rowid}")
    if not changed:
        changed = [
            f"{identifier(c)} = {literal(v)}" for c, v in zip(change.columns, new, strict=True)
        ]
    return ", ".join(changed)


def _where(change: Change) -> str:
    values = change.old_values if change.old_values is not None else change.new_values
    if values is not None:
        at = dict(zip(change.columns, values, strict=True))
        if change.pk_columns and all(c in at for c in change.pk_columns):
            return " AND ".join(f"{identifier(c)} {_equals(at[c])}" for c in change.pk_columns)
    rowid = change.old_rowid if change.old_rowid is not None else change.new_rowid
    if rowid is not None:
        return f"rowid = {rowid}"
    if values is None:
        return "NULL /* the message does not say which row */"
    return " AND ".join(
        f"{identifier(c)} {_equals(v)}" for c, v in zip(change.columns, values, strict=True)
    )


def _equals(value: Value) -> str:
    return "IS NULL" if value is None else f"= {literal(value)}"


def _comment(text: str) -> str:
    return text.replace("*/", "* /")
