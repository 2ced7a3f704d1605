"""What only leader mode promises: one order of writes, in which no update is lost.

With many writers the same is counted: :func:`lost_updates` says how much it came to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sim.checkers import linearizable
from sim.checkers.linearizable import CAS, READ, WRITE, Op
from tests.jepsen_like.checkers import acknowledged, describe, longest
from tests.jepsen_like.history import History, Outcome
from tests.jepsen_like.observe import Log, Observation
from tests.jepsen_like.workloads import ACCOUNTS, BALANCE, KEYS


def check(history: History, seen: Mapping[str, Observation]) -> list[str]:
    log = longest(seen)
    return [
        *registers(history),
        *lists(history, log),
        *bank(history, log),
    ]


def registers(history: History) -> list[str]:
    """Writes, compare-and-set and linearizable reads of each register are linearizable."""
    operations: list[Op] = []
    for one in history.of("register", "cas", "read_linearizable"):
        outcome = one.outcome.value
        if one.kind == "read_linearizable":
            value = one.result[0][0] if one.outcome is Outcome.OK and one.result else None
            key, op = one.value[0], READ
        else:
            key, op = _key(one.value), WRITE
            value = one.value
            if one.kind == "cas":
                op, value = CAS, (one.expected, one.value)
                if one.outcome is Outcome.OK and not acknowledged(one):
                    # It changed nothing, as if it were a read; but none of the kind that asks
                    # whether its node still leads.
                    outcome = linearizable.FAIL
        # What the log holds without an answer in time has no known end, but it has its effect.
        operations.append(Op(one.process, op, key, value, one.start, one.end, outcome))
    return linearizable.check(operations, {key: f"r{key}-0-0" for key in range(KEYS)})


def _key(value: str) -> int:
    return int(value[1:].split("-")[0])


def lists(history: History, log: Log) -> Iterator[str]:
    """Each list is all that was appended, in the log's order; each read shows a beginning."""
    appended: dict[int, list[str]] = {}
    for _, values in log.entries:
        for value in values:
            if value.startswith("m"):
                appended.setdefault(_key(value), []).append(value)
    for key, words in appended.items():
        held = log.words.get(key, "").split(";")[:-1]
        if held != words:
            lost = [word for word in words if word not in set(held)]
            yield f"list {key} is not what was appended: {len(lost)} lost, the first {lost[:3]}"
    for one in history.of("read_list"):
        if one.outcome is Outcome.OK and one.result:
            whole = "".join(f"{word};" for word in appended.get(one.value, []))
            if not whole.startswith(one.result[0][0]):
                yield f"a list was shown that never was: {describe(one)}"


def bank(history: History, log: Log) -> Iterator[str]:
    """No money is made or lost, in no state that anybody saw; balances are what was moved."""
    total = ACCOUNTS * BALANCE
    for one in history.of("read_bank"):
        if one.outcome is Outcome.OK and sum(balance for _, balance in one.result) != total:
            yield f"money was made or lost: {describe(one)} gave {one.result}"
    moved = dict.fromkeys(range(ACCOUNTS), BALANCE)
    for _, values in log.entries:
        for value in values:
            if value.startswith("b"):
                source, target, amount, *_ = map(int, value[1:].split("-"))
                moved[source] -= amount
                moved[target] += amount
    if moved != log.accounts:
        yield f"balances are {log.accounts}, but what was moved gives {moved}"


def lost_updates(history: History, seen: Mapping[str, Observation]) -> list[str]:
    """What many writers lost, as the manual says they may: counted, not judged."""
    log = longest(seen)
    marked = [v for _, values in log.entries for v in values if v.startswith("m")]
    held = {word for words in log.words.values() for word in words.split(";")}
    lost = sum(word not in held for word in marked)
    wrong = sum("money" in one for one in bank(history, log))
    money = sum(log.accounts.values()) - ACCOUNTS * BALANCE
    return [
        f"updates lost to other writers, as last-writer-wins may: {lost} of {len(marked)} appends",
        f"money made of nothing at the end: {money:+d}; reads with a wrong total: {wrong}",
    ]
