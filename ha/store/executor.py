"""Runs client statements on a writing connection and captures what they change.

A *unit* is what becomes one message: the statements of one transaction. The shared executor
runs many units, each in a savepoint, in one SQLite transaction (a batch); a session's own
executor runs one unit over many calls (an interactive transaction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import apsw

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.store.capture import Captured, Mark, Recorder, Traced
from ha.store.connection import Connection, bind
from ha.store.parse import CONTROL_TABLES, Parsed
from ha.store.tokens import quote


class TransactionLost(Exception):
    """The whole SQLite transaction has ended (OR ROLLBACK, RAISE, interrupt, error of the disk)."""

    def __init__(self, error: HaError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class Ran:
    """What one statement answered."""

    columns: tuple[tuple[str, str | None, str | None, str | None], ...]
    rows: list[tuple[Value, ...]]
    rows_affected: int
    last_insert_id: int


class Executor:
    """One writing connection with its recorder."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._recorder = Recorder(connection.raw, CONTROL_TABLES)
        self._savepoints: list[tuple[str, Mark]] = []
        self._wrote = False
        self.current: object = None
        """Whose statements are running; the caller's to set."""
        connection.raw.create_scalar_function("changes", self._changes, 0)

    @property
    def changes(self) -> int:
        """What ``changes()`` answers."""
        return self._changes()

    def _changes(self, *_: object) -> int:
        return self.connection.raw.changes() if self._wrote else self.connection.session_changes

    @property
    def has_virtual_tables(self) -> bool:
        """As :meth:`start` has seen it."""
        return self._recorder.has_virtual_tables

    def impersonate(self, last_insert_id: int, changes: int) -> None:
        """Let ``last_insert_rowid()`` and ``changes()`` be those of a session."""
        self.connection.raw.set_last_insert_rowid(last_insert_id)
        self.connection.session_changes = changes
        self._wrote = False

    # --- a unit ----------------------------------------------------------------------

    def start(self) -> None:
        """A unit begins, in an open SQLite transaction."""
        self._savepoints.clear()
        self._recorder.start()

    def begin_again(self) -> None:
        """On the newest snapshot, as the writer: nothing but SAVEPOINTs has run so far."""
        names = [name for name, _ in self._savepoints]
        raw = self.connection.raw
        last_id = raw.last_insert_rowid()
        deferred = self.connection.execute("PRAGMA defer_foreign_keys")  # ROLLBACK resets it
        self.discard()
        self.connection.rollback()
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute(f"PRAGMA defer_foreign_keys = {deferred}")
        raw.set_last_insert_rowid(last_id)
        self.start()
        for name in names:
            self.connection.execute(f"SAVEPOINT {quote(name)}")
            self._savepoints.append((name, self.mark()))

    def require_transaction(self, cause: HaError | None = None) -> None:
        """Raises TransactionLost, of ``cause``, unless the transaction is still open.

        After an error of the disk SQLite rolls all back, also while a statement is only prepared:
        what ran next would commit by itself.
        """
        if not self.connection.in_transaction:
            error = cause or HaError(
                Code.IO_ERROR,
                "the transaction was rolled back after an error of the disk",
                hint="run it again",
            )
            raise TransactionLost(error) from cause

    def finish(self) -> Captured | None:
        """The unit ends: what it changed, None if nothing. Raises FOREIGN_KEY_VIOLATION when
        SQLite would refuse to commit it, TransactionLost."""
        self.require_transaction()
        raw = self.connection.raw
        if raw.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0] > 0:
            raise HaError(
                Code.FOREIGN_KEY_VIOLATION,
                "FOREIGN KEY constraint failed",
                detail="a deferred foreign key has no parent row at the end of the transaction",
                sqlite_code=apsw.SQLITE_CONSTRAINT_FOREIGNKEY,
            )
        try:
            return self._recorder.finish()
        except apsw.Error as error:
            raise self.connection.translated(error) from error

    def discard(self) -> None:
        """The unit is given up; the caller rolls back."""
        self._recorder.discard()
        self._savepoints.clear()

    def mark(self) -> Mark:
        """A point within the unit, for :meth:`rewind`."""
        return self._recorder.mark()

    def rewind(self, mark: Mark) -> None:
        """Forget what was captured since ``mark``; the caller rolls back to it."""
        self._recorder.rewind(mark)

    # --- statements ------------------------------------------------------------------

    def run(self, parsed: Parsed, params: object, max_rows: int | None = None) -> Ran:
        """Run one statement of the unit.

        Raises HaError (the statement changed nothing), TransactionLost, OverBudget.
        """
        self.require_transaction()
        if parsed.dml:
            return self._change_rows(parsed, params, max_rows)
        if parsed.savepoint is not None:
            return self._savepoint(parsed)
        connection = self.connection
        raw = connection.raw
        writes = parsed.changes_file
        values = bind(params, parsed.parameters)  # type: ignore[arg-type]
        try:
            if writes:
                self._recorder.statement_begin(Traced(parsed.sql, parsed.verb, parsed.ddl))
        except apsw.Error as error:
            raise connection.translated(error) from error
        try:
            rows = connection.rows(parsed.sql, values, max_rows)
        except HaError as error:
            self.require_transaction(error)
            if writes:
                self._statement_failed()
            raise
        if not writes:
            return Ran(parsed.columns, rows, 0, raw.last_insert_rowid())
        try:
            self._recorder.statement_end()
        except HaError:
            self._recorder.discard()
            raise
        except apsw.Error as error:
            self._recorder.discard()
            raise connection.translated(error) from error
        return Ran(parsed.columns, rows, 0, raw.last_insert_rowid())

    def run_many(self, parsed: Parsed, parameters: Iterable[object]) -> Iterator[tuple[int, int]]:
        """Run one INSERT, UPDATE, DELETE or REPLACE that answers no rows, with each of these
        parameters: rows affected and last insert id of each. Raises as :meth:`run` does."""
        self.require_transaction()
        connection, recorder = self.connection, self._recorder
        spend, rows_begin, rows_end = connection.spend, recorder.rows_begin, recorder.statement_end
        changes, last_id = connection.raw.changes, connection.raw.last_insert_rowid
        sql, names = parsed.sql, parsed.parameters
        execute = connection.cursor.execute
        for params in parameters:
            spend()
            values = bind(params, names)  # type: ignore[arg-type]
            rows_begin()
            try:
                execute(sql, values)
            except Exception as error:
                self._failed(connection.translated(error), error)
            self._ended(rows_end)
            yield changes(), last_id()

    def _change_rows(self, parsed: Parsed, params: object, max_rows: int | None) -> Ran:
        """INSERT, UPDATE, DELETE and REPLACE: what almost every transaction is made of."""
        connection = self.connection
        recorder = self._recorder
        values = bind(params, parsed.parameters)  # type: ignore[arg-type]
        recorder.rows_begin()
        try:
            rows = connection.rows(parsed.sql, values, max_rows)
        except HaError as error:
            self._failed(error, error.__cause__)
        self._ended(recorder.statement_end)
        raw = connection.raw
        return Ran(parsed.columns, rows, raw.changes(), raw.last_insert_rowid())

    def _failed(self, error: Exception, cause: BaseException | None) -> NoReturn:
        """SQLite refused a statement that changes rows."""
        if isinstance(error, HaError):
            self.require_transaction(error)
            self._statement_failed()
        raise error from cause

    def _ended(self, rows_end: Callable[[], None]) -> None:
        try:
            rows_end()
        except HaError:
            self._recorder.discard()
            raise
        except apsw.Error as error:
            self._recorder.discard()
            raise self.connection.translated(error) from error
        self._wrote = True

    def _statement_failed(self) -> None:
        try:
            self._recorder.statement_failed()
        except apsw.Error as error:
            raise self.connection.translated(error) from error

    def _savepoint(self, parsed: Parsed) -> Ran:
        assert parsed.savepoint is not None
        operation, name = parsed.savepoint
        if operation == "BEGIN":
            self.connection.rows(parsed.sql)
            self._savepoints.append((name.lower(), self._recorder.mark()))
            return Ran((), [], 0, 0)
        index = self._find_savepoint(name)
        self.connection.rows(parsed.sql)
        if operation == "RELEASE":
            del self._savepoints[index:]
        else:
            self._recorder.rewind(self._savepoints[index][1])
            del self._savepoints[index + 1 :]
        return Ran((), [], 0, 0)

    def _find_savepoint(self, name: str) -> int:
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index][0] == name.lower():
                return index
        raise HaError(Code.SQL_ERROR, f"no such savepoint: {name}")

    def is_outermost(self, savepoint: str) -> bool:
        """Releasing it releases all. Raises SQL_ERROR when there is none of the name."""
        return self._find_savepoint(savepoint) == 0
