"""Power fails everywhere at once, and each disk keeps only what was synced to it.

The difference of the two tests is --durability alone, so that each shows that the other one means
something. nats-server acknowledges a message before it has synced it, and by default syncs every
two minutes.
"""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.jepsen_like import machine
from tests.jepsen_like.nodes import OneServer, Options
from tests.jepsen_like.observe import write_surely

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

WRITES = 60
READY = 90.0


def lost(folder: Path, durability: str) -> set[str]:
    """Which acknowledged writes some node does not hold after power has failed everywhere."""
    here = machine.look()
    if "power_loss" not in here.kinds:
        pytest.skip(here.skipped["power_loss"])
    cluster = OneServer(folder, here, Options(durability=durability))
    acknowledged = {f"w{number}" for number in range(WRITES)}
    try:
        cluster.start()
        nodes = list(cluster.nodes.values())
        patience = nodes[0].patience(READY)
        write_surely(nodes[0], "CREATE TABLE t(x TEXT PRIMARY KEY)", patience)
        for number, value in enumerate(sorted(acknowledged)):
            write_surely(nodes[number % len(nodes)], f"INSERT INTO t VALUES ('{value}')", patience)
        cluster.lose_power(cluster.nodes, seed=0)  # nothing survives that was not synced
        missing: set[str] = set()
        for node in nodes:
            missing |= acknowledged - held(node.client, node.url, durability)
        return missing
    finally:
        cluster.close()


def held(client: httpx.Client, url: str, durability: str) -> set[str]:
    """What the node has in the end; nothing, if it says itself that its log has lost something."""
    end = time.monotonic() + READY
    while True:
        answer = client.post(url + "/query", json={"sql": "SELECT x FROM t"}, timeout=10.0)
        if answer.status_code == 200 and len(answer.json()["rows"]) >= WRITES:
            return {row[0] for row in answer.json()["rows"]}
        if durability == "normal" and answer.status_code != 200:
            return set()
        if durability == "normal" or time.monotonic() > end:
            return {row[0] for row in answer.json().get("rows", [])}
        time.sleep(0.1)


def test_with_full_durability_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    assert lost(tmp_path, "full") == set()


def test_with_normal_durability_acknowledged_writes_may_be_lost(tmp_path: Path) -> None:
    """As the manual says; and a disk that loses nothing would make the tests above say nothing."""
    assert lost(tmp_path, "normal")
