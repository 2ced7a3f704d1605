"""Which messages of a log count: the part of the fold that looks at no row.

All nodes come to the same verdict, since it follows from the log before the message alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ha.core.changeset import ChangeSet, Kind


class Verdict(StrEnum):
    """What the fold does with a message."""

    APPLY = "apply"
    REPEATED = "repeated"  # its number is not beyond the last one of its process
    HOLE = "hole"  # the message of its batch that it builds on is missing, or did not count
    STALE = "stale"  # a virtual table changed after the state on which it ran
    FOREIGN = "foreign"  # it belongs to another database
    FENCED = "fenced"  # another leader, or a later one, opened a term before it
    FAILED = "failed"  # its statements do not work on the state they met
    SKIPPED = "skipped"  # an operator let all nodes pass over it
    INTERCEPTED = "intercepted"  # an interceptor said so

    @property
    def counts(self) -> bool:
        return self is Verdict.APPLY


@dataclass(frozen=True, slots=True)
class Seen:
    """Of the message's process: the last number in the log, and the last that counted."""

    number: int
    applied: int

    def after(self, cs: ChangeSet, verdict: Verdict) -> Seen:
        """What is known of the process once the fold has come to ``verdict`` about ``cs``."""
        if cs.origin is None or verdict in (Verdict.REPEATED, Verdict.FOREIGN):
            return self
        counted = verdict.counts and cs.kind is Kind.TRANSACTION
        return Seen(cs.origin.number, cs.origin.number if counted else self.applied)


@dataclass(frozen=True, slots=True)
class VirtualSeen:
    """The message that last changed a virtual table."""

    sequence: int
    node: str
    process_id: int
    number: int


@dataclass(frozen=True, slots=True)
class Term:
    """The highest term in the log so far, and the process that opened it; 0 if there is none."""

    number: int = 0
    node: str = ""
    process_id: int = 0

    def fences(self, cs: ChangeSet) -> bool:
        """May ``cs`` not count, because it is not of the process that leads the log?"""
        term = cs.term or 0
        if term != self.number:
            return term < self.number
        return term > 0 and (cs.node, cs.process_id) != (self.node, self.process_id)

    def after(self, cs: ChangeSet) -> Term:
        """The term that stands once ``cs``, which is not fenced, is in the log."""
        if cs.term is None or cs.term <= self.number:
            return self
        return Term(cs.term, cs.node, cs.process_id)


NO_TERM = Term()


def judge(
    cs: ChangeSet,
    uuid: str | None,
    seen: Seen,
    virtual: list[VirtualSeen],
    term: Term = NO_TERM,
) -> Verdict:
    """``uuid``: of the database, None if not known; ``virtual``: of the tables it names."""
    if cs.uuid is not None and uuid is not None and cs.uuid != uuid:
        return Verdict.FOREIGN
    if term.fences(cs):
        return Verdict.FENCED
    if cs.origin is None:
        return Verdict.APPLY
    if cs.origin.number <= seen.number:
        return Verdict.REPEATED
    if cs.after is not None and seen.applied != cs.after:
        return Verdict.HOLE
    for last in virtual:
        # Of its own process it has seen all up to the one that it names as before it.
        own = (last.node, last.process_id) == (cs.node, cs.process_id)
        if own and cs.after is not None and last.number <= cs.after:
            continue
        if last.sequence > (cs.base or 0):
            return Verdict.STALE
    return Verdict.APPLY
