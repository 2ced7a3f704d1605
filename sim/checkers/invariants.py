"""Does what one writer keeps true stay true in every state of the log?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sim.checkers.folds import FoldHistory, Rows
from sim.history import Call

Race = Callable[[Call, Call], bool]
"""Whether the first call, later in the log, may have missed the second."""


def check_invariant(
    history: FoldHistory,
    calls: Sequence[Call],
    workload: str,
    watch: str,
    holds: Callable[[Rows], str | None],
    race: Race,
) -> Iterator[str]:
    """The first state that broke what ``holds`` judges, unless two writes raced there.

    What a race has changed stays so: the same sentence again is not another break. What was under
    way when an operator put another file into the log's place ran on the content that has gone, and
    counts on the one that came: from there on nothing is judged.
    """
    placed = sorted(_places(history, calls, workload), key=lambda p: p[0])
    before: str | None = None
    for sequence, rows in history.versions[watch]:
        if sequence >= history.rebased:
            return
        wrong = holds(rows) if rows else None
        if wrong is not None and wrong != before and not _raced(placed, sequence, race):
            yield f"with one writing node, at {sequence}: {wrong}"
            return
        before = wrong


def _places(
    history: FoldHistory, calls: Sequence[Call], workload: str
) -> Iterator[tuple[int, Call]]:
    for call in calls:
        if call.workload == workload and call.token:
            for sequence in history.counted(call.token):
                yield sequence, call


def _raced(placed: Sequence[tuple[int, Call]], sequence: int, race: Race) -> bool:
    winners = [call for at, call in placed if at == sequence]
    return any(
        winner.applied < at < sequence and race(winner, loser)
        for winner in winners
        for at, loser in placed
    )
