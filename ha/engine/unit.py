"""A transaction on its way into the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import trio

from ha.core.errors import HaError
from ha.engine.api import Result, Statement
from ha.log.api import Outgoing
from ha.store.capture import Captured
from ha.store.connection import Connection
from ha.store.executor import Executor
from ha.store.parse import Parsed


class Stage(Enum):
    WAITING = auto()  # in the queue: may still be taken back
    RUNNING = auto()  # its statements run, or its messages are under way
    DONE = auto()


@dataclass(slots=True, eq=False)
class Unit:
    """One transaction: its statements, and what becomes of it.

    ``deadline``: in trio's time, until when it may wait to be published. ``sequence``: where
    it stands in the log, 0 if it changed nothing. ``again``: may it be executed again when
    the fold ignored it for a race. ``final``: its error stands, whatever becomes of its batch.
    ``local_ddl``: committed here and told to nobody. ``drains``: with asynchronous replication,
    waits until nothing else waits for the log, and for the log itself.
    ``parse``: from a cache, or by the connection it runs on. ``work``: runs on the executor in
    place of statements. ``executor``: the unit's own, None for the shared one. ``alone``: its
    message must follow directly on the state it ran on; if others were first, it is executed
    again, or fails with SERIALIZATION_FAILURE. ``request``: a follower's name for it, which stands
    in its message.
    """

    statements: Sequence[Statement]
    deadline: float
    max_rows: int | None = None
    last_insert_id: int = 0
    changes: int = 0
    again: bool = True
    local_ddl: bool = False
    drains: bool = False
    alone: bool = False
    work: Callable[[Executor], list[Result]] | None = None
    executor: Executor | None = None
    stage: Stage = Stage.WAITING
    tries: int = 0
    results: list[Result] = field(default_factory=list)
    error: HaError | None = None
    sequence: int = 0
    request: str = ""
    captured: Captured | None = None
    number: int = 0
    term: int = 0
    messages: list[Outgoing] = field(default_factory=list)
    refused: HaError | None = None
    passing: bool = False
    """What made the broker refuse it passes by itself."""
    acked: bool = False
    final: bool = False
    settle_at: float | None = None
    parse: Callable[[Connection, str], Parsed] = Connection.parse
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def last_id(self) -> str | None:
        """The id of the message that decides, the last part's; None if there is none."""
        return self.messages[-1].message_id if self.messages else None

    def succeed(self, sequence: int = 0) -> None:
        self.sequence = sequence
        self._end()

    def fail(self, error: HaError) -> None:
        self.error = error
        self._end()

    def _end(self) -> None:
        if self.stage is not Stage.DONE:
            self.stage = Stage.DONE
            self.captured = None
            self.messages = []
            self.done.set()

    def reset(self) -> None:
        """Back into the queue, to be executed once more."""
        self.clear()
        self.stage = Stage.WAITING

    def clear(self) -> None:
        """Forget what became of it so far."""
        self.results = []
        self.error = None
        self.captured = None
        self.messages = []
        self.refused = None
        self.passing = False
        self.acked = False
        self.final = False
        self.settle_at = None
        self.number = 0
