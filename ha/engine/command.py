"""A command of ours beside SQL: found in a text, ready to run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import Column, Kind, Result, Rows

NAME = r"""(?:"(?P<quoted>(?:[^"]|"")+)"|'(?P<string>(?:[^']|'')+)'|(?P<plain>[^\s;'"]+))"""
END = r"\s*(?:;(?P<remaining>.*))?$"
FLAGS = re.IGNORECASE | re.DOTALL
_PAGE = 1_000


@dataclass(slots=True)
class Done:
    """What a command answers."""

    rows: list[tuple[Value, ...]] = field(default_factory=list)
    rows_affected: int = 0


class CompleteRows:
    """:class:`ha.engine.api.Rows` of a result that is there."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self._rows = result.rows

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.result.columns

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        out, self._rows = self._rows[:count], self._rows[count:]
        return out


class Command:
    """``columns`` are known before it runs. A command whose answer may be long has ``stream``
    in place of ``work``. ``database``: the name of the one that it makes or drops;
    ``carried_out``: has one of these requests done so, on whichever node?"""

    def __init__(
        self,
        verb: str,
        work: Callable[[], Awaitable[Done]] | None = None,
        columns: tuple[Column, ...] = (),
        remaining: str = "",
        stream: Callable[[], AbstractAsyncContextManager[Rows]] | None = None,
        database: str | None = None,
        carried_out: Callable[[Collection[str]], Awaitable[bool]] | None = None,
    ) -> None:
        self.verb = verb
        self.columns = columns
        self.remaining = remaining
        self.database = database
        self.carried_out = carried_out
        self._work = work
        self._stream = stream

    async def run(self, max_rows: int | None = None) -> Result:
        """Raises BAD_REQUEST when a second statement follows, TOO_LARGE beyond ``max_rows``."""
        self._require_single()
        if self._work is not None:
            done = await self._work()
            return Result(
                Kind.COMMAND, self.verb, self.columns, done.rows, rows_affected=done.rows_affected
            )
        rows: list[tuple[Value, ...]] = []
        async with self.open() as open_rows:
            while page := await open_rows.fetch(_PAGE):
                rows += page
                if max_rows is not None and len(rows) > max_rows:
                    raise HaError(
                        Code.TOO_LARGE,
                        f"the result has more than {max_rows} rows",
                        hint=f"let {self.verb} begin later",
                    )
        return Result(Kind.COMMAND, self.verb, self.columns, rows)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Rows]:
        """As :meth:`run`, to be fetched piece by piece."""
        if self._stream is None:
            yield CompleteRows(await self.run())
            return
        self._require_single()
        async with self._stream() as rows:
            yield rows

    def _require_single(self) -> None:
        if self.remaining.strip():
            raise HaError(Code.BAD_REQUEST, f"one statement at a time after {self.verb}")


def name_in(match: re.Match[str]) -> str:
    """What ``NAME`` found, without its quotes."""
    if match["quoted"]:
        return match["quoted"].replace('""', '"')
    if match["string"]:
        return match["string"].replace("''", "'")
    return match["plain"]
