"""``python -m bench.pg_client DSN PID SECONDS ROWS [family]``: what one PostgreSQL server does, as
JSON: for each measurement its rate, and the seconds of CPU that the server's process PID (with
``family``, and its children) took for one.

The same client measures ha and a real PostgreSQL. In a process of its own, so that the client's
time is not the server's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from bench.cpu import cpu_seconds

Make = Callable[[Any], Awaitable[Callable[[int], Awaitable[Any]]]]

KEYS = 10_000
BATCH = 100


async def prepare(connection: Any, rows: int) -> None:
    """Tables ``k`` (point selects), ``w`` (inserts) and ``big`` (scan), filled by COPY."""
    for name in ("k", "w", "big", "c"):
        await connection.execute(f"DROP TABLE IF EXISTS {name}")
    await connection.execute("CREATE TABLE k(id INTEGER PRIMARY KEY, x TEXT)")
    await connection.execute("CREATE TABLE w(id SERIAL PRIMARY KEY, x TEXT)")
    for name in ("big", "c"):
        await connection.execute(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, x TEXT, n BIGINT)")
    await connection.copy_records_to_table("k", records=[(i, f"v{i}") for i in range(KEYS)])
    records = ((i, f"hello world {i}", i * 7) for i in range(rows))
    await connection.copy_records_to_table("big", records=records)


class Meter:
    """Measures calls, and what they cost the server."""

    def __init__(self, cpu: Callable[[], float], seconds: float) -> None:
        self._cpu = cpu
        self._seconds = seconds
        self.found: dict[str, tuple[float, float]] = {}

    async def rate(self, name: str, connections: list[Any], make: Make, each: int = 1) -> None:
        """Calls a second, by all connections together; ``each`` counts for so many."""

        async def one(connection: Any) -> int:
            call = await make(connection)
            count = 0
            while time.perf_counter() < end:
                await call(count)
                count += each
            return count

        end = time.perf_counter() + self._seconds
        await self._measure(name, asyncio.gather(*(one(c) for c in connections)))

    async def _measure(self, name: str, work: Awaitable[list[int]]) -> None:
        start, before = time.perf_counter(), self._cpu()
        done = sum(await work)
        seconds, cpu = time.perf_counter() - start, self._cpu() - before
        self.found[name] = (done / seconds, cpu / done)

    async def once(self, name: str, count: int, work: Awaitable[Any]) -> None:
        """``work`` does ``count`` things."""

        async def one() -> list[int]:
            await work
            return [count]

        await self._measure(name, one())


async def select_prepared(connection: Any) -> Callable[[int], Awaitable[Any]]:
    statement = await connection.prepare("SELECT x FROM k WHERE id = $1")
    return lambda n: statement.fetchval(n * 7919 % KEYS)


async def select_simple(connection: Any) -> Callable[[int], Awaitable[Any]]:
    return lambda n: connection.execute(f"SELECT x FROM k WHERE id = {n * 7919 % KEYS}")


async def insert_prepared(connection: Any) -> Callable[[int], Awaitable[Any]]:
    statement = await connection.prepare("INSERT INTO w(x) VALUES ($1)")
    return lambda n: statement.fetch(f"value {n}")


async def insert_simple(connection: Any) -> Callable[[int], Awaitable[Any]]:
    return lambda n: connection.execute(f"INSERT INTO w(x) VALUES ('value {n}')")


async def insert_batch(connection: Any) -> Callable[[int], Awaitable[Any]]:
    """executemany: one pipeline, one transaction."""
    values = [(f"value {i}",) for i in range(BATCH)]
    return lambda _n: connection.executemany("INSERT INTO w(x) VALUES ($1)", values)


async def scan(connection: Any, rows: int) -> None:
    found = await connection.fetch("SELECT * FROM big")
    assert len(found) == rows


async def measure(
    dsn: str, cpu: Callable[[], float], seconds: float, rows: int
) -> dict[str, tuple[float, float]]:
    first = await asyncpg.connect(dsn)
    await prepare(first, rows)
    meter = Meter(cpu, seconds)
    await meter.once("scan", rows, scan(first, rows))
    records = [(i, f"hello world {i}", i * 7) for i in range(rows // 5)]
    await meter.once("COPY in", len(records), first.copy_records_to_table("c", records=records))
    for count in (1, 16):
        connections = [first, *[await asyncpg.connect(dsn) for _ in range(count - 1)]]
        for name, make in (
            ("point select, prepared", select_prepared),
            ("point select, simple", select_simple),
            ("insert, prepared", insert_prepared),
            ("insert, simple", insert_simple),
        ):
            await meter.rate(f"{name}, {count} connections", connections, make)
        for connection in connections[1:]:
            await connection.close()
    await meter.rate("pipelined inserts", [first], insert_batch, BATCH)
    await first.close()
    return meter.found


if __name__ == "__main__":
    dsn, pid, seconds, rows, *family = sys.argv[1:]
    cpu = partial(cpu_seconds, int(pid), family=bool(family))
    print(json.dumps(asyncio.run(measure(dsn, cpu, float(seconds), int(rows)))))
