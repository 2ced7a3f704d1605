"""What both kinds of connections know."""

from __future__ import annotations

from ha.dbapi import errors
from ha.dbapi.address import Address, Options
from ha.dbapi.core import Core
from ha.wire.grpc.sql_pb import Begin


class ConnectionState:
    """The exceptions are here too, as PEP 249 suggests."""

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(self, options: Options, *, autocommit: bool) -> None:
        self._core = Core(options, autocommit=autocommit)

    @property
    def autocommit(self) -> bool:
        """False (the default): the first statement opens a transaction, commit() ends it."""
        return self._core.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value and self._core.in_transaction:
            raise errors.ProgrammingError("a transaction is open: commit it or roll it back first")
        self._core.autocommit = bool(value)

    @property
    def begin_immediate(self) -> bool:
        """Do transactions take the write lock when they open, not when they first write?"""
        return self._core.begin is Begin.IMMEDIATE

    @begin_immediate.setter
    def begin_immediate(self, value: bool) -> None:
        self._core.begin = Begin.IMMEDIATE if value else Begin.DEFERRED

    @property
    def in_transaction(self) -> bool:
        return self._core.in_transaction

    @property
    def closed(self) -> bool:
        return self._core.closed

    @property
    def txseq(self) -> int:
        """The sequence of the last transaction written here: another connection that is given
        it (``connect(…, txseq=…)``) reads nothing older, from any node."""
        return self._core.txseq

    @property
    def database(self) -> str:
        """The id of the database in use; empty while none is chosen of several."""
        return self._core.database

    @property
    def address(self) -> Address | None:
        """The node that it is connected to."""
        return self._core.address

    @property
    def reconnected(self) -> int:
        """How often the session was lost and made anew: TEMP objects and pragmas went with it."""
        return self._core.reconnected

    @property
    def server_version(self) -> str:
        return self._core.server_version
