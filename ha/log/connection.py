"""A NATS connection for trio: one socket, written to without waiting.

A :class:`Connection` is one incarnation, with its subscriptions and requests, and is never
revived: who needs another subscribes again on the next one (:mod:`ha.log.client`). Nothing
is kept for it while there is none.

Why not nats-py: docs/decisions/0001-nats-client.md.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio

from ha.log import nats_wire as wire
from ha.log.api import LogError, NotSent
from ha.log.endpoint import Endpoint

_log = logging.getLogger("ha.log")

RECEIVE_SIZE = 256 * 1024
_MAX_BACKLOG = 64 * 1024 * 1024  # bytes that wait for a socket that does not take them
_PING_INTERVAL = 4.0
_MAX_UNANSWERED = 2
_REPLY_MEMORY = 300.0  # seconds after which an answer is not expected any more

Stream: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream]"

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

    def __init__(self, endpoint: Endpoint, info: dict[str, Any], inbox: str, now: float) -> None:
        self.endpoint = endpoint
        self.info = info
        self.closed = trio.Event()
        self.reason = ""
        self._socket: socket.socket | None = None
        self._tls: trio.SSLStream[trio.SocketStream] | None = None
        self._backlog = bytearray()
        self._writer_wakeup = trio.Event()
        self._handlers: dict[int, Handler] = {}
        self._on_close: dict[int, Callable[[str], None]] = {}
        self._sid = 0
        self._inbox = inbox
        self._replies: dict[int, tuple[ReplyHandler, int, float]] = {}
        self._token = 0
        self._reply_prefix = f"{inbox}.r.".encode()
        self._heard = now
        self._unanswered = 0
        self._pongs: list[trio.Event] = []
        self._waiting: set[trio.Event] = set()  # set when the connection closes
        self._parser = wire.Parser(self._deliver, self._control)
        self.on_info: Callable[[dict[str, Any]], None] = lambda info: None

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
        self._backlog.clear()
        self._writer_wakeup.set()

    # --- writing ---

    def write(self, data: bytes) -> None:
        """Hand ``data`` to the socket, now or as soon as it takes it.

        Raises Disconnected: certain, not a byte was sent.
        """
        if self.closed.is_set():
            raise Disconnected(f"no connection to {self.endpoint}: {self.reason}")
        backlog = self._backlog
        if len(backlog) + len(data) > _MAX_BACKLOG and backlog:
            raise Disconnected(f"{self.endpoint} does not take what is sent to it")
        if not backlog and self._socket is not None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.close(str(error))
                raise Disconnected(f"no connection to {self.endpoint}: {error}") from error
            if sent == len(data):
                return
            data = data[sent:]
        backlog += data
        self._writer_wakeup.set()

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
        timeout: float = 5.0,  # noqa: ASYNC109
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
        timeout: float = 5.0,  # noqa: ASYNC109
    ) -> list[Reply]:
        """Several at once, in one write; the answers in the same order."""
        now = trio.current_time()
        answers: list[Reply | None] = [None] * len(requests)
        missing = len(requests)
        done = trio.Event()

        def on_reply(index: int, reply: bytes, headers: bytes, payload: bytes) -> None:
            nonlocal missing
            answers[index] = Reply(reply, headers, payload)
            missing -= 1
            if not missing:
                done.set()

        frames = []
        for index, (subject, payload, headers) in enumerate(requests):
            block = wire.encode_headers(headers) if headers else b""
            token = self.expect_reply(on_reply, index, now)
            frames.append(wire.publish(subject.encode(), token, block, payload))
        self.write(b"".join(frames))
        await self.wait(done, timeout)
        if missing:
            what = self.reason if self.is_closed else f"no answer within {timeout:g} s"
            raise LogError(f"{requests[0][0]}: {what}")
        return [answer for answer in answers if answer is not None]

    async def flush(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Return when the server has processed all that was written. Raises LogError."""
        pong = trio.Event()
        self.write(wire.PING)
        self._pongs.append(pong)
        await self.wait(pong, timeout)
        if self.is_closed or not pong.is_set():
            raise LogError(f"{self.endpoint} does not answer: {self.reason or 'no pong'}")

    async def wait(self, event: trio.Event, timeout: float) -> None:  # noqa: ASYNC109
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

    def _control(self, operation: bytes, arguments: bytes) -> None:
        if operation == b"PING":
            self.write(wire.PONG)
        elif operation == b"PONG":
            self._unanswered = 0
            if self._pongs:
                self._pongs.pop(0).set()
        elif operation == b"INFO":
            self.info = {**self.info, **json.loads(arguments)}
            self.on_info(self.info)
        elif operation == b"-ERR":
            words = arguments.decode(errors="replace").strip("' ")
            if "permissions violation" in words.lower():
                _log.error("NATS: %s", words)  # of one subject only: the connection lives on
            else:
                self.close(words)

    def attach(self, stream: Stream) -> None:
        """Take over ``stream``, on which the handshake is done."""
        self._sid += 1
        self._handlers[self._sid] = self._on_reply
        if isinstance(stream, trio.SSLStream):
            self._tls = stream
        else:
            # A plain socket can be written without waiting, and read with one task switch.
            self._socket = socket.socket(fileno=stream.socket.detach())
            self._socket.setblocking(False)
        self.write(wire.subscribe(f"{self._inbox}.r.*", self._sid))

    async def run(self) -> None:
        """Read and write until the connection is closed, by whichever side."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write_backlog)
                nursery.start_soon(self._keep_alive)
                await self.closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.close("closed by this node")
            if self._socket is not None:
                self._socket.close()
            elif self._tls is not None:
                await trio.aclose_forcefully(self._tls)

    async def _read(self) -> None:
        try:
            if self._tls is not None:
                while data := await self._tls.receive_some(RECEIVE_SIZE):
                    self._feed(bytes(data))
            else:
                assert self._socket is not None
                receive = self._socket.recv
                while True:
                    await trio.lowlevel.wait_readable(self._socket)
                    try:
                        data = receive(RECEIVE_SIZE)
                    except BlockingIOError:
                        continue
                    if not data:
                        break
                    self._feed(data)
            self.close("the server closed the connection")
        except (OSError, trio.BrokenResourceError, wire.WireError, Disconnected) as error:
            self.close(str(error) or type(error).__name__)

    def _feed(self, data: bytes) -> None:
        self._heard = trio.current_time()
        self._parser.feed(data)

    async def _write_backlog(self) -> None:
        backlog = self._backlog
        while not self.closed.is_set():
            await self._writer_wakeup.wait()
            self._writer_wakeup = trio.Event()
            try:
                while backlog:
                    if self._tls is not None:
                        data = bytes(backlog)
                        backlog.clear()
                        await self._tls.send_all(data)
                    else:
                        assert self._socket is not None
                        await trio.lowlevel.wait_writable(self._socket)
                        with memoryview(backlog) as view:
                            sent = self._socket.send(view)
                        del backlog[:sent]
            except BlockingIOError:
                self._writer_wakeup.set()
            except (OSError, trio.BrokenResourceError) as error:
                self.close(str(error) or type(error).__name__)

    async def _keep_alive(self) -> None:
        """A server that is cut off without a word is found out by its silence."""
        while True:
            before = trio.current_time()
            await trio.sleep(_PING_INTERVAL)
            if self._heard >= before:
                self._unanswered = 0
                continue
            if self._unanswered >= _MAX_UNANSWERED:
                self.close(f"no sign of life for {trio.current_time() - self._heard:.1f} s")
                return
            self._unanswered += 1
            self._pongs.append(trio.Event())
            with suppress(Disconnected):
                self.write(wire.PING)
