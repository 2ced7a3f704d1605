"""Commands of ours beside SQL: SHOW DATABASES, SET DATABASE, UNSET DATABASE, USE,
SET ha.txseq, SHOW ha.txseq.

They are found by their first words before SQLite sees the text; nothing that SQLite would
take begins so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import Column, Kind, Result

if TYPE_CHECKING:
    from ha.engine.databases import Databases
    from ha.engine.session import Session

_NAME = r"""(?:"(?P<quoted>(?:[^"]|"")+)"|'(?P<string>(?:[^']|'')+)'|(?P<plain>[^\s;'"]+))"""
_END = r"\s*(?:;(?P<remaining>.*))?$"
_FLAGS = re.IGNORECASE | re.DOTALL
_SHOW = re.compile(rf"\s*SHOW\s+DATABASES{_END}", _FLAGS)
_SET = re.compile(rf"\s*SET\s+DATABASE\s*(?:\bTO\b|=)\s*{_NAME}{_END}", _FLAGS)
_USE = re.compile(rf"\s*USE\s+{_NAME}{_END}", _FLAGS)
_UNSET = re.compile(rf"\s*UNSET\s+DATABASE{_END}", _FLAGS)
_TXSEQ = r"""(?:ha\.txseq|"ha\.txseq")"""
_SET_TXSEQ = re.compile(rf"\s*SET\s+{_TXSEQ}\s*(?:\bTO\b|=)\s*(?P<value>[^;]*?){_END}", _FLAGS)
_SHOW_TXSEQ = re.compile(rf"\s*SHOW\s+{_TXSEQ}{_END}", _FLAGS)
_TEXT = "TEXT"


class Command:
    """A command found in a text, ready to run. ``columns`` are known before it runs."""

    def __init__(
        self,
        verb: str,
        work: Callable[[], Awaitable[list[tuple[Value, ...]]]],
        columns: tuple[Column, ...] = (),
        remaining: str = "",
    ) -> None:
        self.verb = verb
        self.columns = columns
        self.remaining = remaining
        self._work = work

    async def run(self) -> Result:
        """Raises BAD_REQUEST when a second statement follows."""
        if self.remaining.strip():
            raise HaError(Code.BAD_REQUEST, f"one statement at a time after {self.verb}")
        rows = await self._work()
        return Result(Kind.COMMAND, self.verb, self.columns, rows)


def find_command(databases: Databases, session: Session, sql: str) -> Command | None:
    """The command that ``sql`` begins with, None if it is SQL."""
    if sql[:1] not in "sSuU \t\r\n":
        return None
    if match := _SHOW.match(sql):

        async def show() -> list[tuple[Value, ...]]:
            return [(name,) for name in databases.database_ids()]

        return Command("SHOW", show, (Column("database", _TEXT),), match["remaining"] or "")
    if match := _SET.match(sql) or _USE.match(sql):
        name = _name(match)

        async def use() -> list[tuple[Value, ...]]:
            await session.use_database(name)
            return []

        return Command("SET", use, (), match["remaining"] or "")
    if match := _UNSET.match(sql):

        async def unset() -> list[tuple[Value, ...]]:
            await session.use_database(databases.database_ids()[0])
            return []

        return Command("UNSET", unset, (), match["remaining"] or "")
    if match := _SET_TXSEQ.match(sql):
        sequence = _sequence(match["value"])

        async def wait() -> list[tuple[Value, ...]]:
            await session.wait_for(sequence)
            return []

        return Command("SET TXSEQ", wait, (), match["remaining"] or "")
    if match := _SHOW_TXSEQ.match(sql):

        async def txseq() -> list[tuple[Value, ...]]:
            return [(session.txseq,)]

        columns = (Column("ha.txseq", "INTEGER"),)
        return Command("SHOW TXSEQ", txseq, columns, match["remaining"] or "")
    return None


def _sequence(text: str) -> int:
    digits = text.strip().strip("'")
    if not re.fullmatch(r"[0-9]{1,20}", digits) or int(digits) >= 2**64:
        raise HaError(Code.BAD_REQUEST, f"ha.txseq must be a sequence, a whole number: {text}")
    return int(digits)


def _name(match: re.Match[str]) -> str:
    if match["quoted"]:
        return match["quoted"].replace('""', '"')
    if match["string"]:
        return match["string"].replace("''", "'")
    return match["plain"]
