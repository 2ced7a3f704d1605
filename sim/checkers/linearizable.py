"""Linearizability of registers: is there one order of all operations, each somewhere between its
call and its answer, in which every read shows the last write before it?

Each key is judged alone (Herlihy and Wing: linearizability is local). The search is Wing and
Gong's, in the just-in-time form of Lowe: events are taken in the order of time, and of every
possible past only what matters is kept, that is the register's value and which of the pending
operations have taken effect.

Source: J. Wing, C. Gong, "Testing and verifying concurrent objects", 1993; G. Lowe, "Testing for
linearizability", 2017.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

OK, FAIL, INFO = "ok", "fail", "info"
READ, WRITE, CAS = "read", "write", "cas"


@dataclass(frozen=True, slots=True)
class Op:
    """``value``: what was written, or what an OK read showed; of a CAS that took effect, or may
    have, the pair of the expected and the new value. ``returned`` None: no answer ever came.
    ``outcome``: FAIL for what certainly had no effect; INFO for what may have."""

    process: int
    op: str
    key: Hashable
    value: Hashable
    invoked: float
    returned: float | None
    outcome: str


_State: TypeAlias = tuple[Hashable, frozenset[int]]


def check(operations: Iterable[Op], initial: dict[Hashable, Hashable]) -> list[str]:
    """A sentence for each key whose history is not linearizable. ``initial``: by key, else None.

    Writes must have unique values: of those in doubt only what somebody saw is then of interest.
    """
    keys: dict[Hashable, list[Op]] = {}
    for one in operations:
        keys.setdefault(one.key, []).append(one)
    return [
        sentence for key, some in keys.items() for sentence in _check_key(some, initial.get(key))
    ]


def _check_key(operations: list[Op], initial: Hashable) -> Iterator[str]:
    ops = _bounded(operations)
    events = sorted(
        [(one.invoked, 0, number) for number, one in enumerate(ops)]
        # At one moment calls come first: then the two overlap, which only allows more.
        + [(one.returned, 1, number) for number, one in enumerate(ops) if one.returned is not None]
    )
    pending: set[int] = set()
    states: set[_State] = {(initial, frozenset())}
    for _, kind, number in events:
        if kind == 0:
            pending.add(number)
            continue
        after = _until(number, states, pending, ops)
        if not after:
            yield _sentence(ops[number], states)
            return
        pending.discard(number)
        states = {(value, done - {number}) for value, done in after}


def _bounded(operations: list[Op]) -> list[Op]:
    """Without what had no effect; what is in doubt took effect before its value was seen first.

    A write in doubt that nobody saw can be left out of every order, since no operation depends
    on it.
    """
    seen: dict[Hashable, float] = {}
    for one in operations:
        shown = _shown(one)
        if one.outcome == OK and shown is not None and one.returned is not None:
            seen[shown] = min(one.returned, seen.get(shown, one.returned))
    bounded: list[Op] = []
    for one in operations:
        if one.outcome == OK:
            bounded.append(one)
        elif one.outcome == INFO and one.op != READ and (at := seen.get(_new(one))) is not None:
            bounded.append(
                Op(one.process, one.op, one.key, one.value, one.invoked, at, one.outcome)
            )
    return bounded


def _shown(one: Op) -> Hashable:
    """The value that the register had before it, if it tells."""
    if one.op == READ:
        return one.value
    if one.op == CAS:
        return _pair(one)[0]
    return None


def _new(one: Op) -> Hashable:
    if one.op == CAS:
        return _pair(one)[1]
    return one.value


def _pair(one: Op) -> tuple[Hashable, Hashable]:
    assert isinstance(one.value, tuple)
    expected, new = one.value
    return expected, new


def _until(number: int, states: set[_State], pending: set[int], ops: list[Op]) -> set[_State]:
    """All states that can be reached, in which the operation has taken effect."""
    reached: set[_State] = set()
    todo = list(states)
    known = set(states)
    while todo:
        value, done = todo.pop()
        if number in done:
            reached.add((value, done))
            continue
        for other in pending - done:
            one = ops[other]
            shown = _shown(one)
            if one.op != WRITE and shown != value:
                continue
            state = (value if one.op == READ else _new(one), done | {other})
            if state not in known:
                known.add(state)
                todo.append(state)
    return reached


def _sentence(one: Op, states: set[_State]) -> str:
    possible = ", ".join(sorted({repr(value) for value, _ in states})[:5])
    return (
        f"not linearizable: {one.op} {one.value!r} of {one.key!r} by process {one.process} "
        f"({one.invoked:.3f}–{one.returned:.3f} s) fits no order; before it the register could "
        f"hold {possible}"
    )
