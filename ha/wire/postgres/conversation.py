"""The state of one client's session, and the running of one statement for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import trio

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import Kind, SessionApi
from ha.wire.postgres import backend
from ha.wire.postgres.channel import Channel
from ha.wire.postgres.config import Limits
from ha.wire.postgres.errors import PgError, from_ha
from ha.wire.postgres.plan import Plan, Planner
from ha.wire.postgres.rows import BatchEncoder, ResultColumn, Row, batch_encoder
from ha.wire.postgres.settings import Settings
from ha.wire.postgres.sources import (
    BATCH_ROWS,
    ListSource,
    QuerySource,
    Source,
    changed_shape,
    next_batch,
)
from ha.wire.postgres.tags import completed
from ha.wire.postgres.transactions import Transactions


@dataclass(slots=True)
class Portal:
    """A bound statement. ``source`` is None before the first Execute; ``ended`` after its end."""

    plan: Plan
    values: Sequence[Value] = ()
    formats: Sequence[int] = ()
    columns: tuple[ResultColumn, ...] = ()
    source: Source | None = None
    tag: str = ""
    count: int | None = None
    """Rows affected, of a statement that is no reading one."""
    ended: bool = False
    encode: BatchEncoder | None = None

    async def aclose(self) -> None:
        source, self.source = self.source, None
        self.ended = True
        if source is not None:
            await source.aclose()


@dataclass(slots=True)
class Cursor:
    """Of DECLARE. ``kept`` are the rows fetched so far where going back is allowed."""

    name: str
    plan: Plan
    source: Source | None
    scroll: bool
    hold: bool
    binary: bool
    kept: list[Row] = field(default_factory=list)
    position: int = 0
    complete: bool = False


@dataclass(slots=True)
class Answer:
    """What a command of this wire answers. ``tag`` is complete, count included."""

    tag: str
    columns: tuple[ResultColumn, ...] = ()
    rows: list[Row] = field(default_factory=list)
    binary: bool = False
    """Of a BINARY cursor: in binary format where the client did not choose."""


class Running:
    """See :meth:`Conversation.running`. A class, since it is entered for every statement."""

    __slots__ = ("_conversation", "_manager", "_nursery", "_seconds")

    def __init__(self, conversation: Conversation, seconds: float) -> None:
        self._conversation = conversation
        self._seconds = seconds
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> None:
        c = self._conversation
        c.start()
        if self._seconds:
            self._manager = trio.open_nursery()
            self._nursery = await self._manager.__aenter__()
            self._nursery.start_soon(self._time_out)

    async def _time_out(self) -> None:
        await trio.sleep(self._seconds)
        self._conversation.cancel("statement timeout")

    async def __aexit__(self, *exc: object) -> None:
        self._conversation.busy = False
        if self._manager is not None and self._nursery is not None:
            # The error of the statement is not the nursery's: it would wrap it.
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)


class Conversation:
    """Everything that lives as long as the session. Used by one task, but for :meth:`cancel`."""

    def __init__(
        self,
        channel: Channel,
        session: SessionApi,
        settings: Settings,
        limits: Limits,
        planner: Planner,
        database_ids: Sequence[str],
        process_id: int,
    ) -> None:
        self.channel = channel
        self.session = session
        self.settings = settings
        self.limits = limits
        self.planner = planner
        self.default_database = database_ids[0] if database_ids else ""
        self.process_id = process_id
        self.statements: dict[str, Plan] = {}
        self.sql_statements: set[str] = set()
        self.portals: dict[str, Portal] = {}
        self.cursors: dict[str, Cursor] = {}
        self.transactions = Transactions(session, self.close_open, settings.end_transaction)
        self.busy = False
        """Does a statement run?"""
        self.runs = 0
        """How many have begun."""
        self.cancelled_by: str | None = None
        self.vanished = False
        settings.on_consistency = self._choose_consistency
        if settings.values["ha.consistency"] == "linearizable":
            self._choose_consistency(True)

    def _choose_consistency(self, linearizable: bool) -> None:
        """Raises HaError where there is no leader who could confirm."""
        if linearizable != self.session.routing.linearizable:
            self.session.routing = replace(self.session.routing, linearizable=linearizable)

    # --- cancellation ----------------------------------------------------------------

    def cancel(self, reason: str = "user request") -> None:
        """Interrupt the running statement, if one is running. From any task."""
        if self.busy:
            self.cancelled_by = reason
            self.session.cancel()

    def check_cancelled(self) -> None:
        """Between pieces of work that the engine does not see. Raises HaError."""
        if self.cancelled_by is not None:
            raise HaError(Code.CANCELLED, "the statement was cancelled")

    @property
    def no_time_out(self) -> bool:
        return self.settings.values["statement_timeout"] == "0"

    def start(self) -> None:
        """A statement runs from now on, until ``busy`` is False again."""
        self.busy = True
        self.runs += 1
        self.cancelled_by = None

    def running(self) -> Running:
        """Around everything that statements do: cancel requests and statement_timeout count."""
        return Running(self, self.settings.milliseconds("statement_timeout") / 1000)

    # --- statements ------------------------------------------------------------------

    @property
    def as_text(self) -> bool:
        return self.settings.values["ha.result_types"] == "text"

    async def plan(self, sql: str, declared: Sequence[int] = ()) -> Plan:
        return await self.planner.plan(sql, declared, as_text=self.as_text)

    async def stored_columns(self, table: str) -> set[str]:
        """The columns of a table that hold values: generated ones do not."""
        sql = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0"
        async with self.session.query(sql, [table]) as rows:
            return {str(row[0]) for row in await rows.fetch(2_000)}

    def check_allowed(self, plan: Plan) -> None:
        """Refuse what a failed or a read-only transaction does not take. Raises PgError."""
        if plan.kind is Kind.READ and not self.transactions.failed:
            return
        if self.transactions.failed and not (plan.command and plan.command.in_failed):
            self.transactions.check()
        if plan.kind in (Kind.WRITE, Kind.DDL):
            read_only = self.transactions.read_only or (
                not self.transactions.active
                and self.settings.values["default_transaction_read_only"] == "on"
            )
            if read_only:
                raise PgError("25006", f"cannot execute {plan.tag} in a read-only transaction")

    async def open(self, portal: Portal, *, more_follows: bool) -> None:
        """Run the statement of ``portal`` as far as its first rows. Raises HaError, PgError.

        ``more_follows``: other statements of the same implicit transaction come after it.
        """
        plan = portal.plan
        transactions = self.transactions
        if plan.command is not None:
            from ha.wire.postgres.perform import perform

            answer = await perform(self, plan.command, portal.values)
            portal.source = ListSource(answer.rows)
            portal.columns = answer.columns
            if answer.binary and not portal.formats:
                portal.formats = (1,)
            portal.tag = answer.tag
            portal.count = -1
        elif plan.kind is Kind.READ:
            portal.source = await QuerySource.open(self.session, plan, portal.values)
            portal.tag = plan.tag
        else:
            if more_follows:
                await transactions.begin_implicit()
            result = await self.session.execute(plan.sql, portal.values or None)
            portal.source = ListSource(result.rows)
            portal.tag = plan.tag
            portal.count = result.rows_affected if plan.kind is Kind.WRITE else None
            if result.rows and len(result.rows[0]) != len(portal.columns):
                raise changed_shape()
        if portal.columns and portal.encode is None:
            portal.encode = self.encoder(portal)

    def encoder(self, portal: Portal) -> BatchEncoder:
        zone = self.settings.zone
        if portal.columns is not portal.plan.columns:
            formats = expand_formats(portal.formats, len(portal.columns))
            return batch_encoder(portal.columns, formats, zone)
        key = (tuple(portal.formats), zone)
        encode = portal.plan.encoders.get(key)
        if encode is None:
            formats = expand_formats(portal.formats, len(portal.columns))
            encode = portal.plan.encoders[key] = batch_encoder(portal.columns, formats, zone)
        return encode

    async def run(
        self, portal: Portal, more_follows: Callable[[], bool], describe: bool = False
    ) -> None:
        """Run all of a portal that has not run yet, and send its rows. Raises HaError, PgError.

        ``describe``: send the row description first.
        """
        plan = portal.plan
        if plan.kind is Kind.READ:
            if describe:
                self.channel.write(describe_portal(portal))
            await self.read(portal)
            return
        writes = plan.kind in (Kind.WRITE, Kind.DDL)
        await self.open(portal, more_follows=writes and more_follows())
        if describe and portal.columns:
            self.channel.write(describe_portal(portal))
        await self.send_rows(portal, 0)

    async def read(self, portal: Portal, max_rows: int = 0) -> None:
        """The way of nearly all statements: run a reading one from its start to its end, or to
        ``max_rows`` (0: all), after which it cannot go on. Raises HaError, PgError."""
        plan = portal.plan
        assert plan.prepared is not None
        encode = self.encoder(portal)
        write = self.channel.write
        batch, sent = BATCH_ROWS, 0
        async with self.session.query(plan.sql, portal.values) as rows:
            if rows.columns != plan.prepared.columns:
                raise changed_shape()
            while True:
                if max_rows:
                    batch = min(batch, max_rows - sent)
                found = await rows.fetch(batch)
                if found:
                    data = encode(found)
                    write(data)
                    sent += len(found)
                if len(found) < batch or sent == max_rows:
                    break
                await self.channel.drain()
                self.check_cancelled()
                batch = next_batch(len(found), len(data))
        portal.ended = True
        write(backend.PORTAL_SUSPENDED if sent == max_rows > 0 else completed(plan.tag, sent))

    async def send_rows(self, portal: Portal, max_rows: int) -> None:
        """DataRows, then CommandComplete or PortalSuspended. ``max_rows`` 0: all."""
        source = portal.source
        channel = self.channel
        sent = 0
        if source is not None and portal.columns:
            encode = portal.encode
            assert encode is not None
            batch = BATCH_ROWS
            while True:
                wanted = min(batch, max_rows - sent) if max_rows else batch
                rows = await source.fetch(wanted)
                if rows:
                    data = encode(rows)
                    channel.write(data)
                    sent += len(rows)
                    batch = next_batch(len(rows), len(data))
                    if len(rows) == wanted:
                        await channel.drain()
                        self.check_cancelled()
                if len(rows) < wanted:
                    break
                if sent == max_rows:
                    channel.write(backend.PORTAL_SUSPENDED)
                    return
        await portal.aclose()
        if portal.count == -1:
            channel.write(backend.command_complete(portal.tag))
        else:
            count = sent if portal.count is None else portal.count
            channel.write(completed(portal.tag, count))

    def has_open_portals(self) -> bool:
        for portal in self.portals.values():  # noqa: SIM110 (asked after every statement)
            if portal.source is not None:
                return True
        return False

    # --- the end of things --------------------------------------------------------------

    async def close_open(self, committing: bool) -> None:
        """Before a transaction ends: portals and cursors do not outlive it."""
        for portal in self.portals.values():
            if portal.source is not None:
                await portal.aclose()
        self.portals.clear()
        if not self.cursors:
            return
        from ha.wire.postgres.cursors import end_cursors

        await end_cursors(self, committing)

    async def report(self, error: Exception, sql: str | None = None) -> None:
        """Send an error, and let the transaction fail."""
        self.channel.write(backend.error_response(self.notice(error, sql)))
        try:
            await self.transactions.fail()
        except HaError as second:
            self.channel.write(backend.notice_response(from_ha(second)))

    def notice(self, error: Exception, sql: str | None = None) -> backend.Notice:
        if isinstance(error, PgError):
            return error.notice()
        assert isinstance(error, HaError)
        if error.code is Code.CANCELLED and self.cancelled_by is not None:
            return backend.Notice(
                "ERROR", "57014", f"canceling statement due to {self.cancelled_by}"
            )
        return from_ha(error, sql)

    def write_ready(self) -> None:
        if self.settings.changed:
            for name, value in self.settings.take_changes():
                self.channel.write(backend.parameter_status(name, value))
        self.channel.write(backend.ready_for_query(self.transactions.status))

    def warn(self, message: str, sqlstate: str = "01000") -> None:
        self.channel.write(backend.notice_response(backend.Notice("WARNING", sqlstate, message)))

    async def aclose(self) -> None:
        """Roll back and give everything back. Never raises."""
        with trio.CancelScope(shield=True):
            for portal in self.portals.values():
                await portal.aclose()
            for cursor in self.cursors.values():
                if cursor.source is not None:
                    await cursor.source.aclose()
            await self.session.aclose()


def describe_portal(portal: Portal) -> bytes:
    """The row description in the formats that were asked for, or NoData."""
    key = tuple(portal.formats)
    kept = portal.plan.descriptions if portal.columns is portal.plan.columns else {}
    data = kept.get(key)
    if data is None:
        formats = expand_formats(key, len(portal.columns))
        data = kept[key] = describe_columns(portal.columns, formats)
    return data


def describe_columns(columns: Sequence[ResultColumn], formats: Sequence[int]) -> bytes:
    if not columns:
        return backend.NO_DATA
    fields = [c.field(f) for c, f in zip(columns, formats, strict=True)]
    return backend.row_description(fields)


def expand_formats(formats: Sequence[int], count: int) -> list[int]:
    """None: all text; one: for all; else one for each. Raises PgError 08P01."""
    if not formats:
        return [0] * count
    if len(formats) == 1:
        return [formats[0]] * count
    if len(formats) != count:
        raise PgError(
            "08P01", f"bind message has {len(formats)} result formats but query has {count} columns"
        )
    return list(formats)
