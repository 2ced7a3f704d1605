"""Which increments did a later writer overwrite, who had not seen them?

Values are replayed, not intentions: with many writers that is no broken promise (docs/spec.md),
with one it is, but for races of its processes (:mod:`sim.checkers.races`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.checkers.folds import FoldHistory
from sim.history import Call

WATCH = "counter"
WORKLOAD = "counters"


@dataclass(frozen=True, slots=True)
class LostUpdate:
    """``sequence``: where ``winner`` stands, which counted from a value without ``loser``."""

    key: object
    sequence: int
    winner: Call
    loser: Call

    def __str__(self) -> str:
        return (
            f"an increment of the counter {self.key!r} was overwritten at {self.sequence}:"
            f" {self.loser}, then {self.winner}"
        )


def lost_updates(history: FoldHistory, calls: Sequence[Call]) -> list[LostUpdate]:
    """Increments in the log, with effect, that a later value of their counter does not have."""
    by_key: dict[object, list[tuple[int, Call]]] = {}
    for call in calls:
        counted = history.counted(call.token) if call.token else []
        if call.workload == WORKLOAD and call.keys and counted:
            by_key.setdefault(call.keys[0], []).append((counted[0], call))
    return [
        lost
        for key, made in by_key.items()
        for lost in _lost(history, key, sorted(made, key=lambda m: m[0]))
    ]


def _lost(
    history: FoldHistory, key: object, made: Sequence[tuple[int, Call]]
) -> Iterator[LostUpdate]:
    """A counter that began at 0 has in it as many increments as it says, the latest of them last.
    None: one that had been overwritten, and that a message still under way brought back."""
    inside: list[Call | None] = []
    for sequence, call in made:
        seen = _value(history, key, sequence) - 1
        for loser in inside[seen:]:
            if loser is not None:
                yield LostUpdate(key, sequence, call, loser)
        inside[seen:] = [None] * (seen - len(inside))
        inside.append(call)


def _value(history: FoldHistory, key: object, sequence: int) -> int:
    return next(int(str(row[1])) for row in history.answer(WATCH, sequence) if row[0] == key)
