"""HISTORY, UNDO, UNDOE and UNDOT as commands, so that every SQL wire has them.

======================================  ===================================================
``HISTORY [n | duration]``              rows ``seq, sql, timestamp``
``UNDO [n | duration] [WHERE t(…)]``    also UNDOE and UNDOT, without a duration
``EXPLAIN UNDO …``                      what it would do: rows ``kind, text``
======================================  ===================================================
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ha.core.errors import Code, HaError
from ha.core.since import Since, parse_since
from ha.core.undo import Mode
from ha.core.values import Value
from ha.engine.api import Column, HistoryItem, Rows, UndoReport
from ha.engine.command import END, FLAGS, Command, Done

if TYPE_CHECKING:
    from ha.engine.session import Session

_ARGUMENT = r"""(?:\s+(?!WHERE\b)(?P<since>'[^']*'|"[^"]*"|[^\s;'"(]+))?"""
_HISTORY = re.compile(rf"\s*HISTORY\b(?P<rest>{_ARGUMENT}{END})?", FLAGS)
_TABLE = (
    r"""(?:"(?P<quoted>(?:[^"]|"")+)"|`(?P<tick>[^`]+)`|\[(?P<bracket>[^\]]+)\]|(?P<plain>\w+))"""
)
_ROWS = r"\(\s*(?P<rows>-?\d+(?:\s*,\s*-?\d+)*)\s*\)"
_UNDO = re.compile(
    rf"\s*(?P<explain>EXPLAIN\s+)?(?P<mode>UNDO[ET]?)\b"
    rf"(?P<rest>{_ARGUMENT}(?:\s+WHERE\s+{_TABLE}\s*{_ROWS})?{END})?",
    FLAGS,
)
_HISTORY_COLUMNS = (
    Column("seq", "INTEGER"),
    Column("sql", "TEXT"),
    Column("timestamp", "TIMESTAMP"),
)
_EXPLAIN_COLUMNS = (Column("kind", "TEXT"), Column("text", "TEXT"))


def find_history_command(session: Session, sql: str) -> Command | None:
    """The command that ``sql`` begins with. Raises SYNTAX_ERROR if it is written otherwise."""
    if match := _HISTORY.match(sql):
        return _history(session, match)
    if match := _UNDO.match(sql):
        return _undo(session, match)
    return None


def _history(session: Session, match: re.Match[str]) -> Command:
    if match["rest"] is None:
        raise HaError(Code.SYNTAX_ERROR, "HISTORY takes a sequence or a duration: HISTORY '5m'")
    since = parse_since(match["since"] or "")

    @asynccontextmanager
    async def stream() -> AsyncIterator[Rows]:
        async with session.history(since) as items:
            yield _HistoryRows(items)

    return Command(
        "HISTORY", columns=_HISTORY_COLUMNS, remaining=match["remaining"] or "", stream=stream
    )


class _HistoryRows:
    columns = _HISTORY_COLUMNS

    def __init__(self, items: AsyncIterator[HistoryItem]) -> None:
        self._items = items

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        rows: list[tuple[Value, ...]] = []
        while len(rows) < count:
            item = await anext(self._items, None)
            if item is None:
                break
            rows.append((item.sequence, text_of(item), timestamp(item.time_ns)))
        return rows


def text_of(item: HistoryItem) -> str:
    """All statements of a transaction in one text, and the node that wrote it."""
    node = item.node.replace("*/", "* /")
    more = "; and more" if item.more else ""
    return ";\n".join(item.statements) + f" /* {node}{more} */"


def timestamp(time_ns: int) -> str:
    """UTC, to the microsecond, as SQLite's and PostgreSQL's functions read it."""
    seconds, rest = divmod(time_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest // 1000:06d}"


def _undo(session: Session, match: re.Match[str]) -> Command:
    verb = match["mode"].upper()
    if match["rest"] is None:
        raise HaError(
            Code.SYNTAX_ERROR,
            f"{verb} takes a sequence{' or a duration' if verb == 'UNDO' else ''}, and rows:"
            f" {verb} 150 WHERE users(1, 2)",
        )
    mode = Mode(verb)
    since = parse_since(match["since"] or "")
    rows = _rows(match)
    if match["explain"]:
        return _explain(session, mode, since, rows, match["remaining"] or "")

    async def work() -> Done:
        report = await session.undo(mode, since, rows)
        return Done(rows_affected=report.rows)

    return Command(verb, work, remaining=match["remaining"] or "")


def parse_rows(text: str) -> Mapping[str, frozenset[int]]:
    """``users(1, 2)``. Raises HaError (BAD_REQUEST)."""
    match = re.fullmatch(rf"\s*{_TABLE}\s*{_ROWS}\s*", text, FLAGS)
    rows = _rows(match) if match else None
    if rows is None:
        raise HaError(Code.BAD_REQUEST, f"{text!r} names no rows: write users(1, 2)")
    return rows


def _rows(match: re.Match[str]) -> Mapping[str, frozenset[int]] | None:
    if match["rows"] is None:
        return None
    table = match["tick"] or match["bracket"] or match["plain"]
    if match["quoted"]:
        table = match["quoted"].replace('""', '"')
    return {table: frozenset(int(n) for n in match["rows"].split(","))}


def _explain(
    session: Session,
    mode: Mode,
    since: Since,
    rows: Mapping[str, frozenset[int]] | None,
    remaining: str,
) -> Command:
    async def work() -> Done:
        return Done(describe(await session.undo(mode, since, rows, dry_run=True)))

    return Command("EXPLAIN", work, _EXPLAIN_COLUMNS, remaining)


def describe(report: UndoReport) -> list[tuple[Value, ...]]:
    """A dry run as rows ``kind, text``."""
    out: list[tuple[Value, ...]] = []
    if report.transactions:
        out.append(
            (
                "summary",
                f"{report.rows} rows change; {report.transactions} transactions, from"
                f" {report.first} to {report.last}",
            )
        )
    out += [("obstacle", o.message) for o in report.obstacles]
    out += [("stays", text) for text in report.schema]
    out += [("change", text) for text in report.statements]
    return out
