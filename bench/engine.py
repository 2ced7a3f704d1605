"""The engine below the wires: transactions a second through sessions, on a real nats-server."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw
import trio

from bench.report import Report, Row
from ha.engine.committer import CommitOptions
from ha.engine.database import Database, DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.runtime import Runtime
from ha.log.api import Ack, LogError, Outgoing
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from ha.log.server import NatsServer, ServerOptions
from ha.store.file import Store, StoreOptions

SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)"
INSERT = "INSERT INTO t(x) VALUES (?)"
WORDS = ("hello world",)


@asynccontextmanager
async def engine_node(url: str, name: str, path: Path) -> AsyncIterator[Databases]:
    """A node without wires, on a file."""
    options = DatabaseOptions(CommitOptions(node=name), concurrent=1_000)
    rng = random.SystemRandom()
    async with AsyncExitStack() as stack:
        broker = JetStreamBroker(JetStreamOptions(url, name), rng=rng)
        await stack.enter_async_context(broker)
        databases = Databases(broker, options, Runtime(), stream="ha_replication")
        async with trio.open_nursery() as nursery:
            await databases.open("ha.db", Store.open(str(path), StoreOptions()), nursery)
            yield databases
            nursery.cancel_scope.cancel()
        databases.close()


@dataclass
class Load:
    """What writers did: how many transactions in how many seconds, and each one's latency."""

    count: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[98] if len(self.latencies) > 100 else 0.0


async def write_for(databases: Databases, writers: int, seconds: float) -> Load:
    """Insert a row a transaction, each writer one after the other."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def write() -> None:
        session = databases.session(protocol="bench")
        while True:
            start = time.perf_counter()
            if start - began >= seconds:
                break
            await session.execute(INSERT, WORDS)
            latencies.append(time.perf_counter() - start)
        await session.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(write)
    return Load(len(latencies), time.perf_counter() - began, latencies)


def bare_apsw(path: Path, seconds: float) -> float:
    """Autocommitted inserts a second with the pragmas of a node, without a log."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").fetchall()
    db.execute(SCHEMA)
    cursor = db.cursor()
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            cursor.execute(INSERT, WORDS)
        count += 100
    rate = count / (time.perf_counter() - began)
    db.close()
    return rate


async def bare_publish(url: str, together: int, seconds: float) -> float:
    """Messages a second through the same client: ``together`` in one write, until all are acked."""
    async with JetStreamBroker(
        JetStreamOptions(url, "bench", stream="bench"), rng=random.SystemRandom()
    ) as broker:
        log = await broker.log("bench.db")
        payload = b"x" * 400
        count = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            done = trio.Event()
            left = together

            def on_ack(_: int, outcome: Ack | LogError) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    done.set()  # noqa: B023

            log.publish([Outgoing(f"{count + i}", payload) for i in range(together)], on_ack)
            await done.wait()
            count += together
        return count / (time.perf_counter() - began)


async def run(report: Report, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        apsw_rate = bare_apsw(base / "bare.db", seconds / 2)
        report.add(Row("engine", "bare APSW, a commit a row", apsw_rate, "tx/s"))
        async with NatsServer(ServerOptions(host="127.0.0.1", port=0)) as server:
            for writers in (1, 16, 64, 256):
                floor = await bare_publish(server.url, writers, seconds / 2)
                path = base / f"{writers}.db"
                stream_free = await _fresh(base, writers)
                async with stream_free as url, engine_node(url, "n1", path) as databases:
                    await databases.session(protocol="bench").execute(SCHEMA)
                    load = await write_for(databases, writers, seconds)
                report.add(
                    Row(
                        "engine", f"{writers} writers", load.rate, "tx/s", floor,
                        "bare JetStream publish", note=f"p99 {load.p99 * 1e3:.1f} ms",
                    )
                )  # fmt: skip
        await _several_nodes(report, base, seconds)


async def _fresh(base: Path, label: object) -> AsyncExitStackUrl:
    return AsyncExitStackUrl(base / f"nats-{label}")


class AsyncExitStackUrl:
    """A server with an empty store, entered for its URL."""

    def __init__(self, store: Path) -> None:
        self._server = NatsServer(ServerOptions(host="127.0.0.1", port=0, store_dir=store))

    async def __aenter__(self) -> str:
        await self._server.__aenter__()
        return self._server.url

    async def __aexit__(self, *error: object) -> None:
        await self._server.__aexit__(None, None, None)


async def _several_nodes(report: Report, base: Path, seconds: float) -> None:
    """Two and three nodes write at once: in one process, so they share its one core."""
    for count in (2, 3):
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(AsyncExitStackUrl(base / f"nats-{count}-nodes"))
            nodes = [
                await stack.enter_async_context(engine_node(url, f"n{i}", base / f"{count}-{i}.db"))
                for i in range(count)
            ]
            await nodes[0].session(protocol="bench").execute(SCHEMA)
            await _all_at(nodes)
            loads: list[Load] = []

            async def write(node: Databases) -> None:
                loads.append(await write_for(node, 16, seconds))  # noqa: B023

            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(write, node)
            await _all_at(nodes)
            rate = sum(load.rate for load in loads)
            batches = sum(n.get().committer.counters.batches for n in nodes)
            replayed = sum(n.get().committer.counters.replayed for n in nodes)
            slowest = min(load.rate for load in loads)
            report.add(
                Row(
                    "nodes", f"{count} nodes, 16 writers each", rate, "tx/s",
                    note=f"{100 * replayed / max(batches, 1):.0f} % of batches replayed,"
                    f" slowest node {slowest:.0f} tx/s,"
                    f" p99 {max(load.p99 for load in loads) * 1e3:.1f} ms",
                )
            )  # fmt: skip
            if count == 2:
                visible = await _visible(nodes[0], nodes[1].get())
                report.add(
                    Row("nodes", "written here, visible there (median)", visible * 1e3, "ms")
                )


async def _visible(writer: Databases, other: Database) -> float:
    """Seconds from the start of a write to its being applied on another node."""
    times: list[float] = []
    session = writer.session(protocol="bench")
    for _ in range(200):
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.committer.wait_applied, other.committer.applied + 1)
            await session.execute(INSERT, WORDS)
        times.append(time.perf_counter() - began)
    await session.aclose()
    return statistics.median(times)


async def _all_at(nodes: list[Databases]) -> None:
    last = (await nodes[0].get().log.state()).subject_last
    for node in nodes:
        await node.get().committer.wait_applied(last)
