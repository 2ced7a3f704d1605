"""The nodes of a cluster: ``/replications``, the messages they stand before, ``/status``,
``/cluster``."""

from __future__ import annotations

import base64
from dataclasses import asdict

from quart import Blueprint, Response
from werkzeug.routing import BaseConverter

from ha.core.errors import Code, HaError
from ha.engine.api import ClusterStatus, DeadLetter, Operations
from ha.wire.http.answers import Answer, json_answer


class _Name(BaseConverter):
    """A consumer's name, but for the words that mean something else here."""

    regex = "(?!(?:dead-letters|adopt|rebase)(?:/|$))[^/]+"


def replications_blueprint(operations: Operations) -> Blueprint:
    blueprint = Blueprint("replications", __name__)
    blueprint.record_once(lambda state: state.app.url_map.converters.update(consumer=_Name))

    @blueprint.get("/replications")
    @blueprint.get("/databases/<id>/replications")
    async def replications(id: str | None = None) -> Answer:
        return json_answer({"replications": await operations.replications(id)})

    @blueprint.get("/replications/<consumer:name>")
    @blueprint.get("/databases/<id>/replications/<consumer:name>")
    async def replication(name: str, id: str | None = None) -> Answer:
        for info in await operations.replications(id):
            if info.get("name") == name:
                return json_answer({"replications": info})
        raise HaError(
            Code.NOT_FOUND,
            f"there is no replication {name!r}",
            hint="GET /replications lists them",
        )

    @blueprint.delete("/replications/<consumer:name>")
    @blueprint.delete("/databases/<id>/replications/<consumer:name>")
    async def remove(name: str, id: str | None = None) -> Answer:
        await operations.remove_replication(id, name)
        return Response("", status=204)

    @blueprint.get("/replications/dead-letters")
    @blueprint.get("/databases/<id>/replications/dead-letters")
    async def dead_letters(id: str | None = None) -> Answer:
        found = await operations.dead_letters(id)
        return json_answer({"dead_letters": [_letter(d) for d in found]})

    @blueprint.post("/replications/dead-letters/<int:sequence>/skip")
    @blueprint.post("/databases/<id>/replications/dead-letters/<int:sequence>/skip")
    async def skip(sequence: int, id: str | None = None) -> Answer:
        return json_answer({"sequence": await operations.skip_dead_letter(id, sequence)})

    @blueprint.post("/replications/adopt")
    @blueprint.post("/databases/<id>/replications/adopt")
    async def adopt(id: str | None = None) -> Answer:
        return json_answer({"sequence": await operations.adopt(id)})

    @blueprint.post("/replications/rebase")
    @blueprint.post("/databases/<id>/replications/rebase")
    async def rebase(id: str | None = None) -> Answer:
        return json_answer({"sequence": await operations.rebase(id)})

    @blueprint.get("/status")
    async def status() -> Answer:
        found = [{"id": s.database_id, **asdict(s)} for s in await operations.status()]
        for one in found:
            del one["database_id"]
        return json_answer({"databases": found})

    @blueprint.get("/cluster")
    async def cluster() -> Answer:
        return json_answer(cluster_of(await operations.cluster()))

    return blueprint


def cluster_of(status: ClusterStatus) -> dict[str, object]:
    return {
        "mode": status.mode,
        "leader": asdict(status.leader) if status.leader is not None else None,
        "term": status.term,
        "lease_left": None if status.lease_left is None else round(status.lease_left, 3),
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "role": node.role,
                "last_seen": None if node.last_seen is None else round(node.last_seen, 3),
                "databases": [
                    {"id": p.database_id, "position": p.position, "lag": p.lag}
                    for p in node.positions
                ],
            }
            for node in status.nodes
        ],
    }


def _letter(letter: DeadLetter) -> dict[str, object]:
    """The message as text where it is UTF-8."""
    out: dict[str, object] = {
        "sequence": letter.sequence,
        "state": letter.state,
        "error": letter.error,
        "timestamp_ns": letter.time_ns,
    }
    try:
        out["message"] = letter.message.decode()
    except UnicodeDecodeError:
        out["message_base64"] = base64.b64encode(letter.message).decode()
    return out
