"""The simple query protocol. Source: PostgreSQL documentation, "Message Flow", "Simple Query"."""

from __future__ import annotations

from ha.core.errors import HaError
from ha.wire.postgres import backend
from ha.wire.postgres.commands import Copy
from ha.wire.postgres.conversation import Conversation, Portal
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.lexer import split_with_offsets


async def simple_query(conversation: Conversation, sql: str) -> None:
    """Run every statement of ``sql``; the first error ends it. Ends with ReadyForQuery."""
    statements = split_with_offsets(sql)
    unnamed = conversation.portals.pop("", None)
    if unnamed is not None:
        await unnamed.aclose()
    conversation.statements.pop("", None)
    if not statements:
        conversation.channel.write(backend.EMPTY_QUERY)
        conversation.write_ready()
        return
    async with conversation.running():
        i = 0
        try:
            while i < len(statements):
                await _one(conversation, statements[i][1], more_follows=i + 1 < len(statements))
                i += 1
            await conversation.transactions.end_implicit()
        except (HaError, PgError) as error:
            offset, text = statements[min(i, len(statements) - 1)]
            await conversation.report(_moved(error, sql, offset), sql if offset else text)
    conversation.write_ready()


async def _one(conversation: Conversation, sql: str, *, more_follows: bool) -> None:
    plan = await conversation.plan(sql)
    conversation.check_allowed(plan)
    if isinstance(plan.command, Copy):
        from ha.wire.postgres.copy import run_copy

        await run_copy(conversation, plan.command, more_follows=more_follows)
        return
    if plan.parameters:
        raise PgError("42P02", "there is no parameter $1", hint="a simple query has none")
    portal = Portal(plan, columns=plan.columns)
    try:
        await conversation.run(portal, lambda: more_follows, describe=True)
    finally:
        await portal.aclose()


def _moved(error: HaError | PgError, sql: str, offset: int) -> HaError | PgError:
    """The position in the whole query, not in one of its statements."""
    if offset and isinstance(error, PgError) and error.position is not None:
        error.position += offset
    elif offset and isinstance(error, HaError) and error.offset is not None:
        return _with_offset(error, error.offset + len(sql[:offset].encode()))
    return error


def _with_offset(error: HaError, offset: int) -> HaError:
    error.offset = offset
    return error
