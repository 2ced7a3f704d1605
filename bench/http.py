"""A node as a process, over HTTP; the floor is a trivial handler on the same HTTP server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import httpx

from bench.report import Report, Row

_PORT = re.compile(r" http port=(\d+)")
ROWS = 100_000

_TRIVIAL = """
import trio
from ha.wire.http.server import serve
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    body = b'{"columns":["x"],"rows":[["hello world"]]}'
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
async def main():
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(lambda task_status: serve(
            app, host="127.0.0.1", port=0, task_status=task_status))
        print(f" http port={addresses[0].port}", flush=True)
trio.run(main)
"""


@contextmanager
def process(*arguments: str, cwd: Path, banner: str = " serving ") -> Iterator[tuple[int, int]]:
    """A server's process: its HTTP port, its pid. It is killed at the end."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    port = 0
    seen: list[str] = []
    try:
        for line in child.stdout:
            seen.append(line)
            if match := _PORT.search(line):
                port = int(match[1])
            if banner in line:
                break
        if not port:
            raise RuntimeError("".join(seen))
        yield port, child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def load(port: int, statement: dict[str, Any], connections: int, seconds: float) -> float:
    """Requests a second."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", "127.0.0.1", str(port), "/query",
         json.dumps(statement), str(connections), str(seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rate: float = json.loads(done.stdout)["rate"]
    return rate


def run(report: Report, seconds: float) -> None:
    insert = {"sql": "INSERT INTO t(x) VALUES (:x)", "params": {"x": "hello world"}}
    read = {"sql": "SELECT x FROM t WHERE id = :id", "params": {"id": 1}}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        floors: dict[int, float] = {}
        with process("-c", _TRIVIAL, cwd=base, banner=" http port=") as (port, _):
            for connections in (1, 16, 64):
                floors[connections] = load(port, read, connections, seconds)
        began = time.perf_counter()
        node = ("-m", "ha", "-n", "bench", "--port", "0", "--nats-port", "-1", "--max-body", "1GiB",
                "--concurrent-queries", "200")  # fmt: skip
        with process(*node, cwd=base) as (port, pid):
            report.add(Row("node", "start-up, NATS included", time.perf_counter() - began, "s"))
            report.add(Row("node", "resident memory at rest", _memory(pid), "MiB"))
            url = f"http://127.0.0.1:{port}/query"
            with httpx.Client(timeout=600) as client:
                client.post(url, json={"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)"})
                client.post(url, json=insert).raise_for_status()
                for name, statement in (("point read", read), ("insert", insert)):
                    for connections in (1, 16, 64):
                        rate = load(port, statement, connections, seconds)
                        report.add(
                            Row(
                                "http", f"{name}, {connections} connections", rate, "req/s",
                                floors[connections], "trivial handler, same HTTP server",
                            )
                        )  # fmt: skip
                _bulk(report, client, url, base)


def _bulk(report: Report, client: httpx.Client, url: str, base: Path) -> None:
    """100,000 inserts in one list, which is one transaction."""
    db = apsw.Connection(str(base / "bare.db"))
    db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").fetchall()
    db.execute("CREATE TABLE b(id INTEGER PRIMARY KEY, x TEXT)")
    began = time.perf_counter()
    db.execute("BEGIN")
    cursor = db.cursor()
    for number in range(ROWS):
        cursor.execute("INSERT INTO b VALUES (?, ?)", (number, "hello world"))
    db.execute("COMMIT")
    floor = time.perf_counter() - began
    db.close()
    client.post(url, json={"sql": "CREATE TABLE b(id INTEGER PRIMARY KEY, x TEXT)"})
    body = json.dumps(
        [{"sql": "INSERT INTO b VALUES (?, ?)", "params": [n, "hello world"]} for n in range(ROWS)]
    )
    began = time.perf_counter()
    client.post(url, content=body).raise_for_status()
    report.add(
        Row(
            "http", f"{ROWS:,} inserts in one list", time.perf_counter() - began, "s", floor,
            "bare APSW, one transaction", lower_is_better=True,
        )
    )  # fmt: skip


def _memory(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
