"""Where the rows of a portal come from: a list, or an open query of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ha.core.values import Value
from ha.engine.api import Rows, SessionApi
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.plan import Plan
from ha.wire.postgres.rows import Row

BATCH_ROWS = 64
MAX_BATCH_ROWS = 8192
BATCH_BYTES = 512 * 1024


class Source(Protocol):
    async def fetch(self, count: int) -> list[Row]:
        """Exactly ``count`` rows, fewer only at the end."""
        ...

    async def aclose(self) -> None: ...


class ListSource:
    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._position = 0

    async def fetch(self, count: int) -> list[Row]:
        out = self._rows[self._position : self._position + count]
        self._position += len(out)
        return out

    async def aclose(self) -> None:
        self._rows = []


class QuerySource:
    """Holds the engine's query open between calls; close it in the task that opened it."""

    def __init__(self, manager: AbstractAsyncContextManager[Rows], rows: Rows) -> None:
        self._manager: AbstractAsyncContextManager[Rows] | None = manager
        self._rows = rows

    @classmethod
    async def open(cls, session: SessionApi, plan: Plan, values: Sequence[Value]) -> QuerySource:
        """Raises HaError, and PgError 0A000 if the shape is not the one described."""
        manager = session.query(plan.sql, values)
        rows = await manager.__aenter__()
        source = cls(manager, rows)
        assert plan.prepared is not None
        if rows.columns != plan.prepared.columns:
            await source.aclose()
            raise changed_shape()
        return source

    async def fetch(self, count: int) -> list[Row]:
        rows = await self._rows.fetch(count)
        if not rows or len(rows) == count:
            return rows
        out = list(rows)
        while len(out) < count:
            rows = await self._rows.fetch(count - len(out))
            if not rows:
                break
            out.extend(rows)
        return out

    async def aclose(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            await manager.__aexit__(None, None, None)


def changed_shape() -> PgError:
    return PgError(
        "0A000",
        "cached plan must not change result type",
        hint="the table was altered: prepare the statement again",
        routine="RevalidateCachedQuery",  # asyncpg and pgjdbc do so by themselves
    )


def next_batch(rows: int, size: int) -> int:
    """How many rows to fetch after ``rows`` took ``size`` encoded bytes."""
    if not rows:
        return BATCH_ROWS
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * rows // max(size, 1), rows * 16))
