"""The PostgreSQL wire beside bare APSW, and beside a real PostgreSQL through the same client."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import apsw

from bench.cpu import cpu_seconds
from bench.pg_client import KEYS
from bench.report import Report, Row
from tests.support.processes import running_node

ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Server:
    """Where one is, and its main process."""

    port: int
    database: str
    pid: int
    family: bool
    """A process for each connection: their time counts too."""


Found: TypeAlias = dict[str, tuple[float, float]]
"""By name: rate, and seconds of the server's CPU for one."""


def run(report: Report, seconds: float) -> None:
    """``rows`` of the scan are a million; COPY takes a fifth of them."""
    floors = _apsw(seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_node("bench", "--pg-port", "-1", cwd=Path(folder), memory=False) as node,
    ):
        found = _all(Server(node.ports["postgresql"], "ha", node.process.pid, False), seconds)
    with _real_postgres() as server:
        other = _all(server, seconds) if server is not None else {}
    for name, (rate, cpu) in found.items():
        unit = "rows/s" if name in ("scan", "COPY in", "pipelined inserts") else "req/s"
        notes = [f"CPU {cpu * 1e6:,.3g} µs, {1 / cpu:,.0f} a second of it"] if cpu else []
        if name in other:
            notes.append(f"PostgreSQL: {other[name][0]:,.0f}, CPU {other[name][1] * 1e6:,.3g} µs")
        floor = floors.get(name.split(",")[0])
        note = "; ".join(notes)
        report.add(Row("postgresql", name, rate, unit, floor, "bare APSW", note=note))


def _all(server: Server, seconds: float) -> Found:
    return _client(server, seconds) | _pgbench(server, seconds)


def _client(server: Server, seconds: float) -> Found:
    dsn = f"postgresql://ha:ha@127.0.0.1:{server.port}/{server.database}"
    family = ["family"] if server.family else []
    arguments = [dsn, str(server.pid), str(seconds), str(ROWS), *family]
    command = [sys.executable, "-m", "bench.pg_client", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {name: (rate, cpu) for name, (rate, cpu) in json.loads(done.stdout).items()}


def _pgbench(server: Server, seconds: float) -> Found:
    """Point selects again, by a client in C that leaves more of the machine to the server."""
    if shutil.which("pgbench") is None:
        return {}
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "select.sql"
        script.write_text(f"\\set id random(0, {KEYS - 1})\nSELECT x FROM k WHERE id = :id;\n")
        for mode in ("prepared", "simple"):
            for connections in (1, 16):
                command = [
                    *("pgbench", "-n", "-M", mode, "-c", str(connections), "-f", str(script)),
                    *("-T", str(max(1, round(seconds))), "-h", "127.0.0.1"),
                    *("-p", str(server.port), "-U", "ha", server.database),
                ]
                environment = {**os.environ, "PGPASSWORD": "ha"}
                before = cpu_seconds(server.pid, family=server.family)
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=environment
                )
                if server.family:
                    time.sleep(0.5)  # its processes end when pgbench has gone
                cpu = cpu_seconds(server.pid, family=server.family) - before
                rate = re.search(r"tps = ([\d.]+)", done.stdout)
                count = re.search(r"actually processed: (\d+)", done.stdout)
                if done.returncode or rate is None or count is None:
                    raise RuntimeError(done.stderr)
                name = f"point select, {mode}, pgbench, {connections} connections"
                found[name] = (float(rate[1]), cpu / int(count[1]))
    return found


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
def _real_postgres() -> Iterator[Server | None]:
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
            yield Server(port, "postgres", _main_process(data), True)
        finally:
            process.terminate()
            process.wait(30)


def _main_process(data: Path) -> int:
    """runuser stands between us and it."""
    return int((data / "postmaster.pid").read_text().split()[0])


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
