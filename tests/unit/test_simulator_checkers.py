"""The simulator's judges of one writing node: what they condemn, and what they must let be."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from sim.checkers import (
    FoldHistory,
    check_invariant,
    check_probes,
    check_reads,
    fold_log,
    lost_updates,
    may_race,
    with_latest,
)
from sim.checkers.races import Losses
from sim.history import GONE, OK, Call, Probe
from sim.oracle import Meaning
from sim.workloads.base import Watch
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


def test_a_process_without_the_log_may_overwrite_what_it_has_not_seen() -> None:
    catching_up = increment("n1#2", ready=False)
    assert condemned([(increment("n1#1"), 1), (catching_up, 1)]) == [(2, 1)]
    alone = increment("n1#2", ready=False, tentative=True)
    assert condemned([(increment("n1#1"), 1), (alone, 1)]) == []


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


# --- reads that ask the leader -------------------------------------------------------------


def told(sequence: int, ended: float) -> Call:
    """An increment that was acknowledged."""
    call = increment("n1#1")
    call.sequence, call.begun, call.ended = sequence, ended - 1, ended
    return call


def is_stale(shown: int, writes: Sequence[Call], *, linear: bool = True) -> bool:
    """Is a read from 5.0 on that showed this value condemned?"""
    made = history([(write, number) for number, write in enumerate(writes, 1)])
    read = Call(9, "c2", "n2#1", 2, "counters", "read counter", begun=5.0, ended=5.1)
    read.outcome, read.linear, read.watch, read.high = OK, linear, "counter", made.last
    read.rows = next(rows for _, rows in made.versions["counter"] if rows[0][1] == shown)
    return bool(check_reads(made, with_latest([*writes, read])))


def test_a_linearizable_read_shows_what_anybody_had_been_told_of() -> None:
    writes = [told(1, 3.0), told(2, 4.9)]
    assert not is_stale(2, writes)
    assert is_stale(1, writes)
    assert is_stale(0, writes)
    assert not is_stale(0, writes, linear=False)


def test_a_write_that_ends_during_a_read_may_be_missing_from_it() -> None:
    writes = [told(1, 3.0), told(2, 5.05)]
    assert not is_stale(2, writes)
    assert not is_stale(1, writes)
    assert is_stale(0, writes)


# --- a message that no rule takes -----------------------------------------------------------


def message(kind: str, changes: Sequence[object] = (), **ours: object) -> bytes:
    ha = {"v": 1, "kind": kind, "uuid": "u", **ours}
    return json.dumps({"node": "n1", "process_id": 1, "changes": changes, "ha": ha}).encode()


def insert(number: int) -> bytes:
    change = {
        "operation": "INSERT", "table": "t", "columns": ["id"], "keys": ["id"],
        "new_values": [number],
    }  # fmt: skip
    return message("tx", [change], n=number)


def base_file() -> bytes:
    """A file that holds the row 7."""
    db = sqlite3.connect(":memory:")
    db.executescript(
        "CREATE TABLE ha_origins(node, process_id, number, applied);"
        "CREATE TABLE ha_virtual(name, sequence, node, process_id, number);"
        "CREATE TABLE ha_term(number, node, process_id);"
        "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (7);"
    )
    return db.serialize()


LOG = [
    (1, message("base")),
    (2, message("tx", [{"operation": "SQL", "command": "CREATE TABLE t(id INTEGER PRIMARY KEY)"}])),
    (3, b"no message"),
    (4, insert(1)),
    (5, message("base", rebase=True, digest="d")),
    (6, insert(2)),
]
ROWS = Watch("t", "t", "id", "SELECT id FROM t {where} ORDER BY id")


def beyond(sequence: int, *, log: Sequence[tuple[int, bytes]] = LOG) -> bool:
    """Is a file at the sequence condemned for having passed over the message at 3?"""
    probe = Probe(1.0, "n1#1", sequence, "")
    bases = {"d": base_file()}
    made = fold_log(log, [ROWS], {probe.state}, "pk", bases)
    known = made.digests.get(probe.state, "")
    probe = Probe(1.0, "n1#1", sequence, known)
    problems = check_probes(made, [probe], log, "pk", bases)
    assert all("beyond the message at 3" in p for p in problems), problems
    return bool(problems)


def test_no_file_is_beyond_a_message_that_nobody_lets_it_pass_over() -> None:
    assert [beyond(n) for n in (2, 3, 4)] == [False, True, True]
    assert beyond(9, log=LOG[:4])


def test_the_log_goes_on_from_a_new_base_whatever_was_before_it() -> None:
    assert [beyond(n) for n in (5, 6)] == [False, False]
    made = fold_log(LOG, [ROWS], set(), "pk", {"d": base_file()})
    assert made.answer("t", 4) == ()
    assert made.answer("t", 5) == ((7,),)
    assert made.answer("t", 6) == ((2,), (7,))
