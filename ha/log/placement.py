"""Where the Raft leaders of streams are, and moving them.

Source: the JetStream API of nats-server 2.11 (``STREAM.LEADER.STEPDOWN`` with a placement).
"""

from __future__ import annotations

import logging
from typing import Any

from ha.log.api import LogError
from ha.log.js_api import Api

_log = logging.getLogger("ha.log")


async def bring_together(api: Api, stream: str, follower: str) -> bool:
    """Let ``follower`` be led by the server that leads ``stream``, so that they live and die
    together; whether it had to be moved. Raises LogError."""
    first, second = await api.call_many(
        [(f"STREAM.INFO.{stream}", None), (f"STREAM.INFO.{follower}", None)]
    )
    leader, other = _leader_of(first), _leader_of(second)
    if leader is None or other is None or leader == other:
        return False
    _log.debug("moving the leader of %s from %s to %s", follower, other, leader)
    await api.call(f"STREAM.LEADER.STEPDOWN.{follower}", {"placement": {"preferred": leader}})
    return True


def _leader_of(info: dict[str, Any] | LogError) -> str | None:
    """The server's name; None where there is no cluster, or no leader. Raises LogError."""
    if isinstance(info, LogError):
        raise info
    cluster = info.get("cluster") or {}
    return cluster.get("leader") if cluster.get("replicas") else None
