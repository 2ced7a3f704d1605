"""``/metrics``: what the node counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from quart import Blueprint, Response

from ha.wire.http.answers import Answer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Render: TypeAlias = Callable[[], Awaitable[bytes]]
"""The exposition, made when it is asked for."""


def metrics_blueprint(render: Render) -> Blueprint:
    blueprint = Blueprint("metrics", __name__)

    @blueprint.get("/metrics")
    async def metrics() -> Answer:
        return Response(await render(), content_type=CONTENT_TYPE)

    return blueprint
