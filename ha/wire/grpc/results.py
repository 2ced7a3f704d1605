"""A result on its way out: rows are fetched, encoded and counted until a message is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import trio

from ha.core.errors import Code, HaError
from ha.core.settings import format_size
from ha.core.values import Value
from ha.engine.api import Column, Kind, Result, Rows
from ha.wire.grpc.responses import ROW
from ha.wire.grpc.values import Pack, delimited, encode_row, pack, pack_sequence, pack_time

_FIRST_FETCH = 32
_MOST_ROWS = 1_000
_FETCH_BYTES = 256 * 1024


class Pages:
    """The rows of one statement, from an open :class:`Rows` or a complete result."""

    def __init__(self, columns: Sequence[Column], packs: Sequence[Pack] | None = None) -> None:
        self.columns = columns
        self._packs = packs
        self._opened: AbstractAsyncContextManager[Rows] | None = None
        self._rows: Rows | None = None
        self._waiting: deque[tuple[Value, ...]] = deque()
        self._count = _FIRST_FETCH

    @classmethod
    async def open(cls, query: AbstractAsyncContextManager[Rows]) -> Pages:
        """Of a statement that reads; :meth:`close` it."""
        rows = await query.__aenter__()
        pages = cls(rows.columns)
        pages._opened = query
        pages._rows = rows
        return pages

    @classmethod
    def of(cls, result: Result) -> Pages:
        pages = cls(result.columns, _packs(result))
        pages._waiting.extend(result.rows)
        return pages

    async def page(self, most: int) -> tuple[list[bytes], bool]:
        """Encoded rows of at most ``most`` bytes, but one row at least; and: is there more?"""
        out: list[bytes] = []
        size = 0
        while await self._fill():
            encoded = delimited(ROW, encode_row(self._waiting[0], self._packs))
            size += len(encoded)
            if size > most and out:
                return out, True
            self._waiting.popleft()
            out.append(encoded)
        return out, False

    async def all(self, most: int) -> list[bytes]:
        """All rows, encoded. Raises TOO_LARGE when they have more than ``most`` bytes."""
        out, more = await self.page(most)
        if more or (out and len(out[0]) > most):
            raise HaError(
                Code.TOO_LARGE,
                f"the result is larger than {format_size(most)}",
                hint="add LIMIT, use a client that takes results in pages, or start the node with "
                "a larger --max-result",
            )
        return out

    async def _fill(self) -> bool:
        """Is there a row?"""
        if self._waiting:
            return True
        if self._rows is None:
            return False
        rows = await self._rows.fetch(self._count)
        if len(rows) < self._count:
            self._rows = None
        self._waiting.extend(rows)
        if rows:
            average = sum(map(_size, rows)) // len(rows) + 1
            self._count = min(max(_FETCH_BYTES // average, 1), _MOST_ROWS)
        await trio.lowlevel.checkpoint()  # encoding these rows takes a millisecond or so
        return bool(rows)

    async def close(self) -> None:
        opened, self._opened, self._rows = self._opened, None, None
        self._waiting.clear()
        if opened is not None:
            await opened.__aexit__(None, None, None)


def _size(row: tuple[Value, ...]) -> int:
    return sum(len(v) if isinstance(v, str | bytes) else 8 for v in row) + 8


def _packs(result: Result) -> list[Pack] | None:
    """HISTORY answers unsigned sequences and times, as the existing system does."""
    if result.kind is not Kind.COMMAND or result.verb != "HISTORY":
        return None
    special = {"seq": pack_sequence, "timestamp": pack_time}
    return [special.get(column.name, pack) for column in result.columns]
