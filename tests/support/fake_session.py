"""Sessions without an engine, for tests of wires: one SQLite database, no log, and handles.

The handles are what it is for: a test decides when a statement ends, how it fails, and sees
which sessions were cancelled and closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import apsw

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import Column, Kind, Params, Prepared, Result, Rows, Statement, Status


class FakeSessions:
    """``on_statement``: awaited before each statement, may raise. ``txseq``: as if written."""

    def __init__(self, *ids: str) -> None:
        self.databases = {name: apsw.Connection(":memory:") for name in ids or ("ha.db",)}
        self.on_statement: Callable[[str], Awaitable[None]] | None = None
        self.txseq = 0
        self.shown = 0
        self.opened: list[FakeSession] = []

    def session(self, database_id: str | None = None, *, protocol: str) -> FakeSession:
        name = next(iter(self.databases)) if database_id is None else database_id
        if name not in self.databases:
            raise HaError(Code.NOT_FOUND, f"there is no database {name!r}")
        session = FakeSession(self, name, protocol)
        self.opened.append(session)
        return session

    def database_ids(self) -> list[str]:
        return list(self.databases)


class FakeSession:
    def __init__(self, sessions: FakeSessions, database_id: str, protocol: str) -> None:
        self._sessions = sessions
        self._database = sessions.databases[database_id]
        self.database_id = database_id
        self.protocol = protocol
        self.txseq = 0
        self.waited_for: list[int] = []
        self.cancelled = False
        self.closed = False

    @property
    def status(self) -> Status:
        return Status.TRANSACTION if self._database.in_transaction else Status.IDLE

    async def prepare(self, sql: str) -> Prepared:
        raise NotImplementedError

    async def execute(
        self, sql: str, params: Params = None, *, max_rows: int | None = None
    ) -> Result:
        if self._sessions.on_statement is not None:
            await self._sessions.on_statement(sql)
        columns: list[Column] = []

        def describe(cursor: apsw.Cursor, sql: str, params: object) -> bool:
            columns.extend(Column(name) for name, _ in cursor.get_description())
            return True

        cursor = self._database.cursor()
        cursor.exec_trace = describe
        changes = self._database.total_changes()
        try:
            rows: list[tuple[Value, ...]] = list(cursor.execute(sql, params))
        except apsw.ConstraintError as error:
            raise HaError(Code.UNIQUE_VIOLATION, str(error)) from error
        except apsw.Error as error:
            raise HaError(Code.SQL_ERROR, str(error)) from error
        if max_rows is not None and len(rows) > max_rows:
            raise HaError(Code.TOO_LARGE, f"the result has more than {max_rows} rows")
        affected = self._database.total_changes() - changes
        if affected:
            self.txseq = self._sessions.txseq
        kind = Kind.WRITE if affected else Kind.READ
        last = self._database.last_insert_rowid()
        return Result(kind, "", tuple(columns), rows, rows_affected=affected, last_insert_id=last)

    async def transaction(
        self, statements: Sequence[Statement], *, max_rows: int | None = None
    ) -> list[Result]:
        with self._database:  # a savepoint, rolled back by an error
            return [await self.execute(s.sql, s.params, max_rows=max_rows) for s in statements]

    def query(self, sql: str, params: Params = None) -> AbstractAsyncContextManager[Rows]:
        raise NotImplementedError

    async def wait_for(self, txseq: int) -> None:
        self.waited_for.append(txseq)
        if txseq > self._sessions.shown:
            raise HaError(Code.STALE, f"sequence {txseq} was not reached in time", sequence=txseq)

    async def use_database(self, database_id: str) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        self.cancelled = True

    async def aclose(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        self.closed = True
