"""Backup and snapshots: ``GET /download``, ``POST /snapshot``, ``GET /snapshot``."""

from __future__ import annotations

from quart import Blueprint, Response, request

from ha.engine.api import Operations
from ha.wire.http.answers import Answer, json_answer
from ha.wire.http.downloads import file_answer


def snapshots_blueprint(operations: Operations) -> Blueprint:
    blueprint = Blueprint("snapshots", __name__)

    @blueprint.get("/download")
    @blueprint.get("/databases/<id>")
    async def download(id: str | None = None) -> Answer:
        if request.if_none_match:
            etag = await operations.etag(id)
            if request.if_none_match.contains(etag):
                return Response("", status=304, headers={"ETag": f'"{etag}"'})
        return await file_answer(operations.download(id))

    @blueprint.post("/snapshot")
    @blueprint.post("/databases/<id>/snapshot")
    async def take(id: str | None = None) -> Answer:
        sequence = await operations.take_snapshot(id)
        response = json_answer({"sequence": sequence})
        response.headers["X-Sequence"] = str(sequence)
        response.timeout = None
        return response

    @blueprint.get("/snapshot")
    @blueprint.get("/databases/<id>/snapshot")
    async def latest(id: str | None = None) -> Answer:
        return await file_answer(operations.latest_snapshot(id))

    return blueprint
