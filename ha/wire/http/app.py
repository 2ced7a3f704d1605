"""The application: the queries at the front, everything else by quart behind it.

Nine of ten requests are queries, and quart's routing, request and response objects cost a
third of the throughput. So this front answers those itself and shares codec and errors with
the rest: docs/decisions/0003-http-server.md has the numbers. What holds for all requests (the
token, counting, the log) is done here too, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, cast
from urllib.parse import urlsplit

import trio
from quart import Response, abort, request
from quart_trio import QuartTrio

from ha.core.errors import Code, HaError
from ha.engine.api import Operations, Sessions
from ha.wire.http.answers import answer_errors
from ha.wire.http.asgi import (
    Application,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    error_reply,
    send_reply,
)
from ha.wire.http.auth import Guard
from ha.wire.http.databases import databases_blueprint
from ha.wire.http.description import description_blueprint
from ha.wire.http.errors import CLIENT_GONE
from ha.wire.http.exchange import WHEN_GONE
from ha.wire.http.health import Health, Readiness, health_blueprint
from ha.wire.http.history import history_blueprint
from ha.wire.http.metrics import Render, metrics_blueprint
from ha.wire.http.query import Call, QueryEndpoint
from ha.wire.http.replications import replications_blueprint
from ha.wire.http.snapshots import snapshots_blueprint

_log = logging.getLogger("ha.http")

DEFAULT_MAX_BODY = 128 * 2**20
"""Bytes: room for a BLOB of 90 MiB in base64."""
DEFAULT_MAX_ROWS = 1_000_000

# A probe, and somebody who wants to read how to ask, have no token.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.yaml", "/docs"})

_BODY_STALL_SECONDS = 30.0
_ROUTE = "ha.route"


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered request. ``route`` is the pattern, not the path: it has few values.

    ``status`` 499: the client went away before there was an answer. Sizes in bytes of bodies.
    """

    method: str
    route: str
    status: int
    seconds: float
    received: int
    sent: int


Observe = Callable[[Observation], None]


def create_app(
    sessions: Sessions,
    *,
    operations: Operations | None = None,
    token: str | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    max_rows: int | None = DEFAULT_MAX_ROWS,
    health: Health = Readiness,
    observe: Observe | None = None,
    mount: Mapping[str, Application] | None = None,
    metrics: Render | None = None,
) -> Application:
    """The ASGI application.

    ``operations``: what may be done to databases, None for nothing. ``token``: what clients
    must present, None or empty for an open node. ``max_body``: bytes of a request body, more is
    413. ``max_rows``: rows of one statement's result, more is 413.
    ``health``: asked for each ``/readyz``; the default is always ready. ``observe``: told of
    each request. ``mount``: other applications, by the path before the last slash, slash
    included; they ask for the token themselves, in the words of their protocol. ``metrics``:
    answers ``/metrics``, which needs the token; None for no such path.
    """
    return _Front(
        inner=cast(Application, _quart(sessions, operations, max_body, health, metrics)),
        endpoint=QueryEndpoint(sessions, max_rows=max_rows),
        guard=Guard(token),
        max_body=max_body,
        observe=observe,
        mount=mount or {},
    )


def _quart(
    sessions: Sessions,
    operations: Operations | None,
    max_body: int,
    health: Health,
    metrics: Render | None,
) -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body
    app.url_map.merge_slashes = False
    answer_errors(app)
    app.register_blueprint(databases_blueprint(sessions, operations))
    app.register_blueprint(history_blueprint(sessions))
    if operations is not None:
        app.register_blueprint(snapshots_blueprint(operations))
        app.register_blueprint(replications_blueprint(operations))
    app.register_blueprint(health_blueprint(health))
    if metrics is not None:
        app.register_blueprint(metrics_blueprint(metrics))
    app.register_blueprint(description_blueprint())

    async def odd_spelling(**_: str) -> NoReturn:
        abort(404)

    # Served by the front; named here so that 405 can tell what a path takes. Only a path with
    # needless slashes comes through.
    for rule in ("/", "/query", "/databases/<id>", "/databases/<id>/query"):
        app.add_url_rule(rule, f"query {rule}", odd_spelling, methods=["POST"])

    @app.after_request
    async def note_route(response: Response) -> Response:
        if request.url_rule is not None:
            cast(Scope, request.scope)[_ROUTE] = request.url_rule.rule
        return response

    return app


class _Gone(Exception):
    """The client went away before its request was whole."""


class _Meter:
    """A send that notes what was sent."""

    __slots__ = ("_send", "size", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = CLIENT_GONE
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


class _Front:
    def __init__(
        self,
        *,
        inner: Application,
        endpoint: QueryEndpoint,
        guard: Guard,
        max_body: int,
        observe: Observe | None,
        mount: Mapping[str, Application],
    ) -> None:
        self.inner = inner
        self._endpoint = endpoint
        self._guard = guard
        self._max_body = max_body
        self._observe = observe
        self._mount = mount

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
        else:
            await self.inner(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = trio.current_time()
        meter = _Meter(send)
        scope[_ROUTE] = "none"
        received = 0
        if not scope["path"].startswith("/"):  # the whole URL, as one asks a proxy
            scope["path"] = urlsplit(scope["path"]).path or "/"
        path = scope["path"]
        try:
            prefix = path[: path.rfind("/") + 1]
            if (mounted := self._mount.get(prefix)) is not None:
                scope[_ROUTE] = prefix
                await mounted(scope, receive, meter)
            elif path not in OPEN_PATHS and (refusal := self._refusal(scope)) is not None:
                await _refuse(scope, meter, error_reply(refusal))
            elif scope["method"] == "POST" and (target := query_target(path)) is not None:
                scope[_ROUTE], database_id = target
                received = await self._query(scope, receive, meter, database_id)
            else:
                await self.inner(scope, receive, meter)
        finally:
            self._note(scope, meter, trio.current_time() - started, received)

    def _refusal(self, scope: Scope) -> HaError | None:
        return self._guard.check(_header(scope, b"authorization"))

    def _note(self, scope: Scope, meter: _Meter, seconds: float, received: int) -> None:
        if self._observe is not None:
            self._observe(
                Observation(
                    scope["method"], scope[_ROUTE], meter.status, seconds, received, meter.size
                )
            )
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["raw_path"].decode("ascii", "replace"),
                    "status": meter.status,
                    "received": received,
                    "sent": meter.size,
                    "milliseconds": round(seconds * 1000, 3),
                },
            )

    async def _query(
        self, scope: Scope, receive: Receive, send: Send, database_id: str | None
    ) -> int:
        """Answer one query; the bytes of its body."""
        try:
            body = await self._body(scope, receive)
        except _Gone:
            return 0
        except HaError as error:
            status = 408 if error.code is Code.TIMEOUT else None
            await _refuse(scope, send, error_reply(error, status=status))
            return 0
        call = Call(database_id, scope["query_string"], scope["headers"])
        when_gone = scope["extensions"].get(WHEN_GONE, _not_told)
        reply: Reply | None = None
        with trio.CancelScope() as running:

            def stop() -> None:
                call.abandon()
                running.cancel()

            when_gone(stop)
            reply = await self._endpoint.answer(call, body)
            when_gone(None)
        if reply is not None:
            await send_reply(send, reply)
        return len(body)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | bytearray:
        length = _header(scope, b"content-length")
        if length is not None and int(length) > self._max_body:
            raise self._too_large()
        with trio.move_on_after(_BODY_STALL_SECONDS) as stall:
            message = await receive()
            body: bytes | bytearray = message.get("body", b"")
            if message.get("more_body"):
                body = bytearray(body)
            while message.get("more_body"):
                stall.deadline = trio.current_time() + _BODY_STALL_SECONDS
                message = await receive()
                body += message.get("body", b"")
                if len(body) > self._max_body:
                    raise self._too_large()
            if message["type"] == "http.disconnect":
                raise _Gone
            if len(body) > self._max_body:
                raise self._too_large()
            return body
        raise HaError(
            Code.TIMEOUT, f"no more of the body came in {_BODY_STALL_SECONDS:.0f} seconds"
        )

    def _too_large(self) -> HaError:
        return HaError(
            Code.TOO_LARGE,
            f"the body is larger than {self._max_body} bytes",
            hint="send it in several requests, or start the node with a larger --max-body",
        )


def query_target(path: str) -> tuple[str, str | None] | None:
    """The route and the database (None: the default one), if ``path`` takes queries."""
    if path in ("/", "/query"):
        return path, None
    if path.startswith("/databases/"):
        name, slash, rest = path.removeprefix("/databases/").partition("/")
        if name and not slash:
            return "/databases/<id>", name
        if name and rest == "query":
            return "/databases/<id>/query", name
    return None


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def _not_told(call: object) -> None:
    """Of a client that goes away: by servers that are not ours."""


async def _refuse(scope: Scope, send: Send, reply: Reply) -> None:
    """Answer without having read the body; the connection serves no other request after it."""
    if scope["http_version"].startswith("1"):
        reply.headers.append((b"connection", b"close"))
    await send_reply(send, reply)
