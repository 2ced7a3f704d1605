"""The judges see what they are for: each plants one broken promise into a good history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.jepsen_like import checkers
from tests.jepsen_like.history import History, Outcome
from tests.jepsen_like.observe import Observation


@dataclass
class Run:
    history: History
    seen: dict[str, Observation]

    def anomalies(self) -> list[str]:
        return checkers.check(self.history, self.seen, {"r0-0-0"})

    def write(self, kind: str, value: str, outcome: Outcome, txseq: int | None) -> None:
        code = "not_written" if outcome is Outcome.FAIL else None
        operation = self.history.invoke(1, "n1", kind, value)
        self.history.complete(operation, outcome, code=code, txseq=txseq)

    def read(self, kind: str, value: Any, result: Any) -> None:
        operation = self.history.invoke(1, "n2", kind, value)
        self.history.complete(operation, Outcome.OK, result=result)


def observation() -> Observation:
    return Observation(
        received=6,
        rows={
            "register": [[0, "r0-1-2"]],
            "items": [[1, "s1"]],
            "lists": [["a-1-1", 0], ["a-1-1", 3]],
            "schema": [["table", "t_1_1", "t_1_1", "CREATE TABLE t_1_1(x)"]],
        },
        log=[
            (1, frozenset({"r0-0-0"})),
            (2, frozenset({"r0-1-1"})),
            (3, frozenset({"s1"})),
            (4, frozenset({"a-1-1"})),
            (5, frozenset({"t_1_1"})),
            (6, frozenset({"r0-1-2"})),
        ],
    )


@pytest.fixture
def good() -> Run:
    run = Run(History(), {"n1": observation(), "n2": observation()})
    run.write("register", "r0-1-1", Outcome.OK, 2)
    run.write("set", "s1", Outcome.OK, 3)
    run.write("append", "a-1-1", Outcome.INFO, None)
    run.write("table", "t_1_1", Outcome.OK, 5)
    run.write("register", "r0-1-2", Outcome.OK, 6)
    run.write("register", "r0-1-3", Outcome.FAIL, None)
    run.read("read_register", [0, 6], [["r0-1-2"]])
    run.read("read_set", "s1", [["s1"]])
    return run


def test_a_good_history_has_no_anomalies(good: Run) -> None:
    assert good.anomalies() == []


def lose(run: Run) -> None:
    run.write("set", "s2", Outcome.OK, 7)


def diverge(run: Run) -> None:
    run.seen["n2"].rows["register"][0][1] = "r0-1-1"


def other_schema(run: Run) -> None:
    run.seen["n2"].rows["schema"].append(["table", "u", "u", "CREATE TABLE u(x)"])


def lie(run: Run) -> None:
    run.history.operations[0].outcome = Outcome.FAIL
    run.history.operations[0].code = "not_written"


def elsewhere(run: Run) -> None:
    run.history.operations[0].txseq = 4


def phantom(run: Run) -> None:
    for one in run.seen.values():
        one.rows["items"].append([9, "s9"])


def twice(run: Run) -> None:
    for one in run.seen.values():
        one.log.append((7, frozenset({"s1"})))


def half(run: Run) -> None:
    for one in run.seen.values():
        one.rows["lists"].pop()


def row_lost_everywhere(run: Run) -> None:
    for one in run.seen.values():
        one.rows["items"].clear()


def wrong_winner(run: Run) -> None:
    for one in run.seen.values():
        one.rows["register"][0][1] = "r0-1-1"


def reordered(run: Run) -> None:
    first, last = run.history.operations[0], run.history.operations[4]
    first.start, first.end = 50.0, 51.0
    last.end = 49.0


def stale(run: Run) -> None:
    run.read("read_register", [0, 6], [["r0-1-1"]])


def dirty(run: Run) -> None:
    run.read("read_register", [0, 6], [["r0-1-3"]])


def own_write_unseen(run: Run) -> None:
    run.read("read_set", "s1", [])


def strange_error(run: Run) -> None:
    run.write("set", "s3", Outcome.INFO, None)
    run.history.operations[-1].code = "internal"


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (lose, "acknowledged, and lost"),
        (diverge, "register differs"),
        (other_schema, "schema differs"),
        (lie, "told not_written, but"),
        (elsewhere, "told 4, but it stands at 2"),
        (phantom, "nobody wrote s9"),
        (twice, "s1 was written twice"),
        (half, "half of transaction a-1-1"),
        (row_lost_everywhere, "s1 is in the log only"),
        (wrong_winner, "the log's last value of register 0 is r0-1-2"),
        (reordered, "stands behind it"),
        (stale, "a stale read"),
        (dirty, "not in the log"),
        (own_write_unseen, "was not shown"),
        (strange_error, "internal"),
    ],
)
def test_a_broken_promise_is_named(good: Run, plant: Callable[[Run], None], sentence: str) -> None:
    plant(good)
    assert any(sentence in one for one in good.anomalies()), good.anomalies()
