"""One NATS connection, for trio: written to without waiting, its messages handed on at once.

A :class:`Connection` is one incarnation, with its subscriptions and requests, and is never
revived: who needs another subscribes again on the next one (:mod:`ha.log.client`). Nothing
is kept for it while there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio

from ha.log import nats_wire as wire
from ha.log.api import LogError, NotSent
from ha.log.dialer import Wire
from ha.log.endpoint import Endpoint

_log = logging.getLogger("ha.log")

_MAX_BACKLOG = 64 * 1024 * 1024  # bytes that wait for a socket that does not take them
_REPLY_MEMORY = 300.0  # seconds after which an answer is not expected any more

Handler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""``subject, reply, headers, payload``. Called in the reading task: it must not raise."""

ReplyHandler: TypeAlias = Callable[[int, bytes, bytes, bytes], None]
"""``index, reply, headers, payload`` of the answer to a request."""


class Disconnected(NotSent):
    """There is no connection to the broker (any more)."""


class NoResponders(NotSent):
    """The server knows nobody who takes this subject: nobody got the message."""


@dataclass(slots=True)
class Reply:
    """What :meth:`Connection.request` answers."""

    reply: bytes
    headers: bytes
    payload: bytes


class Connection:
    """One incarnation. All methods that write are plain functions; they never wait."""

    def __init__(self, endpoint: Endpoint, nats: Wire, inbox: str) -> None:
        self.endpoint = endpoint
        self.closed = trio.Event()
        self.reason = ""
        self._nats = nats
        self._handlers: dict[int, Handler] = {}
        self._on_close: dict[int, Callable[[str], None]] = {}
        self._sid = 0
        self._replies: dict[int, tuple[ReplyHandler, int, float]] = {}
        self._token = 0
        self._reply_prefix = f"{inbox}.r.".encode()
        self._waiting: set[trio.Event] = set()  # set when the connection closes
        nats.deliver_to(self._deliver)
        self.subscribe(f"{inbox}.r.*", self._on_reply)

    @property
    def info(self) -> dict[str, Any]:
        """The server's INFO, the latest."""
        return self._nats.info

    @property
    def max_payload(self) -> int:
        return int(self.info.get("max_payload", 1024 * 1024))

    @property
    def is_closed(self) -> bool:
        return self.closed.is_set()

    def close(self, reason: str) -> None:
        """Drop the connection. What was written may or may not have arrived."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        for waiting in self._waiting:
            waiting.set()
        for on_close in self._on_close.values():
            on_close(reason)
        self._on_close.clear()
        self._replies.clear()
        self._handlers.clear()

    # --- writing ---

    def write(self, data: bytes) -> None:
        """Hand ``data`` to the socket, now or as soon as it takes it.

        Raises Disconnected: certain, not a byte was sent.
        """
        if self.closed.is_set():
            raise Disconnected(f"no connection to {self.endpoint}: {self.reason}")
        if self._nats.backlog > _MAX_BACKLOG:
            raise Disconnected(f"{self.endpoint} does not take what is sent to it")
        try:
            self._nats.send(data)
        except OSError as error:
            self.close(str(error))
            raise Disconnected(f"no connection to {self.endpoint}: {error}") from error

    def subscribe(
        self, subject: str, handler: Handler, on_close: Callable[[str], None] | None = None
    ) -> int:
        """Raises Disconnected. The id is good for :meth:`unsubscribe`.

        ``on_close(reason)`` is called when the connection is lost, not after unsubscribe.
        """
        self._sid += 1
        sid = self._sid
        self.write(wire.subscribe(subject, sid))
        self._handlers[sid] = handler
        if on_close is not None:
            self._on_close[sid] = on_close
        return sid

    def unsubscribe(self, sid: int) -> None:
        """Does nothing when the connection is gone."""
        self._on_close.pop(sid, None)
        if self._handlers.pop(sid, None) is not None:
            with suppress(Disconnected):
                self.write(wire.unsubscribe(sid))

    def publish(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Raises Disconnected."""
        block = wire.encode_headers(headers) if headers else b""
        self.write(wire.publish(subject.encode(), b"", block, payload))

    def expect_reply(self, handler: ReplyHandler, index: int, now: float) -> bytes:
        """A reply subject; the one answer to it goes to ``handler(index, …)``."""
        replies = self._replies
        self._token += 1
        replies[self._token] = (handler, index, now)
        return b"%b%d" % (self._reply_prefix, self._token)

    def forget_old_replies(self, now: float) -> None:
        """Answers that never came must not fill the memory."""
        replies = self._replies
        while replies:
            token = next(iter(replies))
            if now - replies[token][2] < _REPLY_MEMORY:
                break
            del replies[token]

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,
    ) -> Reply:
        """Raises Disconnected (nothing was sent), NoResponders, or LogError: not known."""
        (reply,) = await self.request_many([(subject, payload, headers)], timeout=timeout)
        if wire.status(reply.headers) == 503:
            raise NoResponders(f"nobody answers to {subject}")
        return reply

    async def request_many(
        self,
        requests: Sequence[tuple[str, bytes, dict[str, str] | None]],
        *,
        timeout: float = 5.0,
        again: float | None = None,
    ) -> list[Reply]:
        """Several at once, in one write; the answers in the same order.

        ``again``: for requests that may be repeated. They are all sent once more after each so
        many seconds, since a cluster without a leader keeps none; the first round that is
        answered whole counts, whichever it is.
        """
        end = trio.current_time() + timeout
        whole: list[Reply] = []
        done = trio.Event()
        while True:
            self._ask(requests, whole, done)
            left = max(0.0, end - trio.current_time())
            await self.wait(done, left if again is None else min(again, left))
            if whole:
                return whole
            if self.is_closed or trio.current_time() >= end:
                what = self.reason if self.is_closed else f"no answer within {timeout:g} s"
                raise LogError(f"{requests[0][0]}: {what}")

    def _ask(
        self,
        requests: Sequence[tuple[str, bytes, dict[str, str] | None]],
        whole: list[Reply],
        done: trio.Event,
    ) -> None:
        """Send one round; when all its answers are there, and ``whole`` is empty, they fill it."""
        now = trio.current_time()
        answers: dict[int, Reply] = {}

        def on_reply(index: int, reply: bytes, headers: bytes, payload: bytes) -> None:
            answers[index] = Reply(reply, headers, payload)
            if len(answers) == len(requests) and not whole:
                whole.extend(answers[i] for i in range(len(requests)))
                done.set()

        frames = []
        for index, (subject, payload, headers) in enumerate(requests):
            block = wire.encode_headers(headers) if headers else b""
            token = self.expect_reply(on_reply, index, now)
            frames.append(wire.publish(subject.encode(), token, block, payload))
        self.write(b"".join(frames))

    async def flush(self, timeout: float = 5.0) -> None:
        """Return when the server has processed all that was written. Raises LogError."""
        back = trio.Event()
        token = self.expect_reply(lambda *_: back.set(), 0, trio.current_time())
        self.write(wire.publish(token, b"", b"", b""))
        await self.wait(back, timeout)
        if self.is_closed or not back.is_set():
            raise LogError(f"{self.endpoint} does not answer: {self.reason or 'no echo'}")

    async def wait(self, event: trio.Event, timeout: float) -> None:
        """Return when it is set, the time is over, or the connection is closed."""
        if self.is_closed:
            await trio.lowlevel.checkpoint()
            return
        self._waiting.add(event)
        try:
            with trio.move_on_after(timeout):
                await event.wait()
        finally:
            self._waiting.discard(event)

    # --- reading ---

    def _deliver(
        self, sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        handler = self._handlers.get(sid)
        if handler is not None:
            handler(subject, reply, headers, payload)

    def _on_reply(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        try:
            entry = self._replies.pop(int(subject[len(self._reply_prefix) :]), None)
        except ValueError:
            return  # not one of ours: somebody publishes to our inbox
        if entry is not None:
            entry[0](entry[1], reply, headers, payload)
