"""The commands that this wire does itself instead of SQLite, as values.

Transactions, parameters, prepared statements, cursors and COPY;
:mod:`ha.wire.postgres.command_parser` reads them. Source: PostgreSQL documentation, "SQL Commands".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Command:
    """``tag`` is the command tag; ``in_failed`` ones run in a failed transaction too."""

    tag: str = ""
    in_failed: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Modes:
    """Transaction modes; None where nothing was said."""

    isolation: str | None = None
    read_only: bool | None = None


@dataclass(frozen=True, slots=True)
class Begin(Command):
    """``behaviour`` is SQLite's DEFERRED, IMMEDIATE or EXCLUSIVE, or empty."""

    modes: Modes = Modes()
    behaviour: str = ""


@dataclass(frozen=True, slots=True)
class Commit(Command):
    chain: bool = False
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Rollback(Command):
    chain: bool = False
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Savepoint(Command):
    name: str = ""


@dataclass(frozen=True, slots=True)
class Release(Command):
    name: str = ""


@dataclass(frozen=True, slots=True)
class RollbackTo(Command):
    name: str = ""
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class SetVariable(Command):
    """``value`` None: DEFAULT."""

    name: str = ""
    value: str | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class SetModes(Command):
    """SET TRANSACTION, or with ``session`` SET SESSION CHARACTERISTICS."""

    modes: Modes = Modes()
    session: bool = False


@dataclass(frozen=True, slots=True)
class Nothing(Command):
    """Accepted, without effect here."""


@dataclass(frozen=True, slots=True)
class Reset(Command):
    """``name`` None: all."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Show(Command):
    """``name`` None: all."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Discard(Command):
    what: str = "ALL"


@dataclass(frozen=True, slots=True)
class Deallocate(Command):
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PrepareStatement(Command):
    name: str = ""
    types: tuple[str, ...] = ()
    sql: str = ""


@dataclass(frozen=True, slots=True)
class ExecuteStatement(Command):
    """``arguments`` is the SQL text between the parentheses."""

    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Declare(Command):
    name: str = ""
    sql: str = ""
    scroll: bool = False
    hold: bool = False
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Fetch(Command):
    """``direction``: FORWARD, BACKWARD, ABSOLUTE or RELATIVE; ``count`` None: all."""

    cursor: str = ""
    direction: str = "FORWARD"
    count: int | None = 1
    move: bool = False


@dataclass(frozen=True, slots=True)
class CloseCursor(Command):
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """``format`` text, csv or binary. ``force_*`` None: no column, empty: all (``*``)."""

    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: str = "off"
    quote: str = '"'
    escape: str = '"'
    force_quote: tuple[str, ...] | None = None
    force_null: tuple[str, ...] | None = None
    force_not_null: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Copy(Command):
    """Either a ``table`` with ``columns`` (empty: all), or a ``query``."""

    table: str = ""
    columns: tuple[str, ...] = ()
    query: str = ""
    from_client: bool = False
    options: CopyOptions = field(default_factory=CopyOptions)
