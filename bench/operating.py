"""Backup, snapshots, history and cross-shard queries, beside what each cannot be faster than.

Sizes come from the environment: ``HA_BENCH_MB`` (256) of a database, ``HA_BENCH_HISTORY``
(1,000,000) transactions, ``HA_BENCH_SHARD_ROWS`` (1,600,000) rows over 16 databases.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import apsw
import trio

from bench.report import Report, Row
from ha.core.changeset import Change, ChangeSet, Operation, Origin, encode
from ha.core.since import Since
from ha.engine.committer import CommitOptions
from ha.engine.database import DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.history import History
from ha.engine.runtime import Runtime
from ha.engine.snapshots import SnapshotOptions
from ha.log.api import Outgoing
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from ha.log.memory import MemoryBroker, MemoryStream
from ha.log.server import NatsServer, ServerOptions
from ha.store.file import Store, StoreOptions

MEGABYTES = int(os.environ.get("HA_BENCH_MB", "256"))
TRANSACTIONS = int(os.environ.get("HA_BENCH_HISTORY", "1000000"))
SHARD_ROWS = int(os.environ.get("HA_BENCH_SHARD_ROWS", "1600000"))
SHARDS = 16


def run(report: Report, seconds: float) -> None:
    del seconds  # it is the amount of work that is fixed
    with tempfile.TemporaryDirectory(prefix="ha-bench-") as folder:
        trio.run(_copies, report, Path(folder))
    trio.run(_history, report)
    with tempfile.TemporaryDirectory(prefix="ha-bench-") as folder:
        trio.run(_shards, report, Path(folder))


class Memory:
    """How far resident memory rose above where it stood when this was made.

    The high-water mark is reset first (Linux): otherwise whatever ran before and let go of its
    memory would hide a rise. Where it cannot be reset, nothing is claimed.
    """

    def __init__(self) -> None:
        self._before: float | None = None
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = self._read("VmRSS")
        except OSError:
            pass

    def __str__(self) -> str:
        if self._before is None:
            return "memory not measured here"
        return f"memory rose by {self._read('VmHWM') - self._before:.0f} MiB"

    @staticmethod
    def _read(field: str) -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 2**10
        raise OSError(f"no {field} in /proc/self/status")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- backup and snapshots ------------------------------------------------------------


@asynccontextmanager
async def _node(url: str, path: Path) -> AsyncIterator[Databases]:
    options = DatabaseOptions(CommitOptions(node="n1"), snapshots=SnapshotOptions(base=False))
    async with AsyncExitStack() as stack:
        broker = JetStreamBroker(JetStreamOptions(url, "n1"), rng=random.SystemRandom())
        await stack.enter_async_context(broker)
        databases = Databases(broker, options, Runtime(), stream="ha_replication")
        async with trio.open_nursery() as nursery:
            await databases.open("ha.db", Store.open(str(path), StoreOptions()), nursery)
            yield databases
            nursery.cancel_scope.cancel()
        databases.close()


async def _copies(report: Report, folder: Path) -> None:
    path = folder / "ha.db"
    async with (
        NatsServer(ServerOptions(port=0, store_dir=folder / "nats")) as server,
        _node(server.url, path) as databases,
    ):
        database = databases.get()
        _fill(path, MEGABYTES)
        size = path.stat().st_size / 2**20
        source = apsw.Connection(str(path))
        plain = vacuum = rate = 0.0
        note = ""
        # In turns, the best of three each: what the page cache holds, and what the disk is still
        # busy with, change by more than what is to be told apart.
        for _ in range(3):
            plain = max(plain, size / _timed(lambda: shutil.copyfile(path, folder / "cp.db")))
            (folder / "cp.db").unlink()
            took = _timed(lambda: source.execute(f"VACUUM INTO '{folder / 'vacuum.db'}'"))
            vacuum = max(vacuum, size / took)
            (folder / "vacuum.db").unlink()
            memory = Memory()
            began = time.perf_counter()
            copy = await database.runtime.run_stoppable(database.store.copy)
            rate = max(rate, size / (time.perf_counter() - began))
            note = f"{size:,.0f} MiB; {memory}"
            copy.remove()
        source.close()
        report.add(Row("backup", "a copy while in use", rate, "MiB/s", plain, "cp", note=note))
        report.add(Row("backup", "the same", rate, "MiB/s", vacuum, "VACUUM INTO"))
        memory = Memory()
        began = time.perf_counter()
        await database.snapshots.take()
        put = size / (time.perf_counter() - began)
        note = f"into NATS' object store; {memory}"
        report.add(Row("snapshot", "take", put, "MiB/s", plain, "cp", note=note))
        began = time.perf_counter()
        total = 0
        async for chunk in database.broker.get_snapshot("ha.db"):
            total += len(chunk)
        get = total / 2**20 / (time.perf_counter() - began)
        report.add(Row("snapshot", "fetch", get, "MiB/s", plain, "cp"))


def _fill(path: Path, megabytes: int) -> None:
    """Straight into the file: how it came there does not matter here."""
    db = apsw.Connection(str(path))
    db.set_busy_timeout(5_000)
    db.execute("CREATE TABLE big(id INTEGER PRIMARY KEY, x BLOB)")
    for start in range(0, megabytes, 64):
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO big(x) SELECT randomblob(1000) FROM n",
            (min(64, megabytes - start) * 1_000,),
        )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()


# --- history -------------------------------------------------------------------------


async def _history(report: Report) -> None:
    stream = MemoryStream(epoch="bench", dedupe_window=0)
    subject = "ha_replication.ha_db"
    for number in range(1, TRANSACTIONS + 1):
        change = Change(
            Operation.INSERT, "users", ("id", "name"), ("id",), None, number, None,
            (number, f"user {number}"),
        )  # fmt: skip
        origin = Origin("n1", 1, number)
        cs = ChangeSet("n1", 1, "ha.db", (change,), origin=origin, uuid="u", base=number - 1)
        stream.append(subject, Outgoing(origin.message_id, encode(cs)))
    entries = stream.subject(subject).entries
    floor = len(entries) / _timed(lambda: [json.loads(e.payload) and None for e in entries])
    async with MemoryBroker(stream, node="n1") as broker:
        log = await broker.log("ha.db")
        history = History(log, lambda _: frozenset(), lambda: stream.last, Runtime())
        memory = Memory()
        began = time.perf_counter()
        count = 0
        async for _ in history.items(Since(1)):
            count += 1
        rate = count / (time.perf_counter() - began)
        note = f"{count:,} transactions; {memory}"
    report.add(Row("history", "HISTORY 1", rate, "tx/s", floor, "json.loads", note=note))


# --- shards --------------------------------------------------------------------------

QUERIES = (
    ("sums by key", "SELECT g, count(*), sum(x), avg(x), min(x), max(x) FROM t GROUP BY g"),
    ("count", "SELECT count(*) FROM t WHERE x > 500"),
    ("count(DISTINCT)", "SELECT count(DISTINCT g) FROM t WHERE x < 100"),
    ("top 10 of all", "SELECT id, x FROM t ORDER BY x DESC, id LIMIT 10"),
)


async def _shards(report: Report, folder: Path) -> None:
    stream = MemoryStream(epoch="bench")
    options = DatabaseOptions(CommitOptions(node="n1"), snapshots=SnapshotOptions(base=False))
    one = apsw.Connection(str(folder / "one.db"))
    one.execute("PRAGMA journal_mode = WAL").fetchall()
    each = SHARD_ROWS // SHARDS
    async with MemoryBroker(stream, node="n1") as broker:
        databases = Databases(broker, options, Runtime(), stream=stream.name)
        async with trio.open_nursery() as nursery:
            _rows(one, SHARD_ROWS)
            for number in range(SHARDS):
                path = folder / f"shard_{number}.db"
                store = Store.open(str(path), StoreOptions())
                await databases.open(path.name, store, nursery)
                shard = apsw.Connection(str(path))
                shard.set_busy_timeout(5_000)
                _rows(shard, each)
                shard.close()
                databases.get(path.name).cache.clear()
            session = databases.session(protocol="bench")
            for name, sql in QUERIES:
                floor = min(_timed(lambda s=sql: one.execute(s).fetchall()) for _ in range(3))  # type: ignore[misc]
                best = float("inf")
                for _ in range(3):
                    began = time.perf_counter()
                    await session.execute(f"{sql} /*+ db=shard_ */")
                    best = min(best, time.perf_counter() - began)
                report.add(
                    Row(
                        "cross-shard", f"{name}, {SHARDS} databases", best * 1_000, "ms",
                        floor * 1_000, "the same rows in one database, bare APSW",
                        lower_is_better=True,
                    )
                )  # fmt: skip
            await session.aclose()
            nursery.cancel_scope.cancel()
        databases.close()
    one.close()


def _rows(db: apsw.Connection, count: int) -> None:
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, g INTEGER, x INTEGER)")
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO t SELECT i, i % 100, abs(random() % 1000) FROM n",
        (count,),
    )
