"""``GET /metrics`` of a real node: names, and numbers that move."""

from __future__ import annotations

from dataclasses import replace

import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from ha.log.memory import MemoryBroker, MemoryStream
from ha.metrics import Metrics
from ha.wire.http.app import create_app
from ha.wire.http.server import serve
from tests.support.cluster import OPTIONS, TestNode, open_cluster, open_node, settle


def values(text: str) -> dict[tuple[str, str], float]:
    """By sample name and database (or protocol)."""
    return {
        (s.name, s.labels.get("database") or s.labels.get("protocol") or ""): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if "le" not in s.labels
    }


async def read(node: TestNode) -> dict[tuple[str, str], float]:
    return values((await Metrics(node.databases, node.name).render()).decode())


async def test_counters_follow_what_happens() -> None:
    async with open_cluster(2) as nodes:
        one, two = nodes
        await one.run("CREATE TABLE t(x)")
        for _ in range(3):
            await one.run("INSERT INTO t VALUES (1)")
        await settle(nodes)
        here, there = await read(one), await read(two)
        assert here["ha_applied_sequence", "ha.db"] == there["ha_applied_sequence", "ha.db"] == 5
        assert here["ha_published_messages_total", "ha.db"] == 4
        assert there["ha_published_messages_total", "ha.db"] == 0
        assert here["ha_publish_seconds_count", "ha.db"] == 4
        assert here["ha_published_sequence", "ha.db"] == 5
        assert there["ha_published_sequence", "ha.db"] == 0
        assert there["ha_apply_seconds_count", "ha.db"] >= 1
        assert here["ha_lag_messages", "ha.db"] == here["ha_lag_seconds", "ha.db"] == 0
        assert here["ha_ready", "ha.db"] == 1
        assert here["ha_outbox_messages", "ha.db"] == 0


async def test_tentative_transactions_are_counted(autojump_clock: MockClock) -> None:
    options = replace(OPTIONS, commit=replace(OPTIONS.commit, asynchronous=True))
    stream = MemoryStream(epoch="test", max_payload=8_192)
    async with (
        MemoryBroker(stream, node="n1") as broker,
        open_node("n1", broker, options=options) as node,
    ):
        await node.run("CREATE TABLE t(x)")
        broker.connected = False
        await node.run("INSERT INTO t VALUES (1)")
        many = ", ".join(["(hex(zeroblob(1000)))"] * 8)
        await node.run(f"INSERT INTO t VALUES {many}")
        waiting = await read(node)
        assert waiting["ha_tentative_transactions", "ha.db"] == 2
        messages = waiting["ha_outbox_messages", "ha.db"]
        assert messages > 2
        broker.connected = True
        await settle([node])
        await node.database.committer.wait_applied(int(2 + messages))
        drained = await read(node)
        assert drained["ha_tentative_transactions", "ha.db"] == 0
        assert drained["ha_published_messages_total", "ha.db"] >= 1 + messages
        assert drained["ha_published_sequence", "ha.db"] == 2 + messages


async def test_they_are_served_and_need_the_token() -> None:
    async with open_cluster(1) as [node], trio.open_nursery() as nursery:
        metrics = Metrics(node.databases, "n1")
        app = create_app(
            node.databases,
            token="secret",
            observe=lambda o: metrics.requests.observe("http", str(o.status), o.seconds),
            metrics=metrics.render,
        )
        addresses = await nursery.start(
            lambda task_status: serve(app, host="127.0.0.1", port=0, task_status=task_status)
        )
        url = f"http://127.0.0.1:{addresses[0].port}"
        async with httpx.AsyncClient(headers={"Authorization": "secret"}) as client:
            assert (
                await client.get(url + "/metrics", headers={"Authorization": "no"})
            ).status_code == 401
            await client.post(url + "/query", json={"sql": "SELECT 1"})
            answer = await client.get(url + "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        found = values(answer.text)
        assert found["ha_request_seconds_count", "http"] >= 2
        nursery.cancel_scope.cancel()
