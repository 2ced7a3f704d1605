"""Commands of ours beside SQL: SHOW DATABASES, SET DATABASE, UNSET DATABASE, USE,
CREATE DATABASE, DROP DATABASE, SET ha.txseq, SHOW ha.txseq, SET ha.consistency,
SHOW ha.consistency, BEGIN READ ONLY, HISTORY, UNDO, UNDOE, UNDOT.

They are found by their first words before SQLite sees the text; nothing that SQLite would
take begins so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from ha.core.errors import Code, HaError
from ha.engine.api import Column, Status
from ha.engine.command import END, FLAGS, NAME, Command, Done, name_in
from ha.engine.history_commands import find_history_command

if TYPE_CHECKING:
    from ha.engine.databases import Databases
    from ha.engine.session import Session

_OURS = re.compile(
    r"\s*(?:SHOW|SET|USE|UNSET|(?:CREATE|DROP)\s+DATABASE|HISTORY|(?:EXPLAIN\s+)?UNDO[ET]?"
    r"|BEGIN\s+(?:TRANSACTION\s+)?READ)\b",
    re.IGNORECASE,
)
_CREATE = re.compile(rf"\s*CREATE\s+DATABASE\s+{NAME}{END}", FLAGS)
_DROP = re.compile(rf"\s*DROP\s+DATABASE\s+{NAME}{END}", FLAGS)
_SHOW = re.compile(rf"\s*SHOW\s+DATABASES{END}", FLAGS)
_SET = re.compile(rf"\s*SET\s+DATABASE\s*(?:\bTO\b|=)\s*{NAME}{END}", FLAGS)
_USE = re.compile(rf"\s*USE\s+{NAME}{END}", FLAGS)
_UNSET = re.compile(rf"\s*UNSET\s+DATABASE{END}", FLAGS)
_TXSEQ = r"""(?:ha\.txseq|"ha\.txseq")"""
_SET_TXSEQ = re.compile(rf"\s*SET\s+{_TXSEQ}\s*(?:\bTO\b|=)\s*(?P<value>[^;]*?){END}", FLAGS)
_SHOW_TXSEQ = re.compile(rf"\s*SHOW\s+{_TXSEQ}{END}", FLAGS)
_CONSISTENCY = r"""(?:ha\.consistency|"ha\.consistency")"""
_SET_CONSISTENCY = re.compile(
    rf"\s*SET\s+{_CONSISTENCY}\s*(?:\bTO\b|=)\s*(?P<value>[^;]*?){END}", FLAGS
)
_SHOW_CONSISTENCY = re.compile(rf"\s*SHOW\s+{_CONSISTENCY}{END}", FLAGS)
_BEGIN_READ_ONLY = re.compile(rf"\s*BEGIN\s+(?:TRANSACTION\s+)?READ\s+ONLY{END}", FLAGS)
_TEXT = "TEXT"


def find_command(databases: Databases, session: Session, sql: str) -> Command | None:
    """The command that ``sql`` begins with, None if it is SQL."""
    if _OURS.match(sql) is None:
        return None
    if match := _SHOW.match(sql):

        async def show() -> Done:
            return Done([(name,) for name in databases.database_ids()])

        return Command("SHOW", show, (Column("database", _TEXT),), match["remaining"] or "")
    if match := _SET.match(sql) or _USE.match(sql):
        name = name_in(match)

        async def use() -> Done:
            await session.use_database(name)
            return Done()

        return Command("SET", use, (), match["remaining"] or "")
    if match := _UNSET.match(sql):

        async def unset() -> Done:
            await session.use_database(databases.database_ids()[0])
            return Done()

        return Command("UNSET", unset, (), match["remaining"] or "")
    if match := _CREATE.match(sql):
        dsn = name_in(match)

        async def create() -> Done:
            _outside_of_transaction(session, "CREATE DATABASE")
            await databases.create(dsn, session.request_id)
            return Done()

        return _change_of_databases(databases, "CREATE DATABASE", create, match, dsn)
    if match := _DROP.match(sql):
        dropped = name_in(match)

        async def drop() -> Done:
            _outside_of_transaction(session, "DROP DATABASE")
            await databases.drop(dropped, session.request_id)
            return Done()

        return _change_of_databases(databases, "DROP DATABASE", drop, match, dropped)
    if match := _SET_TXSEQ.match(sql):
        sequence = _sequence(match["value"])

        async def wait() -> Done:
            await session.wait_for(sequence)
            return Done()

        return Command("SET TXSEQ", wait, (), match["remaining"] or "")
    if match := _SHOW_TXSEQ.match(sql):

        async def txseq() -> Done:
            return Done([(session.txseq,)])

        columns = (Column("ha.txseq", "INTEGER"),)
        return Command("SHOW TXSEQ", txseq, columns, match["remaining"] or "")
    if match := _SET_CONSISTENCY.match(sql):
        linearizable = is_linearizable(match["value"].strip().strip("'\""))

        async def choose() -> Done:
            session.routing = replace(session.routing, linearizable=linearizable)
            return Done()

        return Command("SET CONSISTENCY", choose, (), match["remaining"] or "")
    if match := _SHOW_CONSISTENCY.match(sql):

        async def consistency() -> Done:
            return Done([(LINEARIZABLE if session.routing.linearizable else LOCAL,)])

        columns = (Column("ha.consistency", _TEXT),)
        return Command("SHOW CONSISTENCY", consistency, columns, match["remaining"] or "")
    if match := _BEGIN_READ_ONLY.match(sql):

        async def begin() -> Done:
            await session.begin_read_only()
            return Done()

        return Command("BEGIN", begin, (), match["remaining"] or "")
    return find_history_command(session, sql)


def _change_of_databases(
    databases: Databases,
    verb: str,
    work: Callable[[], Awaitable[Done]],
    match: re.Match[str],
    name: str,
) -> Command:
    async def carried_out(request_ids: Collection[str]) -> bool:
        return await databases.has_carried_out(name, request_ids)

    rest = match["remaining"] or ""
    return Command(verb, work, (), rest, database=name, carried_out=carried_out)


LINEARIZABLE, LOCAL = "linearizable", "local"
"""What ``ha.consistency`` may be."""


def is_linearizable(text: str) -> bool:
    """Raises HaError (BAD_REQUEST) for a word that is no consistency."""
    word = text.lower()
    if word not in (LINEARIZABLE, LOCAL):
        raise HaError(
            Code.BAD_REQUEST, f"the consistency is {LOCAL} or {LINEARIZABLE}, not {text!r}"
        )
    return word == LINEARIZABLE


def _outside_of_transaction(session: Session, what: str) -> None:
    if session.status is not Status.IDLE:
        raise HaError(Code.IN_TRANSACTION, f"{what} cannot be part of a transaction")


def _sequence(text: str) -> int:
    digits = text.strip().strip("'")
    if not re.fullmatch(r"[0-9]{1,20}", digits) or int(digits) >= 2**64:
        raise HaError(Code.BAD_REQUEST, f"ha.txseq must be a sequence, a whole number: {text}")
    return int(digits)
