"""What capture and apply must know of a table, read from SQLite once a schema version."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import apsw

from ha.core.values import RawText, Value
from ha.store.tokens import fold_case, quote

STAT_TABLES = ("sqlite_stat1", "sqlite_stat4")
"""The tables that ANALYZE fills: replicated, as no other ``sqlite_`` table is."""

Row = tuple[Value, ...]
RowReader = Callable[[Any], Row]

_GENERATED = (2, 3)  # "hidden" of PRAGMA table_xinfo: virtual, stored
_VIRTUAL_GENERATED = 2
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table of ``main``.

    ``columns`` are the stored ones, in order, without generated ones. ``kind`` is that of
    PRAGMA table_list: ``table``, ``shadow``, ``virtual``, ``view``. ``rowid`` is a name by
    which the rowid can be had: of the INTEGER PRIMARY KEY, else an alias that no column
    hides; None for tables WITHOUT ROWID, or if all are hidden. ``integer_key`` is the INTEGER
    PRIMARY KEY. ``pk_collations`` stand beside ``pk_columns``; ``sent_key`` are the same columns
    in the table's order, as existing nodes look for them in a message. ``pick`` takes a row with
    generated columns to one without (None: there are no generated ones). ``owner`` is the
    virtual table that a shadow table belongs to. ``tree``, after the name in FROM, makes SQLite
    read the table's own tree: no index, which may be half way through a change.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    declared: tuple[str, ...]
    pk_columns: tuple[str, ...]
    sent_key: tuple[str, ...]
    pk_collations: tuple[str, ...]
    without_rowid: bool
    rowid: str | None
    integer_key: str | None
    generated: frozenset[str]
    has_virtual_columns: bool
    pick: RowReader | None
    owner: str | None
    tree: str
    folded: dict[str, int] = field(default_factory=dict)

    @property
    def ordinary(self) -> bool:
        """Rows can be written into it as they are."""
        return self.kind in ("table", "shadow")


def load_table(connection: apsw.Connection, name: str) -> TableInfo | None:
    """What ``name`` is in ``main``; None if there is no such table or view."""
    listed: list[Any] = connection.execute(
        "SELECT name, type, wr FROM pragma_table_list(?) WHERE schema = 'main'", (name,)
    ).fetchall()
    if not listed:
        return None
    true_name, kind, without_rowid = listed[0]
    columns: list[str] = []
    declared: list[str] = []
    positions: list[int] = []
    generated: set[str] = set()
    key: list[tuple[int, str]] = []
    every: set[str] = set()
    has_virtual = False
    total = 0
    for cid, column, decltype, _notnull, _default, pk, hidden in connection.execute(
        'SELECT cid, name, type, "notnull", dflt_value, pk, hidden'
        " FROM pragma_table_xinfo(?, 'main')",
        (true_name,),
    ):
        total += 1
        every.add(fold_case(column))
        if hidden in _GENERATED:
            generated.add(fold_case(column))
            has_virtual = has_virtual or hidden == _VIRTUAL_GENERATED
            continue
        columns.append(column)
        declared.append(decltype)
        positions.append(cid)
        if pk:
            key.append((pk, column))
    pk_columns = tuple(column for _, column in sorted(key))
    key_index = _key_index(connection, true_name)
    integer_key = None
    if not without_rowid and kind != "view" and len(pk_columns) == 1 and key_index is None:
        integer_key = pk_columns[0]
    rowid = integer_key
    if rowid is None and not without_rowid:
        rowid = next((n for n in _ROWID_NAMES if n not in every), None)
    return TableInfo(
        name=true_name,
        kind=kind,
        columns=tuple(columns),
        declared=tuple(declared),
        pk_columns=pk_columns,
        sent_key=tuple(c for c in columns if c in pk_columns),
        pk_collations=key_index[1] if key_index else ("BINARY",) * len(pk_columns),
        without_rowid=bool(without_rowid),
        rowid=rowid,
        integer_key=integer_key,
        generated=frozenset(generated),
        has_virtual_columns=has_virtual,
        pick=None if len(positions) == total else _picker(positions),
        owner=true_name.rpartition("_")[0] if kind == "shadow" else None,
        # NOT INDEXED would still take an index that covers the columns WITHOUT ROWID
        tree=f"INDEXED BY {quote(key_index[0])}" if without_rowid and key_index else "NOT INDEXED",
        folded={fold_case(c): i for i, c in enumerate(columns)},
    )


def _key_index(connection: apsw.Connection, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The index behind the primary key, and its collations; None for INTEGER PRIMARY KEY."""
    indexes: list[Any] = connection.execute(
        "SELECT name FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (name,)
    ).fetchall()
    for (index,) in indexes:
        rows: list[Any] = connection.execute(
            "SELECT coll FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno", (index,)
        ).fetchall()
        return index, tuple(row[0] for row in rows)
    return None


def _picker(positions: list[int]) -> RowReader:
    if len(positions) == 1:
        only = positions[0]
        return lambda row: (row[only],)
    return itemgetter(*positions)


def schema_version(connection: apsw.Connection) -> int:
    """The schema cookie: another after every DDL that did something, uncommitted ones included."""
    return int(connection.execute("PRAGMA main.schema_version").get)


def header_value(connection: apsw.Connection, pragma: str) -> int:
    """``user_version`` or ``application_id``."""
    return int(connection.execute(f"PRAGMA main.{pragma}").get)


def schema_flags(connection: apsw.Connection) -> tuple[bool, bool]:
    """Is there a virtual table, and is there ``sqlite_sequence``?"""
    virtual, sequence = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0),"
        " EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')"
    ).fetchall()[0]
    return bool(virtual), bool(sequence)


# --- rows, exactly -------------------------------------------------------------------


def read_rows(
    connection: apsw.Connection, info: TableInfo, where: str = "", values: Row = ()
) -> list[Row]:
    """The stored columns of rows, straight from the table's own tree, TEXT that is not UTF-8
    included. No other index is asked, since one may be half way through an update."""
    source = f"main.{quote(info.name)} {info.tree}"
    return exact_rows(connection, source, info.columns, where, values)


def exact_rows(
    connection: apsw.Connection,
    source: str,
    columns: Sequence[str],
    tail: str = "",
    values: Row = (),
) -> list[Row]:
    """``columns`` of ``source`` (SQL), TEXT that is not UTF-8 included."""
    listed = ", ".join(map(quote, columns))
    try:
        return connection.execute(f"SELECT {listed} FROM {source} {tail}", values).fetchall()
    except UnicodeDecodeError:
        pass
    listed = ", ".join(
        f"typeof({c}), iif(typeof({c}) = 'text', CAST({c} AS BLOB), {c})"
        for c in map(quote, columns)
    )
    return [
        tuple(map(_exact, row[::2], row[1::2]))
        for row in connection.execute(f"SELECT {listed} FROM {source} {tail}", values)
    ]


def _exact(kind: str, value: Value) -> Value:
    if kind != "text" or not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return RawText(value)


def bindings(values: Row) -> tuple[tuple[Any, ...], tuple[bool, ...] | None]:
    """What to bind for ``values``, and where it must be cast to TEXT (None: nowhere)."""
    casts = tuple(isinstance(v, RawText) or _is_unencodable(v) for v in values)
    if not any(casts):
        return values, None
    bound = tuple(
        v.data
        if isinstance(v, RawText)
        else v.encode("utf-8", "surrogatepass")
        if cast and isinstance(v, str)
        else v
        for v, cast in zip(values, casts, strict=True)
    )
    return bound, casts


def _is_unencodable(value: Value) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


_BLOB_TYPE = re.compile("BLOB", re.IGNORECASE)


def is_blob_type(decltype: str) -> bool:
    """Was the column declared to hold BLOBs?"""
    return _BLOB_TYPE.search(decltype) is not None
