"""Judges: from what clients were told and what nodes hold, every promise that was broken.

They know nothing of how ha works; each returns sentences, and none if all is well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from tests.jepsen_like.clients import CERTAIN
from tests.jepsen_like.history import History, Operation, Outcome
from tests.jepsen_like.observe import Observation

WRITES = ("register", "set", "append", "table")
# Answers that the manual names for a cluster with faults, and what HTTP clients themselves say.
_EXPECTED = CERTAIN | {
    "not_connected", "outcome_unknown", "written_not_applied", "timeout", "cancelled",
    "ReadTimeout", "ReadError", "RemoteProtocolError", "WriteError", "WriteTimeout",
}  # fmt: skip


def check(history: History, seen: Mapping[str, Observation], initial: set[str]) -> list[str]:
    """All anomalies. ``initial``: values that were there before the clients began."""
    log = _longest(seen)
    where = _places(log)
    return [
        *convergence(seen),
        *exactly_once(log),
        *true_answers(history, where),
        *no_phantom(history, seen, where, initial),
        *fold(log, seen),
        *real_time_order(history, where),
        *reads(history, log, where),
        *expected_errors(history),
    ]


def _longest(seen: Mapping[str, Observation]) -> list[tuple[int, frozenset[str]]]:
    return max((one.log for one in seen.values()), key=len)


def _places(log: list[tuple[int, frozenset[str]]]) -> dict[str, int]:
    return {value: sequence for sequence, values in log for value in values}


def convergence(seen: Mapping[str, Observation]) -> Iterator[str]:
    """All nodes hold the same rows, the same schema, and read the same log."""
    for (one, a), (other, b) in pairwise(seen.items()):
        if a.received != b.received:
            yield f"{one} is at {a.received}, {other} at {b.received}"
        for table, rows in a.rows.items():
            if rows != b.rows[table]:
                left = {repr(row) for row in rows}
                right = {repr(row) for row in b.rows[table]}
                yield (
                    f"{table} differs: only on {one} {sorted(left - right)[:5]}, "
                    f"only on {other} {sorted(right - left)[:5]}"
                )
        if a.log != b.log:
            difference = sorted(set(a.log) ^ set(b.log), key=lambda item: item[0])
            yield f"{one} and {other} read different logs: {difference[:5]}"


def exactly_once(log: list[tuple[int, frozenset[str]]]) -> Iterator[str]:
    """No transaction counts twice."""
    first: dict[str, int] = {}
    for sequence, values in log:
        for value in values:
            if value in first:
                yield f"{value} was written twice: at {first[value]} and at {sequence}"
            first.setdefault(value, sequence)


def true_answers(history: History, where: Mapping[str, int]) -> Iterator[str]:
    """An acknowledged write is in the log where it was told; a refused one is not there."""
    for one in history.of(*WRITES):
        place = where.get(one.value)
        if one.outcome is Outcome.OK and place is None:
            yield f"acknowledged, and lost: {_name(one)}"
        elif one.outcome is Outcome.OK and place != one.txseq:
            yield f"told {one.txseq}, but it stands at {place}: {_name(one)}"
        elif one.outcome is Outcome.FAIL and place is not None:
            yield f"told {one.code}, but it stands at {place}: {_name(one)}"


def no_phantom(
    history: History, seen: Mapping[str, Observation], where: Mapping[str, int], initial: set[str]
) -> Iterator[str]:
    """Nothing is anywhere that no client asked to write."""
    asked = initial | {one.value for one in history.of(*WRITES)}
    for value, place in where.items():
        if value not in asked:
            yield f"nobody wrote {value}, which stands at {place}"
    for name, observation in seen.items():
        held = {row[1] for row in observation.rows["register"] + observation.rows["items"]}
        held |= {row[0] for row in observation.rows["lists"]}
        for value in sorted(held - asked):
            yield f"nobody wrote {value}, which {name} holds"


def fold(log: list[tuple[int, frozenset[str]]], seen: Mapping[str, Observation]) -> Iterator[str]:
    """Rows are what the log makes of them: last writer wins, and inserts stay."""
    registers: dict[int, str] = {}
    inserted: set[str] = set()
    for _, values in log:
        for value in values:
            if value.startswith("r"):
                registers[int(value[1:].split("-")[0])] = value
            else:
                inserted.add(value)
    for name, observation in seen.items():
        rows = observation.rows
        for key, value in registers.items():
            if [key, value] not in rows["register"]:
                yield f"{name}: the log's last value of register {key} is {value}, not the row's"
        held = [f"s{row[0]}" for row in rows["items"]]
        held += [row[1] for row in rows["schema"] if row[1].startswith("t_")]
        lists: dict[str, int] = {}
        for value, _ in rows["lists"]:
            lists[value] = lists.get(value, 0) + 1
        for value, count in lists.items():
            if count != 2:
                yield f"{name}: half of transaction {value} is missing"
        held += lists
        for value in sorted(inserted.symmetric_difference(held)):
            there = "in the log only" if value in inserted else "a row without a log"
            yield f"{name}: {value} is {there}"


def real_time_order(history: History, where: Mapping[str, int]) -> Iterator[str]:
    """A write that began after another was acknowledged stands behind it."""
    latest: Operation | None = None
    placed = [one for one in history.of(*WRITES) if one.value in where]
    for one in sorted(placed, key=lambda one: where[one.value]):
        known = one.outcome is Outcome.OK and one.end is not None
        if latest is not None and known and (one.end or 0.0) < latest.start:
            yield f"{_name(one)} ended before {_name(latest)} began, but stands behind it"
        if latest is None or one.start > latest.start:
            latest = one


def reads(
    history: History, log: list[tuple[int, frozenset[str]]], where: Mapping[str, int]
) -> Iterator[str]:
    """No read shows what the log does not have, nor a state older than the client's sequence."""
    for one in history.of("read_set"):
        if one.outcome is Outcome.OK and one.result != [[one.value]]:
            yield f"its own acknowledged write was not shown: {_name(one)} gave {one.result}"
    written: dict[int, list[int]] = {}
    for sequence, values in log:
        for value in values:
            if value.startswith("r"):
                written.setdefault(int(value[1:].split("-")[0]), []).append(sequence)
    for one in history.of("read_register"):
        if one.outcome is not Outcome.OK:
            continue
        key, txseq = one.value
        if len(one.result) != 1 or one.result[0][0] not in where:
            yield f"a read showed what is not in the log: {_name(one)} gave {one.result}"
            continue
        place = where[one.result[0][0]]
        newer = [at for at in written[key] if place < at <= txseq]
        if newer:
            yield f"a stale read: {_name(one)} showed {place}, but {newer[0]} was told before"


def expected_errors(history: History) -> Iterator[str]:
    """No answer is an error that faults cannot explain."""
    for one in history.operations:
        if one.code is not None and one.code not in _EXPECTED:
            yield f"an answer that nobody expects: {one.code} to {_name(one)}"


def _name(one: Operation) -> str:
    end = "…" if one.end is None else f"{one.end:.3f}"
    return f"{one.kind} {one.value} by client {one.process} on {one.node} ({one.start:.3f}–{end} s)"
