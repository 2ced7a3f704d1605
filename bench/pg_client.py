"""``python -m bench.pg_client DSN SECONDS ROWS``: rates of one PostgreSQL server, as JSON.

The same client measures ha and a real PostgreSQL. In a process of its own, so that the client's
time is not the server's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped]

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


async def rate(
    connections: list[Any], make: Callable[[Any], Awaitable[Callable[[int], Awaitable[Any]]]],
    seconds: float,
) -> float:  # fmt: skip
    """Calls a second, by all connections together."""
    end = time.perf_counter() + seconds

    async def one(connection: Any) -> int:
        call = await make(connection)
        count = 0
        while time.perf_counter() < end:
            await call(count)
            count += 1
        return count

    start = time.perf_counter()
    counts = await asyncio.gather(*(one(c) for c in connections))
    return sum(counts) / (time.perf_counter() - start)


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


async def scan(connection: Any, rows: int) -> float:
    statement = await connection.prepare("SELECT * FROM big")
    start = time.perf_counter()
    found = await statement.fetch()
    assert len(found) == rows
    return rows / (time.perf_counter() - start)


async def copy_in(connection: Any, rows: int) -> float:
    records = [(i, f"hello world {i}", i * 7) for i in range(rows)]
    start = time.perf_counter()
    await connection.copy_records_to_table("c", records=records)
    return rows / (time.perf_counter() - start)


async def measure(dsn: str, seconds: float, rows: int) -> dict[str, float]:
    first = await asyncpg.connect(dsn)
    await prepare(first, rows)
    out: dict[str, float] = {}
    out["scan"] = await scan(first, rows)
    out["COPY in"] = await copy_in(first, rows // 5)
    for count in (1, 16):
        connections = [first, *[await asyncpg.connect(dsn) for _ in range(count - 1)]]
        for name, make in (
            ("point select, prepared", select_prepared),
            ("point select, simple", select_simple),
            ("insert, prepared", insert_prepared),
            ("insert, simple", insert_simple),
        ):
            out[f"{name}, {count} connections"] = await rate(connections, make, seconds)
        for connection in connections[1:]:
            await connection.close()
    out["pipelined inserts"] = BATCH * await rate([first], insert_batch, seconds)
    await first.close()
    return out


if __name__ == "__main__":
    found = asyncio.run(measure(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(found))
