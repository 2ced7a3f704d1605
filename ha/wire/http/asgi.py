"""What passes between the parts of this server: ASGI's shapes, and a whole reply."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ha.core.errors import Code, HaError
from ha.wire.http.errors import body_of, headers_of, status_of

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")


@dataclass(slots=True)
class Reply:
    """A whole answer. ``pieces`` together are the body."""

    status: int
    pieces: list[bytes]
    headers: Headers = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


def error_reply(error: HaError, *, status: int | None = None) -> Reply:
    """The error as JSON; ``status`` where HTTP has a better one than the error's code."""
    return Reply(
        status_of(error) if status is None else status, [body_of(error)], headers_of(error)
    )


def redirect(error: HaError, target: str) -> Reply:
    """To the leader, which takes the same request; ``target``: its path and query string."""
    reply = error_reply(error, status=307)
    assert error.leader is not None
    reply.headers.append((b"location", f"{error.leader}{target}".encode()))
    return reply


def incident(doing: str) -> tuple[str, HaError]:
    """An id for the log, and what the client is told of a fault of ours: that id, no more."""
    mark = secrets.token_hex(6)
    return mark, HaError(
        Code.INTERNAL,
        f"an internal error while {doing}; the node's log has it as incident {mark}",
    )


async def send_reply(send: Send, reply: Reply) -> None:
    headers = [JSON_TYPE, (b"content-length", b"%d" % reply.size), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    last = len(reply.pieces) - 1
    for number, piece in enumerate(reply.pieces):
        await send({"type": "http.response.body", "body": piece, "more_body": number < last})
