"""The log in NATS JetStream: one connection a node, one stream, a subject for each database.

Names and settings are those of the existing system (docs/spec.md, "Names in NATS"). What is
ours alone: the stream's epoch in its metadata (``ha.epoch``), the epoch's source for streams
that existing nodes made, the metadata of reading consumers, and the subject on which a node
answers for its name.
"""

from __future__ import annotations

import hashlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import trio

from ha.core.errors import Code, HaError
from ha.core.naming import DEFAULT_STREAM, durable_name, snapshot_bucket, subject_of
from ha.log import js_api
from ha.log import nats_wire as wire
from ha.log.api import (
    Ack,
    AckCallback,
    Entry,
    KeyValue,
    LogError,
    LogReset,
    LogState,
    NotSent,
    Outgoing,
    Refused,
    ResetReason,
    WrongLast,
)
from ha.log.catalogue import JetStreamCatalogue
from ha.log.claims import Claim
from ha.log.client import Client
from ha.log.connection import Connection, Reply
from ha.log.dialer import Dialer
from ha.log.durable import Durable
from ha.log.endpoint import parse_urls
from ha.log.js_api import Api, JetStreamError
from ha.log.keys import JetStreamKeys
from ha.log.objects import Bucket
from ha.log.ordered import READER_METADATA, OrderedConsumer
from ha.log.placement import bring_together
from ha.log.stopgap import Stopgap

_log = logging.getLogger("ha.log")

HEADER_ROOM = 4096  # of max_payload, for the headers
EPOCH = "ha.epoch"
_DUPLICATE_WINDOW = 120.0
_API_TIMEOUT = 5.0
_LOOK_AGAIN = 1.0
_DAY = 24 * 3600.0
_BY_LEADER = 64  # messages read one by one before a consumer is asked again


@dataclass(frozen=True, slots=True)
class JetStreamOptions:
    """``urls``: see :func:`ha.log.connection.parse_urls`. ``max_age`` and ``replicas`` are for
    a stream that is not there yet; an existing one keeps its own unless ``change_max_age``,
    ``change_replicas`` say that the user asked for these. ``deliver``: the deliver policy of
    the node's durable consumers, as JetStream writes it. ``timeout``: seconds for each
    request, and for the start. A server of a cluster may yet have to find the others and a
    leader: the start waits for that ``election`` seconds at least.
    """

    urls: str
    node: str
    stream: str = DEFAULT_STREAM
    max_age: float = _DAY
    replicas: int = 1
    change_max_age: bool = False
    change_replicas: bool = False
    deliver: dict[str, object] = field(default_factory=lambda: {"deliver_policy": "all"})
    timeout: float = 10.0
    election: float = 30.0
    tls: ssl.SSLContext | None = None


class JetStreamBroker:
    """A :class:`ha.log.api.Broker`. Enter it in the node's nursery's task.

    It connects for ever; entering raises HaError when there is no connection, or no stream,
    in time. A NodeNameTaken that shows later ends it, as an error of its tasks.
    ``rng`` makes inboxes, names and the epoch: a ``SystemRandom`` but in tests. ``dialer``: in
    place of nats-py.
    """

    def __init__(
        self, options: JetStreamOptions, *, rng: random.Random, dialer: Dialer | None = None
    ) -> None:
        self.options = options
        self.client = Client(
            parse_urls(options.urls),
            name=f"ha {options.node}",
            rng=rng,
            tls=options.tls,
            dialer=dialer,
        )
        self.api = Api(self.client, timeout=min(options.timeout, _API_TIMEOUT))
        self.instance = self.client.token()
        self.max_msg_size = 0
        self._replicas = options.replicas
        self._stack = AsyncExitStack()
        self._logs: dict[str, JetStreamLog] = {}
        self._lock = trio.Lock()
        self.leader = trio.Event()  # set while the stream takes messages
        self.leader.set()
        self.no_leader = trio.Event()  # set while it does not
        self.catalogue = JetStreamCatalogue(
            self.client,
            self.api,
            stream=options.stream,
            replicas=options.replicas,
            start=lambda run: self._nursery.start_soon(run),
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self.client.run)
            self._nursery = nursery
            self._bucket = Bucket(
                self.client,
                self.api,
                name=snapshot_bucket(self.options.stream),
                replicas=self.options.replicas,
                start=nursery.start_soon,
            )
            try:
                await self._connect()
                await self._ensure_stream()
            except LogError as error:
                failure = HaError(Code.UNAVAILABLE, f"no log: {error}")
            else:
                self._stack = stack.pop_all()
                return self
            nursery.cancel_scope.cancel()
        raise failure  # here, since a nursery would put it into a group

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._nursery.cancel_scope.cancel()
        await self._stack.aclose()  # not told of the error: it goes on as it is, not in a group

    async def _connect(self) -> None:
        with trio.move_on_after(self.options.timeout):
            async with trio.open_nursery() as race:

                async def give_up() -> None:
                    await self.client.refused.wait()
                    race.cancel_scope.cancel()

                race.start_soon(give_up)
                await self.client.wait_up()
                race.cancel_scope.cancel()
        if not self.client.connected:
            raise LogError(f"cannot connect to NATS: {self.client.last_error}")

    # --- the stream ---

    def _start_timeout(self) -> float:
        options = self.options
        connection = self.client.connection
        clustered = connection is not None and connection.info.get("cluster")
        return max(options.timeout, options.election) if clustered else options.timeout

    async def _ensure_stream(self) -> None:
        options = self.options
        config: dict[str, object] = {
            "name": options.stream,
            "subjects": [options.stream, f"{options.stream}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": int(options.max_age * 1e9),
            "duplicate_window": int(min(_DUPLICATE_WINDOW, options.max_age or _DAY) * 1e9),
            "num_replicas": options.replicas,
            "allow_direct": True,
            "metadata": {EPOCH: self.client.token()},
        }
        info = await self._adopt(await self._find_or_create(config))
        self.max_msg_size = int(info["config"].get("max_msg_size") or 0)
        self._replicas = int(info["config"].get("num_replicas") or 1)

    async def _find_or_create(self, config: dict[str, object]) -> dict[str, Any]:
        """The stream's info. Nodes that start at the same moment all end with one stream."""
        name, timeout = self.options.stream, self._start_timeout()
        deadline = trio.current_time() + timeout
        while True:
            try:
                return await self.api.retry(f"STREAM.INFO.{name}", timeout=timeout)
            except JetStreamError as error:
                if error.code != js_api.STREAM_NOT_FOUND:
                    raise
            try:
                return await self.api.retry(f"STREAM.CREATE.{name}", config, timeout=timeout)
            except JetStreamError as error:
                # Another node makes it just now, with its epoch; in a cluster it may be a while
                # until that one can be seen, or has failed.
                if error.code != js_api.NAME_EXISTS or trio.current_time() >= deadline:
                    raise
            await trio.sleep(js_api.RETRY_DELAY)

    async def _adopt(self, info: dict[str, Any]) -> dict[str, Any]:
        """Change of an existing stream only what must be or was asked for."""
        options = self.options
        config = info["config"]
        wanted = dict(config)
        metadata = config.get("metadata") or {}
        if EPOCH not in metadata:
            # Derived, so that nodes that do this at the same time write the same.
            wanted["metadata"] = {**metadata, EPOCH: epoch_of(info)}
        max_age = int(options.max_age * 1e9)
        if options.change_max_age and config.get("max_age", 0) != max_age:
            wanted["max_age"] = max_age
            if max_age and config.get("duplicate_window", 0) > max_age:
                wanted["duplicate_window"] = max_age
        if options.change_replicas and config.get("num_replicas", 1) != options.replicas:
            wanted["num_replicas"] = options.replicas
        missing = {options.stream, f"{options.stream}.>"} - set(config.get("subjects") or ())
        if missing:
            raise LogError(
                f"the stream {options.stream} exists with other subjects "
                f"({', '.join(config.get('subjects') or ())}): choose another --replication-stream"
            )
        if wanted == config:
            return info
        _log.info("changing the settings of the stream %s", options.stream)
        return await self.api.retry(
            f"STREAM.UPDATE.{options.stream}", wanted, timeout=self._start_timeout()
        )

    # --- Broker ---

    async def log(self, database_id: str) -> JetStreamLog:
        """Raises NodeNameTaken, LogError."""
        async with self._lock:
            log = self._logs.get(database_id)
            if log is None:
                log = self._logs[database_id] = await self._open(database_id)
            return log

    async def _open(self, database_id: str) -> JetStreamLog:
        options = self.options
        subject = subject_of(options.stream, database_id)
        name = durable_name(database_id, options.node)
        claim = Claim(
            self.client,
            stream=options.stream,
            name=name,
            node=options.node,
            instance=self.instance,
        )
        await claim.acquire()
        durable = Durable(
            self.client,
            self.api,
            stream=options.stream,
            subject=subject,
            name=name,
            deliver=options.deliver,
        )
        await durable.create(self._start_timeout())
        held = _Held(claim, durable)
        self._nursery.start_soon(held.run)
        return JetStreamLog(self, subject, held)

    async def release(self, database_id: str) -> bool:
        async with self._lock:
            log = self._logs.pop(database_id, None)
            if log is not None:
                log.held.release()
            await self.delete_consumer(database_id, durable_name(database_id, self.options.node))
            return not await self.consumers(database_id)

    async def forget(self, database_id: str) -> None:
        subject = subject_of(self.options.stream, database_id)
        await self.api.call(f"STREAM.PURGE.{self.options.stream}", {"filter": subject})
        await self._bucket.delete(database_id)

    async def consumers(self, database_id: str) -> list[dict[str, object]]:
        """But for those through which nodes of ours read."""
        subject = subject_of(self.options.stream, database_id)
        found: list[dict[str, object]] = []
        offset = 0
        while True:
            answer = await self.api.call(f"CONSUMER.LIST.{self.options.stream}", {"offset": offset})
            page = answer.get("consumers") or []
            found += [info for info in page if _is_replica(info, subject)]
            offset += len(page)
            if not page or offset >= int(answer.get("total", 0)):
                return found

    async def delete_consumer(self, database_id: str, name: str) -> bool:
        if not any(info.get("name") == name for info in await self.consumers(database_id)):
            return False
        try:
            await self.api.call(f"CONSUMER.DELETE.{self.options.stream}.{name}")
        except JetStreamError as error:
            if error.code == js_api.CONSUMER_NOT_FOUND:
                return False
            raise
        return True

    async def put_snapshot(
        self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        """Raises WrongLast when another snapshot was put meanwhile."""
        await self._bucket.put(database_id, chunks, headers)

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None:
        return await self._bucket.headers(database_id)

    def get_snapshot(self, database_id: str) -> AsyncIterator[bytes]:
        """Raises LogError when there is none, or when it is not whole."""
        return self._bucket.get(database_id)

    def keys(self, bucket: str, max_age: float = 0.0) -> KeyValue:
        """A bucket with as many replicas as the stream; ``max_age``: seconds after which the
        server forgets what was not set again, 0 for never."""
        return JetStreamKeys(
            self.client,
            self.api,
            bucket=bucket,
            replicas=self._replicas,
            start=self._nursery.start_soon,
            max_age=max_age,
        )

    async def keep_near(self, bucket: str) -> bool:
        """Let the bucket's Raft leader be where the stream's is: one election of NATS serves both
        then. Whether it was moved. Raises LogError."""
        return await bring_together(self.api, self.options.stream, f"KV_{bucket}")

    # --- for logs ---

    @property
    def has_leader(self) -> bool:
        """Whether the stream takes messages, as far as is known."""
        return self.leader.is_set()

    def lost_leader(self) -> None:
        """Nobody took a message: look until somebody answers for the stream."""
        if self.leader.is_set():
            self.leader = trio.Event()
            self.no_leader.set()
            self._nursery.start_soon(self._find_leader)

    async def _find_leader(self) -> None:
        _log.warning("the stream %s has no leader", self.options.stream)
        try:
            while True:
                with suppress(LogError):
                    # The leader itself answers; without one nobody does.
                    await self.api.retry(f"STREAM.INFO.{self.options.stream}", timeout=60)
                    break
                await trio.sleep(_LOOK_AGAIN)
        finally:
            self.no_leader = trio.Event()
            self.leader.set()

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a task as long as the broker is open."""
        self._nursery.start_soon(run)


def epoch_of(info: dict[str, Any]) -> str:
    """The identity of a stream: in its metadata, or derived from when it was made."""
    metadata = info["config"].get("metadata") or {}
    epoch = metadata.get(EPOCH)
    if epoch:
        return str(epoch)
    made = f"{info['config']['name']} {info['created']}".encode()
    return hashlib.sha256(made).hexdigest()[:24]


def _is_replica(info: dict[str, Any], subject: str) -> bool:
    config = info["config"]
    subjects = config.get("filter_subjects") or [config.get("filter_subject")]
    metadata = config.get("metadata") or {}
    return subject in subjects and READER_METADATA.items() - metadata.items() != set()


class _Held:
    """What a node holds of a log: its name, and the consumer that shows its position."""

    def __init__(self, claim: Claim, durable: Durable) -> None:
        self._claim = claim
        self.durable = durable
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Until it is released."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._claim.run)
                nursery.start_soon(self.durable.run)

    def release(self) -> None:
        self._scope.cancel()
        self._claim.release()


class JetStreamLog:
    """A :class:`ha.log.api.Log`."""

    def __init__(self, broker: JetStreamBroker, subject: str, held: _Held) -> None:
        self._broker = broker
        self._client = broker.client
        self._stream = broker.options.stream
        self._subject = subject
        self._subject_bytes = subject.encode()
        self.held = held
        self._durable = held.durable
        self._stopgaps: list[Stopgap] = []
        # How almost every ack begins; what follows is the sequence and a brace.
        self._ack_start = b'{"stream":"%b","seq":' % self._stream.encode()

    @property
    def subject(self) -> str:
        return self._subject

    @property
    def max_payload(self) -> int:
        connection = self._client.connection
        limit = 1024 * 1024 if connection is None else connection.max_payload
        if self._broker.max_msg_size > 0:
            limit = min(limit, self._broker.max_msg_size)
        return limit - HEADER_ROOM

    @property
    def connected(self) -> bool:
        return self._client.connected and self._broker.has_leader

    @property
    def detached(self) -> bool:
        """Whether an operator has deleted this node's durable consumer."""
        return self._durable.detached.is_set()

    async def wait_connected(self) -> None:
        while not self.connected:
            await self._client.wait_up()
            await self._broker.leader.wait()

    async def wait_disconnected(self) -> None:
        if not self.connected:
            await trio.lowlevel.checkpoint()
            return
        async with trio.open_nursery() as nursery:

            async def until(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, self._client.wait_down)
            nursery.start_soon(until, self._broker.no_leader.wait)

    # --- publishing ---

    def publish(self, messages: Sequence[Outgoing], on_ack: AckCallback) -> None:
        self._send(messages, on_ack)

    def _send(self, messages: Sequence[Outgoing], on_ack: AckCallback) -> Connection:
        connection = self._client.require()
        if not self._broker.has_leader:
            raise NotSent(f"the stream {self._stream} has no leader")
        now = trio.current_time()
        connection.forget_old_replies(now)
        limit = self.max_payload

        def on_reply(index: int, reply: bytes, headers: bytes, payload: bytes) -> None:
            outcome = self._outcome(headers, payload)
            if type(outcome) is Ack:
                for stopgap in self._stopgaps:
                    stopgap.note(outcome.sequence)
            on_ack(index, outcome)

        for message in messages:
            if len(message.payload) > limit:
                raise Refused(
                    f"message {message.message_id} has {len(message.payload)} bytes, "
                    f"more than the {limit} that the broker takes"
                )
        subject = self._subject_bytes
        frames = []
        for index, message in enumerate(messages):
            token = connection.expect_reply(on_reply, index, now)
            frames.append(wire.publish(subject, token, _headers(message), message.payload))
        connection.write(b"".join(frames))
        return connection

    def _outcome(self, headers: bytes, payload: bytes) -> Ack | LogError:
        start = self._ack_start
        if payload.startswith(start):
            number = payload[len(start) : -1]
            if number.isdigit():
                return Ack(int(number))
        try:
            answer = js_api.answer_of(Reply(b"", headers, payload), self._subject)
        except JetStreamError as error:
            if error.code == js_api.WRONG_LAST:
                last = str(error).rpartition(":")[2].strip()
                return WrongLast(str(error), int(last) if last.isdigit() else None)
            return Refused(str(error)) if error.stored_nothing else error
        except js_api.Unavailable as error:
            # Nobody took it (no responders), or JetStream says itself that it could not.
            self._broker.lost_leader()
            return NotSent(str(error))
        except LogError as error:
            return error
        return Ack(int(answer["seq"]), duplicate=bool(answer.get("duplicate")))

    async def publish_one(self, message: Outgoing, timeout: float) -> Ack:
        outcome: Ack | LogError | None = None
        done = trio.Event()

        def on_ack(index: int, result: Ack | LogError) -> None:
            nonlocal outcome
            outcome = result
            done.set()

        connection = self._send([message], on_ack)
        await connection.wait(done, timeout)
        if outcome is None:
            what = connection.reason if connection.is_closed else f"none within {timeout:g} s"
            raise LogError(f"no ack of {message.message_id}: {what}")
        if isinstance(outcome, LogError):
            raise outcome
        return outcome

    # --- reading ---

    def _consumer(self, after: int, **options: Any) -> OrderedConsumer:
        consumer = OrderedConsumer(
            self._client,
            self._broker.api,
            stream=self._stream,
            subject=self._subject,
            after=after,
            **options,
        )
        self._broker.start(consumer.run)
        return consumer

    @asynccontextmanager
    async def subscribe(self, after: int) -> AsyncIterator[OrderedConsumer]:
        def on_floor(position: int, floor: int) -> None:
            if position == after or position == self._durable.marked:
                self._durable.note_floor(position, floor)

        consumer = self._consumer(
            after,
            check=_SameStream(),
            floor=self._durable.floor_of(after),
            on_floor=on_floor,
        )
        stopgap = Stopgap(self._broker.api, consumer, stream=self._stream, subject=self._subject)
        self._stopgaps.append(stopgap)
        self._broker.start(stopgap.run)
        try:
            yield consumer
        finally:
            self._stopgaps.remove(stopgap)
            stopgap.close()
            consumer.close()

    async def history(self, first: int, last: int | None = None) -> AsyncIterator[Entry]:
        info = await self._broker.api.call(f"STREAM.INFO.{self._stream}", again=js_api.AGAIN)
        stream_last = int(info["state"]["last_seq"])
        end = stream_last if last is None else min(last, stream_last)
        if first > end:
            return
        position = max(first, 1) - 1
        while True:
            consumer = self._consumer(position, check=_no_check)
            try:
                async with aclosing(consumer.rest(end)) as entries:
                    async for entry in entries:
                        position = entry.sequence
                        yield entry
            finally:
                consumer.close()
            # A consumer reads one server's copy, and ends where that does: it may be behind.
            for _ in range(_BY_LEADER):
                following = await self._after(position)
                if following is None or following.sequence > end:
                    return
                position = following.sequence
                yield following

    async def _after(self, sequence: int) -> Entry | None:
        """The next message of this log, by the word of the stream's leader."""
        try:
            answer = await self._broker.api.call(
                f"STREAM.MSG.GET.{self._stream}",
                {"next_by_subj": self._subject, "seq": sequence + 1},
                again=js_api.AGAIN,
            )
        except JetStreamError as error:
            if error.code == js_api.MESSAGE_NOT_FOUND:
                return None
            raise
        return js_api.entry_of(answer["message"])

    async def state(self) -> LogState:
        path = f"STREAM.MSG.GET.{self._stream}"
        info, first, last = await self._broker.api.call_many(
            [
                (f"STREAM.INFO.{self._stream}", None),
                (path, {"next_by_subj": self._subject, "seq": 1}),
                (path, {"last_by_subj": self._subject}),
            ],
            again=js_api.AGAIN,
        )
        if isinstance(info, LogError):
            raise info
        return LogState(
            epoch=epoch_of(info),
            first=int(info["state"]["first_seq"]),
            last=int(info["state"]["last_seq"]),
            subject_first=_sequence_of(first),
            subject_last=_sequence_of(last),
            max_age=int(info["config"].get("max_age") or 0) / 1e9,
        )

    async def entry(self, sequence: int) -> Entry | None:
        if sequence <= 0:
            return None
        try:
            answer = await self._broker.api.call(
                f"STREAM.MSG.GET.{self._stream}", {"seq": sequence}, again=js_api.AGAIN
            )
        except JetStreamError as error:
            if error.code == js_api.MESSAGE_NOT_FOUND:
                return None
            raise
        message = answer["message"]
        return js_api.entry_of(message) if message["subject"] == self._subject else None

    async def sequence_at(self, time_ns: int) -> int:
        info = await self._broker.api.call(f"STREAM.INFO.{self._stream}", again=js_api.AGAIN)
        consumer = self._consumer(0, check=_no_check, start_time_ns=time_ns, headers_only=True)
        try:
            async with aclosing(consumer.rest()) as entries:
                async for entry in entries:
                    return entry.sequence
            return int(info["state"]["last_seq"]) + 1
        finally:
            consumer.close()

    async def now_ns(self) -> int:
        info = await self._broker.api.call(f"STREAM.INFO.{self._stream}", again=js_api.AGAIN)
        if "ts" not in info:
            raise LogError("this NATS server does not tell its time: 2.10 or later does")
        return js_api.parse_time(info["ts"])

    def nothing_until(self, after: int) -> int:
        return max(after, self._durable.floor_of(after))

    async def mark(self, sequence: int) -> None:
        self._durable.mark(sequence)
        await trio.lowlevel.checkpoint()


class _SameStream:
    """Judges for one subscription: the stream is the one of its beginning, and whole."""

    def __init__(self) -> None:
        self._epoch: str | None = None

    def __call__(self, info: dict[str, Any], position: int, floor: int) -> None:
        name = info["config"]["name"]
        first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
        epoch = epoch_of(info)
        if self._epoch is None:
            self._epoch = epoch
        if epoch != self._epoch:
            raise LogReset(
                f"the stream {name} was made anew: its epoch is {epoch}, not {self._epoch}",
                ResetReason.EPOCH,
                first,
            )
        if last < position:
            raise LogReset(
                f"the stream {name} ends at {last}, before {position}", ResetReason.BEHIND, first
            )
        if position and first > floor + 1:
            raise LogReset(
                f"messages between {floor} and {first} are gone from {name}",
                ResetReason.TRUNCATED,
                first,
            )


def _no_check(info: dict[str, Any], position: int, floor: int) -> None:
    pass


def _sequence_of(answer: dict[str, Any] | LogError) -> int:
    """Of a message that was looked up; 0 when there is none."""
    if isinstance(answer, JetStreamError) and answer.code == js_api.MESSAGE_NOT_FOUND:
        return 0
    if isinstance(answer, LogError):
        raise answer
    return int(answer["message"]["seq"])


def _headers(message: Outgoing) -> bytes:
    message_id = message.message_id
    if message_id and message.expect_last is None and not message.headers:
        if not message_id.isprintable():
            raise ValueError(f"not a message id: {message_id!r}")
        return b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % message_id.encode()
    headers = dict(message.headers)
    if message.message_id:
        headers[js_api.ID_HEADER] = message.message_id
    if message.expect_last is not None:
        headers[js_api.EXPECT_HEADER] = str(message.expect_last)
    return wire.encode_headers(headers)
