"""The PostgreSQL wire beside bare APSW, and beside a real PostgreSQL through the same client."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from bench.report import Report, Row
from tests.support.processes import running_node

ROWS = 1_000_000


def run(report: Report, seconds: float) -> None:
    """``rows`` of the scan are a million; COPY takes a fifth of them."""
    floors = _apsw(seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_node("bench", "--pg-port", "-1", cwd=Path(folder), memory=False) as node,
    ):
        found = _client(f"postgresql://ha:ha@127.0.0.1:{node.ports['postgresql']}/", seconds)
    with _real_postgres() as dsn:
        other = _client(dsn, seconds) if dsn is not None else {}
    for name, value in found.items():
        floor_name = name.split(",")[0]
        note = f"PostgreSQL: {other[name]:,.0f}" if name in other else ""
        unit = "rows/s" if name in ("scan", "COPY in", "pipelined inserts") else "req/s"
        floor = floors.get(floor_name)
        report.add(Row("postgresql", name, value, unit, floor, "bare APSW", note=note))


def _client(dsn: str, seconds: float) -> dict[str, float]:
    arguments = [sys.executable, "-m", "bench.pg_client", dsn, str(seconds), str(ROWS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def _apsw(seconds: float) -> dict[str, float]:
    """The same work without any server, on a file in WAL mode."""
    with tempfile.TemporaryDirectory() as folder:
        c = apsw.Connection(str(Path(folder) / "floor.db"))
        c.pragma("journal_mode", "wal")
        c.pragma("synchronous", "normal")
        c.execute("CREATE TABLE k(id INTEGER PRIMARY KEY, x TEXT)")
        c.execute("CREATE TABLE w(id INTEGER PRIMARY KEY, x TEXT)")
        c.execute("CREATE TABLE big(id INTEGER PRIMARY KEY, x TEXT, n BIGINT)")
        with c:
            c.executemany("INSERT INTO k VALUES (?, ?)", ((i, f"v{i}") for i in range(10_000)))
        records = [(i, f"hello world {i}", i * 7) for i in range(ROWS // 5)]
        start = time.perf_counter()
        with c:
            c.executemany("INSERT INTO big VALUES (?, ?, ?)", records)
        copied = len(records) / (time.perf_counter() - start)
        start = time.perf_counter()
        scanned = len(c.execute("SELECT * FROM big").fetchall()) / (time.perf_counter() - start)

        def batch(n: int) -> None:
            with c:
                c.executemany("INSERT INTO w(x) VALUES (?)", [(f"value {n}",)] * 100)

        return {
            "point select": _rate(
                lambda n: c.execute("SELECT x FROM k WHERE id = ?", (n % 10_000,)).fetchall(),
                seconds,
            ),
            "insert": _rate(
                lambda n: c.execute("INSERT INTO w(x) VALUES (?)", (f"value {n}",)), seconds
            ),
            "pipelined inserts": 100 * _rate(batch, seconds),
            "scan": scanned,
            "COPY in": copied,
        }


def _rate(call: Callable[[int], object], seconds: float) -> float:
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        call(count)
        count += 1
    return count / (time.perf_counter() - start)


@contextmanager
def _real_postgres() -> Iterator[str | None]:
    """A PostgreSQL of its own with default settings, None where there is none to start.

    It refuses to run as root, and is started as the user ``postgres`` then.
    """
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if initdb is None or server is None or (prefix and shutil.which("runuser") is None):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        if prefix:
            os.chmod(folder, 0o777)
        command = [*prefix, initdb, "-D", str(data), "-U", "ha", "-A", "trust", "--no-sync"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        port = _free_port()
        process = subprocess.Popen(
            [*prefix, server, "-D", str(data), "-p", str(port), "-k", folder, "-h", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port)
            yield f"postgresql://ha@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _wait(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("PostgreSQL did not start")
