"""The applications to put on the HTTP port, and what holds for all of them: the token."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import quote

import trio
from connectrpc_grpcreflect import (  # type: ignore[import-untyped]
    ServerReflectionAlphaASGIApplication,
    ServerReflectionAlphaService,
    ServerReflectionASGIApplication,
    ServerReflectionService,
)

from ha.core.errors import HaError
from ha.engine.databases import Databases
from ha.wire.grpc.call import Application, Receive, Scope, Send, Watched, header_of
from ha.wire.grpc.health import HealthService
from ha.wire.grpc.health_connect import Health, HealthASGIApplication
from ha.wire.grpc.leader_connect import LeaderServiceASGIApplication
from ha.wire.grpc.leader_service import Forwarded, PrepareFor
from ha.wire.grpc.responses import CODECS
from ha.wire.grpc.service import Service
from ha.wire.grpc.session import Limits
from ha.wire.grpc.sql_connect import DatabaseService, DatabaseServiceASGIApplication
from ha.wire.grpc.trailers import Trailing

Authorize = Callable[[bytes | None], HaError | None]
"""Takes the header ``authorization``; answers why its sender may not ask, None if they may."""

_SERVICE = "sql.v1.DatabaseService"
_SMALL = 64 * 1024


def create_apps(
    databases: Databases,
    *,
    authorize: Authorize | None = None,
    limits: Limits | None = None,
    shutdown: trio.Event | None = None,
    not_ready: Callable[[], str | None] | None = None,
    process: str = "",
    prepares: Mapping[str, PrepareFor] | None = None,
) -> Mapping[str, Application]:
    """ASGI applications by the beginning of the paths that they answer.

    ``authorize`` guards all but the health service, which probes ask without a token.
    ``shutdown``: set when the node ends; sessions without a transaction end then. ``process``: of
    this node, new at each start, and ``prepares``: what makes the functions of other wires known,
    by protocol: for what followers forward.
    """
    limits = limits or Limits()
    if shutdown is None:
        shutdown = trio.Event()
    service = DatabaseServiceASGIApplication(
        Service(databases, limits, shutdown), read_max_bytes=limits.request, codecs=CODECS
    )
    leader = LeaderServiceASGIApplication(
        Forwarded(databases, process, prepares or {}, shutdown), read_max_bytes=limits.request
    )
    described = (DatabaseService.desc(), Health.desc())
    guarded: dict[str, object] = {
        f"/{_SERVICE}/": service,
        "/ha.v1.LeaderService/": leader,
        "/grpc.reflection.v1.ServerReflection/": ServerReflectionASGIApplication(
            ServerReflectionService(*described), read_max_bytes=_SMALL
        ),
        "/grpc.reflection.v1alpha.ServerReflection/": ServerReflectionAlphaASGIApplication(
            ServerReflectionAlphaService(*described), read_max_bytes=_SMALL
        ),
    }
    health = HealthASGIApplication(
        HealthService(frozenset({_SERVICE}), not_ready or databases.not_ready, shutdown),
        read_max_bytes=_SMALL,
    )
    apps: dict[str, Application] = {
        path: _protected(_Guarded(cast(Application, app), authorize))
        for path, app in guarded.items()
    }
    apps["/grpc.health.v1.Health/"] = _protected(cast(Application, health))
    return apps


def _protected(app: Application) -> Application:
    return Trailing(Watched(app))


class _Guarded:
    """Refuses who has no token, in the words of the protocol that they speak."""

    def __init__(self, inner: Application, authorize: Authorize | None) -> None:
        self._inner = inner
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if self._authorize is not None:
            refusal = self._authorize(header_of(scope, b"authorization"))
        if refusal is None:
            await self._inner(scope, receive, send)
            return
        content_type = header_of(scope, b"content-type") or b""
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        if content_type.startswith(b"application/grpc"):
            message = quote(refusal.message, safe=" ").encode()
            headers = [
                (b"content-type", content_type),
                (b"grpc-status", b"16"),  # UNAUTHENTICATED
                (b"grpc-message", message),
            ]
            status, body = 200, b""
        else:
            error = {"code": "unauthenticated", "message": refusal.message}
            status, body = 401, json.dumps(error).encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
