"""How a message changes a database: the rules of the fold that look at rows.

Each rule is a function of the state and the message alone, so that every node that applies
the same messages in the same order comes to the same state. Races between valid transactions
never fail here; on the state on which a transaction ran, all rules come to exactly what it did.

**Where.** Changes are applied in their order, in one savepoint, with triggers, foreign keys and
CHECK constraints off: their effects are changes of their own. Only ``main``; never a control
table, a view, a virtual table (its shadow tables yes), nor ``sqlite_`` tables other than
``sqlite_stat1`` and ``sqlite_stat4``.

**Which row.** By the message's ``identify``, else the node's:

- ``pk``: by the declared primary key as the table has it now, compared with the key's own
  collations; a key with a NULL in it by rowid and key; without a declared key by rowid. If the
  message lacks a column of the key (renamed meanwhile): by rowid.
- ``rowid``: by rowid.
- ``full``: the row with the rowid of the message if it has all its old values, else the one
  with the lowest rowid that has; compared bytewise, NULL equal to NULL.
- Tables WITHOUT ROWID: always by primary key. A message without the rowid that is needed, or a
  table whose columns hide it: by all old values, as ``full``.

**INSERT.** If it fits, as it is, with its rowid. Else it replaces: the row of the same identity
and all rows that clash on a UNIQUE index or on the INTEGER PRIMARY KEY vanish (under ``full``
only a row with the message's rowid is the same, equal ones elsewhere are others). Where the rowid
is no part of the identity, it is the message's if that is free, else the replaced row's, else
the next after the greatest (if that is 2^63-1: the lowest free one from 1).

**UPDATE.** Sets all columns of the message, rows that clash on a UNIQUE index vanish. An
explicit change of the rowid is carried out if the new one is free, or is the identity (then the
row there vanishes). If the row is missing: as INSERT.

**DELETE.** If the row is missing: nothing.

**Shape.** By column name: what the table lacks is left out, what the message lacks takes its
default (INSERT) or stays (UPDATE). Generated columns are never written. No such table, or no
column in common: the change is left out. So is a row that does not fit (NOT NULL without a
default, datatype of a STRICT table, INTEGER PRIMARY KEY, an index that fails on it).

**SQL.** One CREATE, DROP, ALTER, REINDEX or ANALYZE for ``main``, or a pragma ``user_version``
or ``application_id``. Done already counts as done (:func:`ha.store.ddl.is_done`). Any other
failure, or SQL that is not of this kind: the whole message is ignored.

**sqlite_sequence.** After all changes. If each table of the message's list stood before the
message where its transaction met it, it is set as the transaction left it; else to the
greater of what is there and what the transaction left, for tables that are there, and nothing is
deleted.

**Messages of existing nodes** (no number of ours): text in a column declared as BLOB that is
base64 is a BLOB, since they cannot write it otherwise. The rest is as above.

CUSTOM is ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import apsw

from ha.core.changeset import Change, ChangeSet, FormatError, Identify, Operation, SequenceChange
from ha.store.ddl import Ddl, is_done, read_ddl
from ha.store.schema import (
    STAT_TABLES,
    Row,
    TableInfo,
    bindings,
    is_blob_type,
    load_table,
    schema_version,
)
from ha.store.tokens import fold_case, quote

MAX_ROWID = 2**63 - 1
_SAVEPOINT = "ha_apply"
_PARAMETER = re.compile(r'"(?:[^"]|"")*"|\?')
_HEADER_PRAGMAS = ("user_version", "application_id")
_FAILURES = (
    apsw.SQLError,
    apsw.AuthError,
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.BindingsError,
    apsw.ExecTraceAbort,
)
"""What SQL of a message may end with that is the message's own fault."""
_MISSING_PARTS = (
    "no such module",
    "no such function",
    "no such collation",
    "no such tokenizer",
    "unknown tokenizer",
)


class NotCapable(FormatError):
    """This node lacks what the message needs: an extension that its writer had loaded."""


@dataclass(frozen=True, slots=True)
class Applied:
    """``applied`` False: the fold ignores the message, for ``reason``, and nothing changed.
    ``skipped`` counts the changes that did not fit; ``schema``: some SQL was run."""

    applied: bool = True
    reason: str = ""
    rows: int = 0
    skipped: int = 0
    schema: bool = False


class _Ignored(Exception):
    """The message as a whole is ignored."""


@dataclass(slots=True)
class _Plan:
    """How changes of one table and one list of columns are applied; made once a schema version.

    ``take`` picks from a row of the message what the table has (None: all of it); ``names``
    are those columns. ``key`` are positions in the message's row of the primary key.
    ``carry``: the INSERT has the rowid as its first value. ``own_rowid``: the rowid is no part
    of the identity.
    """

    info: TableInfo
    names: tuple[str, ...]
    take: tuple[int, ...] | None
    mode: Identify
    key: tuple[int, ...]
    carry: bool
    own_rowid: bool
    insert: str
    replace: str
    update_head: str
    update: str
    update_rowid: str
    delete: str
    integer_key: int | None
    blobs: tuple[int, ...]


class Applier:
    """Applies messages through one connection that does nothing else.

    It switches triggers, foreign keys and CHECK constraints off on ``connection``.
    """

    def __init__(self, connection: apsw.Connection, control_tables: Collection[str] = ()) -> None:
        self._connection = connection
        self._control = frozenset(map(fold_case, control_tables))
        self._plans: dict[tuple[str, tuple[str, ...], Identify], _Plan | None] = {}
        self._version = -1
        self._data_version = -1
        self._existing = False
        connection.set_rollback_hook(self._forget_schema, id=self)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA legacy_alter_table = OFF")

    def apply(
        self,
        change_set: ChangeSet,
        default_identify: Identify = Identify.PK,
        earlier: Iterable[Sequence[Change]] = (),
    ) -> Applied:
        """Apply a message, whole or not at all, in the open SQLite transaction.

        ``earlier``: changes of the same transaction that came in parts before this message.
        Raises FormatError for a message that no rule can take, and APSW's errors for what is
        not the message's fault (disk full, interrupted); nothing of it is applied then.
        """
        connection = self._connection
        connection.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            self._check_schema()
            self._existing = change_set.origin is None
            mode = change_set.identify or default_identify
            sequences = self._sequences(change_set.sequences)
            total = skipped = 0
            schema = False
            for changes in chain(earlier, (change_set.changes,)):
                for change in changes:
                    operation = change.operation
                    if operation is Operation.SQL:
                        self._run(change)
                        schema = True
                    elif operation is Operation.CUSTOM:
                        continue
                    elif not self._row(change, mode):
                        skipped += 1
                    total += 1
            if change_set.sequences:
                self._set_sequences(change_set.sequences, sequences)
        except _Ignored as reason:
            self._undo()
            return Applied(False, str(reason))
        except BaseException:
            self._undo()
            raise
        connection.execute(f"RELEASE {_SAVEPOINT}")
        return Applied(True, "", total, skipped, schema)

    def _undo(self) -> None:
        self._forget_schema()
        if self._connection.in_transaction:
            self._connection.execute(f"ROLLBACK TO {_SAVEPOINT}")
            self._connection.execute(f"RELEASE {_SAVEPOINT}")

    # --- rows ------------------------------------------------------------------------

    def _row(self, change: Change, mode: Identify) -> bool:
        """Apply one row change. False if it does not fit into the database as it is."""
        key = (change.table, change.columns, mode)
        try:
            plan = self._plans[key]
        except KeyError:
            plan = self._plans[key] = self._plan(change, mode)
        if plan is None or change.database != "main":
            return False
        operation = change.operation
        old, new = change.old_values, change.new_values
        if plan.blobs and self._existing:
            old, new = self._as_blobs(plan, old), self._as_blobs(plan, new)
        try:
            if operation is Operation.INSERT:
                assert new is not None
                return self._insert(plan, new, change.new_rowid)
            if operation is Operation.DELETE:
                return self._delete(plan, old, change.old_rowid)
            assert new is not None
            return self._update(plan, old, new, change.old_rowid, change.new_rowid)
        except (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError):
            return False
        except apsw.SQLError as error:
            _raise_missing(error)
            return False

    def _insert(self, plan: _Plan, new: Row, rowid: int | None) -> bool:
        values = new if plan.take is None else tuple(new[i] for i in plan.take)
        if not plan.own_rowid:
            if plan.carry:
                values = (self._free_rowid(plan, None) if rowid is None else rowid, *values)
            elif plan.integer_key is not None and values[plan.integer_key] is None:
                at = plan.integer_key
                values = (*values[:at], self._free_rowid(plan, rowid), *values[at + 1 :])
            self._run_row(plan.replace, values)
            return True
        if rowid is not None:
            self._run_row(plan.insert, (rowid, *values))
            if self._connection.changes():
                return True
        # Something is in the way: REPLACE removes it, but must not meet an innocent rowid.
        former = self._former(plan, new, values, rowid)
        if former is None:
            place = self._free_rowid(plan, rowid)
        elif rowid is None or (rowid != former and self._exists(plan, rowid)):
            place = former
        else:
            place = rowid
        self._run_row(plan.replace, (place, *values))
        return True

    def _former(self, plan: _Plan, new: Row, values: Row, rowid: int | None) -> int | None:
        """The row that an INSERT replaces, being the same one."""
        if plan.mode is Identify.PK:
            return self._find(plan, new, rowid)
        if rowid is None:
            return None
        if plan.mode is Identify.ROWID:
            return rowid if self._exists(plan, rowid) else None
        return self._select_full(plan, values, rowid)

    def _update(
        self, plan: _Plan, old: Row | None, new: Row, old_rowid: int | None, new_rowid: int | None
    ) -> bool:
        if plan.info.without_rowid and not plan.key:
            return False
        found = new if old is None else old
        if old_rowid is None and old is None:
            old_rowid = new_rowid
        where = self._where(plan, found, old_rowid)
        values = new if plan.take is None else tuple(new[i] for i in plan.take)
        if where is None:
            rowid = self._find(plan, found, old_rowid)
            if rowid is None:
                return self._insert(plan, new, new_rowid)
            where = (rowid,)
            sql = plan.update_rowid
        else:
            sql = plan.update
        moved = (
            plan.carry
            and new_rowid is not None
            and old_rowid is not None
            and new_rowid != old_rowid
            and not (plan.own_rowid and self._exists(plan, new_rowid))
        )
        if moved:
            assert plan.info.rowid is not None
            sql = f"{plan.update_head}{quote(plan.info.rowid)} = ?, {sql[len(plan.update_head) :]}"
            values = (new_rowid, *values)
        self._run_row(sql, (*values, *where))
        if not self._connection.changes():
            return self._insert(plan, new, new_rowid)
        return True

    def _delete(self, plan: _Plan, old: Row | None, rowid: int | None) -> bool:
        if plan.info.without_rowid and (old is None or not plan.key):
            return False
        where = self._where(plan, old, rowid)
        if where is not None:
            self._run_row(plan.delete, where)
            return True
        found = self._find(plan, old, rowid)
        if found is not None:
            self._delete_rowid(plan, found)
        return True

    # --- finding rows ----------------------------------------------------------------

    def _where(self, plan: _Plan, row: Row | None, rowid: int | None) -> Row | None:
        """Values for the condition of ``plan.update`` and ``plan.delete``; None if it does not
        serve for this row."""
        if plan.mode is Identify.PK:
            if row is None:
                return None
            key = tuple(row[i] for i in plan.key)
            return None if None in key else key
        if plan.mode is Identify.ROWID and rowid is not None:
            return (rowid,)
        return None

    def _find(self, plan: _Plan, row: Row | None, rowid: int | None) -> int | None:
        """The rowid of the row that has the identity of ``row``."""
        info = plan.info
        if info.rowid is None:
            return None
        if plan.mode is Identify.PK and row is not None:
            key = tuple(row[i] for i in plan.key)
            condition = _key_condition(info)
            if None not in key:
                return self._select_rowid(plan, condition, key)
            if rowid is not None:
                both = f"{quote(info.rowid)} = ? AND {condition}"
                return self._select_rowid(plan, both, (rowid, *key))
        elif rowid is not None and (plan.mode is Identify.ROWID or row is None):
            return rowid if self._exists(plan, rowid) else None
        if row is None:
            return None
        values = row if plan.take is None else tuple(row[i] for i in plan.take)
        found = self._select_full(plan, values, rowid)
        return self._select_full(plan, values) if found is None else found

    def _select_full(self, plan: _Plan, values: Row, rowid: int | None = None) -> int | None:
        """The lowest rowid of a row with these values, or ``rowid`` if that is one."""
        condition = " AND ".join(f"{quote(c)} COLLATE BINARY IS ?" for c in plan.names)
        if rowid is None:
            lowest = f"ORDER BY {quote(plan.info.rowid or '')} LIMIT 1"
            return self._select_rowid(plan, f"{condition} {lowest}", values)
        both = f"{quote(plan.info.rowid or '')} = ? AND {condition}"
        return self._select_rowid(plan, both, (rowid, *values))

    def _select_rowid(self, plan: _Plan, condition: str, values: Row) -> int | None:
        sql = (
            f"SELECT {quote(plan.info.rowid or '')} FROM main.{quote(plan.info.name)}"
            f" WHERE {condition}"
        )
        for (found,) in self._run_row(sql, values):
            return int(found)
        return None

    def _exists(self, plan: _Plan, rowid: int) -> bool:
        return self._select_rowid(plan, f"{quote(plan.info.rowid or '')} = ?", (rowid,)) is not None

    def _delete_rowid(self, plan: _Plan, rowid: int) -> None:
        info = plan.info
        self._connection.execute(
            f"DELETE FROM main.{quote(info.name)} WHERE {quote(info.rowid or '')} = ?", (rowid,)
        )

    def _free_rowid(self, plan: _Plan, wanted: int | None) -> int:
        """``wanted`` if it is free, else one after the greatest, else the lowest free one."""
        if wanted is not None and not self._exists(plan, wanted):
            return wanted
        table, rowid = f"main.{quote(plan.info.name)}", quote(plan.info.rowid or "")
        greatest = self._connection.execute(f"SELECT max({rowid}) FROM {table}").get
        if greatest is None:
            return 1
        if greatest < MAX_ROWID:
            return int(greatest) + 1
        return int(
            self._connection.execute(
                f"SELECT min(candidate) FROM (SELECT 1 AS candidate UNION ALL"
                f" SELECT {rowid} + 1 FROM {table} WHERE {rowid} BETWEEN 1 AND {MAX_ROWID - 1})"
                f" WHERE candidate NOT IN (SELECT {rowid} FROM {table})"
            ).get
        )

    def _run_row(self, sql: str, values: Row) -> apsw.Cursor:
        try:
            return self._connection.execute(sql, values)
        except (TypeError, UnicodeEncodeError):
            bound, casts = bindings(values)
            if casts is None:
                raise
            return self._connection.execute(_with_casts(sql, casts), bound)

    def _as_blobs(self, plan: _Plan, row: Row | None) -> Row | None:
        if row is None:
            return None
        out = list(row)
        for i in plan.blobs:
            value = out[i]
            if isinstance(value, str):
                try:
                    out[i] = base64.b64decode(value, validate=True)
                except (binascii.Error, ValueError):
                    continue
        return tuple(out)

    # --- plans -----------------------------------------------------------------------

    def _plan(self, change: Change, mode: Identify) -> _Plan | None:
        folded = fold_case(change.table)
        if folded in self._control or (folded.startswith("sqlite_") and folded not in STAT_TABLES):
            return None
        info = load_table(self._connection, change.table)
        if info is None or not info.ordinary:
            return None
        take: list[int] = []
        names: list[str] = []
        at: dict[str, int] = {}
        for position, column in enumerate(change.columns):
            name = fold_case(column)
            if name in info.folded and name not in at:
                at[name] = position
                take.append(position)
                names.append(info.columns[info.folded[name]])
        if not names:
            return None
        key = tuple(at.get(fold_case(c), -1) for c in info.pk_columns)
        if info.without_rowid:
            if -1 in key:
                key = ()
            mode = Identify.PK
        elif mode is Identify.PK and (not key or -1 in key):
            mode, key = Identify.ROWID, ()
        if mode is Identify.ROWID and info.rowid is None:
            mode = Identify.FULL
        integer_key = None
        if info.integer_key is not None and info.integer_key in names:
            integer_key = names.index(info.integer_key)
        carry = info.rowid is not None and integer_key is None
        table = f"main.{quote(info.name)}"
        columns = ", ".join([quote(info.rowid or "")] * carry + list(map(quote, names)))
        marks = ", ".join("?" * (len(names) + carry))
        sets = ", ".join(f"{quote(c)} = ?" for c in names)
        by_rowid = f"{quote(info.rowid or '')} = ?"
        where = _key_condition(info) if mode is Identify.PK else by_rowid
        head = f"UPDATE OR REPLACE {table} SET "
        return _Plan(
            info=info,
            names=tuple(names),
            take=None if take == list(range(len(change.columns))) else tuple(take),
            mode=mode,
            key=key,
            carry=carry,
            own_rowid=carry and mode is not Identify.ROWID,
            insert=f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",
            replace=f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})",
            update_head=head,
            update=f"{head}{sets} WHERE {where}",
            update_rowid=f"{head}{sets} WHERE {by_rowid}",
            delete=f"DELETE FROM {table} WHERE {where}",
            integer_key=integer_key,
            blobs=_blob_positions(info, at),
        )

    def _forget_schema(self) -> None:
        """Its version number says nothing now: it was changed, and that may be rolled back."""
        self._plans.clear()
        self._version = -1

    def _check_schema(self) -> None:
        """Drop plans made for another schema than the present one."""
        data_version = self._connection.data_version("main")
        if self._version == -1 or data_version != self._data_version:
            version = schema_version(self._connection)
            if version != self._version:
                self._plans.clear()
                self._version = version
            self._data_version = data_version

    # --- SQL -------------------------------------------------------------------------

    def _run(self, change: Change) -> None:
        """Run the SQL of a change. Raises _Ignored."""
        if change.database != "main":
            raise _Ignored(f"SQL for database {change.database!r}; only main is replicated")
        ddl = read_ddl(change.command)
        refusal = self._refusal(ddl, change.command)
        if refusal is not None or ddl is None:
            raise _Ignored(f"{refusal}: {_shown(change.command)}")
        connection = self._connection
        self._forget_schema()
        gate = _Gate(self._control)
        before = connection.authorizer
        connection.authorizer = gate
        cursor = connection.cursor()
        cursor.exec_trace = gate.one_statement
        try:
            cursor.execute(change.command, change.args, can_cache=False).fetchall()
        except _FAILURES as error:
            failure: Exception = error
        else:
            return
        finally:
            connection.authorizer = before
        _raise_missing(failure)
        if gate.refused:
            raise _Ignored(f"{gate.refused} is not allowed in a message")
        if not is_done(connection, ddl):
            raise _Ignored(f"{failure}: {_shown(change.command)}")

    def _refusal(self, ddl: Ddl | None, command: str) -> str | None:
        if ddl is None:
            return "not a statement that changes the schema"
        if ddl.temp or fold_case(ddl.schema) not in ("", "main"):
            return "only the schema main is replicated"
        if ddl.verb == "PRAGMA" and fold_case(ddl.name) not in _HEADER_PRAGMAS:
            return "a pragma that is not replicated"
        if fold_case(ddl.name) in self._control or fold_case(ddl.new_name) in self._control:
            return "a control table"
        return None

    # --- sqlite_sequence -------------------------------------------------------------

    def sequences_as_they_are(self, tables: Iterable[str]) -> tuple[SequenceChange, ...]:
        """For a change set that is to leave the numbers of ``tables`` alone."""
        wanted = [SequenceChange(table, None, None) for table in sorted(tables)]
        now = self._sequences(wanted)
        return tuple(SequenceChange(c.table, now.get(c.table), now.get(c.table)) for c in wanted)

    def _sequences(self, wanted: Sequence[SequenceChange]) -> dict[str, int]:
        """The present numbers of the tables named."""
        out: dict[str, int] = {}
        if not wanted or not self._has_sequence():
            return out
        for change in wanted:
            for (number,) in self._connection.execute(
                "SELECT seq FROM main.sqlite_sequence WHERE name = ?", (change.table,)
            ):
                if type(number) is int:
                    out[change.table] = max(number, out.get(change.table, number))
        return out

    def _has_sequence(self) -> bool:
        return bool(
            self._connection.execute(
                "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')"
            ).get
        )

    def _is_table(self, name: str) -> bool:
        return bool(
            self._connection.execute(
                "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema"
                " WHERE type = 'table' AND name = ?)",
                (name,),
            ).get
        )

    def _set_sequences(self, changes: Sequence[SequenceChange], before: dict[str, int]) -> None:
        if not self._has_sequence():
            return
        exact = all(before.get(change.table) == change.old for change in changes)
        now = self._sequences(changes)
        for change in changes:
            number = change.new
            current = now.get(change.table)
            if not exact:
                number = max((n for n in (current, change.new) if n is not None), default=None)
            if number == current or not (exact or self._is_table(change.table)):
                continue
            if number is not None and current is not None:
                self._connection.execute(
                    "UPDATE main.sqlite_sequence SET seq = ? WHERE name = ?", (number, change.table)
                )
                continue
            self._connection.execute(
                "DELETE FROM main.sqlite_sequence WHERE name = ?", (change.table,)
            )
            if number is not None:
                self._connection.execute(
                    "INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)",
                    (change.table, number),
                )


class _Gate:
    """The authorizer while SQL of a message runs: nothing beyond the schema of ``main``."""

    _NEVER: ClassVar = {
        apsw.SQLITE_ATTACH: "ATTACH",
        apsw.SQLITE_DETACH: "DETACH",
        apsw.SQLITE_CREATE_TEMP_INDEX: "a TEMP object",
        apsw.SQLITE_CREATE_TEMP_TABLE: "a TEMP object",
        apsw.SQLITE_CREATE_TEMP_TRIGGER: "a TEMP object",
        apsw.SQLITE_CREATE_TEMP_VIEW: "a TEMP object",
    }
    _FUNCTIONS = ("load_extension", "writefile", "edit", "fts3_tokenizer")
    _NAMED_FIRST = (
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_DELETE,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_VTABLE,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_VTABLE,
    )
    _NAMED_SECOND = (
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_ALTER_TABLE,
    )

    def __init__(self, control: frozenset[str]) -> None:
        self._control = control
        self.refused = ""
        self._statements = 0

    def one_statement(self, cursor: apsw.Cursor, _sql: str, _args: apsw.Bindings | None) -> bool:
        """An execution tracer that lets the first statement pass only."""
        self._statements += cursor.has_vdbe
        if self._statements > 1:
            self.refused = "more than one statement"
        return self._statements <= 1

    def __call__(
        self,
        operation: int,
        first: str | None,
        second: str | None,
        database: str | None,
        inner: str | None,
    ) -> int:
        refused = self._NEVER.get(operation)
        if operation == apsw.SQLITE_FUNCTION and fold_case(second or "") in self._FUNCTIONS:
            refused = f"{second}()"
        elif operation in self._NAMED_FIRST and fold_case(first or "") in self._control:
            refused = f"writing to {first}"
        elif operation in self._NAMED_SECOND and fold_case(second or "") in self._control:
            refused = f"changing {second}"
        if refused is None:
            return apsw.SQLITE_OK
        self.refused = refused
        return apsw.SQLITE_DENY


def _key_condition(info: TableInfo) -> str:
    """Compared as the primary key compares, so that its index finds the one row."""
    return " AND ".join(
        f"{quote(column)} COLLATE {quote(collation)} IS ?"
        for column, collation in zip(info.pk_columns, info.pk_collations, strict=True)
    )


def _blob_positions(info: TableInfo, at: dict[str, int]) -> tuple[int, ...]:
    return tuple(
        at[fold_case(column)]
        for column, decltype in zip(info.columns, info.declared, strict=True)
        if is_blob_type(decltype) and fold_case(column) in at
    )


def _with_casts(sql: str, casts: tuple[bool, ...]) -> str:
    """``sql`` with CAST(? AS TEXT) for the parameters where ``casts`` says so."""
    each = iter(casts)

    def put(match: re.Match[str]) -> str:
        return "CAST(? AS TEXT)" if match[0] == "?" and next(each) else match[0]

    return _PARAMETER.sub(put, sql)


def _raise_missing(error: Exception) -> None:
    message = str(error)
    if any(part in message for part in _MISSING_PARTS):
        raise NotCapable(
            f"{message}: this node lacks an extension that the writer of the message had loaded"
        ) from error


def _shown(command: str) -> str:
    return command if len(command) <= 200 else command[:200] + "…"
