"""Judges: from what clients were told and what nodes hold, every promise that was broken.

They know nothing of how ha works; each returns sentences, and none if all is well. What only
leader mode promises is in :mod:`tests.jepsen_like.strict`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from tests.jepsen_like.history import History, Operation, Outcome
from tests.jepsen_like.observe import Log, Observation
from tests.jepsen_like.wires import CERTAIN

WRITES = ("register", "cas", "set", "pair", "list", "bank", "table")
# Answers that the manual names for a cluster with faults, and what HTTP clients themselves say.
_EXPECTED = CERTAIN | {
    "not_connected", "outcome_unknown", "written_not_applied", "timeout", "cancelled", "io_error",
    "ReadTimeout", "ReadError", "RemoteProtocolError", "WriteError", "WriteTimeout", "no_txseq",
}  # fmt: skip
_EXPECTED_STATES = re.compile(
    r"pg_(lost|08007|25006|40001|42P07|53100|55P03|57014|57P0.|58000|58030)"
)


def check(history: History, seen: Mapping[str, Observation], initial: set[str]) -> list[str]:
    """All anomalies. ``initial``: values that were there before the clients began."""
    log = longest(seen)
    where = places(log)
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


def longest(seen: Mapping[str, Observation]) -> Log:
    return max((one.log for one in seen.values()), key=lambda log: len(log.entries))


def places(log: Log) -> dict[str, int]:
    return {value: sequence for sequence, values in log.entries for value in values}


def acknowledged(one: Operation) -> bool:
    """Whether the client was told that it is in the log: not if it had nothing to write."""
    return one.outcome is Outcome.OK and not (one.kind == "cas" and one.result == 0)


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
        if a.log.entries != b.log.entries:
            both = set(a.log.entries) ^ set(b.log.entries)
            difference = sorted(both, key=lambda item: item[0])
            yield f"{one} and {other} read different logs: {difference[:5]}"


def exactly_once(log: Log) -> Iterator[str]:
    """No transaction counts twice."""
    first: dict[str, int] = {}
    for sequence, values in log.entries:
        for value in values:
            if value in first:
                yield f"{value} was written twice: at {first[value]} and at {sequence}"
            first.setdefault(value, sequence)


def true_answers(history: History, where: Mapping[str, int]) -> Iterator[str]:
    """An acknowledged write is in the log where it was told; a refused one is not there."""
    for one in history.of(*WRITES):
        place = where.get(one.value)
        if not acknowledged(one) and one.outcome is Outcome.OK:
            if place is not None:
                yield f"told that it changed nothing, but it stands at {place}: {describe(one)}"
        elif one.outcome is Outcome.OK and place is None:
            yield f"acknowledged, and lost: {describe(one)}"
        elif one.outcome is Outcome.OK and one.txseq is not None and place != one.txseq:
            yield f"told {one.txseq}, but it stands at {place}: {describe(one)}"
        elif one.outcome is Outcome.FAIL and place is not None:
            yield f"told {one.code}, but it stands at {place}: {describe(one)}"


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
        held |= {row[0] for row in observation.rows["lists"] + observation.rows["marks"]}
        for _, words in observation.rows["words"]:
            held.update(words.split(";")[:-1])
        for value in sorted(held - asked):
            yield f"nobody wrote {value}, which {name} holds"


def fold(log: Log, seen: Mapping[str, Observation]) -> Iterator[str]:
    """Rows are what the log makes of them: last writer wins, and inserts stay."""
    for sql in log.strange:
        yield f"a statement in the log that this judge does not understand: {sql}"
    registers: dict[int, str] = {}
    inserted: set[str] = set()
    for _, values in log.entries:
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
        for table, logged in (("words", log.words), ("accounts", log.accounts)):
            if (found := dict(map(tuple, rows[table]))) != logged:
                keys = [key for key in {*found, *logged} if found.get(key) != logged.get(key)]
                yield f"{name}: rows {keys[:5]} of {table} are not what the log says last"
        held = [f"s{row[0]}" for row in rows["items"]] + [row[0] for row in rows["marks"]]
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
        known = acknowledged(one) and one.end is not None
        if latest is not None and known and (one.end or 0.0) < latest.start:
            yield f"{describe(one)} ended before {describe(latest)} began, but stands behind it"
        if latest is None or one.start > latest.start:
            latest = one


def reads(history: History, log: Log, where: Mapping[str, int]) -> Iterator[str]:
    """No read shows what the log does not have, nor a state older than the client's sequence."""
    for one in history.of("read_set"):
        if one.outcome is Outcome.OK and one.result != [[one.value]]:
            yield f"its own acknowledged write was not shown: {describe(one)} gave {one.result}"
    written: dict[int, list[int]] = {}
    for sequence, values in log.entries:
        for value in values:
            if value.startswith("r"):
                written.setdefault(int(value[1:].split("-")[0]), []).append(sequence)
    for one in history.of("read_register", "read_linearizable"):
        if one.outcome is not Outcome.OK:
            continue
        key, txseq = one.value
        if len(one.result) != 1 or one.result[0][0] not in where:
            yield f"a read showed what is not in the log: {describe(one)} gave {one.result}"
            continue
        place = where[one.result[0][0]]
        newer = [at for at in written[key] if place < at <= txseq]
        if newer:
            yield f"a stale read: {describe(one)} showed {place}, but {newer[0]} was told before"


def expected_errors(history: History) -> Iterator[str]:
    """No answer is an error that faults cannot explain."""
    for one in history.operations:
        code = one.code
        if code is not None and code not in _EXPECTED and not _EXPECTED_STATES.fullmatch(code):
            yield f"an answer that nobody expects: {one.code} to {describe(one)}"


def describe(one: Operation) -> str:
    end = "…" if one.end is None else f"{one.end:.3f}"
    who = f"client {one.process} on {one.node} by {one.wire or 'http'}"
    return f"{one.kind} {one.value}, {who} ({one.start:.3f}–{end} s)"
