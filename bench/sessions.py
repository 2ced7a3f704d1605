"""Load over protocols with sessions.

``python -m bench.sessions grpc|pg PORT SQL SESSIONS SECONDS``: each session sends a statement
when the one before is answered. Prints the rate as JSON. What the client itself costs is in it:
our driver is Python, asyncpg's protocol is C.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import trio


async def grpc(port: int, sql: str, sessions: int, seconds: float) -> float:
    import ha.dbapi.aio

    counts: list[int] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        dsn = f"ha://127.0.0.1:{port}"
        async with await ha.dbapi.aio.connect(dsn, autocommit=True) as connection:
            count = 0
            while time.perf_counter() < end:
                await connection.execute(sql)
                count += 1
            counts.append(count)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(sessions):
            nursery.start_soon(work)
    return sum(counts) / (time.perf_counter() - began)


async def pg(port: int, sql: str, sessions: int, seconds: float) -> float:
    import asyncpg  # type: ignore[import-untyped]

    end = time.perf_counter() + seconds

    async def work() -> int:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, user="ha", password="ha", database="ha", ssl=False
        )
        count = 0
        while time.perf_counter() < end:
            await connection.fetch(sql)
            count += 1
        await connection.close()
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*(work() for _ in range(sessions)))
    return sum(counts) / (time.perf_counter() - began)


if __name__ == "__main__":
    _, protocol, port, sql, sessions, seconds = sys.argv
    arguments = (int(port), sql, int(sessions), float(seconds))
    rate = trio.run(grpc, *arguments) if protocol == "grpc" else asyncio.run(pg(*arguments))
    print(json.dumps({"rate": rate}))
