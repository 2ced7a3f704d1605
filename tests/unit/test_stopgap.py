"""A subscription goes on while its consumer is gone, and no other can be made."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from ha.log import ordered
from ha.log.api import Entry, Outgoing
from ha.log.jetstream import JetStreamBroker, JetStreamOptions


async def test_what_was_acknowledged_is_read_without_the_consumer(
    nats_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that it is not the consumer that finds out.
    monkeypatch.setattr(ordered, "_SILENCE", 60.0)
    options = JetStreamOptions(nats_server.url, "a")
    async with JetStreamBroker(options, rng=random.SystemRandom()) as broker:
        log = await broker.log("ha.db")
        async with log.subscribe(0) as subscription:
            await log.publish_one(Outgoing("1", b"1"), 5)
            seen: list[Entry] = list(await subscription.receive())
            info = await broker.api.call("CONSUMER.LIST.ha_replication")
            for consumer in info["consumers"]:
                if consumer["name"].startswith("ha_") and "durable_name" not in consumer["config"]:
                    await broker.api.call(f"CONSUMER.DELETE.ha_replication.{consumer['name']}")
            with trio.fail_after(2.0):
                for number in range(2, 8):
                    await log.publish_one(Outgoing(str(number), b"%d" % number), 5)
                    while seen[-1].payload != b"%d" % number:
                        seen += await subscription.receive()
            assert [e.payload for e in seen] == [b"%d" % n for n in range(1, 8)]
            assert [e.message_id for e in seen] == [str(n) for n in range(1, 8)]
            # Another node's writes, of which no ack comes here.
            async with JetStreamBroker(
                JetStreamOptions(nats_server.url, "b"), rng=random.SystemRandom()
            ) as other:
                await (await other.log("ha.db")).publish_one(Outgoing("8", b"8"), 5)
            with trio.fail_after(4.0):
                assert [e.payload for e in await subscription.receive()] == [b"8"]
