"""With a leader: are the registers linearizable, as their clients saw them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.checkers.answers import OPEN
from sim.checkers.linearizable import FAIL, INFO, READ, WRITE, Op, check
from sim.history import OK, Call

WORKLOAD = "registers"
_WRITES = ("set", "set several")


def check_registers(calls: Sequence[Call], keys: Sequence[object]) -> list[str]:
    """``calls``: of a run with a leader, in which the broker lost nothing and no register was
    deleted. Only reads that asked the leader for the latest state are judged."""
    return check(_operations(calls, keys), {})


def _operations(calls: Sequence[Call], every: Sequence[object]) -> Iterator[Op]:
    for call in calls:
        if call.workload != WORKLOAD:
            continue
        keys = every if call.keys is None else call.keys
        if call.linear and call.outcome == OK:
            shown = {row[0]: row[1] for row in call.rows}
            for key in keys:
                yield _op(call, READ, key, shown.get(key), OK)
        elif call.what in _WRITES and call.token:
            outcome = _outcome(call)
            for key in keys:
                yield _op(call, WRITE, key, call.token, outcome)


def _outcome(call: Call) -> str:
    if call.outcome == OK:
        return OK if call.expected else FAIL
    return INFO if call.outcome in OPEN or call.outcome == "written_not_applied" else FAIL


def _op(call: Call, what: str, key: object, value: object, outcome: str) -> Op:
    returned = None if outcome == INFO else call.ended
    return Op(call.session, what, key, value, call.begun, returned, outcome)
