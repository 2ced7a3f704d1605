"""The simulator's judges of one writing node: what they condemn, and what they must let be."""

from __future__ import annotations

from collections.abc import Sequence

from sim.checkers import FoldHistory, check_invariant, lost_updates, may_race
from sim.checkers.races import Losses
from sim.history import GONE, OK, Call
from sim.oracle import Meaning
from sim.workloads.rows import Bank

Write = tuple[Call, int]
"""A call, and the value that its message brings."""


def increment(process: str, outcome: str = OK, **more: bool) -> Call:
    return Call(0, "c1", process, 1, "counters", "increment", outcome=outcome, keys=("a",), **more)


def history(writes: Sequence[Write]) -> FoldHistory:
    """The log holds these, from 1 on."""
    made = FoldHistory(last=len(writes), versions={"counter": [(0, (("a", 0, ""),))]})
    for sequence, (call, value) in enumerate(writes, 1):
        call.token = f"tok{sequence}x"
        call.number = sequence
        meaning = Meaning(sequence, "n1", 1, sequence, "tx", "apply", frozenset({call.token}))
        made.by_token[call.token] = [meaning]
        made.versions["counter"].append((sequence, (("a", value, call.token),)))
    return made


def condemned(writes: Sequence[Write], losses: Losses | None = None) -> list[tuple[int, int]]:
    """Who overwrote whom, by place in the log, and should not have."""
    calls = [call for call, _ in writes]
    return [
        (lost.winner.number, lost.loser.number)
        for lost in lost_updates(history(writes), calls)
        if not may_race(lost.winner, lost.loser, losses or {})
    ]


def test_every_increment_that_counts_is_found_in_the_value() -> None:
    writes = [(increment("n1#1"), 1), (increment("n1#1"), 2), (increment("n1#2"), 3)]
    assert lost_updates(history(writes), [c for c, _ in writes]) == []


def test_a_process_that_overwrites_its_own_increment_is_condemned() -> None:
    assert condemned([(increment("n1#1"), 1), (increment("n1#1", GONE), 1)]) == [(2, 1)]
    assert condemned([(increment("n1#1", GONE), 1), (increment("n1#1"), 1)]) == [(2, 1)]


def test_a_message_under_way_when_its_process_died_may_be_overwritten() -> None:
    assert condemned([(increment("n1#1", GONE), 1), (increment("n1#2"), 1)]) == []


def test_each_increment_is_judged_by_itself() -> None:
    """One in doubt is no leave to lose another one."""
    writes = [
        (increment("n1#1"), 1),
        (increment("n1#1", GONE), 2),
        (increment("n1#2"), 1),
    ]
    assert condemned(writes) == [(3, 1)]


def test_an_acknowledged_increment_is_seen_by_a_later_process_that_is_ready() -> None:
    assert condemned([(increment("n1#1"), 1), (increment("n1#2"), 1)]) == [(2, 1)]


def test_a_process_that_is_catching_up_may_overwrite_what_it_has_not_seen() -> None:
    assert condemned([(increment("n1#1"), 1), (increment("n1#2", ready=False), 1)]) == []


def test_a_late_message_of_a_dead_process_may_overwrite_what_came_meanwhile() -> None:
    writes = [(increment("n1#2"), 1), (increment("n1#2"), 2), (increment("n1#1", GONE), 1)]
    assert condemned(writes) == []


def test_a_process_had_seen_what_it_acknowledges() -> None:
    assert condemned([(increment("n1#2"), 1), (increment("n1#1"), 1)]) == [(2, 1)]


def test_a_tentative_write_is_in_doubt_once_its_disk_has_lost_something() -> None:
    writes = [(increment("n1#1", tentative=True), 1), (increment("n1#2"), 1)]
    assert condemned(writes) == [(2, 1)]
    assert condemned(writes, {"n1": [1.0]}) == []


def test_what_a_late_message_brings_back_is_lost_once() -> None:
    """3 was counted on 1 and 2, which 3's rival had not seen."""
    writes = [
        (increment("n1#1", GONE), 1),
        (increment("n1#1", GONE), 2),
        (increment("n1#2"), 1),
        (increment("n1#1", GONE), 3),
        (increment("n1#2"), 2),
    ]
    found = lost_updates(history(writes), [c for c, _ in writes])
    assert [(x.winner.number, x.loser.number) for x in found] == [(3, 1), (3, 2), (5, 4)]


# --- the bank ----------------------------------------------------------------------------


def transfer(process: str, applied: int, outcome: str = OK) -> Call:
    return Call(0, "c1", process, 1, "bank", "transfer", outcome=outcome, applied=applied)


def broken(*writes: tuple[Call, int]) -> list[str]:
    """Transfers, and what the accounts hold after each."""
    made = history([(call, 0) for call, _ in writes])
    made.versions["account"] = [(0, ((1, Bank.total, ""),))]
    for sequence, (_, total) in enumerate(writes, 1):
        made.versions["account"].append((sequence, ((1, total, f"tok{sequence}x"),)))
    return list(
        check_invariant(
            made,
            [call for call, _ in writes],
            "bank",
            "account",
            Bank.holds,
            lambda winner, loser: may_race(winner, loser, {}),
        )
    )


def test_a_sum_that_changes_without_a_race_is_condemned() -> None:
    (said,) = broken((transfer("n1#1", 0), 600), (transfer("n1#1", 0), 610))
    assert "at 2: the accounts hold 610" in said
    assert broken((transfer("n1#1", 0, GONE), 600), (transfer("n1#2", 1), 610))


def test_a_sum_that_a_race_changed_stays_changed() -> None:
    raced = [(transfer("n1#1", 0, GONE), 600), (transfer("n1#2", 0), 610)]
    assert broken(*raced, (transfer("n1#2", 2), 610)) == []
    (said,) = broken(*raced, (transfer("n1#2", 2), 620))
    assert "at 3: the accounts hold 620" in said
