"""A leader that the operator names (--leader-static): there is no election, but there are terms.

Each process of the appointed leader opens a term of its own, above all that the log holds, so
that what an earlier one may still send is fenced. There is no lease: if the leader is gone,
writes wait until it is back. A node that finds that another process has opened a higher term
after it stops leading until it is started again: two nodes were appointed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ha.core.errors import Code, HaError
from ha.core.fold import NO_TERM, Term
from ha.engine.leadership import Leader, Member, Role
from ha.engine.presence import Presence
from ha.engine.standing import Opened, Standing
from ha.log.api import KeyValue

logger = logging.getLogger(__name__)


class Appointed(Standing):
    """Implements Leadership and Mandate. ``target``: the leader's address; ``leads``: it is this
    node; ``keys``: the bucket in which nodes say that they are there. Run :meth:`run`."""

    def __init__(
        self, keys: KeyValue, name: str, address: str, target: str, *, leads: bool
    ) -> None:
        super().__init__(name, address)
        self.highest: Callable[[], Term] = lambda: NO_TERM
        """The highest term in the logs of the node's databases."""
        self._target = target
        self._leads = leads
        self._own = 1
        self._presence = Presence(keys, name, address, lambda: self.positions())

    @property
    def role(self) -> Role:
        if self._leads:
            return Role.LEADER
        return Role.FOLLOWER if self._target != self._address else Role.NONE

    @property
    def term(self) -> int:
        return max(self.highest().number, self._own if self._leads else 0)

    @property
    def leader(self) -> Leader | None:
        if self._leads:
            return Leader(self._name, self._address, self.term)
        if self._target == self._address:
            return None
        term = self.highest()
        return Leader(term.node or self._target, self._target, term.number)

    @property
    def lease_left(self) -> float:
        return 0.0 if self.leader is None else float("inf")

    @property
    def campaigns(self) -> int:
        return 0

    @property
    def members(self) -> tuple[Member, ...]:
        return (self._self_as_member(), *self._presence.others(self.leader))

    @property
    def held(self) -> int | None:
        return self._own if self._leads else None

    def learned(self, term: int, *, lost: bool) -> None:
        if not self._leads or term < self._own:
            return
        if lost:
            self._leads = False
            logger.error(
                "another node leads: --leader-static names two of them", extra={"term": term}
            )
        else:
            self._own = term + 1
        self._note()

    async def _confirm(self, database: Opened) -> None:
        await self._opened(database)
        await database.confirm_term()

    def refusal(self) -> HaError:
        if not self._leads and self._target == self._address:
            return HaError(
                Code.NO_LEADER,
                "another node has taken the lead from this one, which was appointed",
                hint="give --leader-static of one node to all, and start this one again",
            )
        return super().refusal()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let the others know of this node, until cancelled."""
        self._note()
        task_status.started()
        await self._presence.run()

    async def resign(self, timeout: float = 1.0) -> None:
        """Say that this node is there no more."""
        with trio.move_on_after(timeout):
            await self._presence.leave()
