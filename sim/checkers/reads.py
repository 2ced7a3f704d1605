"""Did every read show a state that the log has, whole, and none older than it may be?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sim.checkers.folds import FoldHistory, Rows
from sim.history import OK, Call


def check_reads(history: FoldHistory, calls: Sequence[Call]) -> list[str]:
    """Each answer must be that of one ``fold(n)``, for n from what the session had seen to the
    end of the log; a session never goes back. What a node shows of its own writes before the log
    has them is no state of the log, and not judged here."""
    problems: list[str] = []
    floors: dict[int, int] = {}
    for call in calls:
        if not call.watch or call.outcome != OK or call.tentative:
            continue
        low = max(call.low, floors.get(call.session, 0))
        found = _find(history, call, low)
        if found is None:
            problems.append(
                f"a read shows no state of the log between {low} and {call.high}:"
                f" {call.rows!r}; fold({low}) would show"
                f" {_cut(history.answer(call.watch, low), call.keys)!r}: {call}"
            )
        else:
            floors[call.session] = max(found, low)
    return problems


def with_latest(calls: Iterable[Call]) -> list[Call]:
    """The same, but a linearizable read must show all that anybody had been told of before.

    For runs in which the log has lost nothing, and no node answers before the log.
    """
    calls = list(calls)
    told = sorted((c.ended, c.sequence) for c in calls if c.outcome == OK and c.sequence)
    out: list[Call] = []
    for call in calls:
        if call.linear:
            latest = max((s for ended, s in told if ended < call.begun), default=0)
            call = replace(call, low=max(call.low, latest))
        out.append(call)
    return out


def _find(history: FoldHistory, call: Call, low: int) -> int | None:
    """The earliest sequence whose state answers so."""
    if _cut(history.answer(call.watch, low), call.keys) == call.rows:
        return low
    for sequence, rows in history.versions[call.watch]:
        if low < sequence <= call.high and _cut(rows, call.keys) == call.rows:
            return sequence
    return None


def _cut(rows: Rows, keys: tuple[object, ...] | None) -> Rows:
    return rows if keys is None else tuple(r for r in rows if r[0] in keys)
