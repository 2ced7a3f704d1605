"""The judge of linearizability against all orders, tried one by one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.checkers.linearizable import CAS, FAIL, INFO, OK, READ, WRITE, Op, check

INITIAL = 0


@st.composite
def histories(draw: st.DrawFn) -> list[Op]:
    """Few operations on one key, with unique values written, and times that often overlap."""
    operations: list[Op] = []
    written: list[int] = [INITIAL]
    for number in range(draw(st.integers(1, 5))):
        invoked = draw(st.integers(0, 6))
        returned = invoked + draw(st.integers(0, 4))
        outcome = draw(st.sampled_from([OK, OK, OK, INFO, FAIL]))
        op = draw(st.sampled_from([READ, READ, WRITE, CAS]))
        value: Hashable
        if op == READ:
            value = draw(st.sampled_from(range(6)))
        else:
            new = number + 1
            value = new if op == WRITE else (draw(st.sampled_from(written)), new)
            written.append(new)
        operations.append(Op(number, op, "k", value, invoked, returned, outcome))
    return operations


def by_trying(operations: list[Op]) -> bool:
    """Some of those in doubt took effect, each at any time after its call."""
    certain = [one for one in operations if one.outcome == OK]
    doubtful = [one for one in operations if one.outcome == INFO and one.op != READ]
    for count in range(len(doubtful) + 1):
        for some in combinations(doubtful, count):
            if any(fits(order) for order in orders(certain + list(some))):
                return True
    return False


def orders(operations: list[Op]) -> Iterator[tuple[Op, ...]]:
    for order in permutations(operations):
        if all(
            not (late.outcome == OK and late.returned is not None and late.returned < early.invoked)
            for place, early in enumerate(order)
            for late in order[place + 1 :]
        ):
            yield order


def fits(order: tuple[Op, ...]) -> bool:
    value: Hashable = INITIAL
    for one in order:
        if one.op == WRITE:
            value = one.value
        elif one.op == READ:
            if one.value != value:
                return False
        else:
            assert isinstance(one.value, tuple)
            if one.value[0] != value:
                return False
            value = one.value[1]
    return True


@settings(max_examples=300, deadline=None)
@given(histories())
def test_it_judges_as_trying_all_orders_does(operations: list[Op]) -> None:
    assert (check(operations, {"k": INITIAL}) == []) == by_trying(operations)


def test_keys_are_judged_alone_and_the_culprit_is_named() -> None:
    operations = [
        Op(1, WRITE, "a", "x", 0.0, 1.0, OK),
        Op(2, READ, "b", "y", 0.0, 1.0, OK),
        Op(1, WRITE, "b", "z", 2.0, 3.0, OK),
        Op(2, READ, "b", "y", 4.0, 5.0, OK),
    ]
    (sentence,) = check(operations, {"b": "y"})
    assert "'y' of 'b' by process 2" in sentence
    assert "could hold 'z'" in sentence
