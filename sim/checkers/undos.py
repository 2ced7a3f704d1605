"""Did each undo bring back exactly what was there before?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.checkers.folds import FoldHistory, Rows
from sim.history import OK, Call

WATCH = "page"


def check_undos(history: FoldHistory, calls: Sequence[Call], *, complete: bool = True) -> list[str]:
    """After UNDOE n the rows that n had changed are as they were before it, whoever changed them
    since, and whatever raced with it; any other row is as it was before n, or as it was.
    ``complete``: the log has let go of nothing."""
    problems: list[str] = []
    for call in calls:
        if complete and call.outcome == "not_found" and _is_there(history, call.undone):
            problems.append(f"{call.undone} is in the log: {call}")
        if not call.undone or call.outcome != OK or not call.sequence:
            continue
        before, after = (_rows(history, call.undone - 1), _rows(history, call.undone))
        last, now = (_rows(history, call.sequence - 1), _rows(history, call.sequence))
        changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
        others = (last.keys() | now.keys()) - changed
        wrong = [k for k in changed if before.get(k) != now.get(k)]
        if wrong and call.what.startswith("UNDOE"):
            problems.append(
                f"an undo of {call.undone} did not bring back {[before.get(k) for k in wrong]},"
                f" but {[now.get(k) for k in wrong]}, at keys {wrong}: {call}"
            )
        # What n touched without an effect, since another came first, goes back as well; and a row
        # that has been given another key since is away.
        touched = [k for k in others if now.get(k) not in (last.get(k), before.get(k), None)]
        if touched and call.what.startswith("UNDOE"):
            problems.append(f"an undo of {call.undone} changed the rows {touched} too: {call}")
    return problems


def _is_there(history: FoldHistory, sequence: int) -> bool:
    """A transaction that counts, and that no other base has come in place of."""
    meaning = history.meanings.get(sequence)
    counts = meaning is not None and meaning.counts and meaning.kind == "tx"
    return counts and history.rebased == math.inf


def _rows(history: FoldHistory, sequence: int) -> dict[object, tuple[object, ...]]:
    rows: Rows = history.answer(WATCH, sequence)
    return {row[0]: row for row in rows}
