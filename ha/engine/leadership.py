"""Who takes the writes of a group of databases, as sessions and operators see it.

One leader for all databases that the nodes of a stream share. :class:`Leadership` is what the
node's databases carry as ``leadership``: None where every node takes writes (leaderless).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What this node is, as far as it knows."""

    LEADER = "leader"  # it holds the lease: it takes writes
    FOLLOWER = "follower"  # another node does: :attr:`Leadership.leader`
    NONE = "none"  # nobody is known to lead: an election, or no NATS in reach


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads. ``address``: what --leader-addr or --leader-static of that node says,
    ``host:port`` or an http(s) URL of its HTTP and gRPC port; ``term``: it only grows, 0 where
    it is not known (a static leader that this node has not heard of yet)."""

    name: str
    address: str
    term: int


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the group. ``positions``: the applied sequence of each database, by id;
    ``last_seen``: seconds ago that it gave a sign of life (0 for this node itself)."""

    name: str
    address: str
    role: Role
    positions: Mapping[str, int] = field(default_factory=dict)
    last_seen: float = 0.0


class Leadership(Protocol):
    """All properties tell what this node knows now; none of them waits."""

    @property
    def role(self) -> Role:
        """LEADER only while the lease is valid by this node's own monotonic clock."""
        ...

    @property
    def term(self) -> int:
        """The highest term known, 0 if there was none yet."""
        ...

    @property
    def leader(self) -> Leader | None:
        """Who leads: this node too. None while nobody is known to."""
        ...

    @property
    def lease_left(self) -> float:
        """Seconds until the leader's lease ends if it is not renewed, as this node counts; 0
        when there is none, infinite for a static leader."""
        ...

    @property
    def members(self) -> tuple[Member, ...]:
        """The nodes that were heard of, this one first."""
        ...

    async def wait_for_leader(self, timeout: float) -> Leader:
        """The leader, this node or another, as soon as there is one.

        Raises HaError NO_LEADER (503, 57P03) when there is none for ``timeout`` seconds.
        """
        ...

    async def wait_for_change(self) -> None:
        """Return when role, term or leader are other than they were when this was called."""
        ...

    async def confirm(self, database_id: str | None = None) -> int:
        """On the leader: make certain that nobody else has led since this was called.

        The applied sequence of the database (None: the default one) that holds all writes which
        were acknowledged before this was called: who has applied it may read linearizably. A
        follower lets the leader do this. Raises HaError NOT_LEADER where this node does not
        lead (any more), NO_LEADER or UNAVAILABLE when the log does not answer.
        """
        ...
