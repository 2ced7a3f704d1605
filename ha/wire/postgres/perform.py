"""Runs the commands of :mod:`ha.wire.postgres.commands`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ha.core.errors import HaError
from ha.core.values import Value
from ha.wire.postgres import commands as k
from ha.wire.postgres import cursors
from ha.wire.postgres import oids as t
from ha.wire.postgres.conversation import Answer, Conversation, Portal
from ha.wire.postgres.decode import decoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.rows import ResultColumn, Row
from ha.wire.postgres.settings import REPORTED, canonical
from ha.wire.postgres.sources import ListSource
from ha.wire.postgres.tags import complete


async def perform(c: Conversation, command: k.Command, values: Sequence[Value] = ()) -> Answer:
    """``values`` are the parameters of a DECLARE. Raises HaError, PgError."""
    if isinstance(command, k.Declare):
        return await cursors.declare(c, command, values)
    run = _PERFORMERS.get(type(command))
    if run is None:
        raise PgError("0A000", f"{command.tag} is not supported here")
    return await run(c, command)


async def describe_command(c: Conversation, command: k.Command) -> tuple[ResultColumn, ...]:
    """The columns that :func:`perform` will answer with. Raises PgError."""
    if isinstance(command, k.Show):
        return _show_columns(command)
    if isinstance(command, k.Fetch) and not command.move:
        cursor = c.cursors.get(command.cursor)
        return cursor.plan.columns if cursor is not None else ()
    if isinstance(command, k.ExecuteStatement):
        plan = c.statements.get(command.name)
        return plan.columns if plan is not None else ()
    return ()


# --- transactions --------------------------------------------------------------------


async def _begin(c: Conversation, command: k.Begin) -> Answer:
    default = c.settings.values["default_transaction_read_only"] == "on"
    if not await c.transactions.begin(command.modes, command.behaviour, default):
        c.warn("there is already a transaction in progress", "25001")
    _show_modes(c, command.modes)
    return Answer(command.tag)


def _show_modes(c: Conversation, modes: k.Modes) -> None:
    if modes.isolation is not None:
        c.settings.set("transaction_isolation", modes.isolation, local=True)
    if c.transactions.read_only != (c.settings.values["transaction_read_only"] == "on"):
        value = "on" if c.transactions.read_only else "off"
        c.settings.set("transaction_read_only", value, local=True)


async def _commit(c: Conversation, command: k.Commit) -> Answer:
    modes = c.transactions.modes
    if c.transactions.status == "I" and not c.transactions.active:
        c.warn("there is no transaction in progress", "25P01")
    tag = await c.transactions.commit()
    if command.chain:
        await c.transactions.begin(modes, "", bool(modes.read_only))
    return Answer(tag)


async def _rollback(c: Conversation, command: k.Rollback) -> Answer:
    modes = c.transactions.modes
    if not c.transactions.active:
        c.warn("there is no transaction in progress", "25P01")
    await c.transactions.rollback()
    if command.chain:
        await c.transactions.begin(modes, "", bool(modes.read_only))
    return Answer("ROLLBACK")


async def _savepoint(c: Conversation, command: k.Savepoint) -> Answer:
    await c.transactions.savepoint(command.name)
    return Answer(command.tag)


async def _release(c: Conversation, command: k.Release) -> Answer:
    await c.transactions.release(command.name)
    return Answer(command.tag)


async def _rollback_to(c: Conversation, command: k.RollbackTo) -> Answer:
    await c.transactions.rollback_to(command.name)
    return Answer(command.tag)


# --- parameters ------------------------------------------------------------------------


async def _set(c: Conversation, command: k.SetVariable) -> Answer:
    key = canonical(command.name)
    if key == "ha.txseq":
        await _wait_for(c, command.value)
        return Answer(command.tag)
    if command.local and not c.transactions.active:
        c.warn("SET LOCAL can only be used in transaction blocks", "25P01")
        return Answer(command.tag)
    in_transaction = c.transactions.status != "I"
    c.settings.set(command.name, command.value, local=command.local)
    if key == "transaction_read_only":
        c.transactions.read_only = c.settings.values[key] == "on"
    if not in_transaction:
        c.settings.saved.clear()
        c.settings.local.clear()
    return Answer(command.tag)


async def _wait_for(c: Conversation, value: str | None) -> None:
    if value is None or not value.isdigit():
        raise PgError("22023", f'parameter "ha.txseq" is a sequence of the log, not "{value}"')
    await c.session.wait_for(int(value))
    c.settings.set("ha.txseq", value)


async def _set_modes(c: Conversation, command: k.SetModes) -> Answer:
    modes = command.modes
    if command.session:
        if modes.isolation is not None:
            c.settings.set("default_transaction_isolation", modes.isolation)
        if modes.read_only is not None:
            value = "on" if modes.read_only else "off"
            c.settings.set("default_transaction_read_only", value)
        c.settings.saved.clear()
        return Answer(command.tag)
    if c.transactions.status == "I":
        c.warn("SET TRANSACTION can only be used in transaction blocks", "25P01")
        return Answer(command.tag)
    if modes.read_only is not None:
        c.transactions.read_only = modes.read_only
    _show_modes(c, modes)
    return Answer(command.tag)


async def _reset(c: Conversation, command: k.Reset) -> Answer:
    if command.name is None:
        c.settings.reset_all()
    else:
        c.settings.set(command.name, None)
        if c.transactions.status == "I":
            c.settings.saved.clear()
    return Answer(command.tag)


def _show_columns(command: k.Show) -> tuple[ResultColumn, ...]:
    if command.name is None:
        return tuple(ResultColumn(n, t.TEXT) for n in ("name", "setting", "description"))
    key = canonical(command.name)
    return (ResultColumn(REPORTED.get(key, key), t.TEXT),)


async def _show(c: Conversation, command: k.Show) -> Answer:
    columns = _show_columns(command)
    if command.name is None:
        names = sorted(c.settings.values)
        rows: list[Row] = [(REPORTED.get(n, n), c.settings.show(n), "") for n in names]
        return Answer("SHOW", columns, rows)
    key = canonical(command.name)
    if key == "ha.txseq":
        value = str(c.session.txseq)
    elif key == "transaction_isolation" and not c.transactions.active:
        value = c.settings.get("default_transaction_isolation")
    else:
        value = c.settings.show(command.name)
    return Answer("SHOW", columns, [(value,)])


async def _nothing(c: Conversation, command: k.Command) -> Answer:
    return Answer(command.tag)


async def _discard(c: Conversation, command: k.Discard) -> Answer:
    if command.what == "ALL":
        if c.transactions.status != "I":
            raise PgError("25001", "DISCARD ALL cannot run inside a transaction block")
        await cursors.close_all(c)
        c.settings.reset_all()
        c.settings.saved.clear()
        c.statements.clear()
        c.sql_statements.clear()
    if command.what in ("ALL", "TEMP", "TEMPORARY"):
        await _drop_temporary(c)
    return Answer(command.tag)


async def _drop_temporary(c: Conversation) -> None:
    try:
        async with c.session.query(
            "SELECT name FROM sqlite_temp_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ) as rows:
            names = [str(r[0]) for r in await rows.fetch(10_000)]
        for name in names:
            quoted = name.replace('"', '""')
            await c.session.execute(f'DROP TABLE IF EXISTS temp."{quoted}"')
    except HaError as error:
        c.warn(f"temporary tables were kept: {error.message}")


# --- prepared statements ------------------------------------------------------------------


async def _prepare(c: Conversation, command: k.PrepareStatement) -> Answer:
    if command.name in c.statements:
        raise PgError("42P05", f'prepared statement "{command.name}" already exists')
    declared = []
    for name in command.types:
        kind = t.by_sql_name(name)
        if kind is None and name.lower() != "unknown":
            raise PgError("42704", f'type "{name}" does not exist')
        declared.append(kind.oid if kind else 0)
    plan = await c.plan(command.sql, declared)
    if plan.command is not None:
        raise PgError("42601", f"PREPARE does not take {plan.tag}")
    c.statements[command.name] = plan
    c.sql_statements.add(command.name)
    return Answer(command.tag)


async def _execute(c: Conversation, command: k.ExecuteStatement) -> Answer:
    plan = c.statements.get(command.name)
    if plan is None:
        raise PgError("26000", f'prepared statement "{command.name}" does not exist')
    values = await _arguments(c, command.arguments)
    if len(values) != len(plan.parameters):
        raise PgError(
            "42601",
            f'wrong number of parameters for prepared statement "{command.name}"',
            detail=f"Expected {len(plan.parameters)} parameters but got {len(values)}.",
        )
    typed = [
        decoder(kind, False, c.settings.zone)(v.encode()) if isinstance(v, str) else v
        for kind, v in zip(plan.parameters, values, strict=True)
    ]
    c.check_allowed(plan)
    portal = Portal(plan, typed, columns=plan.columns)
    try:
        await c.open(portal, more_follows=False)
        rows: list[Row] = []
        if portal.source is not None:
            while batch := await portal.source.fetch(1000):
                rows.extend(batch)
                if len(rows) > c.limits.cursor_rows:
                    raise PgError("54000", f"EXECUTE answered over {c.limits.cursor_rows} rows")
        count = len(rows) if portal.count is None else portal.count
        return Answer(complete(portal.tag, count), portal.columns, rows)
    finally:
        await portal.aclose()


async def _arguments(c: Conversation, text: str) -> list[Value]:
    """The values of expressions without parameters, as SQLite computes them."""
    if not text.strip():
        return []
    plan = await c.plan(f"SELECT {text}")
    async with c.session.query(plan.sql) as rows:
        found = await rows.fetch(1)
    return list(found[0]) if found else []


async def _deallocate(c: Conversation, command: k.Deallocate) -> Answer:
    if command.name is None:
        c.statements.clear()
        c.sql_statements.clear()
    elif c.statements.pop(command.name, None) is None:
        raise PgError("26000", f'prepared statement "{command.name}" does not exist')
    else:
        c.sql_statements.discard(command.name)
    return Answer(command.tag)


_PERFORMERS: dict[type[k.Command], Callable[[Conversation, Any], Awaitable[Answer]]] = {
    k.Begin: _begin,
    k.Commit: _commit,
    k.Rollback: _rollback,
    k.Savepoint: _savepoint,
    k.Release: _release,
    k.RollbackTo: _rollback_to,
    k.SetVariable: _set,
    k.SetModes: _set_modes,
    k.Reset: _reset,
    k.Show: _show,
    k.Nothing: _nothing,
    k.Discard: _discard,
    k.PrepareStatement: _prepare,
    k.ExecuteStatement: _execute,
    k.Deallocate: _deallocate,
    k.Fetch: cursors.fetch,
    k.CloseCursor: cursors.close,
}

__all__ = ["ListSource", "describe_command", "perform"]
