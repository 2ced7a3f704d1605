"""gRPC's status as trailers always, where a response of headers alone would not be understood.

gRPC calls a response without messages "Trailers-Only": one HEADERS frame that ends the stream.
ASGI cannot say that, and hypercorn ends the stream with an empty DATA frame after the headers;
grpcio then waits for trailers until its deadline. Headers, no data and trailers mean the same
and are understood by all (gRPC over HTTP2, "Responses").
"""

from __future__ import annotations

from ha.wire.grpc.call import Application, Message, Receive, Scope, Send, header_of

_STATUS = (b"grpc-status", b"grpc-message", b"grpc-status-details-bin")


class Trailing:
    """An ASGI application around ``inner``."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type = header_of(scope, b"content-type") or b""
        if content_type.startswith(b"application/grpc-web") or not content_type.startswith(
            b"application/grpc"
        ):
            await self._inner(scope, receive, send)
            return
        if scope["http_version"].startswith("1"):
            await _refuse(send)
            return
        held: Message | None = None

        async def send_trailing(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and not message.get("trailers"):
                names = {name for name, _ in message["headers"]}
                if b"grpc-status" in names:
                    held = message
                    return
            if held is None:
                await send(message)
                return
            if message.get("more_body"):
                return
            status = [pair for pair in held["headers"] if pair[0] in _STATUS]
            others = [pair for pair in held["headers"] if pair[0] not in _STATUS]
            await send({**held, "headers": others, "trailers": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            await send({"type": "http.response.trailers", "headers": status})

        await self._inner(scope, receive, send_trailing)


async def _refuse(send: Send) -> None:
    body = b"gRPC needs HTTP/2; over HTTP/1.1 speak gRPC-Web or Connect\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 505, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
