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


def free_ports(count: int) -> list[int]:
    """Ports for NATS routes, which must be known before the servers start."""
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_three_nodes_on_a_cluster_of_three_nats_servers(tmp_path: Path) -> None:
    routes = free_ports(3)
    nodes: list[HaProcess] = []
    for index in range(3):
        others = ", ".join(
            f'"nats://127.0.0.1:{port}"' for at, port in enumerate(routes) if at != index
        )
        config = tmp_path / f"nats{index}.conf"
        config.write_text(
            f"server_name: s{index}\n"
            f"cluster {{ name: test, listen: 127.0.0.1:{routes[index]}, routes: [{others}] }}\n"
        )
        nodes.append(
            HaProcess(
                [
                    "-n",
                    f"n{index}",
                    "-m",
                    "--port",
                    "0",
                    "--nats-port",
                    "-1",
                    "--replicas",
                    "3",
                    "--nats-config",
                    str(config),
                    "--nats-store-dir",
                    str(tmp_path / f"s{index}"),
                    "--replication-timeout",
                    "30s",
                ],
                tmp_path,
            )
        )
    try:
        # A cluster of three is up when two of its servers are: they start together.
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(HaProcess.start, nodes))
        nodes[0].query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        for node in nodes:
            node.wait_rows("SELECT count(*) FROM t", [[0]])
        with ThreadPoolExecutor(6) as pool:
            list(
                pool.map(
                    lambda n: nodes[n % 3].query(
                        {"sql": "INSERT INTO t VALUES (?, 'x')", "params": [n]}
                    ),
                    range(60),
                )
            )
        for node in nodes:
            node.wait_rows("SELECT count(*) FROM t", [[60]])
        nodes[0].kill()
        nodes[1].query({"sql": "INSERT INTO t VALUES (1000, 'after')"})
        nodes[2].wait_rows("SELECT x FROM t WHERE id = 1000", [["after"]])
        nodes[0].start()
        nodes[0].wait_rows("SELECT count(*) FROM t", [[61]])
    finally:
        for node in nodes:
            node.kill()


def test_schema_changes_stay_at_home_with_disable_ddl_sync(tmp_path: Path) -> None:
    with (
        running_node("n1", "--disable-ddl-sync", cwd=tmp_path) as one,
        running_node("n2", "--disable-ddl-sync", "--replication-url", one.nats_url,
                     cwd=tmp_path, nats=False) as two,
    ):  # fmt: skip
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        two.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x, extra DEFAULT 'here')"})
        with pytest.raises(httpx.HTTPStatusError) as info:
            one.query([{"sql": "CREATE TABLE u(x)"}, {"sql": "INSERT INTO t VALUES (1, 1)"}])
        assert info.value.response.json()["error"]["code"] == "refused"
        one.query({"sql": "INSERT INTO t VALUES (1, 'x')"})
        two.wait_rows("SELECT * FROM t", [[1, "x", "here"]])


def test_a_transaction_of_50_megabytes_replicates(tmp_path: Path) -> None:
    with (
        running_node("n1", cwd=tmp_path) as one,
        running_node("n2", "--replication-url", one.nats_url, cwd=tmp_path, nats=False) as two,
    ):
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)"})
        one.query({"sql": "INSERT INTO t VALUES (1, randomblob(52428800))"})
        look = "SELECT length(x), hex(substr(x, 1, 8)), hex(substr(x, -8)) FROM t"
        two.wait_rows(look, one.rows(look), timeout=120)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("all", [[1], [2], [3]]), ("by_start_sequence=2", [[1], [2], [3]]), ("last", []), ("new", [])],
)
def test_where_a_new_database_begins_in_the_log(
    tmp_path: Path, policy: str, expected: list[list[int]]
) -> None:
    with running_node("n1", cwd=tmp_path) as one:
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY)"})
        for number in (1, 2):
            one.query({"sql": "INSERT INTO t VALUES (?)", "params": [number]})
        with running_node(
            "n2", "--replication-url", one.nats_url, "--replication-policy", policy,
            cwd=tmp_path, nats=False,
        ) as two:  # fmt: skip
            one.query({"sql": "INSERT INTO t VALUES (3)"})
            last = one.rows("SELECT received_seq FROM ha_stats")
            two.wait_rows("SELECT received_seq FROM ha_stats", last)
            if expected:
                assert two.rows("SELECT id FROM t") == expected
            else:  # it came after the table was made, and knows of none
                assert two.rows("SELECT name FROM sqlite_schema WHERE name = 't'") == []
