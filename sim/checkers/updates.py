"""How many increments did a later writer overwrite, who had not seen them?

Values are replayed, not intentions: with many writers that is no broken promise (docs/spec.md),
with one it would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sim.checkers.folds import FoldHistory
from sim.history import Call

WATCH = "counter"


def lost_updates(history: FoldHistory, calls: Sequence[Call]) -> dict[object, int]:
    """By counter: increments in the log, with effect, that its value at the end does not have."""
    made: Counter[object] = Counter()
    for call in calls:
        if call.workload == "counters" and call.keys and history.counted(call.token):
            made[call.keys[0]] += 1
    rows = history.answer(WATCH, history.last)
    values = {row[0]: int(str(row[1])) for row in rows}
    lost = {key: count - values.get(key, 0) for key, count in made.items()}
    return {key: count for key, count in lost.items() if count}
