"""One node, the same statements over gRPC, HTTP and the PostgreSQL wire."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from bench.http import load
from bench.report import Report, Row
from tests.support.processes import running_node

READ = "SELECT x FROM t WHERE id = 1"
INSERT = "INSERT INTO t(x) VALUES ('hello world')"


def _sessions(protocol: str, port: int, sql: str, sessions: int, seconds: float) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.sessions", protocol, str(port), sql, str(sessions),
         str(seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rate: float = json.loads(done.stdout)["rate"]
    return rate


def run(report: Report, seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_node("bench", "--pg-port", "-1", cwd=Path(folder), memory=False) as node,
    ):
        for sql in ("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)", INSERT):
            httpx.post(f"{node.url}/query", json={"sql": sql}).raise_for_status()
        for name, sql in (("point read", READ), ("insert", INSERT)):
            for count in (1, 16):
                by_http = load(node.ports["http"], {"sql": sql}, count, seconds)
                report.add(Row("http", f"{name}, {count} connections", by_http, "req/s"))
                for protocol, label, port in (
                    ("grpc", "grpc (ha.dbapi)", node.ports["http"]),
                    ("pg", "postgresql (asyncpg)", node.ports["postgresql"]),
                ):
                    rate = _sessions(protocol, port, sql, count, seconds)
                    report.add(
                        Row(
                            label, f"{name}, {count} sessions", rate, "req/s",
                            by_http, "HTTP, same node",
                        )
                    )  # fmt: skip
