"""JetStream's own requests: JSON in, JSON out, its errors as ours.

Source: ADR-1, and https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import trio

from ha.log import nats_wire as wire
from ha.log.api import Entry, LogError
from ha.log.client import Client
from ha.log.connection import NoResponders, Reply

# error codes of nats-server (server/errors.json)
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
NAME_EXISTS = 10058  # a stream of that name with another configuration
STREAM_NOT_FOUND = 10059
WRONG_LAST = 10071
_IN_PROCESS = 10158
_STORE_FAILED = 10077
_NO_ROOM = {10023, 10028, 10047, 10163}  # before anything was proposed or written
NO_PEERS = 10005  # fewer servers than replicas: of a cluster that begins, some are yet to come
NOT_AVAILABLE = {10008, 10009, 10018, 10039}  # no leader yet, no JetStream yet: try again

ID_HEADER = "Nats-Msg-Id"
EXPECT_HEADER = "Nats-Expected-Last-Subject-Sequence"

RETRY_DELAY = 0.1
AGAIN = 0.5  # seconds; a cluster without a leader does not keep a question: ask again


class JetStreamError(LogError):
    """JetStream answered with an error. ``code`` is its ``err_code``, ``status`` like HTTP's."""

    def __init__(self, message: str, code: int, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def stored_nothing(self) -> bool:
        """Whether this answer to a publish means that the stream does not hold the message.

        A store that failed may have failed on one server of a cluster only; a message id
        that is in process belongs to a message whose outcome is still open.
        """
        if self.code == _STORE_FAILED:
            return str(self).endswith("exceeded")  # a limit of the stream, alike on all
        if 400 <= self.status < 500:
            return self.code != _IN_PROCESS
        return self.code in _NO_ROOM


class Unavailable(LogError):
    """JetStream does not answer (yet): no leader, not started, not there."""


def answer_of(reply: Reply, subject: str) -> dict[str, Any]:
    """Raises JetStreamError or Unavailable."""
    if wire.status(reply.headers) == 503:
        raise Unavailable(f"{subject}: JetStream is not available")
    try:
        answer = json.loads(reply.payload)
        error = answer.get("error")
    except (ValueError, AttributeError) as problem:
        raise LogError(f"{subject}: not an answer of JetStream") from problem
    if error:
        code = int(error.get("err_code", 0))
        text = f"{subject}: {error.get('description', 'failed')}"
        if code in NOT_AVAILABLE or (error.get("code") == 503 and not code):
            raise Unavailable(text)
        raise JetStreamError(text, code, int(error.get("code", 0)))
    assert isinstance(answer, dict)
    return answer


class Api:
    """The requests, on the connection that there is. All raise LogError."""

    def __init__(self, client: Client, *, timeout: float = 5.0) -> None:
        self._client = client
        self._timeout = timeout

    async def call(
        self,
        subject: str,
        request: dict[str, object] | None = None,
        *,
        timeout: float | None = None,
        again: float | None = None,
    ) -> dict[str, Any]:
        """``subject`` without ``$JS.API.``. ``again``: see :meth:`Connection.request_many`."""
        (answer,) = await self.call_many([(subject, request)], timeout=timeout, again=again)
        if isinstance(answer, LogError):
            raise answer
        return answer

    async def call_many(
        self,
        requests: Sequence[tuple[str, dict[str, object] | None]],
        *,
        timeout: float | None = None,
        again: float | None = None,
    ) -> list[dict[str, Any] | LogError]:
        """Several in one write. Errors of JetStream stand in the list."""
        replies = await self._client.require().request_many(
            [
                (f"$JS.API.{subject}", b"" if body is None else json.dumps(body).encode(), None)
                for subject, body in requests
            ],
            timeout=self._timeout if timeout is None else timeout,
            again=again,
        )
        answers: list[dict[str, Any] | LogError] = []
        for (subject, _), reply in zip(requests, replies, strict=True):
            try:
                answers.append(answer_of(reply, subject))
            except LogError as error:
                answers.append(error)
        return answers

    async def retry(
        self,
        subject: str,
        request: dict[str, object] | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """For requests that may be repeated: waits for a connection and for a leader."""
        deadline = trio.current_time() + (self._timeout if timeout is None else timeout)
        while True:
            try:
                left = max(0.0, deadline - trio.current_time())
                return await self.call(subject, request, timeout=left, again=AGAIN)
            except JetStreamError as error:
                if error.code != NO_PEERS:
                    raise
                problem: LogError = error
            except LogError as error:
                problem = error
            with trio.move_on_at(deadline):
                # A leader's election has no event that a client could wait for.
                await trio.sleep(RETRY_DELAY)
                await self._client.wait_up()
            if trio.current_time() >= deadline:
                raise problem


# --- values ------------------------------------------------------------------------------

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$")


def parse_time(text: str) -> int:
    """RFC 3339 with nanoseconds, as Go writes it, to Unix nanoseconds."""
    match = _TIME.match(text)
    if match is None:
        raise LogError(f"not a time: {text!r}")
    seconds = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    return int(seconds.timestamp()) * 10**9 + int((match[2] or "").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    seconds, ns = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


_ID_START = f"NATS/1.0\r\n{ID_HEADER}: ".encode()


def split_headers(raw: bytes) -> tuple[str, dict[str, str]]:
    """The message id, and the headers that are not JetStream's own."""
    if not raw:
        return "", {}
    if raw.startswith(_ID_START) and raw.find(b"\r\n", len(_ID_START)) == len(raw) - 4:
        return raw[len(_ID_START) : -4].decode(errors="replace"), {}
    headers = wire.decode_headers(raw)
    message_id = headers.get(ID_HEADER, "")
    return message_id, {k: v for k, v in headers.items() if not k.startswith("Nats-")}


def entry_of(message: dict[str, Any]) -> Entry:
    """The ``message`` of a STREAM.MSG.GET answer."""
    message_id, headers = split_headers(base64.b64decode(message.get("hdrs") or ""))
    return Entry(
        sequence=int(message["seq"]),
        message_id=message_id,
        payload=base64.b64decode(message.get("data") or ""),
        time_ns=parse_time(message["time"]),
        headers=headers,
    )


__all__ = ["Api", "JetStreamError", "NoResponders", "Unavailable"]
