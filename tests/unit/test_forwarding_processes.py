"""Forwarding between real nodes: restarts under load, deaths and stops of the leader, TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

import ha.dbapi
from tests.support.certificate import make_certificate
from tests.support.leader_cluster import (
    LeaderNode,
    free_port,
    leader_cluster,
    until,
    wait_leader,
)

TABLE = "CREATE TABLE t (client TEXT, n INTEGER, PRIMARY KEY (client, n))"
AGAIN = {
    "not_leader",
    "no_leader",
    "not_written",
    "unavailable",
    "busy",
    "serialization_failure",
}
"""The codes that say: nothing was written, try again."""
AGAIN_STATES = {"40001", "57P03", "25006"}


@pytest.fixture
def nodes(tmp_path: Path, nats_server: Any) -> Iterator[dict[str, LeaderNode]]:
    with leader_cluster(tmp_path, nats_server.url) as nodes:
        yield nodes


class Client(threading.Thread):
    """Writes one row after the other, until told to stop, on the first node that takes it.

    Each row is written exactly once, for it is only tried again when it is said that it is not
    there. ``failed``: what else was answered."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.written = 0
        self.retries: Counter[str] = Counter()
        self.failed: list[str] = []
        self.slowest = 0.0
        self.ended = threading.Event()

    def attempt(self, n: int) -> str | None:
        """None: written. Else why it may be tried again, or ``!`` and why it may not."""
        raise NotImplementedError

    def run(self) -> None:
        while not self.ended.is_set() and not self.failed:
            began = time.monotonic()
            while (problem := self.attempt(self.written + 1)) is not None:
                if problem.startswith("!") or time.monotonic() - began > 30:
                    self.failed.append(problem)
                    return
                self.retries[problem] += 1
                time.sleep(0.02)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.written += 1
            self.ended.wait(0.05)  # a node that starts needs a processor too

    def stop(self) -> None:
        self.ended.set()
        self.join(60)


class HttpClient(Client):
    def __init__(self, name: str, nodes: list[LeaderNode]) -> None:
        super().__init__(name)
        self.nodes = nodes

    def attempt(self, n: int) -> str | None:
        node = self.nodes[0]
        body = {"sql": "INSERT INTO t VALUES (:c, :n)", "params": {"c": self.name, "n": n}}
        try:
            # A new connection each: one that is kept may end just when it is used again.
            answer = httpx.post(node.url, json=body, timeout=30)
        except httpx.ConnectError:
            self._elsewhere()
            return "not connected"
        except httpx.HTTPError as error:
            return f"!{node.name}: {error!r}"
        if answer.status_code == 200:
            return None
        code: str = answer.json()["error"]["code"]
        if code not in AGAIN:
            return f"!{node.name}: {answer.text}"
        self._elsewhere()
        return code

    def _elsewhere(self) -> None:
        self.nodes = self.nodes[1:] + self.nodes[:1]


class PgClient(Client):
    """In transactions of two statements. A connection that is lost in COMMIT leaves a doubt, as
    with PostgreSQL: then it looks, on another node, whether the row is there."""

    def __init__(self, name: str, nodes: list[LeaderNode]) -> None:
        super().__init__(name)
        self.nodes = nodes
        self.doubt = False
        self.connection: psycopg.Connection[Any] | None = None

    def attempt(self, n: int) -> str | None:
        committing = False
        try:
            if self.connection is None:
                port = self.nodes[0].ports.get("postgresql", 1)
                self.connection = psycopg.connect(
                    f"host=127.0.0.1 port={port} user=ha password=ha dbname=ha.db",
                    autocommit=True,
                )
            connection = self.connection
            if self.doubt and self._is_there(connection, n):
                self.doubt = False
                return None
            self.doubt = False
            connection.execute("BEGIN")
            connection.execute("INSERT INTO t VALUES (%s, %s)", (self.name, n))
            connection.execute("UPDATE t SET n = n WHERE client = %s AND n = %s", (self.name, n))
            committing = True
            connection.execute("COMMIT")
        except psycopg.Error as error:
            lost = self.connection is None or self.connection.closed or error.sqlstate is None
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            self.nodes = self.nodes[1:] + self.nodes[:1]
            if lost and committing:
                self.doubt = True
            if error.sqlstate in AGAIN_STATES or lost:
                return f"sqlstate {error.sqlstate}"
            return f"!{error.sqlstate}: {error}"
        return None

    def _is_there(self, connection: psycopg.Connection[Any], n: int) -> bool:
        connection.execute("SET ha.consistency = linearizable")
        found = connection.execute(
            "SELECT count(*) FROM t WHERE client = %s AND n = %s", (self.name, n)
        ).fetchone()
        connection.execute("RESET ha.consistency")
        return found is not None and found[0] > 0


@pytest.mark.timeout(600)  # seconds; nodes start slowly beside all these clients
def test_a_rolling_restart_fails_no_write(tmp_path: Path, nats_server: Any) -> None:
    """Three nodes, one restarted after the other, while clients write through all of them."""
    with leader_cluster(tmp_path, nats_server.url, "--pg-port", "-1") as nodes:
        wait_leader(nodes)
        first = nodes["a"]
        first.query({"sql": TABLE})
        for node in nodes.values():
            node.wait_rows("SELECT count(*) FROM t", [[0]])
        members = list(nodes.values())
        clients: list[Client] = [
            HttpClient(f"http {i}", members[i:] + members[:i]) for i in range(3)
        ]
        clients += [PgClient(f"pg {i}", members[i:] + members[:i]) for i in range(3)]
        for client in clients:
            client.start()
        try:
            leaders = []
            for node in nodes.values():
                _go_on(clients, 10)
                leaders.append(wait_leader(nodes).name)
                assert node.stop() == 0, node.lines[-20:]
                _go_on(clients, 5)
                node.start()
                node.wait_ready()
        finally:
            for client in clients:
                client.stop()
        assert [c.failed for c in clients] == [[]] * len(clients)
        expected = sorted([c.name, c.written] for c in clients)
        counts = "SELECT client, count(*) FROM t GROUP BY client ORDER BY client"
        for node in nodes.values():
            node.wait_rows(counts, expected)
        assert min(c.written for c in clients) >= 20
        assert len(set(leaders)) > 1 or wait_leader(nodes).name != leaders[0]


def _go_on(clients: list[Client], rows: int) -> None:
    """Until every client has written so many more rows."""
    wanted = {c.name: c.written + rows for c in clients}

    def done() -> bool:
        failures = [c.failed for c in clients if c.failed]
        assert not failures, failures
        return all(c.written >= wanted[c.name] for c in clients)

    until(done, 60)


def test_a_client_of_a_follower_survives_the_leaders_death(nodes: dict[str, LeaderNode]) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": TABLE})
    follower = next(n for n in nodes.values() if n is not leader)
    for n in range(10):
        assert "error" not in follower.try_write(f"INSERT INTO t VALUES ('before', {n})")
    leader.kill()
    # It waits for the next leader, and goes there.
    answer = follower.try_write("INSERT INTO t VALUES ('after', 1)", timeout=30)
    assert answer.get("rows") == [[1, 11]], answer
    assert follower.rows("SELECT count(*) FROM t") == [[11]]


def test_a_transaction_on_a_dead_leader_is_40001(nodes: dict[str, LeaderNode]) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": TABLE})
    follower = next(n for n in nodes.values() if n is not leader)
    follower.wait_rows("SELECT count(*) FROM t", [[0]])
    with ha.dbapi.connect(f"ha://{follower.address}/ha.db") as connection:
        connection.execute("INSERT INTO t VALUES ('a', 1)")
        assert connection.in_transaction
        leader.kill()
        with pytest.raises(ha.dbapi.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES ('a', 2)")
        assert caught.value.code == "serialization_failure"
        connection.rollback()
        connection.execute("INSERT INTO t VALUES ('b', 1)")
        connection.commit()
    assert follower.rows("SELECT client FROM t") == [["b"]]


def test_a_write_to_a_stopped_leader_is_settled(nodes: dict[str, LeaderNode]) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": TABLE})
    follower = next(n for n in nodes.values() if n is not leader)
    assert "error" not in follower.try_write("INSERT INTO t VALUES ('a', 1)")
    os.kill(leader.process.pid, signal.SIGSTOP)
    try:
        answer = follower.try_write("INSERT INTO t VALUES ('a', 2)", timeout=30)
        assert "error" not in answer, answer
        assert follower.rows("SELECT count(*) FROM t") == [[2]]
    finally:
        os.kill(leader.process.pid, signal.SIGCONT)
    leader.wait_rows("SELECT count(*) FROM t", [[2]])


def test_what_operators_see(nodes: dict[str, LeaderNode], tmp_path: Path) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": TABLE})
    follower = next(n for n in nodes.values() if n is not leader)
    follower.wait_rows("SELECT count(*) FROM t", [[0]])

    def cluster() -> Any:
        return follower.client.get(follower.url + "/cluster").raise_for_status().json()

    until(lambda: len(cluster()["nodes"]) == 3, 20)
    seen = cluster()
    assert seen["mode"] == "elected"
    assert seen["leader"]["name"] == leader.name
    assert seen["leader"]["address"] == leader.address
    assert seen["term"] == seen["leader"]["term"] >= 1
    assert 0 < seen["lease_left"] <= 2.2
    assert seen["nodes"][0]["name"] == follower.name
    roles = sorted(n["role"] for n in seen["nodes"])
    assert roles == ["follower", "follower", "leader"]
    until(lambda: all(d["lag"] == 0 for n in cluster()["nodes"] for d in n["databases"]), 20)
    status = subprocess.run(
        [sys.executable, "-m", "ha", "status", "-r", follower.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert status.returncode == 0, status.stderr
    lines = status.stdout.splitlines()
    assert lines[0].split() == ["NODE", "ROLE", "SEEN", "POSITIONS", "LAG", "ADDRESS"]
    columns = {line.index(word) for line, word in zip(lines[1:4], _roles(lines[1:4]), strict=True)}
    assert columns == {lines[0].index("ROLE")}
    assert f"{leader.name} at {leader.address} leads; term" in status.stdout


def _roles(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines]


def test_databases_are_made_by_the_leader_and_known_here(tmp_path: Path, nats_server: Any) -> None:
    with leader_cluster(tmp_path, nats_server.url, "--create-db-dir", "dbs", names="ab") as nodes:
        leader = wait_leader(nodes)
        follower = next(n for n in nodes.values() if n is not leader)
        made = follower.client.post(follower.url + "/databases", json={"dsn": "shop.db"})
        assert (made.status_code, made.json()) == (201, {"id": "shop.db"})
        follower.query({"sql": TABLE}, "/databases/shop.db")
        follower.query({"sql": "INSERT INTO t VALUES ('a', 1)"}, "/databases/shop.db")
        read = leader.query({"sql": "SELECT * FROM t"}, "/databases/shop.db")
        assert read["rows"] == [["a", 1]]
        dropped = follower.client.delete(follower.url + "/databases/shop.db")
        assert dropped.status_code == 200
        for node in nodes.values():
            assert node.client.get(node.url + "/databases").json()["databases"] == ["ha.db"]


def test_tls_and_token_between_nodes(tmp_path: Path, nats_server: Any) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    leads = f"https://127.0.0.1:{port}"
    common = [
        *("--nats-port", "0", "--replication-url", nats_server.url, "--token", "s3cret"),
        *("--http-cert", str(certificate), "--http-key", str(key)),
        *("--leader-ca", str(certificate), "--leader-static", leads),
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = LeaderNode("a", [*common, "--leader-addr", leads], tmp_path / "a", port)
    b = LeaderNode("b", common, tmp_path / "b")
    headers = {"authorization": "Bearer s3cret"}
    try:
        a.start()
        b.start()

        def write(sql: str) -> httpx.Response:
            return httpx.post(
                f"https://{b.address}/",
                json={"sql": sql},
                headers=headers,
                verify=False,
                timeout=60,
            )

        for sql in (TABLE, "INSERT INTO t VALUES ('a', 1)"):
            answer = write(sql)
            assert answer.status_code == 200, answer.text
        rows = write("SELECT * FROM t").json()["rows"]
        assert rows == [["a", 1]]
        log = "\n".join(a.lines + b.lines)
        assert "s3cret" not in log
    finally:
        a.kill()
        b.kill()
