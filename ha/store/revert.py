"""Brings rows to the state that an undo wants them in, on a connection that records it.

Triggers, foreign keys and CHECK constraints are off, since their effects are changes in the
log of their own, reverted like any other. Rows that differ are taken out before any is put
back, so that values of UNIQUE columns may have been swapped meanwhile. What SQLite would then
still refuse is an obstacle: nothing is ever replaced that was not asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from ha.core.errors import Code, HaError
from ha.core.touches import Image, Key, Shape, Special, fold_name, same_row
from ha.core.undo import Obstacle, ObstacleKind, Plan, SchemaChange, Wanted, describe
from ha.core.values import Value
from ha.store.connection import Connection
from ha.store.ddl import Ddl, read_ddl
from ha.store.executor import Executor
from ha.store.parse import CONTROL_TABLES, Parsed
from ha.store.schema import STAT_TABLES, TableInfo, bindings, exact_rows, is_blob_type, load_table
from ha.store.tokens import quote

MOST_OBSTACLES = 100
"""Obstacles that are listed; there may be more."""
_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")
_ACTIONS = {"CREATE": "create", "DROP": "drop", "ALTER": "alter"}


@dataclass(slots=True)
class Reverted:
    """``rows``: how many differ from what they were, and so are changed."""

    rows: int = 0
    obstacles: list[Obstacle] = field(default_factory=list)


def prepare(connection: Connection) -> None:
    """Make a connection one that does nothing of itself."""
    raw = connection.raw
    raw.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    raw.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    raw.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON")


def shape_of(connection: Connection, table: str) -> Shape | None:
    """The table as it is now; None if there is none whose rows an undo could change."""
    folded = fold_name(table)
    if folded in CONTROL_TABLES or (folded.startswith("sqlite_") and folded not in STAT_TABLES):
        return None
    info = load_table(connection.raw, table)
    if info is None or not info.ordinary:
        return None
    return Shape(
        name=info.name,
        columns=info.columns,
        key=tuple(info.columns.index(c) for c in info.pk_columns),
        collations=info.pk_collations,
        integer_key=info.integer_key is not None,
        without_rowid=info.without_rowid,
        blobs=tuple(i for i, d in enumerate(info.declared) if is_blob_type(d)),
        virtual=info.owner,
        unique=_unique_indexes(connection.raw, info),
    )


def schema_change(command: str) -> SchemaChange | None:
    """What a DDL statement of the log did, None for what no undo has to know of."""
    ddl = read_ddl(command)
    action = _ACTIONS.get(ddl.verb) if ddl is not None else None
    if ddl is None or action is None:
        return None
    lossy, renamed = action == "drop" and ddl.object == "table", None
    if action == "alter":
        words = [t.text.upper() for t in ddl.body[:2]]
        lossy = words[:1] == ["DROP"] and words[1:] != ["CONSTRAINT"]
        if words == ["RENAME", "TO"]:
            renamed = ddl.body[2].name
    return SchemaChange(action, ddl.object, ddl.name, _one_line(ddl, command), lossy, renamed)


def _one_line(ddl: Ddl, command: str) -> str:
    text = " ".join(command.split())
    return text if len(text) <= 200 else text[:200] + "…"


class Reverter:
    """Carries a plan out in the open transaction of ``executor``, which records it."""

    def __init__(self, executor: Executor, *, references: bool) -> None:
        """``references``: foreign keys that have no parent afterwards are obstacles."""
        self._executor = executor
        self._connection = executor.connection
        self._references = references
        self._tables: dict[str, _Table] = {}
        self._parsed: dict[str, Parsed] = {}
        self._out = Reverted()

    def run(self, plan: Plan) -> Reverted:
        """Raises HaError for what is no obstacle: cancelled, disk full. The caller rolls back
        when there are obstacles; those of ``plan`` are the caller's to report."""
        deletes: list[tuple[_Table, Key | int]] = []
        updates: list[tuple[_Table, Wanted, Key | int]] = []
        inserts: list[tuple[_Table, Wanted]] = []
        for wanted in plan.rows:
            table = self._table(wanted.shape)
            present = table.find(wanted.key)
            before = wanted.before
            if not self._differs(table, present, wanted):
                continue
            self._out.rows += 1
            if present is None:
                inserts.append((table, wanted))
                continue
            at: Key | int = wanted.key if present.rowid is None else present.rowid
            if before is not None and table.fits_in_place(present, before):
                updates.append((table, wanted, at))
            else:
                deletes.append((table, at))
                if before is not None:
                    inserts.append((table, wanted))
        orphans = self._orphans() if self._references else Counter()
        for table, at in deletes:
            where, values = table.where(at)
            self._execute(f"DELETE FROM {table.sql} WHERE {where}", values)
        for table, wanted, at in updates:
            self._update(table, wanted, at)
        for table, wanted in inserts:
            self._insert(table, wanted)
        for name, number in plan.sequences.items():
            self._set_sequence(name, number)
        if self._references:
            self._note_orphans(self._orphans() - orphans)
        return self._out

    def _table(self, shape: Shape) -> _Table:
        table = self._tables.get(shape.name)
        if table is None:
            info = load_table(self._connection.raw, shape.name)
            if info is None or info.columns != shape.columns:
                raise HaError(
                    Code.SERIALIZATION_FAILURE,
                    f"table {shape.name} changed while the undo was computed",
                    hint="try again",
                )
            table = self._tables[shape.name] = _Table(self._connection.raw, info)
        return table

    def _differs(self, table: _Table, present: Image | None, wanted: Wanted) -> bool:
        before = wanted.before
        if wanted.lost:
            return present is None
        if present is None or before is None:
            if present is before:
                return False
        elif same_row(present.values, before.values, wanted.loose) and not table.moved(
            present, before
        ):
            return False
        after = wanted.after
        if isinstance(after, Special) or present is None:
            return True
        if after is None or not same_row(present.values, after.values, wanted.loose):
            self._obstacle(
                ObstacleKind.UNEXPLAINED,
                f"row {describe(wanted.key)} of {wanted.shape.name} is not what the log made of it"
                " (an interceptor, or a schema that differs between nodes, may have)",
                wanted,
            )
        return True

    def _update(self, table: _Table, wanted: Wanted, at: Key | int) -> None:
        assert wanted.before is not None
        where, found = table.where(at)
        values, marks = _marks(wanted.before.values)
        sets = ", ".join(
            f"{quote(c)} = {mark}" for c, mark in zip(table.info.columns, marks, strict=True)
        )
        sql = f"UPDATE OR ABORT {table.sql} SET {sets} WHERE {where}"
        self._put(sql, (*values, *found), wanted)

    def _insert(self, table: _Table, wanted: Wanted) -> None:
        assert wanted.before is not None
        info = table.info
        names = list(map(quote, info.columns))
        values, marks = _marks(wanted.before.values)
        rowid = wanted.before.rowid
        # Where another key identifies the row, its rowid may have been given away.
        if info.integer_key is None and info.rowid is not None and rowid is not None:
            free = not info.pk_columns or table.find(("r", rowid)) is None
            if free:
                names.insert(0, quote(info.rowid))
                values, marks = (rowid, *values), ["?", *marks]
        sql = f"INSERT OR ABORT INTO {table.sql} ({', '.join(names)}) VALUES ({', '.join(marks)})"
        self._put(sql, values, wanted)

    def _put(self, sql: str, values: Sequence[Value], wanted: Wanted) -> None:
        try:
            self._execute(sql, values)
        except HaError as error:
            if error.code in (
                Code.UNIQUE_VIOLATION,
                Code.NOT_NULL_VIOLATION,
                Code.CONSTRAINT_VIOLATION,
                Code.TYPE_MISMATCH,
            ):
                kind = ObstacleKind.UNIQUE
                if error.code is not Code.UNIQUE_VIOLATION:
                    kind = ObstacleKind.SCHEMA
                self._obstacle(
                    kind,
                    f"row {describe(wanted.key)} of {wanted.shape.name} cannot be put back:"
                    f" {error.message}",
                    wanted,
                )
                return
            raise

    def _set_sequence(self, table: str, number: int | None) -> None:
        raw = self._connection.raw
        if not raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").get:
            return
        present: Any = raw.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).get
        if present == number:
            return
        if number is None:
            self._execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        elif present is None:
            self._execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (table, number))
        else:
            self._execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, table))

    # --- foreign keys ----------------------------------------------------------------

    def _orphans(self) -> Counter[tuple[object, ...]]:
        """Rows whose parent is missing, in tables that may gain or lose some by this undo."""
        raw = self._connection.raw
        touched = {fold_name(t.info.name) for t in self._tables.values()}
        children = {
            child
            for child, parent in raw.execute(
                'SELECT s.name, f."table" FROM main.sqlite_schema AS s,'
                " pragma_foreign_key_list(s.name) AS f WHERE s.type = 'table'"
            )
            if fold_name(child) in touched or fold_name(parent) in touched
        }
        return Counter(
            row
            for child in sorted(children)
            for row in raw.execute(f"PRAGMA main.foreign_key_check({quote(child)})")
        )

    def _note_orphans(self, orphans: Counter[tuple[object, ...]]) -> None:
        for child, rowid, parent, _ in orphans:
            self._out.obstacles.append(
                Obstacle(
                    ObstacleKind.REFERENCE,
                    f"row {rowid} of {child} would have no parent in {parent}",
                    str(child),
                    str(rowid),
                )
            )

    # --- statements ------------------------------------------------------------------

    def _execute(self, sql: str, values: Sequence[Value]) -> None:
        parsed = self._parsed.get(sql)
        if parsed is None:
            parsed = self._parsed[sql] = self._connection.parse(sql)
        self._executor.run(parsed, values)

    def _obstacle(self, kind: ObstacleKind, message: str, wanted: Wanted) -> None:
        if len(self._out.obstacles) < MOST_OBSTACLES:
            self._out.obstacles.append(
                Obstacle(
                    kind,
                    message,
                    wanted.shape.name,
                    describe(wanted.key),
                    wanted.first or None,
                )
            )


class _Table:
    """A table of the undo: how its rows are found, and what of them is unique."""

    def __init__(self, raw: apsw.Connection, info: TableInfo) -> None:
        self._raw = raw
        self.info = info
        self.sql = f"main.{quote(info.name)}"
        self._key = [
            f"{quote(c)} COLLATE {quote(collation)}"
            for c, collation in zip(info.pk_columns, info.pk_collations, strict=True)
        ]
        self._unique = _unique_columns(raw, info)

    def where(self, at: Key | int) -> tuple[str, tuple[Any, ...]]:
        """A condition, with its values, for a rowid or a key."""
        if isinstance(at, int):
            return f"{quote(self.info.rowid or '')} = ?", (at,)
        if at[0] == "r":
            return f"{quote(self.info.rowid or '')} = ?", at[1:]
        values, marks = _marks(at[1:])
        terms = self._key
        if at[0] == "v":
            terms = [f"{quote(c)} COLLATE BINARY" for c in self.info.columns]
        return " AND ".join(f"{t} IS {m}" for t, m in zip(terms, marks, strict=True)), values

    def find(self, key: Key) -> Image | None:
        """The row as it is now."""
        where, values = self.where(key)
        info = self.info
        columns = info.columns if info.rowid is None else (info.rowid, *info.columns)
        for row in exact_rows(self._raw, self.sql, columns, f"WHERE {where} LIMIT 1", values):
            if info.rowid is None:
                return Image(None, row)
            rowid = row[0]
            assert isinstance(rowid, int)
            return Image(rowid, row[1:])
        return None

    def moved(self, present: Image, before: Image) -> bool:
        return before.rowid is not None and present.rowid != before.rowid

    def fits_in_place(self, present: Image, before: Image) -> bool:
        """Can an UPDATE do it, without a chance to clash on the way?"""
        if self._unique is None or self.moved(present, before):
            return False
        return all(
            present.values[i] == before.values[i]
            and type(present.values[i]) is type(before.values[i])
            for i in self._unique
        )


def _unique_indexes(
    raw: apsw.Connection, info: TableInfo
) -> tuple[tuple[tuple[int, str], ...], ...] | None:
    """For :attr:`Shape.unique`."""
    out: list[tuple[tuple[int, str], ...]] = []
    rows: list[Any] = raw.execute(
        "SELECT name, partial FROM pragma_index_list(?, 'main') WHERE \"unique\"", (info.name,)
    ).fetchall()
    for index, partial in rows:
        columns: list[Any] = raw.execute(
            "SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno",
            (index,),
        ).fetchall()
        if partial or any(n not in info.columns or c not in _COLLATIONS for n, c in columns):
            return None
        out.append(tuple((info.columns.index(name), coll) for name, coll in columns))
    return tuple(out)


def _unique_columns(raw: apsw.Connection, info: TableInfo) -> frozenset[int] | None:
    """Positions of columns in UNIQUE indexes; None if one of these has expressions or a WHERE."""
    out: set[int] = {info.columns.index(c) for c in info.pk_columns}
    rows: list[Any] = raw.execute(
        "SELECT name, partial FROM pragma_index_list(?, 'main') WHERE \"unique\"", (info.name,)
    ).fetchall()
    for index, partial in rows:
        if partial:
            return None
        for (name,) in raw.execute(
            "SELECT name FROM pragma_index_xinfo(?, 'main') WHERE key", (index,)
        ):
            if name not in info.columns:
                return None
            out.add(info.columns.index(name))
    return frozenset(out)


def _marks(values: Sequence[Any]) -> tuple[tuple[Any, ...], list[str]]:
    """What to bind, and the expression that each value stands in."""
    bound, casts = bindings(tuple(values))
    if casts is None:
        return bound, ["?"] * len(bound)
    return bound, ["CAST(? AS TEXT)" if cast else "?" for cast in casts]
