"""DECLARE, FETCH, MOVE and CLOSE. Source: PostgreSQL documentation, "DECLARE", "FETCH".

A cursor reads forward from an open query. One that may go back (SCROLL) or outlive its
transaction (WITH HOLD) keeps its rows, up to a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from ha.core.values import Value
from ha.engine.api import Kind
from ha.wire.postgres import commands as k
from ha.wire.postgres.conversation import Answer, Conversation, Cursor
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.rows import Row
from ha.wire.postgres.sources import QuerySource

_STEP = 1000


async def declare(c: Conversation, command: k.Declare, values: Sequence[Value] = ()) -> Answer:
    if c.transactions.status == "I" and not command.hold:
        raise PgError("25P01", "DECLARE CURSOR can only be used in transaction blocks")
    if command.name in c.cursors:
        raise PgError("42P03", f'cursor "{command.name}" already exists')
    if len(c.cursors) >= c.limits.portals:
        raise PgError("53400", f"there are {len(c.cursors)} open cursors")
    plan = await c.plan(command.sql)
    if plan.kind is not Kind.READ:
        raise PgError("42P11", "a cursor needs a SELECT")
    if len(plan.parameters) != len(values):
        raise PgError("42P02", f"there is no parameter ${len(values) + 1}")
    source = await QuerySource.open(c.session, plan, list(values))
    cursor = Cursor(command.name, plan, source, command.scroll, command.hold, command.binary)
    c.cursors[command.name] = cursor
    if c.transactions.status == "I":
        await _keep_all(c, cursor)
    return Answer(command.tag)


async def fetch(c: Conversation, command: k.Fetch) -> Answer:
    cursor = c.cursors.get(command.cursor)
    if cursor is None:
        cursor = await _of_portal(c, command)
    rows = await _move(c, cursor, command.direction, command.count)
    tag = f"{command.tag} {len(rows)}"
    return Answer(tag) if command.move else Answer(tag, cursor.plan.columns, rows, cursor.binary)


async def _of_portal(c: Conversation, command: k.Fetch) -> Cursor:
    """A portal of the extended protocol is a cursor too. It goes forward alone."""
    portal = c.portals.get(command.cursor)
    if portal is None or portal.plan.kind is not Kind.READ:
        raise PgError("34000", f'cursor "{command.cursor}" does not exist')
    if command.direction == "ABSOLUTE":
        raise _backward()
    if portal.source is None and not portal.ended:
        await c.open(portal, more_follows=False)
    return Cursor(command.cursor, portal.plan, portal.source, False, False, binary=False)


async def close(c: Conversation, command: k.CloseCursor) -> Answer:
    if command.name is None:
        await close_all(c)
    else:
        cursor = c.cursors.pop(command.name, None)
        if cursor is not None:
            await _close_source(cursor)
        elif (portal := c.portals.pop(command.name, None)) is not None:
            await portal.aclose()
        else:
            raise PgError("34000", f'cursor "{command.name}" does not exist')
    return Answer(command.tag)


async def close_all(c: Conversation) -> None:
    for cursor in c.cursors.values():
        await _close_source(cursor)
    c.cursors.clear()


async def end_cursors(c: Conversation, committing: bool) -> None:
    """A transaction ends: holdable cursors keep their rows, all others are gone."""
    for name, cursor in list(c.cursors.items()):
        if cursor.hold and (committing or cursor.source is None):
            await _keep_all(c, cursor)
        else:
            del c.cursors[name]
            await _close_source(cursor)


async def _close_source(cursor: Cursor) -> None:
    source, cursor.source = cursor.source, None
    if source is not None:
        await source.aclose()


async def _keep_all(c: Conversation, cursor: Cursor) -> None:
    """Read the rest into memory. What was read before and not kept stays unreachable."""
    if cursor.source is None:
        return
    if not _keeps(cursor):
        cursor.kept = [()] * cursor.position
    while not cursor.complete:
        await _read(c, cursor, _STEP)
    await _close_source(cursor)


def _keeps(cursor: Cursor) -> bool:
    return cursor.scroll or cursor.hold


async def _read(c: Conversation, cursor: Cursor, count: int) -> list[Row]:
    if cursor.source is None or cursor.complete:
        return []
    rows = await cursor.source.fetch(count)
    if len(rows) < count:
        cursor.complete = True
    if _keeps(cursor):
        cursor.kept.extend(rows)
        if len(cursor.kept) > c.limits.cursor_rows:
            raise PgError(
                "53400",
                f'cursor "{cursor.name}" would keep more than {c.limits.cursor_rows} rows',
                hint="a cursor without SCROLL and WITH HOLD keeps none",
            )
    return rows


async def _move(c: Conversation, cursor: Cursor, direction: str, count: int | None) -> list[Row]:
    """``position`` counts the rows before and at the cursor: 0 is before the first."""
    if not _keeps(cursor):
        return await _forward_only(c, cursor, direction, count)
    if direction == "FORWARD":
        target = None if count is None else cursor.position + max(count, 1)
        await _fill(c, cursor, target)
        if count == 0:
            return _at(cursor, cursor.position)
        end = (
            len(cursor.kept)
            if target is None
            else min(target - 1 + (1 if count else 0), len(cursor.kept))
        )
        rows = cursor.kept[cursor.position : end]
        reached_end = target is None or target > len(cursor.kept)
        cursor.position = len(cursor.kept) + 1 if reached_end else end
        return rows
    if direction == "BACKWARD":
        if not cursor.scroll:
            raise _backward()
        if count == 0:
            return _at(cursor, cursor.position)
        last = cursor.position - 1
        first = 1 if count is None else max(1, last - count + 1)
        rows = cursor.kept[first - 1 : last][::-1] if last >= 1 else []
        before = count is None or last - count + 1 < 1
        cursor.position = 0 if before else first
        return rows
    target = (count or 0) + (cursor.position if direction == "RELATIVE" else 0)
    if direction == "ABSOLUTE" and target < 0:
        await _fill(c, cursor, None)
        target = len(cursor.kept) + 1 + target
    await _fill(c, cursor, target)
    if target < cursor.position and not cursor.scroll:
        raise _backward()
    cursor.position = max(0, min(target, len(cursor.kept) + 1))
    return _at(cursor, cursor.position)


def _at(cursor: Cursor, position: int) -> list[Row]:
    return cursor.kept[position - 1 : position] if position >= 1 else []


async def _fill(c: Conversation, cursor: Cursor, target: int | None) -> None:
    while not cursor.complete and (target is None or len(cursor.kept) < target):
        await _read(c, cursor, _STEP if target is None else max(1, target - len(cursor.kept)))


async def _forward_only(
    c: Conversation, cursor: Cursor, direction: str, count: int | None
) -> list[Row]:
    if direction in ("ABSOLUTE", "RELATIVE"):
        target = (count or 0) + (cursor.position if direction == "RELATIVE" else 0)
        if target <= cursor.position:
            raise _backward()
        while cursor.position < target - 1:
            skipped = await _read(c, cursor, min(_STEP, target - 1 - cursor.position))
            if not skipped:
                return []
            cursor.position += len(skipped)
        count = 1
    elif direction == "BACKWARD":
        raise _backward()
    rows: list[Row] = []
    while count is None or len(rows) < count:
        wanted = _STEP if count is None else min(_STEP, count - len(rows))
        batch = await _read(c, cursor, wanted)
        rows.extend(batch)
        if len(rows) > c.limits.cursor_rows:
            raise PgError(
                "54000",
                f"FETCH of more than {c.limits.cursor_rows} rows",
                hint="fetch fewer at a time",
            )
        if len(batch) < wanted:
            break
    cursor.position += len(rows)
    return rows


def _backward() -> PgError:
    return PgError(
        "55000",
        "cursor can only scan forward",
        hint="Declare it with SCROLL option to enable backward scan.",
    )
