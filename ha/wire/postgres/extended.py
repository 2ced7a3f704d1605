"""The extended query protocol: Parse, Bind, Describe, Execute, Close, Sync, Flush.

Source: PostgreSQL documentation, "Message Flow", "Extended Query" and "Pipelining".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import tzinfo
from typing import Any, TypeAlias

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import Kind, Statement
from ha.wire.postgres import backend
from ha.wire.postgres.commands import Copy, Declare, Fetch
from ha.wire.postgres.conversation import (
    Conversation,
    Portal,
    describe_columns,
    describe_portal,
    expand_formats,
)
from ha.wire.postgres.decode import Decoder, decoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.lexer import split
from ha.wire.postgres.messages import Bind, Close, Describe, Execute, Message, Parse, Sync
from ha.wire.postgres.perform import describe_command
from ha.wire.postgres.plan import Plan
from ha.wire.postgres.tags import completed
from ha.wire.postgres.transactions import Block


class Extended:
    """After an error everything up to the next Sync is skipped."""

    def __init__(self, conversation: Conversation) -> None:
        self._c = conversation
        self.skipping = False
        self.handlers: dict[type, Callable[[Any], Awaitable[None] | None]] = {
            Bind: self._bind,
            Execute: self._execute,
            Describe: self._describe,
            Parse: self._parse,
            Close: self._close,
        }
        """By the type of the message. What has nothing to wait for is done when they return."""

    async def failed(self, error: HaError | PgError, message: Message) -> None:
        """Report ``error``, and skip everything up to the next Sync."""
        self.skipping = True
        await self._c.report(error, message.sql if isinstance(message, Parse) else None)

    async def sync(self) -> None:
        """The end of a pipeline, and of its implicit transaction."""
        self.skipping = False
        c = self._c
        transactions = c.transactions
        if transactions.block is not Block.EXPLICIT:
            if transactions.block is Block.IMPLICIT or c.cursors or c.has_open_portals():
                try:
                    async with c.running():
                        await c.close_open(True)
                        await c.transactions.end_implicit()
                except (HaError, PgError) as error:
                    await c.report(error)
            else:
                c.portals.clear()
        c.write_ready()

    async def _parse(self, message: Parse) -> None:
        c = self._c
        if message.name and message.name in c.statements:
            raise PgError("42P05", f'prepared statement "{message.name}" already exists')
        if len(c.statements) >= c.limits.prepared_statements:
            raise PgError(
                "53400",
                f"there are {len(c.statements)} prepared statements in this session",
                hint="DEALLOCATE some, or let the driver cache fewer",
            )
        texts = split(message.sql)
        if len(texts) > 1:
            raise PgError("42601", "cannot insert multiple commands into a prepared statement")
        async with c.running():
            plan = await c.plan(texts[0] if texts else "", message.parameter_oids)
        c.check_allowed(plan)
        if isinstance(plan.command, Declare):
            plan.parameters = (await c.plan(plan.command.sql, message.parameter_oids)).parameters
        elif plan.command is not None:
            plan.columns = await describe_command(c, plan.command)
        c.statements[message.name] = plan
        c.channel.write(backend.PARSE_COMPLETE)

    def _bind(self, message: Bind) -> Awaitable[None] | None:
        c = self._c
        plan = self._statement(message.statement)
        c.check_allowed(plan)
        if plan.kind is Kind.READ and not message.portal and c.no_time_out:
            found = c.channel.decoder.take_execution()
            if found is not None:
                return self._round(plan, message, *found)
        return self._bound(plan, message)

    async def _round(self, plan: Plan, message: Bind, describe: bool, max_rows: int) -> None:
        """Bind, perhaps Describe, Execute and Sync of one reading statement."""
        c = self._c
        try:
            waiting = self._bound(plan, message)
            if waiting is not None:
                await waiting
            portal = c.portals[""]
            if describe:
                c.channel.write(describe_portal(portal))
            if max_rows and c.transactions.active:
                await self._execute(Execute("", max_rows))  # it may go on after the Sync
            else:
                c.start()
                try:
                    await c.read(portal, max_rows)
                finally:
                    c.busy = False
        except (HaError, PgError) as error:
            await self.failed(error, message)
        await self.sync()

    def _bound(self, plan: Plan, message: Bind) -> Awaitable[None] | None:
        c = self._c
        if message.portal:
            if message.portal in c.portals:
                raise PgError("42P03", f'cursor "{message.portal}" already exists')
            if len(c.portals) >= c.limits.portals:
                raise PgError("53400", f"there are {len(c.portals)} open portals")
        old = c.portals.pop(message.portal, None)
        values = bind_values(plan, message, c)
        if message.result_formats:
            expand_formats(message.result_formats, len(plan.columns))
        c.portals[message.portal] = Portal(plan, values, message.result_formats, plan.columns)
        c.channel.write(backend.BIND_COMPLETE)
        return None if old is None or old.source is None else old.aclose()

    def _describe(self, message: Describe) -> None:
        c = self._c
        if message.kind == "S":
            plan = self._statement(message.name)
            c.channel.write(backend.parameter_description([p.oid for p in plan.parameters]))
            c.channel.write(describe_columns(plan.columns, [0] * len(plan.columns)))
            return
        cursor = c.cursors.get(message.name)
        if cursor is not None and message.name not in c.portals:  # SQL's cursors are portals too
            columns = cursor.plan.columns
            c.channel.write(describe_columns(columns, [int(cursor.binary)] * len(columns)))
            return
        c.channel.write(describe_portal(self._portal(message.name)))

    async def _execute(self, message: Execute) -> None:
        c = self._c
        if message.portal in c.cursors and message.portal not in c.portals:
            count = message.max_rows or None
            fetch = Fetch("FETCH", message.portal, "FORWARD", count)
            columns = c.cursors[message.portal].plan.columns
            c.portals[message.portal] = Portal(
                Plan("", "", Kind.COMMAND, "FETCH", command=fetch), columns=columns
            )
            try:
                await self._execute(Execute(message.portal, 0))
            finally:
                del c.portals[message.portal]
            return
        portal = self._portal(message.portal)
        plan = portal.plan
        if plan.kind is Kind.EMPTY:
            c.channel.write(backend.EMPTY_QUERY)
            return
        c.check_allowed(plan)
        fresh = portal.source is None and not portal.ended
        if plan.kind is Kind.READ and fresh and not message.max_rows and c.no_time_out:
            c.start()
            try:
                await c.run(portal, self._more_follows)
            finally:
                c.busy = False
            return
        if fresh and self._can_be_gathered(plan, message) and await self._gathered(portal):
            return
        async with c.running():
            if isinstance(plan.command, Copy):
                from ha.wire.postgres.copy import run_copy

                await run_copy(c, plan.command, more_follows=self._more_follows())
                return
            if portal.source is None:
                if portal.ended:
                    raise PgError("55000", f'portal "{message.portal}" cannot be run')
                if not message.max_rows:
                    await c.run(portal, self._more_follows)
                    return
                writes = plan.kind in (Kind.WRITE, Kind.DDL)
                await c.open(portal, more_follows=writes and self._more_follows())
            await c.send_rows(portal, message.max_rows)

    # --- pipelines of writes ------------------------------------------------------------

    def _can_be_gathered(self, plan: Plan, message: Execute) -> bool:
        """A write that answers no rows, outside of any transaction."""
        return (
            plan.kind is Kind.WRITE
            and not plan.columns
            and not message.max_rows
            and not self._c.transactions.active
            and self._c.no_time_out
        )

    async def _gathered(self, portal: Portal) -> bool:
        """Run the writes of a whole pipeline as one list, which is one transaction too, but
        without a turn of the writer for each.

        False: it is no such pipeline, or one of its statements fails; then nothing was done,
        and they run one by one, so that the error stands where it belongs.
        """
        c = self._c
        found, read = await self._read_ahead(portal)
        if len(found) < 2:
            c.channel.decoder.unread(read)
            return False
        c.start()
        try:
            statements = [Statement(plan.sql, values) for plan, values, _ in found]
            results = await c.session.transaction(statements)
        except HaError as error:
            if error.code in _FINAL:
                raise
            c.channel.decoder.unread(read)
            return False
        finally:
            c.busy = False
        c.channel.decoder.unread(read[-1:])  # the Sync
        for (plan, _, before), result in zip(found, results, strict=True):
            c.channel.write(before)
            c.channel.write(completed(plan.tag, result.rows_affected))
        portal.ended = True
        return True

    async def _read_ahead(self, portal: Portal) -> tuple[list[_Write], list[Message]]:
        """The writes up to Sync, each with what is answered before its tag, and the messages that
        were read; no writes where anything else stands between.

        Waiting for a Sync is allowed: a client that wants an answer sooner sends Flush.
        """
        c = self._c
        channel = c.channel
        found: list[_Write] = [(portal.plan, portal.values, b"")]
        read: list[Message] = []
        bound: tuple[Plan, Sequence[Value]] | None = None
        before = b""
        if channel.decoder.peek_types()[:1] not in (b"B", b""):
            return [], read
        fills = 0
        while True:
            message = channel.decoder.next()
            if message is None:
                fills += 1
                if fills > _MAX_FILLS:
                    return [], read
                await channel.more()
                continue
            read.append(message)
            if isinstance(message, Bind) and not message.portal and bound is None:
                try:
                    plan = self._statement(message.statement)
                    if plan.kind is not Kind.WRITE or plan.columns:
                        return [], read
                    bound = (plan, bind_values(plan, message, c))
                except PgError:
                    return [], read
                before = backend.BIND_COMPLETE
            elif isinstance(message, Describe) and message.kind == "P" and bound:
                before += backend.NO_DATA
            elif isinstance(message, Execute) and not message.max_rows and bound:
                found.append((*bound, before))
                bound = None
            elif isinstance(message, Sync) and bound is None:
                return found, read
            else:
                return [], read

    def _more_follows(self) -> bool:
        """Does anything but the Sync that ends the pipeline come after this Execute?

        What has arrived tells. If it does not reach as far as a Sync, the client may send more,
        and the statement must be able to roll back with it.
        """
        types = self._c.channel.decoder.peek_types()
        return not types.endswith(b"S") or b"P" in types

    async def _close(self, message: Close) -> None:
        c = self._c
        if message.kind == "S":
            c.statements.pop(message.name, None)
        else:
            portal = c.portals.pop(message.name, None)
            cursor = c.cursors.pop(message.name, None) if portal is None else None
            if portal is not None:
                await portal.aclose()
            elif cursor is not None and cursor.source is not None:
                await cursor.source.aclose()
        c.channel.write(backend.CLOSE_COMPLETE)

    def _statement(self, name: str) -> Plan:
        plan = self._c.statements.get(name)
        if plan is None:
            shown = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise PgError("26000", f"{shown} does not exist")
        return plan

    def _portal(self, name: str) -> Portal:
        portal = self._c.portals.get(name)
        if portal is None:
            raise PgError("34000", f'portal "{name}" does not exist')
        return portal


_Write: TypeAlias = tuple[Plan, Sequence[Value], bytes]
_MAX_FILLS = 256
"""Pieces of 64 KiB that a pipeline may have to be gathered: beyond, memory counts."""

_FINAL = frozenset(
    {Code.OUTCOME_UNKNOWN, Code.WRITTEN_NOT_APPLIED, Code.NOT_APPLIED, Code.CANCELLED}
)
"""After these a list must not be run again."""


def bind_values(plan: Plan, message: Bind, c: Conversation) -> list[Value]:
    """The parameters as SQLite values. Raises PgError."""
    count = len(plan.parameters)
    if len(message.values) != count:
        raise PgError(
            "08P01",
            f"bind message supplies {len(message.values)} parameters, but prepared statement"
            f' "{message.statement}" requires {count}',
        )
    if not count:
        return []
    key = (message.parameter_formats, c.settings.zone)
    decoders = plan.decoders.get(key)
    if decoders is None:
        decoders = plan.decoders[key] = _decoders(plan, *key)
    try:
        return [
            None if data is None else decode(data)
            for decode, data in zip(decoders, message.values, strict=True)
        ]
    except PgError:
        raise _located(decoders, message.values) from None


def _decoders(plan: Plan, formats: tuple[int, ...], zone: tzinfo) -> list[Decoder]:
    count = len(plan.parameters)
    if len(formats) not in (0, 1, count):
        raise PgError(
            "08P01", f"bind message has {len(formats)} parameter formats but {count} parameters"
        )
    each = formats if len(formats) == count else (formats[0] if formats else 0,) * count
    return [decoder(k, bool(f), zone) for k, f in zip(plan.parameters, each, strict=True)]


def _located(decoders: Sequence[Decoder], values: Sequence[bytes | None]) -> PgError:
    """The error of the first value that does not fit, with its number."""
    for number, (decode, data) in enumerate(zip(decoders, values, strict=True), 1):
        try:
            if data is not None:
                decode(data)
        except PgError as error:
            error.detail = error.detail or f"parameter ${number}"
            return error
    raise AssertionError("values that failed have none that fails")
