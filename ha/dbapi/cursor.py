"""What both kinds of cursors know, and PEP 249 says of it."""

from __future__ import annotations

from typing import TypeAlias

from ha.core.values import Value
from ha.dbapi.core import Core, Outcome
from ha.dbapi.errors import InterfaceError, NotSupportedError, ProgrammingError
from ha.dbapi.messages import Bound
from ha.dbapi.types import Parameters, adapt_all, storage_class

Description: TypeAlias = tuple[str, str | None, None, None, None, None, None]


class CursorState:
    """``arraysize``: how many rows ``fetchmany`` gives when it is not told."""

    arraysize = 1

    def __init__(self) -> None:
        self._outcome: Outcome | None = None
        self._closed = False
        self._taken = 0
        self.description: tuple[Description, ...] | None = None
        """Name and type of each column; None when the statement answers no rows."""
        self.rowcount = -1
        """Rows that the last statement changed; -1 when it changes none."""
        self.lastrowid: int | None = None

    @property
    def rownumber(self) -> int | None:
        """The index of the next row; None without a result."""
        return None if self._outcome is None or self._outcome.columns is None else self._taken

    def _begin(self, core: Core) -> Core:
        """Before a statement: what the one before left is gone."""
        self._check_open()
        core.check_open()
        if self._outcome is not None:
            core.forget(self._outcome)
        self._outcome = None
        self._taken = 0
        self.description = None
        self.rowcount = -1
        return core

    def _adapt(self, parameters: Parameters) -> Bound:
        return adapt_all(parameters)

    def _finish(self, outcome: Outcome, *, many: bool = False) -> None:
        self._outcome = outcome
        columns = None if many else outcome.columns
        if columns is not None:
            first = outcome.rows[0] if outcome.rows else (None,) * len(columns)
            self.description = tuple(
                (name, declared or storage_class(value), None, None, None, None, None)
                for (name, declared), value in zip(columns, first, strict=True)
            )
        if outcome.verb in ("INSERT", "REPLACE", "UPDATE", "DELETE"):
            self.rowcount = outcome.rows_affected
        if outcome.verb in ("INSERT", "REPLACE") and outcome.rows_affected and not many:
            self.lastrowid = outcome.last_insert_id

    def _result(self) -> Outcome:
        self._check_open()
        if self._outcome is None or self.description is None:
            raise ProgrammingError("there is no result to fetch from")
        return self._outcome

    def _take(self, outcome: Outcome, count: int) -> list[tuple[Value, ...]]:
        rows = outcome.rows
        out = [rows.popleft() for _ in range(min(count, len(rows)))]
        self._taken += len(out)
        return out

    def _close(self, core: Core) -> None:
        if self._outcome is not None:
            core.forget(self._outcome)
        self._outcome = None
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("the cursor is closed")

    def setinputsizes(self, sizes: object) -> None:
        """Does nothing, as PEP 249 allows."""
        self._check_open()

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing, as PEP 249 allows."""
        self._check_open()

    def nextset(self) -> None:
        raise NotSupportedError("a statement has one result")

    def callproc(self, name: str, parameters: object = ()) -> None:
        raise NotSupportedError("SQLite has no stored procedures")
