"""Where a tentative suffix stands while messages of the log go under it.

With asynchronous replication the file is the committed prefix, ``fold(n)``, and then the
transactions that wait for the log, in order (Bayou; Terry et al., SOSP 1995). A message of the
log belongs between the two: for any other than the suffix's own first one the suffix is taken
back before it, and done again after the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ha.core.fold import Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from a message: ``take_back`` the suffix; ``settled``: the waiting transaction
    has its place in the log, or has none for good, and waits no longer."""

    take_back: bool = False
    settled: bool = False


@dataclass(slots=True)
class Suffix:
    """``in_place``: the suffix stands in the file; begin with that for each group of messages, and
    do it again at the end of the group if it no longer does. ``misplaced``: waiting transactions
    stand in the log where they do not count, and must be published anew under other numbers."""

    in_place: bool = True
    misplaced: bool = False

    def must_go(self, transaction: int | None, first: int | None) -> bool:
        """Before a message of ``transaction`` (None: of nobody that waits here) is folded: must
        the suffix be taken back? ``first`` is the transaction that waits the longest."""
        go = self.in_place and (transaction is None or transaction != first)
        self.in_place = self.in_place and not go
        return go

    def folded(self, verdict: Verdict) -> Step:
        """After the last message of a transaction that waits here was folded, tentatively if the
        suffix was in place: then its effects were in the file already."""
        lost = verdict in (Verdict.HOLE, Verdict.REPEATED)
        self.misplaced = self.misplaced or lost
        take_back = self.in_place and not verdict.counts
        self.in_place = self.in_place and not take_back
        return Step(take_back, settled=not lost)


def may_be_under_way_with(first: str, message: str) -> bool:
    """May a waiting message be published before ``first``, the one that waits the longest, has its
    place? Both are message ids. Only if both are of one process: then the later one names the
    earlier one as what must precede it, and does not count without."""
    return first.rpartition("-")[0] == message.rpartition("-")[0]
