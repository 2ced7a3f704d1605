"""What elected and appointed leaders have in common: who is told of a change, and how."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from ha.core.errors import Code, HaError
from ha.engine.leadership import Leader, Member, Role

logger = logging.getLogger(__name__)


class Opened(Protocol):
    """The commit path of a database, as :meth:`Standing.confirm` needs it."""

    @property
    def applied(self) -> int: ...

    async def wait_open(self) -> None: ...

    async def confirm_term(self) -> None: ...


class Standing(ABC):
    """Implements what Leadership and Mandate share.

    ``ready``: may this node lead without delay; ``positions``: where its databases stand;
    ``find``: the commit path of a database. The node sets them when it has databases.
    """

    def __init__(self, name: str, address: str) -> None:
        self.changes = 0
        """How often role, term or leader became others."""
        self.ready: Callable[[], bool] = lambda: True
        self.positions: Callable[[], Mapping[str, int]] = dict
        self.find: Callable[[str | None], Opened] | None = None
        self._name = name
        self._address = address
        self._callbacks: list[Callable[[], None]] = []
        self._noted = trio.Event()
        self._changed = trio.Event()
        self._last: tuple[Role, int, Leader | None] = (Role.NONE, 0, None)

    # --- what is so ------------------------------------------------------------------

    @property
    @abstractmethod
    def role(self) -> Role: ...

    @property
    @abstractmethod
    def term(self) -> int: ...

    @property
    @abstractmethod
    def leader(self) -> Leader | None: ...

    @property
    @abstractmethod
    def campaigns(self) -> int:
        """How often this node tried to become the leader."""

    @property
    @abstractmethod
    def held(self) -> int | None: ...

    @abstractmethod
    async def _confirm(self, database: Opened) -> None:
        """Return when it is certain that this node leads. Raises HaError."""

    def _self_as_member(self) -> Member:
        return Member(self._name, self._address, self.role, dict(self.positions()))

    # --- who is told -----------------------------------------------------------------

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def _note(self) -> None:
        """Tell whoever waits, if anything is other than it was."""
        self._noted.set()
        self._noted = trio.Event()
        now = (self.role, self.term, self.leader)
        if now == self._last:
            return
        before, self._last = self._last, now
        self.changes += 1
        _log_change(before, now)
        self._changed.set()
        self._changed = trio.Event()
        for callback in list(self._callbacks):
            callback()

    async def wait_for_change(self) -> None:
        now = (self.role, self.term, self.leader)
        if now != self._last:
            await trio.lowlevel.checkpoint()
            return
        await self._changed.wait()

    async def wait_for_leader(self, timeout: float) -> Leader:
        with trio.move_on_after(timeout):
            while True:
                leader = self.leader
                if leader is not None:
                    await trio.lowlevel.checkpoint()
                    return leader
                await self._changed.wait()
        raise no_leader(timeout)

    # --- answers ---------------------------------------------------------------------

    def refusal(self) -> HaError:
        leader = self.leader
        if leader is None:
            return no_leader()
        if leader.name == self._name:
            return HaError(
                Code.NO_LEADER,
                "this node has just become the leader: its term is not open yet",
                hint="nothing was written; try again",
            )
        return HaError(
            Code.NOT_LEADER,
            f"this node does not lead: {leader.name} at {leader.address} does (term {leader.term})",
            hint="nothing was written; write there, or try again here to be sent there",
        )

    async def confirm(self, database_id: str | None = None) -> int:
        assert self.find is not None
        database = self.find(database_id)
        if self.held is None:
            raise self.refusal()
        await self._confirm(database)
        # What earlier leaders wrote stands before the message that opened our term.
        await self._opened(database)
        return database.applied

    async def _opened(self, database: Opened) -> None:
        with trio.move_on_after(5.0):
            await database.wait_open()
            return
        raise self.refusal()


def no_leader(seconds: float = 0.0) -> HaError:
    when = f"for {seconds:g} s" if seconds else "at the moment"
    return HaError(
        Code.NO_LEADER,
        f"no node leads {when}: writes are not taken",
        hint="nothing was written; try again",
    )


def _log_change(
    before: tuple[Role, int, Leader | None], now: tuple[Role, int, Leader | None]
) -> None:
    role, term, leader = now
    if role is Role.LEADER:
        logger.info("leading", extra={"term": term})
    elif before[0] is Role.LEADER:
        logger.warning("not leading any more", extra={"term": term})
    if role is not Role.LEADER and leader is not None and leader != before[2]:
        logger.info("following", extra={"leader": leader.name, "term": leader.term})
