"""Nodes as users run them: processes, ports, signals, crashes."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.processes import HaProcess, running_node

pytestmark = pytest.mark.processes


def test_the_quick_start_of_the_manual(tmp_path: Path) -> None:
    with (
        running_node("node1", "--pg-port", "-1", cwd=tmp_path) as one,
        running_node("node2", "--pg-port", "-1", "--replication-url", one.nats_url,
                     cwd=tmp_path, nats=False) as two,
    ):  # fmt: skip
        one.query(
            [
                {
                    "sql": "CREATE TABLE IF NOT EXISTS users"
                    " (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)"
                }
            ],
            path="",
        )
        one.query(
            [{"sql": "INSERT INTO users(name) VALUES(:name)", "params": {"name": "HA User"}}],
            path="",
        )
        psql(one, "INSERT INTO users(name) VALUES('HA user from PostgreSQL Wire Protocol')")
        expected = [[1, "HA User"], [2, "HA user from PostgreSQL Wire Protocol"]]
        two.wait_rows("SELECT * FROM users", expected)
        assert psql(two, "SELECT * FROM users").splitlines() == [
            "1|HA User", "2|HA user from PostgreSQL Wire Protocol",
        ]  # fmt: skip
        two.query({"sql": "INSERT INTO users(name) VALUES('from two')"})
        one.wait_rows("SELECT name FROM users WHERE id = 3", [["from two"]])


def psql(node: HaProcess, sql: str) -> str:
    import subprocess

    done = subprocess.run(
        ["psql", "-h", "localhost", "-p", str(node.ports["postgresql"]), "-U", "ha", "-Atc", sql],
        env={**os.environ, "PGPASSWORD": "ha"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_three_nodes_on_one_server_with_writes_on_each(tmp_path: Path) -> None:
    with (
        running_node("n1", cwd=tmp_path) as one,
        running_node("n2", "--replication-url", one.nats_url, cwd=tmp_path, nats=False) as two,
        running_node("n3", "--replication-url", one.nats_url, cwd=tmp_path, nats=False) as three,
    ):
        nodes = [one, two, three]
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, node TEXT, x)"})
        for node in nodes:
            node.wait_rows("SELECT count(*) FROM t", [[0]])

        def write(number: int) -> None:
            node = nodes[number % 3]
            node.query({"sql": "INSERT INTO t VALUES (?, ?, ?)", "params": [number, "n", 1.5]})

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(write, range(300)))
        for node in nodes:
            node.wait_rows("SELECT count(*) FROM t", [[300]])
        dumps = [node.rows("SELECT * FROM t ORDER BY id") for node in nodes]
        assert dumps[0] == dumps[1] == dumps[2]
        late = HaProcess(
            ["-n", "n4", "-m", "--port", "0", "--nats-port", "0",
             "--replication-url", one.nats_url], tmp_path,
        ).start()  # fmt: skip
        try:
            late.wait_ready()
            assert late.rows("SELECT count(*) FROM t") == [[300]]
        finally:
            late.kill()


@pytest.mark.parametrize("victim", ["node", "nats"])
def test_no_acknowledged_write_is_lost_by_a_sigkill(tmp_path: Path, victim: str) -> None:
    store = tmp_path / "nats"
    arguments = [
        "-n", "n1", "--port", "0", "--nats-port", "-1", "--nats-store-dir", str(store), "one.db",
        "--replication-timeout", "10s",
    ]  # fmt: skip
    one = HaProcess(arguments, tmp_path).start()
    try:
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)"}, path="/")
        acknowledged: list[int] = []
        lock = threading.Lock()
        half = threading.Event()

        def write(number: int) -> None:
            if number == 1_000:
                half.set()
            try:
                one.query({"sql": "INSERT INTO t VALUES (?, 'x')", "params": [number]})
            except httpx.HTTPError:
                return
            with lock:
                acknowledged.append(number)

        with ThreadPoolExecutor(16) as pool:
            work = pool.map(write, range(2_000))
            half.wait(60)
            if victim == "node":
                one.kill()
            else:
                os.kill(nats_pid(one), signal.SIGKILL)
            list(work)
        if victim == "node":
            one = HaProcess(arguments, tmp_path).start()
        one.wait_ready()
        with running_node(
            "n2", "one.db", "--replication-url", one.nats_url, cwd=tmp_path, nats=False
        ) as two:
            two.wait_ready()
            held = {row[0] for row in one.rows("SELECT id FROM t")}
            assert len(acknowledged) >= 900
            assert set(acknowledged) <= held
            last = one.rows("SELECT max(received_seq) FROM ha_stats")
            two.wait_rows("SELECT max(received_seq) FROM ha_stats", last)
            assert {row[0] for row in two.rows("SELECT id FROM t")} == held
        assert one.stop() == 0
    finally:
        one.kill()
    check = sqlite3.connect(tmp_path / "one.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def nats_pid(node: HaProcess) -> int:
    """The nats-server that the node started, by its parents."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                name = (entry / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), name)
    for pid, (parent, name) in parents.items():
        ancestor = parent
        while ancestor in parents and ancestor != node.process.pid:
            ancestor = parents[ancestor][0]
        if ancestor == node.process.pid and name.endswith(b"nats-server"):
            return pid
    raise AssertionError("the node has no nats-server")


def test_sigterm_ends_a_node_with_status_0_and_leaves_nothing(tmp_path: Path) -> None:
    with running_node("n1", cwd=tmp_path) as one:
        one.query({"sql": "CREATE TABLE t(x)"})
        server = nats_pid(one)
        assert one.stop() == 0
        assert not Path(f"/proc/{server}").exists()


def test_a_file_is_resumed_where_it_was(tmp_path: Path) -> None:
    arguments = ["-n", "n1", "--port", "0", "--nats-port", "-1"]
    one = HaProcess(arguments, tmp_path).start()
    try:
        one.query({"sql": "CREATE TABLE t(x)"})
        one.query({"sql": "INSERT INTO t VALUES (1)"})
        assert one.stop() == 0
        one.start()
        one.wait_ready()
        assert one.rows("SELECT * FROM t") == [[1]]
        one.query({"sql": "INSERT INTO t VALUES (2)"})
        assert one.rows("SELECT * FROM t") == [[1], [2]]
        assert one.stop() == 0
    finally:
        one.kill()


def test_a_node_without_any_nats_works_alone_and_resumes(tmp_path: Path) -> None:
    arguments = ["-n", "n1", "--port", "0", "--nats-port", "0"]
    one = HaProcess(arguments, tmp_path).start()
    try:
        one.query({"sql": "CREATE TABLE t(x)"})
        one.query({"sql": "INSERT INTO t VALUES (1)"})
        assert one.stop() == 0
        one.start()
        one.query({"sql": "INSERT INTO t VALUES (2)"})
        assert one.rows("SELECT * FROM t") == [[1], [2]]
    finally:
        one.kill()
