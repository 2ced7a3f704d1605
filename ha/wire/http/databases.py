"""``GET /databases``: the databases of the node."""

from __future__ import annotations

from quart import Blueprint

from ha.engine.api import Sessions
from ha.wire.http.answers import Answer, json_answer


def databases_blueprint(sessions: Sessions) -> Blueprint:
    blueprint = Blueprint("databases", __name__)

    @blueprint.get("/databases")
    async def databases() -> Answer:
        return json_answer({"databases": sessions.database_ids()})

    return blueprint
