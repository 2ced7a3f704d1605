"""The judges see what they are for: each plants one broken promise into a good history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.jepsen_like import checkers, strict
from tests.jepsen_like.history import History, Outcome
from tests.jepsen_like.observe import Log, Observation, read_log


@dataclass
class Run:
    history: History
    seen: dict[str, Observation]

    def anomalies(self) -> list[str]:
        return checkers.check(self.history, self.seen, {"r0-0-0"}) + strict.check(
            self.history, self.seen
        )

    def write(self, kind: str, value: str, outcome: Outcome, txseq: int | None) -> None:
        code = "not_written" if outcome is Outcome.FAIL else None
        operation = self.history.invoke(1, "n1", kind, value)
        self.history.complete(operation, outcome, code=code, txseq=txseq)

    def cas(self, expected: str, value: str, *, changed: int) -> None:
        operation = self.history.invoke(1, "n1", "cas", value)
        operation.expected = expected
        self.history.complete(operation, Outcome.OK, txseq=0, result=changed)

    def read(self, kind: str, value: Any, result: Any) -> None:
        operation = self.history.invoke(1, "n2", kind, value)
        self.history.complete(operation, Outcome.OK, result=result)


def log() -> Log:
    """As a node tells it."""
    balances = [f"INSERT INTO accounts (id, balance) VALUES ({one}, 100)" for one in range(5)]
    return read_log(
        [
            (1, ["UPDATE register SET v = 'r0-0-0' WHERE k = 0", *balances]),
            (2, ["UPDATE register SET v = 'r0-1-1' WHERE k = 0"]),
            (3, ["INSERT INTO items (id, v) VALUES (1, 's1')"]),
            (4, [f"INSERT INTO lists (v, list) VALUES ('a-1-1', {one})" for one in (0, 3)]),
            (5, ["CREATE TABLE t_1_1(x)"]),
            (6, ["UPDATE register SET v = 'r0-1-2' WHERE k = 0"]),
            (7, ["INSERT INTO words (k, v) VALUES (0, 'm0-1-1;')",
                 "INSERT INTO marks (v) VALUES ('m0-1-1')"]),
            (8, ["UPDATE words SET v = 'm0-1-1;m0-1-2;' WHERE k = 0",
                 "INSERT INTO marks (v) VALUES ('m0-1-2')"]),
            (9, ["UPDATE accounts SET balance = 95 WHERE id = 1",
                 "UPDATE accounts SET balance = 105 WHERE id = 2",
                 "INSERT INTO marks (v) VALUES ('b1-2-5-1-1')"]),
        ]
    )  # fmt: skip


def observation() -> Observation:
    return Observation(
        received=9,
        rows={
            "register": [[0, "r0-1-2"]],
            "items": [[1, "s1"]],
            "lists": [["a-1-1", 0], ["a-1-1", 3]],
            "words": [[0, "m0-1-1;m0-1-2;"]],
            "accounts": [[0, 100], [1, 95], [2, 105], [3, 100], [4, 100]],
            "marks": [["b1-2-5-1-1"], ["m0-1-1"], ["m0-1-2"]],
            "schema": [["table", "t_1_1", "t_1_1", "CREATE TABLE t_1_1(x)"]],
        },
        log=log(),
    )


@pytest.fixture
def good() -> Run:
    run = Run(History(), {"n1": observation(), "n2": observation()})
    run.write("register", "r0-1-1", Outcome.OK, 2)
    run.write("set", "s1", Outcome.OK, 3)
    run.write("pair", "a-1-1", Outcome.INFO, None)
    run.write("table", "t_1_1", Outcome.OK, 5)
    run.write("register", "r0-1-2", Outcome.OK, 6)
    run.write("register", "r0-1-3", Outcome.FAIL, None)
    run.read("read_register", [0, 6], [["r0-1-2"]])
    run.read("read_set", "s1", [["s1"]])
    run.write("list", "m0-1-1", Outcome.OK, 7)
    run.write("list", "m0-1-2", Outcome.OK, 8)
    run.read("read_list", 0, [["m0-1-1;"]])
    run.write("bank", "b1-2-5-1-1", Outcome.OK, 9)
    run.read("read_bank", "balances", [[0, 100], [1, 95], [2, 105], [3, 100], [4, 100]])
    run.cas("r0-1-2", "r0-1-4", changed=0)
    run.read("read_linearizable", [0, 6], [["r0-1-2"]])
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
        one.log.entries.append((10, frozenset({"s1"})))


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
    assert (first.value, last.value) == ("r0-1-1", "r0-1-2")
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


def strange_word(run: Run) -> None:
    for one in run.seen.values():
        one.rows["words"][0][1] += "m0-9-9;"


def lost_append(run: Run) -> None:
    for one in run.seen.values():
        one.rows["words"][0][1] = one.log.words[0] = "m0-1-2;"


def list_that_never_was(run: Run) -> None:
    run.read("read_list", 0, [["m0-1-2;"]])


def lost_money(run: Run) -> None:
    for one in run.seen.values():
        one.rows["accounts"][2][1] = one.log.accounts[2] = 100


def half_a_transfer_seen(run: Run) -> None:
    run.read("read_bank", "balances", [[0, 100], [1, 95], [2, 100], [3, 100], [4, 100]])


def old_value_by_linearizable_read(run: Run) -> None:
    run.read("read_linearizable", [0, 0], [["r0-1-1"]])


def changed_nothing(run: Run) -> None:
    run.cas("r0-0-0", "r0-1-1", changed=0)


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (strange_word, "nobody wrote m0-9-9"),
        (strange_word, "of words are not what the log says last"),
        (lost_append, "1 lost, the first ['m0-1-1']"),
        (list_that_never_was, "a list was shown that never was"),
        (lost_money, "balances are"),
        (half_a_transfer_seen, "money was made or lost"),
        (old_value_by_linearizable_read, "not linearizable"),
        (changed_nothing, "told that it changed nothing"),
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
