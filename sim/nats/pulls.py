"""Requests for messages of a pull consumer, and why one is refused (ADR-13)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sim.nats.stream import NANOSECONDS


@dataclass(slots=True, eq=False)
class Pull:
    """A request for messages. ``left``: how many; ``until``: when it ends, 0 for never."""

    reply: str
    left: int
    until: float = 0.0
    no_wait: bool = False
    heartbeat: float = 0.0
    bytes_left: int = 0
    heard: float = 0.0


class BadPull(Exception):
    """It is refused with this status and these words."""


def parse_pull(reply: str, request: bytes, config: dict[str, Any], now: float) -> Pull:
    """``config``: of the consumer. Raises BadPull."""
    fields = _fields(request)
    batch = int(fields.get("batch") or 1)
    expires = int(fields.get("expires") or 0)
    most = int(fields.get("max_bytes") or 0)
    beat = int(fields.get("idle_heartbeat") or 0)
    if config.get("deliver_subject"):
        raise BadPull("409 Consumer is push based")
    if 0 < int(config.get("max_batch") or 0) < batch:
        raise BadPull(f"409 Exceeded MaxRequestBatch of {config['max_batch']}")
    if 0 < int(config.get("max_expires") or 0) < expires:
        longest = config["max_expires"] / NANOSECONDS
        raise BadPull(f"409 Exceeded MaxRequestExpires of {longest:g}s")
    if 0 < int(config.get("max_bytes") or 0) < most:
        raise BadPull(f"409 Exceeded MaxRequestMaxBytes of {config['max_bytes']}")
    if beat and beat * 2 > expires:
        raise BadPull("400 Bad Request - heartbeat value too large")
    until = now + expires / NANOSECONDS if expires else 0.0
    no_wait = bool(fields.get("no_wait"))
    return Pull(reply, batch, until, no_wait, beat / NANOSECONDS, most, now)


def _fields(request: bytes) -> dict[str, Any]:
    text = request.decode(errors="replace").strip()
    if not text.startswith("{"):
        return {"batch": int(text)} if text.isdigit() else {}
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BadPull("400 Bad Request") from None
    return fields
