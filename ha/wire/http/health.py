"""``/healthz``: the process is up. ``/readyz``: the node can do its work, or why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from quart import Blueprint

from ha.core.errors import Code
from ha.wire.http.answers import Answer, json_answer


@dataclass(frozen=True, slots=True)
class Readiness:
    """``reason``: one sentence, None when ready. It is shown to everybody: no secrets in it.

    ``details``: more members for the answer, such as a position of each database.
    """

    reason: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)


Health: TypeAlias = Callable[[], Readiness]


def health_blueprint(health: Health) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Answer:
        return json_answer({"status": "up"})

    @blueprint.get("/readyz")
    async def readyz() -> Answer:
        readiness = health()
        if readiness.reason is None:
            return json_answer({"ready": True, **readiness.details})
        error = {"code": Code.UNAVAILABLE.value, "message": readiness.reason}
        return json_answer({"ready": False, "error": error, **readiness.details}, 503)

    return blueprint
