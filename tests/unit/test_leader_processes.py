"""Leader mode with real nodes: one leads; when it dies, stops or leaves, another does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.support.leader_cluster import (
    LEASE,
    JetStreamAdmin,
    LeaderNode,
    leader_cluster,
    three_servers,
    until,
    wait_leader,
)


@pytest.fixture
def nodes(tmp_path: Path, nats_server: Any) -> Iterator[dict[str, LeaderNode]]:
    with leader_cluster(tmp_path, nats_server.url) as nodes:
        yield nodes


def _write_until_taken(node: LeaderNode, sql: str, timeout: float = 10.0) -> float:
    """Seconds until the node has taken the write."""
    began = time.monotonic()
    until(lambda: "error" not in node.try_write(sql), timeout)
    return time.monotonic() - began


def _check_alike(nodes: dict[str, LeaderNode], without: str = "") -> list[list[Any]]:
    rows = wait_leader(nodes, other_than=without).rows("SELECT * FROM t ORDER BY id")
    for node in nodes.values():
        if node.name != without:
            node.wait_rows("SELECT * FROM t ORDER BY id", rows)
    return rows


def test_one_node_leads_and_another_one_after_its_death(nodes: dict[str, LeaderNode]) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
    leader.query({"sql": "INSERT INTO t VALUES (1)"})
    assert [n.name for n in nodes.values() if n.leader() == n.name] == [leader.name]

    leader.kill()
    died = time.monotonic()
    new = wait_leader(nodes, other_than=leader.name)
    _write_until_taken(new, "INSERT INTO t VALUES (2)")
    assert time.monotonic() - died < 2 * LEASE
    assert _check_alike(nodes, without=leader.name) == [[1], [2]]

    # The dead one comes back, follows, and catches up.
    leader.start()
    leader.wait_ready()
    leader.wait_rows("SELECT * FROM t ORDER BY id", [[1], [2]])
    assert leader.leader() is None
    assert new.leader() == new.name


def test_a_stopped_leader_finds_that_it_leads_no_more(nodes: dict[str, LeaderNode]) -> None:
    old = wait_leader(nodes)
    old.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
    os.kill(old.process.pid, signal.SIGSTOP)
    try:
        new = wait_leader(nodes, other_than=old.name)
        _write_until_taken(new, "INSERT INTO t VALUES (1)")
    finally:
        os.kill(old.process.pid, signal.SIGCONT)
    assert old.leader() is None
    answer = old.try_write("INSERT INTO t VALUES (2)", timeout=30)
    if "error" in answer:
        assert answer["error"]["code"] in ("not_leader", "no_leader"), answer
    rows = _check_alike(nodes)
    assert rows == ([[1]] if "error" in answer else [[1], [2]])


def test_a_leader_that_leaves_hands_over_at_once(nodes: dict[str, LeaderNode]) -> None:
    old = wait_leader(nodes)
    old.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
    began = time.monotonic()
    old.process.send_signal(signal.SIGTERM)
    new = wait_leader(nodes, other_than=old.name)
    _write_until_taken(new, "INSERT INTO t VALUES (1)")
    assert time.monotonic() - began < LEASE * 0.75
    assert old.process.wait(20) == 0


def test_without_nats_nobody_leads(nodes: dict[str, LeaderNode], nats_server: Any) -> None:
    leader = wait_leader(nodes)
    leader.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
    nats_server.kill()
    until(lambda: leader.leader() is None, 2 * LEASE)
    answer = leader.client.post(leader.url + "/query", json={"sql": "INSERT INTO t VALUES (1)"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] in ("no_leader", "not_written")
    assert leader.rows("SELECT * FROM t") == []
    nats_server.start()
    _write_until_taken(wait_leader(nodes), "INSERT INTO t VALUES (1)", 20)
    assert _check_alike(nodes) == [[1]]


def test_three_servers_of_which_the_leaders_own_dies(tmp_path: Path) -> None:
    with three_servers(tmp_path) as nodes:
        leader = wait_leader(nodes, timeout=60)
        leader.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
        other = next(n for n in nodes.values() if n is not leader)
        admin = JetStreamAdmin(other)
        admin.move("ha_replication", other.name)
        # The lease follows the log.
        until(lambda: admin.leader_of("KV_ha_replication-leader") == other.name, 30.0, pause=0.2)
        leader.kill()
        died = time.monotonic()
        new = wait_leader(nodes, other_than=leader.name)
        _write_until_taken(new, "INSERT INTO t VALUES (1)")
        assert time.monotonic() - died < 2 * LEASE
        leader.start()
        leader.wait_ready()
        leader.wait_rows("SELECT * FROM t", [[1]])


def test_a_static_leader_takes_writes_again_when_it_is_back(
    tmp_path: Path, nats_server: Any
) -> None:
    boss = LeaderNode("boss", [], tmp_path)
    common = ["-m", "--nats-port", "0", "--replication-url", nats_server.url, "--grpc-insecure"]
    boss.arguments += [*common, "--leader-static", boss.address, "--leader-addr", boss.address]
    clerk = LeaderNode("clerk", [*common, "--leader-static", f"http://{boss.address}"], tmp_path)
    try:
        boss.start()
        clerk.start()
        boss.query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
        clerk.query({"sql": "INSERT INTO t VALUES (1)"})
        assert boss.leader() == "boss"
        assert clerk.leader() is None
        boss.kill()
        answer = clerk.client.post(
            clerk.url + "/query?local=true", json={"sql": "INSERT INTO t VALUES (2)"}
        )
        assert answer.status_code in (409, 503)
        assert clerk.rows("SELECT * FROM t") == [[1]]
        boss.start()
        _write_until_taken(clerk, "INSERT INTO t VALUES (2)", 20)
        boss.wait_rows("SELECT * FROM t ORDER BY id", [[1], [2]])
    finally:
        clerk.kill()
        boss.kill()


def test_a_node_refuses_to_elect_beside_existing_nodes(tmp_path: Path, nats_server: Any) -> None:
    async def announce() -> None:
        client = await nats.connect(nats_server.url)
        bucket = await client.jetstream().create_key_value(bucket="ha_replication_ha_db", ttl=60)
        await bucket.put("redirect", b"http://old:8080")
        await client.close()

    asyncio.run(announce())
    node = LeaderNode("new", [], tmp_path)
    node.arguments += ["-m", "--nats-port", "0", "--replication-url", nats_server.url]
    node.arguments += ["--leader-addr", node.address, "--grpc-insecure"]
    with pytest.raises(AssertionError, match="http://old:8080"):
        node.start()
