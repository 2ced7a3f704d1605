"""What a session of a follower needs to reach the leader: shapes alone, no I/O.

:mod:`ha.engine.routing` decides what goes there; a :class:`Forwarder`, which the node injects,
carries it over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ha.core.since import Since
from ha.core.undo import Mode
from ha.core.values import Value
from ha.engine.api import (
    Column,
    Params,
    Prepared,
    Result,
    Statement,
    Status,
    UndoReport,
)
from ha.engine.leadership import Leader, Leadership

DEFAULT_WAIT = 10.0
"""Seconds that a write waits for a leader."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a session has when a part of it begins on the leader.

    ``protocol`` and ``context``: the wire whose functions its statements may use, and what those
    need to know; ``pragmas``: the statements that set what it has set for itself.
    """

    database_id: str
    protocol: str
    context: Mapping[str, str] = field(default_factory=dict)
    last_insert_id: int = 0
    changes: int = 0
    pragmas: tuple[str, ...] = ()
    linearizable: bool = False


class LeaderLost(Exception):
    """The leader cannot be reached, or does not answer any more.

    ``not_run``: it is certain that what was asked without an answer was not run.
    """

    def __init__(self, reason: str, *, not_run: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.not_run = not_run


class RemoteRows(Protocol):
    """An open result on the leader: see :class:`ha.engine.api.Rows`."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    async def fetch(self, count: int) -> list[tuple[Value, ...]]: ...

    async def aclose(self) -> None: ...


class Remote(Protocol):
    """The part of a session that runs on the leader, for one call or one transaction.

    The methods raise HaError as the leader raised it, and LeaderLost. ``request_id`` stands in
    the message of the log that the call leads to, so that a lost answer can be settled there.
    """

    @property
    def leader(self) -> Leader: ...

    @property
    def status(self) -> Status: ...

    @property
    def txseq(self) -> int: ...

    @property
    def last_insert_id(self) -> int: ...

    @property
    def changes(self) -> int: ...

    async def prepare(self, sql: str) -> Prepared: ...

    async def execute(
        self, sql: str, params: Params, max_rows: int | None, request_id: str
    ) -> Result: ...

    async def transaction(
        self, statements: Sequence[Statement], max_rows: int | None, request_id: str
    ) -> list[Result]: ...

    async def query(self, sql: str, params: Params) -> RemoteRows: ...

    async def undo(
        self,
        mode: Mode,
        since: Since,
        rows: Mapping[str, frozenset[int]] | None,
        request_id: str,
    ) -> UndoReport: ...

    def cancel(self) -> None:
        """Interrupt the call that runs, from any task."""
        ...

    async def aclose(self) -> None:
        """Roll back what is open. Never raises."""
        ...


class Forwarder(Protocol):
    """Reaches leaders."""

    def url_of(self, leader: Leader) -> str:
        """``http://host:port``, for clients. Raises HaError for an address that is none."""
        ...

    async def open(self, leader: Leader, carried: Carried) -> Remote:
        """Raises LeaderLost, and HaError when the leader refuses to be one for this node."""
        ...

    async def confirm(self, leader: Leader, database_id: str, request_id: str = "") -> int:
        """Let the leader make certain that it leads: a position to have applied.

        What was asked under ``request_id`` has ended by then, or will never be run. Raises
        LeaderLost, HaError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the databases of a node in leader mode carry. ``wait``: seconds that a write waits
    for a leader; ``settle``: seconds to find out what became of a write whose answer is lost."""

    leadership: Leadership
    forwarder: Forwarder
    wait: float = DEFAULT_WAIT
    settle: float = DEFAULT_WAIT
