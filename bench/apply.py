"""Applying other nodes' messages: a late joiner's catch-up, and what conflicts cost."""

from __future__ import annotations

import random
import time

import apsw

from bench.report import Report, Row
from ha.core.changeset import Change, ChangeSet, Identify, Operation, Origin, encode
from ha.log.api import Entry
from ha.store import control
from ha.store.file import Store, StoreOptions
from ha.store.fold import Fold

ROWS = 50_000
SUBJECT = "bench.ha_db"


def _message(number: int, changes: tuple[Change, ...]) -> Entry:
    origin = Origin("peer", 1, number)
    cs = ChangeSet("peer", 1, "ha.db", changes, origin=origin)
    return Entry(number, origin.message_id, encode(cs), 0)


def _insert(key: int, unique: int) -> Change:
    return Change(
        Operation.INSERT, "t", ("id", "u", "x"), ("id",), None, key, None,
        (key, unique, "hello world"),
    )  # fmt: skip


def _fold_rate(entries: list[Entry], before: int) -> float:
    """Rows a second; the table holds ``before`` rows already."""
    store = Store.open_memory("ha.db", StoreOptions())
    try:
        control.ensure(store.executor, SUBJECT)
        raw = store.applier.raw
        raw.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, u INTEGER UNIQUE, x TEXT)")
        raw.execute("BEGIN")
        raw.executemany("INSERT INTO t VALUES (?, ?, 'old')", ((n, n) for n in range(before)))
        raw.execute("COMMIT")
        fold = Fold(store.applier, SUBJECT, Identify.PK)
        began = time.perf_counter()
        for start in range(0, len(entries), 512):
            fold.apply(entries[start : start + 512])
        return len(entries) / (time.perf_counter() - began)
    finally:
        store.close()


def _upsert_rate(keys: list[tuple[int, int]], before: int) -> float:
    """A plain loop of REPLACE in transactions of 512."""
    store = Store.open_memory("ha.db", StoreOptions())
    try:
        raw: apsw.Connection = store.applier.raw
        raw.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, u INTEGER UNIQUE, x TEXT)")
        raw.execute("BEGIN")
        raw.executemany("INSERT INTO t VALUES (?, ?, 'old')", ((n, n) for n in range(before)))
        raw.execute("COMMIT")
        began = time.perf_counter()
        for start in range(0, len(keys), 512):
            raw.execute("BEGIN")
            for key, unique in keys[start : start + 512]:
                raw.execute("REPLACE INTO t VALUES (?, ?, 'hello world')", (key, unique))
            raw.execute("COMMIT")
        return len(keys) / (time.perf_counter() - began)
    finally:
        store.close()


def run(report: Report, seconds: float) -> None:
    del seconds  # it is the number of rows that is fixed
    rng = random.Random(1)
    for share in (0.0, 0.01, 0.5):
        keys: list[tuple[int, int]] = []
        for number in range(ROWS):
            conflict = rng.random() < share
            key = rng.randrange(ROWS) if conflict else ROWS + number
            keys.append((key, key if not conflict else rng.randrange(ROWS)))
        entries = [_message(n, (_insert(*pair),)) for n, pair in enumerate(keys, 1)]
        report.add(
            Row(
                "apply", f"a row a message, {share:.0%} in conflict",
                _fold_rate(entries, ROWS), "rows/s", _upsert_rate(keys, ROWS),
                "plain REPLACE loop, no JSON",
            )
        )  # fmt: skip
    bulk = [
        _message(
            n, tuple(_insert(ROWS + n * 1_000 + i, ROWS + n * 1_000 + i) for i in range(1_000))
        )
        for n in range(1, 51)
    ]
    rate = _fold_rate(bulk, 0) * 1_000
    floor = _upsert_rate([(n, n) for n in range(50_000)], 0)
    report.add(
        Row("apply", "late joiner, 1,000 rows a message", rate, "rows/s", floor,
            "plain REPLACE loop, no JSON")
    )  # fmt: skip
