"""Answers of the quart views, and their errors, in the same JSON as everywhere."""

from __future__ import annotations

import json
import logging
from typing import TypeAlias

from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ha.core.errors import Code, HaError
from ha.wire.http.asgi import Reply, error_reply, incident, redirect

_log = logging.getLogger("ha.http")

Answer: TypeAlias = Response

_CODES = {401: Code.UNAUTHORIZED, 403: Code.REFUSED, 404: Code.NOT_FOUND, 413: Code.TOO_LARGE}


def json_answer(document: object, status: int = 200) -> Answer:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return Response(body.encode("utf-8", "replace"), status=status, content_type="application/json")


def answer_errors(app: Quart) -> None:
    """Give ``app`` the handlers that turn whatever a view raises into an error in JSON."""

    async def on_refusal(error: HaError) -> Answer:
        if error.leader is not None:
            return _response(redirect(error, request.full_path.removesuffix("?")))
        return _response(error_reply(error))

    async def on_http(error: HTTPException) -> Answer:
        """What quart itself refuses: unknown paths, wrong methods, bodies over the limit."""
        status = error.code or 500
        headers: list[tuple[bytes, bytes]] = []
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(error.valid_methods or ()))
            headers.append((b"allow", allowed.encode("ascii")))
            message = f"{request.method} is not for {request.path}: it takes {allowed}"
        elif status == 404:
            message = f"there is nothing at {request.path}; see /docs for what there is"
        else:
            message = error.description or error.name
        code = _CODES.get(status, Code.BAD_REQUEST if status < 500 else Code.INTERNAL)
        reply = error_reply(HaError(code, message), status=status)
        reply.headers.extend(headers)
        return _response(reply)

    async def on_fault(error: Exception) -> Answer:
        mark, told = incident(f"answering {request.method} {request.path}")
        _log.error("a view failed", extra={"incident": mark}, exc_info=error)
        return _response(error_reply(told))

    app.register_error_handler(HaError, on_refusal)
    app.register_error_handler(HTTPException, on_http)
    app.register_error_handler(Exception, on_fault)


def _response(reply: Reply) -> Answer:
    response = Response(
        b"".join(reply.pieces), status=reply.status, content_type="application/json"
    )
    for name, value in reply.headers:
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
