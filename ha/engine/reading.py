"""Reading statements, whose rows are fetched piece by piece: nearly all that clients run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import TYPE_CHECKING

import apsw

from ha.core.errors import HaError
from ha.core.values import Value
from ha.engine.api import Params, Rows
from ha.engine.runtime import Runtime
from ha.engine.statements import columns_of
from ha.store.connection import Connection, OverBudget, bind
from ha.store.parse import Parsed

if TYPE_CHECKING:
    from ha.engine.database import Database
    from ha.engine.session import Session


class Query:
    """See :meth:`ha.engine.api.SessionApi.query`. A class, since entering and leaving a
    generator takes longer than a short statement."""

    __slots__ = ("_connection", "_database", "_manager", "_params", "_rows", "_session", "_sql")

    def __init__(self, session: Session, sql: str, params: Params) -> None:
        self._session = session
        self._sql = sql
        self._params = params
        self._manager: AbstractAsyncContextManager[Rows] | None = None
        self._rows: OpenRows | None = None
        self._database: Database | None = None
        self._connection: Connection | None = None
        """Taken from the pool, to be given back."""

    async def __aenter__(self) -> Rows:
        session = self._session
        found = session.find_reading(self._sql, self._params)
        if not isinstance(found, Parsed):
            self._manager = found
            return await found.__aenter__()
        database = session.database
        await database.limiter.__aenter__()
        self._database = database
        try:
            connection = session.own_connection(found)
            if connection is None:
                connection = self._connection = database.store.take_reader()
            connection.raw.set_last_insert_rowid(session.last_insert_id)
            rows = self._rows = OpenRows(session, connection, found, self._params)
            session.open_rows.add(rows)
            return rows
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *exc: object) -> None:
        if self._manager is not None:
            await self._manager.__aexit__(*exc)  # type: ignore[arg-type]
        else:
            self._release()

    def _release(self) -> None:
        rows, connection, database = self._rows, self._connection, self._database
        self._rows = self._connection = self._database = None
        if rows is not None:
            self._session.open_rows.discard(rows)
            rows.close()
        if database is not None:
            if connection is not None:
                database.store.give_reader(connection)
            database.limiter.release()


class OpenRows:
    """See :class:`ha.engine.api.Rows`."""

    __slots__ = (
        "_connection",
        "_cursor",
        "_ended",
        "_error",
        "_session",
        "_sql",
        "_values",
        "columns",
    )

    def __init__(
        self, session: Session, connection: Connection, parsed: Parsed, params: Params
    ) -> None:
        self.columns = columns_of(parsed)
        self._session = session
        self._connection = connection
        self._sql = parsed.sql
        self._values = bind(params, parsed.parameters)
        self._cursor: apsw.Cursor | None = None
        self._ended = False
        self._error: HaError | None = None

    def break_off(self, error: HaError) -> None:
        """There is no more to be had."""
        self.close()
        self._error = error

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        if self._error is not None:
            raise self._error
        if self._ended:
            return []
        session, connection = self._session, self._connection
        rows: list[tuple[Value, ...]] | None = None
        if self._cursor is None:
            session.check_open()
            try:  # noqa: SIM105 (it costs a tenth of a short statement)
                rows = Runtime.run_here(connection, lambda: self._step(count))
            except OverBudget:
                pass
        if rows is None:
            # An open cursor cannot be started again on a thread: it is there from the first.
            rows = await session.run(connection, lambda: self._step(count), long=True)
        if len(rows) < count:
            self._ended = True
        return rows

    def _step(self, count: int) -> list[tuple[Value, ...]]:
        connection = self._connection
        try:
            if self._cursor is None:
                cursor = connection.raw.cursor()
                cursor.execute(self._sql, self._values)
            else:
                cursor = self._cursor
            out: list[tuple[Value, ...]] = list(islice(cursor, count))
        except Exception as error:
            raise connection.translated(error) from error
        self._cursor = cursor
        return out

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close(True)
            self._cursor = None
