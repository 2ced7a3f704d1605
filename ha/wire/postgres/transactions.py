"""Transaction blocks as PostgreSQL has them, over the engine's.

Three things are PostgreSQL's own: an error fails the whole block until ROLLBACK; the statements
of one simple query, or of a pipeline up to Sync, form an implicit block; and COMMIT of a failed
block answers ROLLBACK. Source: PostgreSQL documentation, "Multiple Statements in a Simple
Query", "Pipelining".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

from ha.core.errors import HaError
from ha.engine.api import SessionApi, Status
from ha.wire.postgres.commands import Modes
from ha.wire.postgres.errors import PgError


class Block(Enum):
    NONE = "none"
    IMPLICIT = "implicit"
    EXPLICIT = "explicit"


class Transactions:
    """``before_end(committing)`` closes what lives in the transaction: portals, cursors;
    ``after_end(committed)`` settles parameters."""

    def __init__(
        self,
        session: SessionApi,
        before_end: Callable[[bool], Awaitable[None]],
        after_end: Callable[[bool], None],
    ) -> None:
        self._session = session
        self._before_end = before_end
        self._after_end = after_end
        self.block = Block.NONE
        self.failed = False
        self.read_only = False
        self.modes = Modes()
        self._savepoints: list[str] = []

    @property
    def status(self) -> str:
        """The byte of ReadyForQuery."""
        if self.block is not Block.EXPLICIT:
            return "I"
        return "E" if self.failed else "T"

    @property
    def active(self) -> bool:
        return self.block is not Block.NONE

    def check(self) -> None:
        """Refuse anything but the end of a failed transaction."""
        if self.failed:
            raise PgError(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            )

    async def begin(self, modes: Modes, behaviour: str, default_read_only: bool) -> bool:
        """True: begun. False: there was a transaction already (PostgreSQL warns)."""
        if self.block is Block.EXPLICIT:
            return False
        read_only = default_read_only if modes.read_only is None else modes.read_only
        if self.block is Block.NONE:
            # One that reads only need not be where the writer is.
            behaviour = "READ ONLY" if read_only else behaviour
            await self._session.execute(f"BEGIN {behaviour}".strip())
        self.block = Block.EXPLICIT
        self.modes = modes
        self.read_only = read_only
        return True

    async def begin_implicit(self) -> None:
        if self.block is Block.NONE:
            await self._session.execute("BEGIN")
            self.block = Block.IMPLICIT

    async def end_implicit(self) -> None:
        """Commit an implicit block, if there is one. Raises HaError."""
        if self.block is Block.IMPLICIT:
            await self.commit()

    async def commit(self) -> str:
        """The tag: COMMIT, or ROLLBACK if the transaction had failed. Raises HaError."""
        if self.failed:
            await self.rollback()
            return "ROLLBACK"
        if self.block is Block.NONE:
            return "COMMIT"
        try:
            await self._before_end(True)
            await self._session.execute("COMMIT")
        except (HaError, PgError):
            await self._roll_back_engine()
            self._ended(False)
            raise
        self._ended(True)
        return "COMMIT"

    async def rollback(self) -> None:
        if self.block is Block.NONE:
            return
        await self._before_end(False)
        await self._roll_back_engine()
        self._ended(False)

    async def fail(self) -> None:
        """A statement has failed: an implicit block is over, an explicit one waits for its end.

        Without a savepoint nothing of it can be kept, so the engine's transaction ends at once
        and the writer is free for others.
        """
        if self.block is Block.IMPLICIT:
            await self.rollback()
        elif self.block is Block.EXPLICIT and not self.failed:
            self.failed = True
            if self._session.status is not Status.TRANSACTION:
                self._savepoints.clear()
            if not self._savepoints:
                await self._before_end(False)
                await self._roll_back_engine()

    async def savepoint(self, name: str) -> None:
        self._need_block("SAVEPOINT")
        await self._session.execute(f"SAVEPOINT {_quoted(name)}")
        self._savepoints.append(name)

    async def release(self, name: str) -> None:
        self._need_block("RELEASE SAVEPOINT")
        position = self._position(name)
        await self._session.execute(f"RELEASE {_quoted(name)}")
        del self._savepoints[position:]

    async def rollback_to(self, name: str) -> None:
        self._need_block("ROLLBACK TO SAVEPOINT")
        position = self._position(name)
        await self._session.execute(f"ROLLBACK TO {_quoted(name)}")
        del self._savepoints[position + 1 :]
        self.failed = False

    def _position(self, name: str) -> int:
        for i in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[i] == name:
                return i
        raise PgError("3B001", f'savepoint "{name}" does not exist')

    def _need_block(self, what: str) -> None:
        if self.block is not Block.EXPLICIT:
            raise PgError("25P01", f"{what} can only be used in transaction blocks")

    async def _roll_back_engine(self) -> None:
        if self._session.status is not Status.IDLE:
            await self._session.execute("ROLLBACK")

    def _ended(self, committed: bool) -> None:
        self.block = Block.NONE
        self.failed = False
        self.read_only = False
        self.modes = Modes()
        self._savepoints.clear()
        self._after_end(committed)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
