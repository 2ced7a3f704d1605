"""What a transaction changes, recorded while it runs.

SQLite's preupdate hook shows each row of an ordinary table just before it changes. What the
hook does not show is recorded here by other means, so that the *law of capture* holds
(docs/spec.md): applying what was recorded to the state on which the transaction ran gives the
state that running it gave.

======================================  ==================================================
DDL                                     as its text; row changes that it causes (deletions
                                        by DROP TABLE and their cascades) before it, but for
                                        those of the table dropped
CREATE TABLE … AS                       as the definition that SQLite made of it, and rows
CREATE VIRTUAL TABLE                    as its text alone, its first shadow rows left out
writes to a virtual table               as the rows of its shadow tables
ANALYZE                                 as ``ANALYZE sqlite_schema``, which creates the
                                        tables, and the difference of their rows
``user_version``, ``application_id``    as a pragma, when the value is another afterwards
``sqlite_sequence``                     as :class:`~ha.core.changeset.SequenceChange`
tables with VIRTUAL generated columns,  read from the table: old rows inside of the hook, new
rows with TEXT that is not UTF-8        ones at the next call of it or the statement's end;
                                        WITHOUT ROWID: as the difference that the statement
                                        makes to the whole table
REINDEX                                 not at all: it changes nothing that can be seen
temp schema, control tables             never
======================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import apsw

from ha.core.changeset import Change, Operation, SequenceChange
from ha.core.errors import Code, HaError
from ha.core.values import RawText, Value
from ha.store.ddl import Ddl, read_ddl
from ha.store.schema import (
    STAT_TABLES,
    Row,
    TableInfo,
    header_value,
    load_table,
    read_rows,
    schema_flags,
    schema_version,
)
from ha.store.tokens import fold_case, quote

_INSERT = Operation.INSERT
_UPDATE = Operation.UPDATE
_DELETE = Operation.DELETE
_OPERATIONS = {
    apsw.SQLITE_INSERT: _INSERT,
    apsw.SQLITE_UPDATE: _UPDATE,
    apsw.SQLITE_DELETE: _DELETE,
}
_HEADER = ("user_version", "application_id")

_Key = tuple[str, object]
_Image = tuple[TableInfo, Row | None]


class Traced(NamedTuple):
    """A statement about to run. ``verb`` is its first keyword in upper case; ``ddl``: CREATE,
    DROP, ALTER, REINDEX, ANALYZE, whatever schema it is about."""

    sql: str
    verb: str
    ddl: bool = False


class Captured(NamedTuple):
    """What a transaction changed. ``virtual``: virtual tables whose shadow rows are in it."""

    changes: tuple[Change, ...]
    sequences: tuple[SequenceChange, ...]
    virtual: tuple[str, ...]


class Mark(NamedTuple):
    """A point within a transaction to which it may be rewound."""

    rows: int


class _Before(NamedTuple):
    """What a statement that is no DML is compared with when it has run."""

    ddl: Ddl | None
    version: int
    header: tuple[int, ...]
    stats: dict[str, dict[int, Row]]


class Recorder:
    """Records the transactions that run on one connection, one after the other.

    ``start()``, statements, then ``finish()`` or ``discard()``; all inside of an open SQLite
    transaction. Each statement stands between ``statement_begin()`` and ``statement_end()``,
    or ``statement_failed()`` when SQLite refused it. For a SAVEPOINT of the client take a
    ``mark()`` when it has run, and ``rewind()`` to it when ROLLBACK TO has run.

    When something cannot be recorded the transaction is *broken*: ``statement_end()`` and
    ``finish()`` raise HaError until it is discarded, and the caller must roll it back.
    """

    def __init__(self, connection: apsw.Connection, control_tables: Collection[str] = ()) -> None:
        self._connection = connection
        self._control = frozenset(map(fold_case, control_tables))
        self._rows: list[Change] = []
        self._active = False
        self._muted = False
        self._broken: HaError | None = None
        self._pending: tuple[int, TableInfo, int] | None = None
        self._differing: dict[str, tuple[TableInfo, dict[Row, Row]]] = {}
        self._statements = 0  # how many so far
        self._statement = 0  # where the rows of the last one begin
        self._sql = ""
        self._before: _Before | None = None
        # the schema as far as it was asked for
        self._tables: dict[str, TableInfo | None] = {}
        self._owners: dict[str, str] = {}
        self._version = -1
        self._data_version = -1
        self._own_schema = False  # DDL of ours that may still be rolled back
        self._has_virtual = False
        self._has_sequence = False
        self._sequences: list[tuple[Value, Value]] | None = None
        connection.preupdate_hook(self._make_hook(), id=self)
        connection.set_rollback_hook(self._on_rollback, id=self)

    @property
    def has_virtual_tables(self) -> bool:
        """Has the schema any? As ``start()`` has read it."""
        return self._has_virtual

    def close(self) -> None:
        """Take the hooks off the connection."""
        self._connection.preupdate_hook(None, id=self)
        self._connection.set_rollback_hook(None, id=self)

    # --- a transaction ---------------------------------------------------------------

    def start(self) -> None:
        """A transaction begins, in an open SQLite transaction (maybe in a savepoint of it)."""
        self._forget_rows()
        data_version = self._connection.data_version("main")
        if self._own_schema or data_version != self._data_version:
            self._sequences = None
            if self._own_schema or schema_version(self._connection) != self._version:
                self._read_schema()
            self._own_schema = self._own_schema and data_version == self._data_version
            self._data_version = data_version
        if self._sequences is None:
            self._sequences = self._read_sequences()
        self._active = True

    def finish(self) -> Captured | None:
        """The transaction ends: what it changed, None if nothing.

        Raises HaError if it cannot be recorded; the caller must roll it back then.
        """
        try:
            self._raise_broken()
            if self._has_virtual:
                self._flush()
            self._settle()
            self._raise_broken()
            sequences = self._sequence_changes() if self._has_sequence else ()
        except BaseException:
            self.discard()
            raise
        rows = self._rows
        self._forget_rows()
        if not rows and not sequences:
            return None
        virtual: tuple[str, ...] = ()
        if self._owners:
            names = {self._owners.get(change.table) for change in rows}
            virtual = tuple(sorted(n for n in names if n is not None))
        return Captured(tuple(rows), sequences, virtual)

    def discard(self) -> None:
        """The transaction is rolled back, or was after its ``finish()``: forget it."""
        self._forget_rows()
        self._sequences = None

    def _forget_rows(self) -> None:
        self._rows = []
        self._pending = None
        self._differing.clear()
        self._before = None
        self._broken = None
        self._active = False
        self._muted = False
        self._statements = 0

    # --- statements ------------------------------------------------------------------

    def rows_begin(self) -> None:
        """Before an INSERT, UPDATE, DELETE or REPLACE."""
        if self._broken is not None:
            raise self._broken
        if self._has_virtual and self._statements:
            self._flush()
        self._statements += 1
        self._statement = len(self._rows)
        self._before = None

    def statement_begin(self, traced: Traced) -> None:
        """Before any statement that may write."""
        self._raise_broken()
        if self._has_virtual and self._statements:
            self._flush()
        self._statements += 1
        self._statement = len(self._rows)
        self._before = None
        if traced.ddl or traced.verb == "PRAGMA":
            self._before = self._look(traced)

    def statement_end(self) -> None:
        """The statement has run. Raises HaError if what it did cannot be recorded."""
        if self._broken is not None:
            raise self._broken
        self._muted = False
        if self._pending is not None or self._differing:
            self._settle()
        if self._before is not None:
            before, self._before = self._before, None
            self._record_effects(before)

    def statement_failed(self) -> None:
        """SQLite refused the statement, or its caller gave it up: forget its rows, if SQLite did.

        They stay after ON CONFLICT FAIL and RAISE(FAIL). If the whole transaction was rolled
        back it is discarded here too. Raises HaError as ``statement_end()`` does.
        """
        before, self._before = self._before, None
        if not self._connection.in_transaction:
            self.discard()
            return
        self._raise_broken()
        self._muted = False
        if before is not None:
            self._read_schema()
        self._settle_failed()
        if len(self._rows) > self._statement and not self._kept(self._statement):
            del self._rows[self._statement :]

    def mark(self) -> Mark:
        """Where the transaction stands, between two statements."""
        self._settle()
        return Mark(len(self._rows))

    def rewind(self, mark: Mark) -> None:
        """The transaction was rolled back to ``mark`` (ROLLBACK TO)."""
        self._pending = None
        self._differing.clear()
        undone = self._rows[mark.rows :]
        del self._rows[mark.rows :]
        if any(change.operation is Operation.SQL for change in undone):
            self._own_schema = True
            self._read_schema()

    # --- the hook --------------------------------------------------------------------

    def _make_hook(self) -> Callable[[apsw.PreUpdate], None]:
        tables = self._tables
        differing = self._differing
        insert, delete = apsw.SQLITE_INSERT, apsw.SQLITE_DELETE

        def hook(update: apsw.PreUpdate) -> None:
            if self._muted or update.database_name != "main":
                return
            try:
                name = update.table_name
                info = tables[name] if name in tables else self._lookup(name)
                if info is None:
                    return
                if self._pending is not None:
                    self._resolve()
                if not self._active:
                    raise self._break(
                        Code.INTERNAL, f"table {name} changed outside of a transaction"
                    )
                if info.has_virtual_columns or (differing and info.name in differing):
                    self._read(update, info)
                    return
                operation = update.opcode
                pick = info.pick
                try:
                    if operation == insert:
                        old_rowid, old = None, None
                    else:
                        old = update.old if pick is None else pick(update.old)
                        old_rowid = None if info.without_rowid else update.rowid
                    if operation == delete:
                        new_rowid, new = None, None
                    else:
                        new = update.new if pick is None else pick(update.new)
                        new_rowid = None if info.without_rowid else update.rowid_new
                except UnicodeDecodeError:
                    self._read(update, info)
                    return
                self._rows.append(
                    Change(
                        _OPERATIONS[operation],
                        info.name,
                        info.columns,
                        info.sent_key,
                        old_rowid,
                        new_rowid,
                        old,
                        new,
                    )
                )
            except Exception as error:
                if self._broken is None:
                    self._break(Code.INTERNAL, f"a change could not be recorded: {error}")
                raise

        return hook

    def _lookup(self, name: str) -> TableInfo | None:
        """Into the cache. None for what is never recorded."""
        folded = fold_case(name)
        info: TableInfo | None = None
        if folded not in self._control and (
            not folded.startswith("sqlite_") or folded in STAT_TABLES
        ):
            info = load_table(self._connection, name)
            if info is None:
                raise self._break(Code.INTERNAL, f"table {name} changed, but is not in the schema")
            if info.rowid is None and not info.without_rowid:
                raise self._break(
                    Code.UNSUPPORTED,
                    f"table {name} cannot be replicated: its columns hide its rowid",
                    hint="rename one of the columns rowid, _rowid_ and oid, or declare an"
                    " INTEGER PRIMARY KEY",
                )
            if info.owner is not None:
                self._owners[info.name] = info.owner
            else:
                self._owners.pop(info.name, None)
        self._tables[name] = info
        return info

    def _on_rollback(self) -> None:
        self._sequences = None

    def _break(self, code: Code, message: str, hint: str | None = None) -> HaError:
        self._broken = HaError(code, message, hint=hint)
        self._muted = True
        return self._broken

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    # --- rows that the hook does not show --------------------------------------------

    def _read(self, update: apsw.PreUpdate, info: TableInfo) -> None:
        """Record a change of a row that ``update`` may not show whole."""
        if info.without_rowid:
            if info.name not in self._differing:
                self._differing[info.name] = (info, self._whole(info))
            return
        operation = _OPERATIONS[update.opcode]
        old_rowid = new_rowid = old = None
        if operation is not _INSERT:
            old_rowid = update.rowid
            old = self._row(info, old_rowid)
        if operation is not _DELETE:
            new_rowid = update.rowid_new
            self._pending = (len(self._rows), info, new_rowid)
        self._rows.append(
            Change(operation, info.name, info.columns, info.sent_key, old_rowid, new_rowid, old)
        )

    def _row(self, info: TableInfo, rowid: int) -> Row:
        assert info.rowid is not None
        rows = read_rows(self._connection, info, f"WHERE {quote(info.rowid)} = ?", (rowid,))
        if not rows:
            raise self._break(Code.INTERNAL, f"table {info.name} has lost row {rowid}")
        return rows[0]

    def _whole(self, info: TableInfo) -> dict[Row, Row]:
        """A table WITHOUT ROWID by its primary key."""
        where = [info.columns.index(c) for c in info.pk_columns]
        return {
            tuple(_distinct(row[i]) for i in where): row
            for row in read_rows(self._connection, info)
        }

    def _resolve(self) -> None:
        """Fill in the new values of the row that was about to change at the last call."""
        if self._pending is None:
            return
        (index, info, rowid), self._pending = self._pending, None
        self._rows[index].new_values = self._row(info, rowid)

    def _settle(self) -> None:
        """Nothing is left open of the statements that have run."""
        try:
            self._resolve()
            while self._differing:
                name = next(iter(self._differing))
                info, before = self._differing.pop(name)
                self._rows.extend(_difference(info, before, self._whole(info)))
        except Exception as error:
            if self._broken is None:
                self._break(Code.INTERNAL, f"a change could not be recorded: {error}")
            raise

    def _settle_failed(self) -> None:
        """As ``_settle``, where the last row may be gone with its statement."""
        if self._pending is not None:
            (index, info, rowid), self._pending = self._pending, None
            assert info.rowid is not None
            found = read_rows(self._connection, info, f"WHERE {quote(info.rowid)} = ?", (rowid,))
            if found:
                self._rows[index].new_values = found[0]
            else:
                del self._rows[index]
        self._settle()

    def _flush(self) -> None:
        """Let virtual tables write what they hold back (FTS) before the next thing happens:
        a savepoint makes them do so, and they would otherwise at a later statement's."""
        self._connection.execute("SAVEPOINT ha_flush")
        self._connection.execute("RELEASE ha_flush")

    def _kept(self, since: int) -> bool:
        """Are the effects of the rows recorded since then still in the database?

        SQLite does not say whether a failed statement was undone; a row tells that differs
        before and after it. If none does, it makes no difference.
        """
        before: dict[_Key, _Image] = {}
        after: dict[_Key, _Image] = {}
        for change in self._rows[since:]:
            info = self._tables.get(change.table) or load_table(self._connection, change.table)
            if info is None or change.operation is Operation.SQL:
                continue
            if change.old_values is not None:
                key = _key_of(info, change.old_rowid, change.old_values)
                before.setdefault(key, (info, change.old_values))
                after[key] = (info, None)
            if change.operation is not _DELETE:
                row = change.new_values
                key = _key_of(info, change.new_rowid, row or ())
                before.setdefault(key, (info, None))
                after[key] = (info, row)
        for key in reversed(after):
            info, was = before[key]
            _, now = after[key]
            if _same(was, now):
                continue
            row = now if now is not None else was
            assert row is not None
            found = self._present(info, key[1], row)
            return not _same(found, was)
        return False

    def _present(self, info: TableInfo, rowid: object, row: Row) -> Row | None:
        """The row that now has this rowid, or WITHOUT ROWID the key of ``row``."""
        if info.rowid is not None:
            assert isinstance(rowid, int)
            found = read_rows(self._connection, info, f"WHERE {quote(info.rowid)} = ?", (rowid,))
            return found[0] if found else None
        key = tuple(row[info.columns.index(c)] for c in info.pk_columns)
        if any(isinstance(v, RawText) for v in key):
            return self._whole(info).get(tuple(map(_distinct, key)))
        where = " AND ".join(f"{quote(c)} COLLATE BINARY IS ?" for c in info.pk_columns)
        found = read_rows(self._connection, info, f"WHERE {where}", key)
        return found[0] if found else None

    # --- statements that are no DML --------------------------------------------------

    def _look(self, traced: Traced) -> _Before:
        ddl = read_ddl(traced.sql)
        if traced.verb == "ALTER" and self._connection.pragma("legacy_alter_table"):
            raise HaError(
                Code.REFUSED,
                "ALTER TABLE is not allowed under PRAGMA legacy_alter_table: other nodes would"
                " rename in triggers and views what it leaves here",
                hint="PRAGMA legacy_alter_table = OFF",
            )
        stats: dict[str, dict[int, Row]] = {}
        if traced.verb == "ANALYZE":
            stats = self._read_stats()
            self._muted = True
        elif ddl is not None and ddl.verb == "CREATE":
            self._muted = True
        header: tuple[int, ...] = ()
        if traced.verb == "PRAGMA":
            header = tuple(header_value(self._connection, name) for name in _HEADER)
        self._sql = traced.sql
        return _Before(ddl, schema_version(self._connection), header, stats)

    def _record_effects(self, before: _Before) -> None:
        connection = self._connection
        for name, was in zip(_HEADER, before.header, strict=False):
            now = header_value(connection, name)
            if now != was:
                self._rows.append(Change(Operation.SQL, command=f"PRAGMA {name} = {now}"))
        if before.header:
            return
        changed = schema_version(connection) != before.version
        if changed:
            self._own_schema = True
            self._read_schema()
        ddl = before.ddl
        if ddl is None:
            if changed:
                raise self._break(
                    Code.UNSUPPORTED, "this statement changes the schema in a way that is not known"
                )
            return
        if ddl.verb == "ANALYZE":
            self._record_stats(before.stats, changed)
        elif changed and ddl.as_select:
            self._record_table(ddl)
        elif changed:
            if ddl.verb == "DROP" and ddl.object == "table":
                gone = fold_case(ddl.name)
                self._rows[self._statement :] = [
                    c for c in self._rows[self._statement :] if fold_case(c.table) != gone
                ]
            self._rows.append(Change(Operation.SQL, command=self._sql.strip().rstrip("; \t\r\n")))

    def _record_table(self, ddl: Ddl) -> None:
        """CREATE TABLE … AS: the table that came out of it."""
        found: list[Any] = self._connection.execute(
            "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?"
            " COLLATE NOCASE",
            (ddl.name,),
        ).fetchall()
        name, sql = found[0]
        if ddl.conditional:
            sql = "CREATE TABLE IF NOT EXISTS" + sql.removeprefix("CREATE TABLE")
        self._rows.append(Change(Operation.SQL, command=sql))
        info = self._lookup(name)
        if info is None:
            return
        self._rows.extend(
            Change(_INSERT, info.name, info.columns, info.sent_key, None, rowid, None, row)
            for rowid, row in self._rows_by_rowid(info)
        )

    def _rows_by_rowid(self, info: TableInfo) -> list[tuple[int | None, Row]]:
        rows = read_rows(self._connection, info)
        if info.rowid is None:
            return [(None, row) for row in rows]
        rowids: list[Any] = self._connection.execute(
            f"SELECT {quote(info.rowid)} FROM main.{quote(info.name)} {info.tree}"
        ).fetchall()
        return [(rowid, row) for (rowid,), row in zip(rowids, rows, strict=True)]

    def _read_stats(self) -> dict[str, dict[int, Row]]:
        out: dict[str, dict[int, Row]] = {}
        for name in STAT_TABLES:
            info = (
                self._tables[name] if name in self._tables else load_table(self._connection, name)
            )
            if info is not None:
                out[name] = {
                    rowid: row for rowid, row in self._rows_by_rowid(info) if rowid is not None
                }
        return out

    def _record_stats(self, before: dict[str, dict[int, Row]], created: bool) -> None:
        after = self._read_stats()
        rows: list[Change] = []
        for name, now in after.items():
            info = load_table(self._connection, name)
            assert info is not None
            was = before.get(name, {})
            for rowid in was.keys() - now.keys():
                rows.append(Change(_DELETE, name, info.columns, (), rowid, None, was[rowid]))
            for rowid, row in now.items():
                if rowid not in was:
                    rows.append(Change(_INSERT, name, info.columns, (), None, rowid, None, row))
                elif not _same(was[rowid], row):
                    rows.append(
                        Change(_UPDATE, name, info.columns, (), rowid, rowid, was[rowid], row)
                    )
        if rows or created:
            self._rows.append(Change(Operation.SQL, command="ANALYZE sqlite_schema"))
            self._rows.extend(rows)

    # --- schema and sequences --------------------------------------------------------

    def _read_schema(self) -> None:
        """Forget what was known of tables, and look what there is now."""
        self._tables.clear()
        self._version = -1  # until all is read: a look that is broken off does not count
        version = schema_version(self._connection)
        self._has_virtual, self._has_sequence = schema_flags(self._connection)
        self._version = version

    def _read_sequences(self) -> list[tuple[Value, Value]]:
        if not self._has_sequence:
            return []
        rows: list[Any] = self._connection.execute(
            "SELECT name, seq FROM main.sqlite_sequence ORDER BY rowid"
        ).fetchall()
        return rows

    def _sequence_changes(self) -> tuple[SequenceChange, ...]:
        before, after = self._sequences or [], self._read_sequences()
        if before == after:
            return ()
        self._sequences = after
        old, new = _as_mapping(before), _as_mapping(after)
        return tuple(
            SequenceChange(name, old.get(name), new.get(name))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        )


def _as_mapping(rows: list[tuple[Value, Value]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for name, number in rows:
        if type(name) is not str or type(number) is not int or name in out:
            raise HaError(
                Code.REFUSED,
                "sqlite_sequence may hold one row with an integer for each table, nothing else",
            )
        out[name] = number
    return out


def _difference(info: TableInfo, before: dict[Row, Row], after: dict[Row, Row]) -> list[Change]:
    """Deletions first, so that no row is in the way of another."""
    gone = [row for key, row in before.items() if not _same(after.get(key), row)]
    came = [row for key, row in after.items() if not _same(before.get(key), row)]
    return [
        Change(_DELETE, info.name, info.columns, info.sent_key, None, None, row) for row in gone
    ] + [
        Change(_INSERT, info.name, info.columns, info.sent_key, None, None, None, row)
        for row in came
    ]


def _distinct(value: Value) -> Value:
    """Values that Python holds equal and SQLite's keys do too, but for BLOB beside text."""
    return RawText(value.encode()) if isinstance(value, str) else value


def _key_of(info: TableInfo, rowid: int | None, row: Row) -> _Key:
    if not info.without_rowid:
        return info.name, rowid
    return info.name, tuple(_distinct(row[info.columns.index(c)]) for c in info.pk_columns)


def _same(a: Row | None, b: Row | None) -> bool:
    """Equal in type too (1 is not 1.0)."""
    if a is None or b is None:
        return a is b
    return a == b and all(type(x) is type(y) for x, y in zip(a, b, strict=True))
