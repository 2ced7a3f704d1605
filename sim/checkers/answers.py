"""Was what clients were told about their writes true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.checkers.folds import FoldHistory
from sim.history import GONE, OK, Call

OPEN = {GONE, "outcome_unknown", ""}
"""Outcomes after which the write may or may not be in the log."""


def check_answers(
    history: FoldHistory, calls: Sequence[Call], losses: Mapping[str, Sequence[float]]
) -> list[str]:
    """``success``: in the log, with effect, once; ``not_written`` and refusals: nowhere.

    ``losses``: when a node's disk lost something, and with it what the log did not have yet.
    """
    problems: list[str] = []
    last_of_session: dict[int, tuple[int, Call]] = {}
    for call in calls:
        if call.watch or call.what == "wait for":
            continue
        counted = history.counted(call.token) if call.token else []
        lost = any(t >= call.begun for t in losses.get(_node(call), ()))
        problem = _judge(history, call, counted, lost)
        if problem is not None:
            problems.append(f"{problem}: {call}")
        if call.outcome == OK and call.sequence:
            before = last_of_session.get(call.session)
            if before is not None and before[0] >= call.sequence:
                problems.append(f"a session's writes are out of order: {before[1]}, then {call}")
            last_of_session[call.session] = (call.sequence, call)
    return problems


def _judge(history: FoldHistory, call: Call, counted: list[int], lost: bool) -> str | None:
    if len(counted) > 1:
        return f"one write took effect more than once, at {counted}"
    outcome = call.outcome
    if outcome == OK:
        if call.tentative and not call.sequence:
            return None if lost else _judge_tentative(history, call, counted)
        return _judge_success(history, call, counted)
    if outcome == "not_applied":
        there = [m.sequence for m in history.by_token.get(call.token, ())]
        if counted:
            return f"'not_applied' was said, but it took effect at {counted[0]}"
        if call.token and call.error_sequence and call.error_sequence not in there:
            return f"'not_applied' at {call.error_sequence}, where the log does not have it"
        return None
    if outcome == "written_not_applied":
        meaning = history.meanings.get(call.error_sequence)
        if meaning is None or not meaning.counts or meaning.node != _node(call):
            return "'written_not_applied' was said, but the log does not have it with effect"
        return None
    if outcome in OPEN:
        return None
    if counted:
        return f"'{outcome}' was said, but it took effect at {counted[0]}"
    return None


def _judge_tentative(history: FoldHistory, call: Call, counted: list[int]) -> str | None:
    """Answered before the log had it, which has it in the end."""
    if not call.expected or not call.token or counted:
        return None
    verdicts = {m.verdict for m in history.by_token.get(call.token, ())}
    if "stale" in verdicts:  # a virtual table that another node changed: docs/spec.md, section 3
        return None
    return f"an answered write never took effect in the log ({' '.join(verdicts) or 'not there'})"


def _node(call: Call) -> str:
    return call.process.partition("#")[0]


def _judge_success(history: FoldHistory, call: Call, counted: list[int]) -> str | None:
    if call.sequence:
        meaning = history.meanings.get(call.sequence)
        if meaning is None:
            return f"an acknowledged write is lost: the log has nothing at {call.sequence}"
        if not meaning.counts:
            return (
                f"an acknowledged write is lost: the fold ignores the message at"
                f" {call.sequence} ({meaning.verdict})"
            )
        if meaning.node != _node(call):
            return f"the message at {call.sequence} is another node's"
    if call.expected:
        if not call.sequence:
            return "a write changed rows, and has no sequence"
        if call.token and call.sequence not in counted:
            return f"an acknowledged write is lost: the message at {call.sequence} is not its own"
    return None
