"""Which messages a log that ages may let go of in a run: those of which something else tells.

A message that grew too old before any node, or snapshot, had it has never been for the nodes:
nothing in the broker tells them of it, and they go on without it (docs/spec.md, section 14). And
what grew too old before there was any snapshot is gone with the files that have it. Whoever runs
nodes keeps messages for longer than either can take.
"""

from __future__ import annotations

import json
from typing import Any

from sim.nats.jetstream import JetStream


def told_up_to(js: JetStream, name: str) -> int:
    """The last sequence of the stream ``name`` that a durable consumer was moved to, or that a
    snapshot of its only database holds; 0 while there is no snapshot."""
    snapshot = _snapshot(js, name)
    if not snapshot:
        return 0
    reached = [snapshot]
    for consumer in js.consumers[name].values():
        if not consumer.durable:
            continue
        floor: dict[str, int] = consumer.info()["ack_floor"]
        start = consumer.config.get("metadata", {}).get("ha.start")
        fresh = not floor["consumer_seq"] if start is None else floor["stream_seq"] <= int(start)
        if not fresh:
            reached.append(floor["stream_seq"])
    return max(reached)


def _snapshot(js: JetStream, name: str) -> int:
    bucket = js.streams.get(f"OBJ_{name}_SNAPSHOTS")
    if bucket is None:
        return 0
    described = bucket.last_of(f"$O.{name}_SNAPSHOTS.M.>")
    if described is None:
        return 0
    words: dict[str, Any] = json.loads(described.payload)
    return int(words.get("headers", {}).get("seq", ["0"])[0])
