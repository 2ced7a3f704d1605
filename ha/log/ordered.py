"""An ordered consumer: the messages of a subject after a position, none twice, none left out.

An ephemeral push consumer without acks, made again from the next position whenever something
may be missing: a hole in its own numbering, silence, a new connection, a new leader. Whether
the stream is still the same one, and still holds what comes next, is looked up each time.

Source: ADR-17 (ordered consumer), ADR-9 (heartbeats), ADR-15 (flow control).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import trio

from ha.log import js_api
from ha.log import nats_wire as wire
from ha.log.api import Entry, LogError, LogReset, ResetReason
from ha.log.client import Client
from ha.log.connection import Connection, Disconnected
from ha.log.js_api import Api, JetStreamError

_log = logging.getLogger("ha.log")

_HEARTBEAT = 1.0
_SILENCE = 3.0  # three heartbeats missing
_SUSPICIOUS = 1.7
_CREATE_TIMEOUT = 5.0
_GRACE = 0.2  # for a reading task that had no turn: a busy node is no silent server
_INACTIVE = 30.0  # after which the server forgets the consumer of a node that is gone
_RETRY_FIRST, _RETRY_LAST = 0.05, 1.0
_FLOOR_INTERVAL = 60.0

READER_METADATA = {"ha.role": "reader"}
"""Marks these consumers, so that lists of replicas leave them out."""

CheckStream = Callable[[dict[str, Any], int, int], None]
"""``STREAM.INFO, position, floor``: raises LogReset when the position is no longer good."""


class OrderedConsumer:
    """Start it in a nursery with :meth:`run`; read it with :meth:`receive`, in one task.

    ``after``: the position; or ``start_time_ns`` instead. ``check`` judges the stream at each
    start. ``headers_only``: payloads are left out.

    ``position``: of the last message that came from the server (it may wait here), or
    ``after``. ``floor``: there was no further one up to there, as far as is known; the stream
    may drop what it likes below it. ``on_floor(position, floor)`` is told when it is another.
    ``pending``: how many the server had left after the last message.
    """

    def __init__(
        self,
        client: Client,
        api: Api,
        *,
        stream: str,
        subject: str,
        after: int,
        check: CheckStream,
        start_time_ns: int | None = None,
        headers_only: bool = False,
        floor: int = 0,
        on_floor: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._api = api
        self._stream = stream
        self._subject = subject
        self._check = check
        self._start_time_ns = start_time_ns
        self._headers_only = headers_only
        self._on_floor = on_floor
        self.position = after
        self.floor = max(after, floor)
        self.pending = 0
        self.started = trio.Event()
        self._entries: list[Entry] = []
        self._error: LogError | None = None
        self._task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._feed: _Feed | None = None
        self._heard = 0.0

    # --- reading ---

    async def receive(self) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint_if_cancelled()
        entries = self.receive_nowait()
        if entries:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not entries:
            await self.wait()
            entries = self.receive_nowait()
        return entries

    async def wait(self) -> None:
        """Return when something has arrived, or when ``pending`` has become 0, or it failed."""
        assert self._task is None, "one task reads a subscription"
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    async def rest(self, last: int | None = None) -> AsyncGenerator[Entry, None]:
        """Up to ``last``, or to what the stream's end was when we came to it."""
        while True:
            await self.started.wait()
            entries = self.receive_nowait()
            for entry in entries:
                if last is not None and entry.sequence > last:
                    return
                yield entry
            if not entries:
                if not self.pending or (last is not None and self.position >= last):
                    return
                await self.wait()

    def receive_nowait(self) -> Sequence[Entry]:
        entries = self._entries
        if entries:
            self._entries = []
        elif self._error is not None:
            raise self._error
        feed = self._feed
        if feed is not None and feed.flow_reply:
            feed.answer_flow()
        return entries

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def fail(self, error: LogError) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    # --- for the feed ---

    def take(self, entry: Entry, pending: int) -> None:
        self.pending = pending
        if entry.sequence > self.position:
            self.position = entry.sequence
            self._entries.append(entry)
            if self._task is not None:
                self._wake()

    def check_stream(self, info: dict[str, Any]) -> None:
        """Raises LogReset if the stream is not the one that this position belongs to."""
        self._check(info, self.position, max(self.position, self.floor))

    @property
    def silent(self) -> bool:
        """Whether nothing has come for so long that the consumer may be gone."""
        if not self.started.is_set() or self._error is not None:
            return False
        heard = self._heard if self._feed is None else self._feed.heard
        return trio.current_time() > heard + _SUSPICIOUS

    @property
    def idle(self) -> bool:
        """Whether the reader has taken all and waits for more."""
        return not self._entries and self._task is not None

    # --- keeping it up ---

    def close(self) -> None:
        """Stop it. Not async, so that generators can call it when they are thrown away."""
        self._scope.cancel()

    async def run(self) -> None:
        """Keep a consumer up until :meth:`close`, or until the position is no longer good."""
        with self._scope:
            delay = _RETRY_FIRST
            while True:
                connection = await self._client.wait_up()
                feed = _Feed(self, connection, self._client.token())
                try:
                    await self._start(feed)
                    delay = _RETRY_FIRST
                    self.started.set()
                    await self._watch(feed)
                except LogReset as error:
                    self.fail(error)
                    self.started.set()
                    return
                except LogError as error:
                    _log.debug("consumer of %s: %s", self._subject, error)
                    await trio.sleep(delay)
                    delay = min(delay * 2, _RETRY_LAST)
                finally:
                    if self._feed is not None:
                        self._heard = self._feed.heard
                    self._feed = None
                    feed.stop()

    async def _start(self, feed: _Feed) -> None:
        config: dict[str, object] = {
            "name": feed.name,
            "deliver_subject": feed.subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "filter_subject": self._subject,
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT * 1e9),
            "inactive_threshold": int(_INACTIVE * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            "headers_only": self._headers_only,
            "metadata": READER_METADATA,
        }
        position = self.position
        if self._start_time_ns is not None and not position:
            config["deliver_policy"] = "by_start_time"
            config["opt_start_time"] = js_api.format_time(self._start_time_ns)
        else:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = position + 1
        feed.listen()
        # The stream is judged as it is after the consumer stands: what it has dropped before
        # shows, and what comes later is delivered. Until then entries are held back.
        created, info = await self._api.call_many(
            [
                (
                    f"CONSUMER.CREATE.{self._stream}.{feed.name}.{self._subject}",
                    {"stream_name": self._stream, "config": config, "action": "create"},
                ),
                (f"STREAM.INFO.{self._stream}", None),
            ],
            timeout=_CREATE_TIMEOUT,
            again=js_api.AGAIN,
        )
        if isinstance(info, JetStreamError) and info.code == js_api.STREAM_NOT_FOUND:
            raise LogReset(f"the stream {self._stream} is gone", ResetReason.EPOCH)
        if isinstance(info, LogError):
            raise info
        if int(info["state"]["last_seq"]) < self.floor:
            self._lower_floor()
        self._check(info, position, max(position, self.floor))
        if isinstance(created, LogError):
            raise created
        if not feed.received:
            self.pending = int(created.get("num_pending", 0))
        self._feed = feed
        feed.release()
        if not self.pending:
            self._wake()

    def _lower_floor(self) -> None:
        """The stream has lost its end: what comes there now is not what was seen."""
        self.floor = self.position
        if self._on_floor is not None:
            self._on_floor(self.position, self.floor)

    async def _watch(self, feed: _Feed) -> None:
        """Return when the feed is no longer to be trusted."""
        last_known = 0
        next_floor = trio.current_time() + _FLOOR_INTERVAL
        while True:
            heard = feed.heard
            with trio.move_on_at(heard + _SILENCE):
                await feed.broken.wait()
                _log.debug("consumer of %s: %s", self._subject, feed.reason)
                return
            if feed.heard == heard:
                await trio.sleep(_GRACE)
            if feed.heard == heard:
                _log.info("consumer of %s: silence; making it again", self._subject)
                return
            if trio.current_time() >= next_floor:
                next_floor = trio.current_time() + _FLOOR_INTERVAL
                last_known = await self._raise_floor(feed, last_known)

    async def _raise_floor(self, feed: _Feed, last_known: int) -> int:
        """Move the floor of a quiet log up to where the stream was an interval ago.

        Else the stream would, in time, drop other logs' messages beyond our position, and a
        new connection could not tell them from ours.
        """
        try:
            consumer = await self._api.call(f"CONSUMER.INFO.{self._stream}.{feed.name}")
            delivered = int(consumer["delivered"]["consumer_seq"])
            all_here = not consumer.get("num_pending") and delivered == feed.received
            if all_here and last_known > max(self.floor, self.position):
                self.floor = last_known
                if self._on_floor is not None:
                    self._on_floor(self.position, self.floor)
            info = await self._api.call(f"STREAM.INFO.{self._stream}")
            return int(info["state"]["last_seq"])
        except LogError as error:
            _log.debug("consumer of %s: %s", self._subject, error)
            return last_known


class _Feed:
    """One server-side consumer, on one connection."""

    def __init__(self, owner: OrderedConsumer, connection: Connection, token: str) -> None:
        self.name = f"ha_{token}"
        self.subject = f"_INBOX.{token}.d"
        self.received = 0  # by the consumer's own numbering
        self.heard = trio.current_time()
        self.broken = trio.Event()
        self.reason = ""
        self.flow_reply = b""
        self._owner = owner
        self._connection = connection
        self._stream = owner._stream
        self._sid = 0
        self._held: list[tuple[Entry, int]] | None = []

    def listen(self) -> None:
        self._sid = self._connection.subscribe(self.subject, self._on_message, self._break)

    def release(self) -> None:
        """Hand on what was held back, and from now on at once."""
        held, self._held = self._held, None
        for entry, pending in held or ():
            self._owner.take(entry, pending)
        if self.flow_reply and self._owner.idle:
            self.answer_flow()

    def stop(self) -> None:
        """Tell the server to forget it; it would by itself, later."""
        if self._connection.is_closed:
            return
        self._connection.unsubscribe(self._sid)
        try:
            self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self.name}")
        except Disconnected:
            return

    def _break(self, reason: str) -> None:
        if not self.broken.is_set():
            self.reason = reason
            self.broken.set()

    def answer_flow(self) -> None:
        """The server may send more. Only said when the reader has taken what came before."""
        reply, self.flow_reply = self.flow_reply, b""
        try:
            self._connection.write(wire.publish(reply, b"", b"", b""))
        except Disconnected:
            return

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.heard = trio.current_time()
        if headers and not payload and headers[8:9] == b" ":
            self._on_status(reply, headers)
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>,
        # or with a domain and an account in front of the stream, and a token at the end
        fields = reply.split(b".")
        start = 4 if len(fields) == 9 else 6
        try:
            sequence, number = int(fields[start + 1]), int(fields[start + 2])
            time_ns, pending = int(fields[start + 3]), int(fields[start + 4])
        except (IndexError, ValueError):
            return  # not from JetStream
        if number != self.received + 1:
            self._break(f"message {self.received + 1} is missing before {number}")
            return
        self.received = number
        message_id, user_headers = js_api.split_headers(headers)
        entry = Entry(sequence, message_id, payload, time_ns, user_headers)
        if self._held is None:
            self._owner.take(entry, pending)
        else:
            self._held.append((entry, pending))

    def _on_status(self, reply: bytes, headers: bytes) -> None:
        code = wire.status(headers)
        if code != 100:
            self._break(wire.description(headers) or f"status {code}")
            return
        if reply:  # a flow control request
            self._want_flow(reply)
            return
        values = wire.decode_headers(headers)
        last = values.get("Nats-Last-Consumer", "")
        if last.isdigit() and int(last) != self.received:
            self._break(f"the server has sent {last} messages, {self.received} arrived")
            return
        stalled = values.get("Nats-Consumer-Stalled")
        if stalled:
            self._want_flow(stalled.encode())

    def _want_flow(self, reply: bytes) -> None:
        self.flow_reply = reply
        if self._held is None and self._owner.idle:
            self.answer_flow()
