"""A log in memory: for a node without NATS, and for tests with several nodes on one stream.

:class:`MemoryStream` is the broker's state, :class:`MemoryBroker` one node's connection to it.
It answers as JetStream does (the conformance suite runs both): sequences grow over all
subjects, a known message id is acknowledged again as a duplicate.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import trio

from ha.core.naming import DEFAULT_STREAM, durable_name, subject_of
from ha.log.api import (
    Ack,
    AckCallback,
    Entry,
    KeyValue,
    LogError,
    LogReset,
    LogState,
    NodeNameTaken,
    NotSent,
    Outgoing,
    Refused,
    ResetReason,
    WrongLast,
)
from ha.log.memory_keys import MemoryBucket, MemoryKeys

DEFAULT_MAX_PAYLOAD = 8 * 1024 * 1024 - 4096
DEDUPE_WINDOW = 120.0
_TRIM_SLACK = 64  # entries beyond the limit before a trim, so that its cost is spread


def _sequence(entry: Entry) -> int:
    return entry.sequence


@dataclass(slots=True)
class _Subject:
    """What the stream holds of one log. ``dropped`` is the highest sequence let go."""

    entries: list[Entry] = field(default_factory=list)
    dropped: int = 0
    last: int = 0
    readers: set[MemorySubscription] = field(default_factory=set)

    def after(self, sequence: int) -> list[Entry]:
        entries = self.entries
        if not entries or entries[-1].sequence <= sequence:
            return []
        if entries[0].sequence > sequence:
            return entries[:]
        return entries[bisect_right(entries, sequence, key=_sequence) :]


@dataclass(slots=True)
class Durable:
    database_id: str
    subject: str
    position: int = 0
    holder: MemoryBroker | None = None


class _Words:
    """The stream's catalogue: all that was said, the last word under each key by its place."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.last: dict[str, int] = {}
        self.watches: set[_MemoryWatch] = set()

    def put(self, key: str, word: bytes) -> None:
        self.last[key] = len(self.said)
        self.said.append((key, word))
        for watch in self.watches:
            watch.wake()

    def after(self, place: int) -> list[bytes]:
        """Words beyond ``place`` that are still the last under their key."""
        said = self.said
        return [said[i][1] for i in range(place, len(said)) if self.last[said[i][0]] == i]


class _MemoryWatch:
    def __init__(self, words: _Words, broker: MemoryBroker) -> None:
        self._words = words
        self._broker = broker
        self._place = 0
        self._changed = trio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def receive(self) -> Sequence[bytes]:
        while True:
            await self._broker._connected.wait()
            words = self._words.after(self._place)
            self._place = len(self._words.said)
            if words:
                return words
            self._changed = trio.Event()
            await self._changed.wait()


class _MemoryCatalogue:
    """A :class:`ha.log.api.Catalogue`, as one node sees it."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def put(self, key: str, word: bytes) -> None:
        await self._broker._reach()
        self._broker.stream.catalogue.put(key, word)

    async def read(self) -> list[bytes]:
        await self._broker._reach()
        return self._broker.stream.catalogue.after(0)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[_MemoryWatch]:
        await self._broker._reach()
        words = self._broker.stream.catalogue
        watch = _MemoryWatch(words, self._broker)
        words.watches.add(watch)
        try:
            yield watch
        finally:
            words.watches.discard(watch)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    headers: dict[str, str]
    data: bytes
    revision: int


class MemoryStream:
    """The stream, its durable consumers and its snapshots.

    ``epoch``: the identity of the stream. ``now_ns``: the broker's clock in Unix nanoseconds
    (default: trio's clock). ``dedupe_window``: seconds in which a message id is known; 0 for
    none. ``max_payload``: bytes. ``keep``: how many messages of each subject stay readable
    once all open subscriptions had them (the last one always does); None for all.
    """

    def __init__(
        self,
        *,
        epoch: str,
        name: str = DEFAULT_STREAM,
        now_ns: Callable[[], int] | None = None,
        dedupe_window: float = DEDUPE_WINDOW,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        keep: int | None = None,
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.last = 0
        self.max_payload = max_payload
        self.max_age = 0.0
        """What the stream says of itself; for tests, which let go of messages themselves."""
        self._now_ns = now_ns or _trio_now_ns
        self.dedupe_window = dedupe_window
        self._keep = keep
        self._subjects: dict[str, _Subject] = {}
        self._ids: dict[str, tuple[int, float]] = {}
        self._durables: dict[str, Durable] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self.catalogue = _Words()
        self.buckets: dict[str, MemoryBucket] = {}
        self._snapshot_revision = 0

    # --- what an operator may do ---

    def recreate(self, epoch: str) -> None:
        """The stream is deleted and made anew: no messages, no consumers, another epoch."""
        self.epoch = epoch
        self.last = 0
        self._ids.clear()
        self._durables.clear()
        for subject in self._subjects.values():
            subject.entries, subject.dropped, subject.last = [], 0, 0
            for reader in subject.readers:
                reader.wake()

    def drop_before(self, sequence: int) -> None:
        """Let go of all messages before ``sequence``, as max_age and purge do."""
        for subject in self._subjects.values():
            gone = bisect_left(subject.entries, sequence, key=_sequence)
            if gone:
                self._drop(subject, gone)
            if not subject.entries:
                subject.last = 0
            for reader in subject.readers:
                reader.wake()

    def purge(self, subject_name: str) -> None:
        """Let go of all messages of one subject."""
        subject = self.subject(subject_name)
        if subject.entries:
            self._drop(subject, len(subject.entries))
        subject.last = 0
        for reader in subject.readers:
            reader.wake()

    # --- for brokers and logs of this module ---

    @property
    def first(self) -> int:
        """The first sequence still held; ``last + 1`` if none is; 0 if none ever was."""
        if not self.last:
            return 0
        held = [s.entries[0].sequence for s in self._subjects.values() if s.entries]
        return min(held, default=self.last + 1)

    def subject(self, name: str) -> _Subject:
        return self._subjects.setdefault(name, _Subject())

    def append(self, subject_name: str, message: Outgoing) -> Ack:
        """Raises Refused or WrongLast."""
        subject = self.subject(subject_name)
        if len(message.payload) > self.max_payload:
            raise Refused(_too_large(message, self.max_payload))
        now = trio.current_time()
        # A server without a cluster looks at expect_last first, so a message that is sent again
        # with one is refused, though it stands already.
        if message.expect_last is not None and message.expect_last != subject.last:
            raise WrongLast(
                f"the last sequence of {subject_name} is {subject.last}, not {message.expect_last}",
                subject.last,
            )
        known = self._known(message.message_id, now)
        if known is not None:
            return Ack(known, duplicate=True)
        sequence = self.last + 1
        entry = Entry(
            sequence, message.message_id, message.payload, self._now_ns(), message.headers
        )
        self._keep_entry(subject_name, entry)
        self.last = subject.last = sequence
        if self.dedupe_window and message.message_id:
            self._ids[message.message_id] = (sequence, now)
        subject.entries.append(entry)
        for reader in subject.readers:
            reader.wake()
        if self._keep is not None and len(subject.entries) > self._keep + _TRIM_SLACK:
            self._trim(subject, self._keep)
        return Ack(sequence)

    def _keep_entry(self, subject_name: str, entry: Entry) -> None:
        """For streams that outlive the process. Raises Refused."""

    def resume(self, subject_name: str, applied: int, is_ours: Callable[[bytes], bool]) -> None:
        """For a log that lives in the node alone: it goes on where a database's file stands.
        ``is_ours``: is a payload the one that the file has applied last?"""
        self.last = max(self.last, applied)

    def _known(self, message_id: str, now: float) -> int | None:
        if not self.dedupe_window or not message_id:
            return None
        ids = self._ids
        for oldest, (_, at) in list(_prefix(ids)):
            if now - at < self.dedupe_window:
                break
            del ids[oldest]
        known = ids.get(message_id)
        if known is None or now - known[1] >= self.dedupe_window:
            return None
        return known[0]

    def _trim(self, subject: _Subject, keep: int) -> None:
        read = min((r.position for r in subject.readers), default=self.last)
        count = min(
            len(subject.entries) - max(keep, 1),
            bisect_right(subject.entries, read, key=_sequence),
        )
        if count > 0:
            self._drop(subject, count)

    @staticmethod
    def _drop(subject: _Subject, count: int) -> None:
        subject.dropped = subject.entries[count - 1].sequence
        del subject.entries[:count]

    def state(self, subject_name: str) -> LogState:
        subject = self.subject(subject_name)
        return LogState(
            epoch=self.epoch,
            first=self.first,
            last=self.last,
            subject_first=subject.entries[0].sequence if subject.entries else 0,
            subject_last=subject.last,
            max_age=self.max_age,
        )


def _trio_now_ns() -> int:
    return int(trio.current_time() * 1e9)


def _prefix(ids: dict[str, tuple[int, float]]) -> Sequence[tuple[str, tuple[int, float]]]:
    """The oldest few ids: expiry costs a bounded amount for each message."""
    return [item for _, item in zip(range(2), ids.items(), strict=False)]


def _too_large(message: Outgoing, limit: int) -> str:
    return (
        f"message {message.message_id} has {len(message.payload)} bytes, "
        f"more than the {limit} that the broker takes"
    )


class MemoryBroker:
    """One node's connection to a :class:`MemoryStream`. A :class:`ha.log.api.Broker`.

    Use it as an async context manager: acks are delivered from its one task, which is parked
    while there are none. ``connected`` and ``lose_acks`` are for tests: a node cut off, and a
    broker that takes messages whose acks never arrive.
    """

    def __init__(self, stream: MemoryStream, *, node: str = "memory") -> None:
        self.stream = stream
        self.node = node
        self.lose_acks = False
        self._connected = trio.Event()
        self._connected.set()
        self._disconnected = trio.Event()
        self._acks: deque[tuple[AckCallback, int, Ack | LogError]] = deque()
        self._parked = trio.lowlevel.ParkingLot()
        self._nursery_manager = trio.open_nursery()
        self._logs: dict[str, MemoryLog] = {}
        self.catalogue = _MemoryCatalogue(self)

    async def __aenter__(self) -> Self:
        nursery = await self._nursery_manager.__aenter__()
        self._nursery = nursery
        nursery.start_soon(self._deliver_acks)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for durable in self.stream._durables.values():
            if durable.holder is self:
                durable.holder = None
        self._nursery.cancel_scope.cancel()
        # Not told of the error: it goes on as it is, not in a group.
        await self._nursery_manager.__aexit__(None, None, None)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    @connected.setter
    def connected(self, value: bool) -> None:
        if value == self.connected:
            return
        if value:
            self._connected.set()
            self._disconnected = trio.Event()
        else:
            self._connected = trio.Event()
            self._disconnected.set()
            self._acks.clear()
        for log in self._logs.values():
            for reader in self.stream.subject(log.subject).readers:
                reader.wake()

    async def _deliver_acks(self) -> None:
        while True:
            while self._acks:
                on_ack, index, outcome = self._acks.popleft()
                on_ack(index, outcome)
            await self._parked.park()

    def _queue_ack(self, on_ack: AckCallback, index: int, outcome: Ack | LogError) -> None:
        if not self.lose_acks:
            self._acks.append((on_ack, index, outcome))
            self._parked.unpark()

    def keys(self, bucket: str, max_age: float = 0.0) -> KeyValue:
        """A bucket beside the stream; ``max_age`` is not kept to."""
        held = self.stream.buckets.setdefault(bucket, MemoryBucket())
        return MemoryKeys(held, self._reach)

    # --- Broker ---

    async def log(self, database_id: str) -> MemoryLog:
        """Raises NodeNameTaken when another open broker of this node's name holds it."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(database_id)
        if log is not None:
            return log
        name = durable_name(database_id, self.node)
        subject = subject_of(self.stream.name, database_id)
        durable = self.stream._durables.setdefault(name, Durable(database_id, subject))
        if durable.holder is not None and durable.holder is not self:
            raise NodeNameTaken(
                f"another live node named {self.node!r} serves {database_id!r}: "
                "give one of them another --name"
            )
        durable.holder = self
        log = self._logs[database_id] = self._make_log(subject, durable)
        return log

    def _make_log(self, subject: str, durable: Durable) -> MemoryLog:
        return MemoryLog(self, subject, durable)

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.connected:
            raise NotSent("no connection to the log")

    async def release(self, database_id: str) -> bool:
        await self._reach()
        self._logs.pop(database_id, None)
        self.stream._durables.pop(durable_name(database_id, self.node), None)
        return not await self.consumers(database_id)

    async def forget(self, database_id: str) -> None:
        await self._reach()
        self.stream.purge(subject_of(self.stream.name, database_id))
        self.stream._snapshots.pop(database_id, None)

    async def consumers(self, database_id: str) -> list[dict[str, object]]:
        await trio.lowlevel.checkpoint()
        subject = subject_of(self.stream.name, database_id)
        return [
            self._consumer_info(name, durable)
            for name, durable in self.stream._durables.items()
            if durable.subject == subject
        ]

    def _consumer_info(self, name: str, durable: Durable) -> dict[str, object]:
        pending = len(self.stream.subject(durable.subject).after(durable.position))
        floor = {"consumer_seq": durable.position, "stream_seq": durable.position}
        return {
            "stream_name": self.stream.name,
            "name": name,
            "config": {
                "durable_name": name,
                "ack_policy": "explicit",
                "filter_subject": durable.subject,
                "max_ack_pending": 1,
            },
            "delivered": floor,
            "ack_floor": floor,
            "num_pending": pending,
        }

    async def delete_consumer(self, database_id: str, name: str) -> bool:
        await trio.lowlevel.checkpoint()
        durable = self.stream._durables.get(name)
        if durable is None or durable.subject != subject_of(self.stream.name, database_id):
            return False
        del self.stream._durables[name]
        return True

    async def put_snapshot(
        self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        """Raises WrongLast when another snapshot was put meanwhile."""
        before = self.stream._snapshots.get(database_id)
        data = b"".join([chunk async for chunk in chunks])
        if self.stream._snapshots.get(database_id) is not before:
            raise WrongLast(f"another snapshot of {database_id!r} was stored meanwhile")
        self.stream._snapshot_revision += 1
        self.stream._snapshots[database_id] = _Snapshot(
            dict(headers), data, self.stream._snapshot_revision
        )

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None:
        await trio.lowlevel.checkpoint()
        snapshot = self.stream._snapshots.get(database_id)
        return None if snapshot is None else dict(snapshot.headers)

    async def get_snapshot(self, database_id: str) -> AsyncIterator[bytes]:
        """Raises LogError when there is none."""
        await trio.lowlevel.checkpoint()
        snapshot = self.stream._snapshots.get(database_id)
        if snapshot is None:
            raise LogError(f"there is no snapshot of {database_id!r}")
        for start in range(0, len(snapshot.data), 1 << 17):
            yield snapshot.data[start : start + (1 << 17)]


class MemoryLog:
    """A :class:`ha.log.api.Log`."""

    def __init__(self, broker: MemoryBroker, subject: str, durable: Durable) -> None:
        self._broker = broker
        self._stream = broker.stream
        self._subject = subject
        self._durable = durable

    @property
    def subject(self) -> str:
        return self._subject

    @property
    def max_payload(self) -> int:
        return self._stream.max_payload

    @property
    def connected(self) -> bool:
        return self._broker.connected

    @property
    def detached(self) -> bool:
        """Whether an operator has deleted this node's durable consumer."""
        return self._durable not in self._stream._durables.values()

    async def wait_connected(self) -> None:
        await self._broker._connected.wait()

    async def wait_disconnected(self) -> None:
        await self._broker._disconnected.wait()

    def publish(self, messages: Sequence[Outgoing], on_ack: AckCallback) -> None:
        if not self.connected:
            raise NotSent("no connection to the log")
        for message in messages:
            if len(message.payload) > self._stream.max_payload:
                raise Refused(_too_large(message, self._stream.max_payload))
        for index, message in enumerate(messages):
            outcome: Ack | LogError
            try:
                outcome = self._stream.append(self._subject, message)
            except LogError as error:
                outcome = error
            self._broker._queue_ack(on_ack, index, outcome)

    async def publish_one(self, message: Outgoing, timeout: float) -> Ack:
        if not self.connected:
            raise NotSent("no connection to the log")
        ack = self._stream.append(self._subject, message)
        if self._broker.lose_acks:
            await trio.sleep(timeout)
            raise LogError(f"no ack within {timeout:g} s")
        await trio.lowlevel.checkpoint()
        return ack

    @asynccontextmanager
    async def subscribe(self, after: int) -> AsyncIterator[MemorySubscription]:
        await trio.lowlevel.checkpoint()
        subscription = MemorySubscription(self._broker, self._subject, after)
        readers = self._stream.subject(self._subject).readers
        readers.add(subscription)
        try:
            yield subscription
        finally:
            readers.discard(subscription)

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.connected:
            raise LogError("no connection to the log")

    async def state(self) -> LogState:
        await self._reach()
        return self._stream.state(self._subject)

    async def entry(self, sequence: int) -> Entry | None:
        await self._reach()
        entries = self._stream.subject(self._subject).entries
        index = bisect_left(entries, sequence, key=_sequence)
        if index < len(entries) and entries[index].sequence == sequence:
            return entries[index]
        return None

    async def history(self, first: int, last: int | None = None) -> AsyncIterator[Entry]:
        await self._reach()
        end = self._stream.last if last is None else last
        for entry in self._stream.subject(self._subject).after(first - 1):
            if entry.sequence > end:
                return
            yield entry

    async def sequence_at(self, time_ns: int) -> int:
        await self._reach()
        for entry in self._stream.subject(self._subject).entries:
            if entry.time_ns >= time_ns:
                return entry.sequence
        return self._stream.last + 1

    async def now_ns(self) -> int:
        await self._reach()
        return self._stream._now_ns()

    def nothing_until(self, after: int) -> int:
        stream = self._stream
        known = stream.subject(self._subject).dropped <= after
        return max(after, stream.first - 1) if known else after

    async def mark(self, sequence: int) -> None:
        await trio.lowlevel.checkpoint()
        self._durable.position = max(self._durable.position, sequence)


class MemorySubscription:
    """A :class:`ha.log.api.Subscription`. For one reading task."""

    def __init__(self, broker: MemoryBroker, subject: str, after: int) -> None:
        self._broker = broker
        self._stream = broker.stream
        self._epoch = broker.stream.epoch
        self._subject = broker.stream.subject(subject)
        self._parked = trio.lowlevel.ParkingLot()
        self.position = after

    def wake(self) -> None:
        """For the stream: there may be something to read."""
        self._parked.unpark()

    async def receive(self) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint_if_cancelled()
        entries = self.receive_nowait()
        if entries:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not entries:
            await self._parked.park()
            entries = self.receive_nowait()
        return entries

    def receive_nowait(self) -> Sequence[Entry]:
        if not self._broker.connected:
            return []
        stream = self._stream
        if stream.epoch != self._epoch:
            raise LogReset(
                f"the stream {stream.name} was made anew: its epoch is {stream.epoch}, "
                f"not {self._epoch}",
                ResetReason.EPOCH,
                stream.first,
            )
        if stream.last < self.position:
            raise LogReset(
                f"the stream {stream.name} ends at {stream.last}, before {self.position}",
                ResetReason.BEHIND,
                stream.first,
            )
        if self.position and self._subject.dropped > self.position:
            raise LogReset(
                f"messages between {self.position} and {self._subject.dropped} are gone",
                ResetReason.TRUNCATED,
                stream.first,
            )
        entries = self._subject.after(self.position)
        if entries:
            self.position = entries[-1].sequence
        return entries
