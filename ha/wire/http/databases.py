"""``/databases``: which there are, making and dropping them."""

from __future__ import annotations

import json
from typing import Any

from quart import Blueprint, request

from ha.core.errors import Code, HaError
from ha.engine.api import Operations, Sessions
from ha.wire.http.answers import Answer, json_answer


def databases_blueprint(sessions: Sessions, operations: Operations | None = None) -> Blueprint:
    blueprint = Blueprint("databases", __name__)

    @blueprint.get("/databases")
    async def databases() -> Answer:
        return json_answer({"databases": sessions.database_ids()})

    if operations is not None:
        _add_changes(blueprint, operations)
    return blueprint


def _add_changes(blueprint: Blueprint, operations: Operations) -> None:
    @blueprint.post("/databases")
    async def create() -> Answer:
        try:
            body: Any = json.loads(await request.get_data())
        except (ValueError, RecursionError) as error:
            raise HaError(Code.BAD_REQUEST, "the body is not JSON") from error
        dsn = body.get("dsn") if isinstance(body, dict) else None
        if not isinstance(dsn, str) or not dsn:
            raise HaError(Code.BAD_REQUEST, 'the body must be like {"dsn": "shop.db"}')
        return json_answer({"id": await operations.create_database(dsn)}, 201)

    @blueprint.delete("/databases/<id>")
    async def drop(id: str) -> Answer:
        await operations.drop_database(id)
        return json_answer({"id": id})
