"""A simulated JetStream, and a client of it that stands where :mod:`ha.log.jetstream` stands.

:class:`Server` is the stream: its messages, dedupe window, consumers and objects, and what can
go wrong with them. :class:`SimBroker` is one process's client: a :class:`ha.log.api.Broker`
on a :class:`~sim.network.Link`. With its faults off it answers as JetStream does: the
conformance suite runs it beside the real one.
"""

from __future__ import annotations

import random
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import trio

from ha.core.naming import DEFAULT_STREAM, durable_name, subject_of
from ha.log.api import (
    Ack,
    AckCallback,
    Entry,
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
from sim.keys import Bucket, SimKeys
from sim.network import Link, LinkFaults, Timeline
from sim.trace import Trace
from sim.world import EPOCH_NS

T = TypeVar("T")

CHUNK = 1 << 17


@dataclass(slots=True)
class BrokerFaults:
    """Rates are chances a message. Times in seconds.

    ``refuse``: the broker has no room; ``drop``: it loses a publish without a word; ``lose_ack``
    and ``late_ack`` concern the PubAck alone; ``stall``: a consumer stands still for a while;
    ``repeat``: a consumer delivers again what it had delivered; ``replay``: a publish arrives
    once more, up to ``replay_delay`` seconds later, beyond the dedupe window too.
    """

    refuse: float = 0.0
    drop: float = 0.0
    lose_ack: float = 0.0
    late_ack: float = 0.0
    late_ack_delay: float = 5.0
    stall: float = 0.0
    stall_delay: float = 2.0
    repeat: float = 0.0
    replay: float = 0.0
    replay_delay: float = 60.0

    def clear(self) -> None:
        self.refuse = self.drop = self.lose_ack = self.late_ack = 0.0
        self.stall = self.repeat = self.replay = 0.0


@dataclass(slots=True)
class _Snapshot:
    headers: dict[str, str]
    data: bytes


@dataclass(slots=True)
class _Durable:
    database_id: str
    subject: str
    position: int = 0
    holder: Link | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A power failure of the broker: what it had stored after ``kept`` is gone.

    ``lost``: the entries of all subjects. ``resumed``: how many messages had ever been stored.
    """

    kept: int
    lost: tuple[tuple[str, Entry], ...]


@dataclass(slots=True)
class _Subject:
    entries: list[Entry] = field(default_factory=list)
    dropped: int = 0
    consumers: list[SimSubscription] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.entries[-1].sequence if self.entries else 0

    def after(self, sequence: int) -> list[Entry]:
        return self.entries[bisect_right(self.entries, sequence, key=_sequence) :]


def _sequence(entry: Entry) -> int:
    return entry.sequence


class Server:
    """One stream. ``durable``: it syncs before each ack (``--durability full``); else every
    ``sync_interval`` seconds, and a power failure takes what came after. ``clustered``: it has
    replicas, and asks for a message's id before its expected last sequence."""

    def __init__(
        self,
        timeline: Timeline,
        chance: random.Random,
        trace: Trace,
        *,
        name: str = DEFAULT_STREAM,
        epoch: str = "epoch-1",
        durable: bool = True,
        clustered: bool = False,
        sync_interval: float = 30.0,
        dedupe_window: float = 120.0,
        max_payload: int = 8 * 1024 * 1024 - 4096,
        max_age: float | None = None,
    ) -> None:
        self.timeline = timeline
        self.chance = chance
        self.trace = trace
        self.faults = BrokerFaults()
        self.name = name
        self.epoch = epoch
        self.durable = durable
        self.clustered = clustered
        self.sync_interval = sync_interval
        self.dedupe_window = dedupe_window
        self.max_payload = max_payload
        self.max_age = max_age
        self.last = 0
        self.first_held = 1
        self.up = True
        self.leader = True
        self.clock_offset = 0.0
        self.censor: Callable[[Outgoing], str] | None = None
        """For scripts: says ``drop`` or ``refuse`` of a message that is to go so."""
        self.losses: list[Loss] = []
        self.failures = 0
        """Of its power: what was under way to it then, and in it, is gone."""
        self.stored: list[tuple[str, Entry]] = []
        """Every message ever stored since the last loss or creation, in order, expired ones too."""
        self._synced = 0
        self._subjects: dict[str, _Subject] = {}
        self._ids: dict[str, tuple[int, float]] = {}
        self.durables: dict[str, _Durable] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self.buckets: dict[str, Bucket] = {}
        self.words: list[tuple[str, bytes]] = []
        """All that was said in the catalogue, in order."""
        self.links: list[Link] = []
        self.struck = 0
        """Messages, acks and deliveries that a fault has met."""

    def connect(self, name: str, chance: random.Random, faults: LinkFaults) -> Link:
        """A new process's connection."""
        link = Link(name, self.timeline, chance, faults, self.trace, lambda: self.up)
        if not self.up:
            link.break_off("the broker is down")
        self.links = [x for x in self.links if not x.dead] + [link]
        return link

    def subject(self, name: str) -> _Subject:
        return self._subjects.setdefault(name, _Subject())

    # --- what clients ask ------------------------------------------------------------

    def publish(
        self,
        subject: str,
        message: Outgoing,
        reply: Callable[[Ack | LogError], None],
        failures: int = 0,
    ) -> None:
        """A message has arrived. ``reply`` may never be called; ``failures``: how many there had
        been when it was sent."""
        faults, chance = self.faults, self.chance
        if not self.up or failures != self.failures:
            return
        if not self.leader:
            if chance.random() < 0.5:
                reply(NotSent("no responders: the stream has no leader"))
            return
        said = self.censor(message) if self.censor is not None else ""
        if said == "drop" or (faults.drop and chance.random() < faults.drop):
            self.struck += 1
            self.trace.event("log", "dropped", message.message_id, message.message_id)
            return
        if said == "refuse" or (faults.refuse and chance.random() < faults.refuse):
            self.struck += 1
            self.trace.event("log", "refused", message.message_id, message.message_id)
            reply(Refused("the broker has no room"))
            return
        if faults.replay and chance.random() < faults.replay:
            self.struck += 1
            delay = chance.uniform(0, faults.replay_delay)
            self.timeline.after(delay, lambda: self._arrive_again(subject, message, failures))
        try:
            outcome: Ack | LogError = self.append(subject, message)
        except LogError as error:
            outcome = error
        if faults.lose_ack and chance.random() < faults.lose_ack:
            self.struck += 1
            self.trace.event("log", "ack lost", message.message_id)
            return
        if faults.late_ack and chance.random() < faults.late_ack:
            self.struck += 1
            delay = chance.expovariate(1 / faults.late_ack_delay)
            self.timeline.after(delay, lambda: reply(outcome))
            return
        reply(outcome)

    def _arrive_again(self, subject: str, message: Outgoing, failures: int) -> None:
        if self.up and self.leader and failures == self.failures:
            with suppress(LogError):
                self.append(subject, message)

    def append(self, subject_name: str, message: Outgoing) -> Ack:
        """Raises Refused or WrongLast."""
        subject = self.subject(subject_name)
        if len(message.payload) > self.max_payload:
            raise Refused(_too_large(message, self.max_payload))
        now = trio.current_time()
        wrong = message.expect_last is not None and message.expect_last != subject.last
        known = self._ids.get(message.message_id) if message.message_id else None
        if known is not None and now - known[1] >= self.dedupe_window:
            known = None
        if wrong and (known is None or not self.clustered):
            raise WrongLast(
                f"the last sequence of {subject_name} is {subject.last}, not {message.expect_last}",
                subject.last,
            )
        if known is not None:
            self.trace.event("log", "duplicate", message.message_id, message.message_id)
            return Ack(known[0], duplicate=True)
        self.last = sequence = self.last + 1
        if message.message_id:
            self._ids[message.message_id] = (sequence, now)
        entry = Entry(
            sequence, message.message_id, message.payload, self.now_ns, dict(message.headers)
        )
        subject.entries.append(entry)
        self.stored.append((subject_name, entry))
        if self.durable:
            self._synced = sequence
        self.trace.add(str(zlib.crc32(message.payload)))
        self.trace.event("log", "stored", f"{sequence} {message.message_id}", message.message_id)
        for consumer in subject.consumers:
            self.pump(consumer)
        return Ack(sequence)

    def state(self, subject_name: str) -> LogState:
        subject = self.subject(subject_name)
        return LogState(
            epoch=self.epoch,
            first=self.first_held if self.last else 0,
            last=self.last,
            subject_first=subject.entries[0].sequence if subject.entries else 0,
            subject_last=subject.last,
            max_age=self.max_age or 0.0,
        )

    def entry(self, subject_name: str, sequence: int) -> Entry | None:
        entries = self.subject(subject_name).entries
        index = bisect_left(entries, sequence, key=_sequence)
        if index < len(entries) and entries[index].sequence == sequence:
            return entries[index]
        return None

    # --- consumers -------------------------------------------------------------------

    def consume(self, consumer: SimSubscription, after: int) -> None:
        """A client wants the messages after a position. Nothing is said while there is no
        leader: it asks again."""
        if not self.up or not self.leader:
            return
        subject = self.subject(consumer.subject)
        reset = self._reset(subject, consumer, after)
        if reset is not None:
            consumer.link.to_client(lambda: consumer.broken(reset))
            return
        if consumer not in subject.consumers:
            subject.consumers.append(consumer)
        consumer.sent = after
        consumer.generation = consumer.link.generation
        asked = consumer.asked
        consumer.link.to_client(lambda: consumer.confirmed(asked))
        self.pump(consumer)

    def _reset(self, subject: _Subject, consumer: SimSubscription, after: int) -> LogReset | None:
        if consumer.epoch is None:
            consumer.epoch = self.epoch
        first = self.first_held if self.last else 0
        if consumer.epoch != self.epoch:
            return LogReset(
                f"the stream {self.name} was made anew: its epoch is {self.epoch},"
                f" not {consumer.epoch}",
                ResetReason.EPOCH,
                first,
            )
        if self.last < after:
            return LogReset(
                f"the stream {self.name} ends at {self.last}, before {after}",
                ResetReason.BEHIND,
                first,
            )
        if subject.dropped > after > 0:
            return LogReset(
                f"messages between {after} and {subject.dropped} are gone",
                ResetReason.TRUNCATED,
                first,
            )
        return None

    def pump(self, consumer: SimSubscription) -> None:
        """Send what it has not been sent."""
        link = consumer.link
        if consumer.generation != link.generation or consumer.stalled or not self.leader:
            return
        faults, chance = self.faults, self.chance
        if faults.stall and chance.random() < faults.stall:
            consumer.stalled = True
            self.struck += 1

            def go_on() -> None:
                consumer.stalled = False
                if self.up:
                    self.pump(consumer)

            self.timeline.after(chance.expovariate(1 / faults.stall_delay), go_on)
            return
        subject = self.subject(consumer.subject)
        after = consumer.sent
        if faults.repeat and chance.random() < faults.repeat:
            after = max(consumer.start, after - chance.randint(1, 3))
        entries = subject.after(after)
        if entries:
            consumer.sent = entries[-1].sequence
            link.to_client(lambda: consumer.arrive(entries), consumer.generation)

    def forget(self, consumer: SimSubscription) -> None:
        subject = self.subject(consumer.subject)
        if consumer in subject.consumers:
            subject.consumers.remove(consumer)

    # --- what goes wrong -------------------------------------------------------------

    def stop(self) -> None:
        """The process of the broker ends; what it has stored stays."""
        self.up = False
        self.trace.event("log", "stopped")
        for subject in self._subjects.values():
            subject.consumers.clear()
        for link in self.links:
            link.break_off("the broker went away")

    def sync(self) -> None:
        """No power failure takes what it holds now."""
        self._synced = self.last

    def start(self) -> None:
        self.up = True
        self.trace.event("log", "started")

    def power_failure(self) -> Loss | None:
        """Stops it, and takes what it had not synced.

        A snapshot that holds lost messages is lost too, or not: objects are in another stream.
        """
        self.stop()
        self.failures += 1
        if self._synced >= self.last:
            return None
        for database_id, snapshot in list(self._snapshots.items()):
            beyond = int(snapshot.headers.get("seq", "0")) > self._synced
            if beyond and self.chance.random() < 0.5:
                del self._snapshots[database_id]
        lost = tuple(x for x in self.stored if x[1].sequence > self._synced)
        self.stored = [x for x in self.stored if x[1].sequence <= self._synced]
        for subject in self._subjects.values():
            del subject.entries[bisect_right(subject.entries, self._synced, key=_sequence) :]
        self._ids = {i: x for i, x in self._ids.items() if x[0] <= self._synced}
        self.last = self._synced
        loss = Loss(self.last, lost)
        self.losses.append(loss)
        self.trace.event("log", "lost", f"{len(lost)} messages after {self.last}")
        return loss

    def lose_leader(self) -> None:
        self.leader = False
        self.trace.event("log", "leader lost")
        for subject in self._subjects.values():
            subject.consumers.clear()

    def elect_leader(self, clock_offset: float = 0.0) -> None:
        self.leader = True
        self.clock_offset += clock_offset
        self.trace.event("log", "leader elected")
        for link in self.links:
            for work in list(link.on_leader):
                work()

    def recreate(self, epoch: str) -> None:
        """An operator deletes the stream, and a node makes it anew."""
        self.epoch = epoch
        self.last = self._synced = 0
        self.first_held = 1
        self.stored.clear()
        self._ids.clear()
        self.durables.clear()
        self.words.clear()
        for subject in self._subjects.values():
            subject.entries.clear()
            subject.dropped = 0
            subject.consumers.clear()
        for link in self.links:
            for work in list(link.on_leader):
                work()

    def drop_before(self, sequence: int) -> None:
        """Let go of all messages before ``sequence``, as max_age and purge do."""
        self.first_held = max(self.first_held, min(sequence, self.last + 1))
        for subject in self._subjects.values():
            gone = bisect_left(subject.entries, sequence, key=_sequence)
            if gone:
                subject.dropped = subject.entries[gone - 1].sequence
                del subject.entries[:gone]
                for consumer in list(subject.consumers):
                    if consumer.sent < subject.dropped:
                        self.forget(consumer)
                        self.consume(consumer, consumer.sent)

    def purge(self, subject_name: str) -> None:
        """Let go of a whole log."""
        subject = self.subject(subject_name)
        if subject.entries:
            subject.dropped = subject.entries[-1].sequence
            subject.entries.clear()
        self._forget_held()

    def _forget_held(self) -> None:
        held = [s.entries[0].sequence for s in self._subjects.values() if s.entries]
        self.first_held = max(self.first_held, min(held, default=self.last + 1))

    def words_after(self, place: int) -> list[bytes]:
        """What was said after a place and is still the last word under its key."""
        last = {key: i for i, (key, _) in enumerate(self.words)}
        return [w for i, (key, w) in enumerate(self.words) if i >= place and last[key] == i]

    @property
    def now_ns(self) -> int:
        """The broker's clock."""
        return EPOCH_NS + int((trio.current_time() + self.clock_offset) * 1e9)

    async def keep_house(self) -> None:
        """Sync, and let old messages go, from time to time."""
        synced = trio.current_time()
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            if self.up and not self.durable and now - synced >= self.sync_interval:
                synced = now
                self.sync()
            if self.max_age is not None and self.up:
                limit = EPOCH_NS + int((now + self.clock_offset - self.max_age) * 1e9)
                held = [s.entries[0] for s in self._subjects.values() if s.entries]
                if any(e.time_ns < limit for e in held):
                    keep = [e.sequence for _, e in self.stored if e.time_ns >= limit]
                    self.drop_before(keep[0] if keep else self.last + 1)


def _too_large(message: Outgoing, limit: int) -> str:
    return (
        f"message {message.message_id} has {len(message.payload)} bytes, "
        f"more than the {limit} that the broker takes"
    )


class SimBroker:
    """The client of one process. A :class:`ha.log.api.Broker`.

    ``on_io`` is called with a word at every publish, ack and delivery: the process may die
    there.
    """

    def __init__(self, server: Server, link: Link, node: str, *, timeout: float = 5.0) -> None:
        self.server = server
        self.link = link
        self.node = node
        self.timeout = timeout
        self.on_io: Callable[[str], None] | None = None
        self._logs: dict[str, SimLog] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for durable in self.server.durables.values():
            if durable.holder is self.link:
                durable.holder = None
        self.link.kill()

    def io(self, what: str) -> bool:
        """False if the process died of it."""
        if self.on_io is not None and not self.link.dead:
            self.on_io(what)
        return not self.link.dead

    async def request(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Let the server do ``work``, and bring its answer or its LogError."""
        await trio.lowlevel.checkpoint()
        link = self.link
        if not link.connected or not self.io("request"):
            raise NotSent("no connection to the log")
        answer: list[T] = []
        failure: list[LogError] = []
        done = trio.Event()
        generation = link.generation

        def fail(problem: LogError) -> None:
            failure.append(problem)
            done.set()

        def succeed(result: T) -> None:
            answer.append(result)
            done.set()

        def serve() -> None:
            if not self.server.up or not self.server.leader:
                return
            try:
                result = work()
            except LogError as error:
                problem = error
                link.to_client(lambda: fail(problem), generation)
            else:
                link.to_client(lambda: succeed(result), generation)

        link.to_server(serve)
        with trio.move_on_after(self.timeout if timeout is None else timeout):
            await done.wait()
        if failure:
            raise failure[0]
        if not answer:
            raise LogError("the log did not answer in time")
        return answer[0]

    # --- Broker ---

    async def log(self, database_id: str) -> SimLog:
        log = self._logs.get(database_id)
        if log is not None:
            return log
        name = durable_name(database_id, self.node)
        subject = subject_of(self.server.name, database_id)

        def hold() -> _Durable:
            durable = self.server.durables.setdefault(name, _Durable(database_id, subject))
            holder = durable.holder
            if holder is not None and holder is not self.link and not holder.dead:
                raise _Taken
            durable.holder = self.link
            return durable

        while True:
            try:
                durable = await self.request(hold)
            except _Taken:
                raise NodeNameTaken(
                    f"another live node named {self.node!r} serves {database_id!r}: "
                    "give one of them another --name"
                ) from None
            except LogError:
                await trio.sleep(0.5)
            else:
                break
        log = self._logs[database_id] = SimLog(self, subject, durable)
        return log

    def keys(self, bucket: str, max_age: float = 0.0) -> SimKeys:
        """``max_age`` is not simulated: what ha decides by keys never rests on it."""
        server = self.server
        if bucket not in server.buckets:
            server.buckets[bucket] = Bucket(lambda text: server.trace.event("log", "lease", text))
        return SimKeys(self, server.buckets[bucket])

    @property
    def catalogue(self) -> SimCatalogue:
        return SimCatalogue(self)

    async def release(self, database_id: str) -> bool:
        name = durable_name(database_id, self.node)

        def release() -> bool:
            self.server.durables.pop(name, None)
            subject = subject_of(self.server.name, database_id)
            return not any(d.subject == subject for d in self.server.durables.values())

        self._logs.pop(database_id, None)
        return await self.request(release)

    async def forget(self, database_id: str) -> None:
        def forget() -> None:
            self.server.purge(subject_of(self.server.name, database_id))
            self.server._snapshots.pop(database_id, None)

        await self.request(forget)

    async def consumers(self, database_id: str) -> list[dict[str, object]]:
        subject = subject_of(self.server.name, database_id)

        def look() -> list[dict[str, object]]:
            return [
                self._consumer_info(name, durable)
                for name, durable in self.server.durables.items()
                if durable.subject == subject
            ]

        return await self.request(look)

    def _consumer_info(self, name: str, durable: _Durable) -> dict[str, object]:
        pending = len(self.server.subject(durable.subject).after(durable.position))
        floor = {"consumer_seq": durable.position, "stream_seq": durable.position}
        return {
            "stream_name": self.server.name,
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
        def delete() -> bool:
            durable = self.server.durables.get(name)
            if durable is None or durable.subject != subject_of(self.server.name, database_id):
                return False
            del self.server.durables[name]
            return True

        return await self.request(delete)

    async def put_snapshot(
        self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        """Raises WrongLast when another snapshot was put meanwhile."""
        snapshots = self.server._snapshots
        before = await self.request(lambda: snapshots.get(database_id))
        data = bytearray()
        async for chunk in chunks:
            await self.request(lambda: None)
            data += chunk

        def put() -> None:
            if snapshots.get(database_id) is not before:
                raise WrongLast(f"another snapshot of {database_id!r} was stored meanwhile")
            snapshots[database_id] = _Snapshot(dict(headers), bytes(data))
            self.server.trace.event("log", "snapshot", headers.get("seq", ""))

        await self.request(put)

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None:
        snapshot = await self.request(lambda: self.server._snapshots.get(database_id))
        return None if snapshot is None else dict(snapshot.headers)

    async def get_snapshot(self, database_id: str) -> AsyncIterator[bytes]:
        """Raises LogError when there is none."""
        snapshot = await self.request(lambda: self.server._snapshots.get(database_id))
        if snapshot is None:
            raise LogError(f"there is no snapshot of {database_id!r}")
        for start in range(0, len(snapshot.data), CHUNK):
            yield await self.request(partial(_slice, snapshot.data, start))


def _slice(data: bytes, start: int) -> bytes:
    return data[start : start + CHUNK]


class SimCatalogue:
    """A :class:`ha.log.api.Catalogue`."""

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker

    async def put(self, key: str, word: bytes) -> None:
        await self._broker.request(lambda: self._broker.server.words.append((key, word)))

    async def read(self) -> list[bytes]:
        return await self._broker.request(lambda: self._broker.server.words_after(0))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[SimWatch]:
        await trio.lowlevel.checkpoint()
        yield SimWatch(self._broker)


class SimWatch:
    """Asks again and again: nobody is in a hurry to hear of another database."""

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker
        self._place = 0

    async def receive(self) -> Sequence[bytes]:
        server = self._broker.server

        def look() -> tuple[int, list[bytes]]:
            return len(server.words), server.words_after(self._place)

        while True:
            try:
                place, words = await self._broker.request(look)
            except LogError:
                await trio.sleep(0.5)
                continue
            self._place = place
            if words:
                return words
            await trio.sleep(0.05)


class _Taken(LogError):
    """Another process has the name."""


class SimLog:
    """A :class:`ha.log.api.Log`."""

    def __init__(self, broker: SimBroker, subject: str, durable: _Durable) -> None:
        self._broker = broker
        self._server = broker.server
        self._link = broker.link
        self._subject = subject
        self._durable = durable

    @property
    def subject(self) -> str:
        return self._subject

    @property
    def max_payload(self) -> int:
        return self._server.max_payload

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def detached(self) -> bool:
        return self._durable not in self._server.durables.values()

    async def wait_connected(self) -> None:
        await self._link.wait_connected()

    async def wait_disconnected(self) -> None:
        await self._link.wait_disconnected()

    def publish(self, messages: Sequence[Outgoing], on_ack: AckCallback) -> None:
        link, server = self._link, self._server
        if not link.connected:
            raise NotSent("no connection to the log")
        for message in messages:
            if len(message.payload) > server.max_payload:
                raise Refused(_too_large(message, server.max_payload))
        generation = link.generation
        for index, message in enumerate(messages):
            if not self._broker.io("publish"):
                return
            server.trace.event(self._broker.node, "publish", message.message_id, message.message_id)
            reply = partial(self._reply, on_ack, index, generation)
            link.to_server(partial(server.publish, self._subject, message, reply, server.failures))

    def _reply(
        self, on_ack: AckCallback, index: int, generation: int, outcome: Ack | LogError
    ) -> None:
        def arrive() -> None:
            if self._broker.io("ack"):
                self._server.trace.event(self._broker.node, "ack", repr(outcome))
                on_ack(index, outcome)

        self._link.to_client(arrive, generation)

    async def publish_one(self, message: Outgoing, timeout: float) -> Ack:
        if len(message.payload) > self._server.max_payload:
            raise Refused(_too_large(message, self._server.max_payload))
        answer: list[Ack | LogError] = []
        done = trio.Event()

        def on_ack(_: int, outcome: Ack | LogError) -> None:
            answer.append(outcome)
            done.set()

        self.publish([message], on_ack)
        with trio.move_on_after(timeout):
            await done.wait()
        if not answer:
            raise LogError(f"no ack within {timeout:g} s")
        outcome = answer[0]
        if isinstance(outcome, LogError):
            raise outcome
        return outcome

    @asynccontextmanager
    async def subscribe(self, after: int) -> AsyncIterator[SimSubscription]:
        await trio.lowlevel.checkpoint()
        subscription = SimSubscription(self._broker, self._subject, after)
        subscription.ask()
        try:
            yield subscription
        finally:
            subscription.close()

    async def state(self) -> LogState:
        return await self._broker.request(lambda: self._server.state(self._subject))

    async def entry(self, sequence: int) -> Entry | None:
        return await self._broker.request(lambda: self._server.entry(self._subject, sequence))

    async def history(self, first: int, last: int | None = None) -> AsyncIterator[Entry]:
        end = (await self.state()).last if last is None else last
        position = first - 1
        while True:
            found = await self._broker.request(
                partial(self._server.subject(self._subject).after, position)
            )
            for entry in found[:100]:
                if entry.sequence > end:
                    return
                yield entry
                position = entry.sequence
            if len(found) <= 100:
                return

    async def sequence_at(self, time_ns: int) -> int:
        def look() -> int:
            for entry in self._server.subject(self._subject).entries:
                if entry.time_ns >= time_ns:
                    return entry.sequence
            return self._server.last + 1

        return await self._broker.request(look)

    async def now_ns(self) -> int:
        return await self._broker.request(lambda: self._server.now_ns)

    async def mark(self, sequence: int) -> None:
        await trio.lowlevel.checkpoint()

        def note() -> None:
            self._durable.position = max(self._durable.position, sequence)

        self._link.to_server(note)


_ASK_AGAIN = 5.0


class SimSubscription:
    """A :class:`ha.log.api.Subscription`: an ordered consumer, made anew when it fails.

    ``sent``, ``stalled`` and ``generation`` belong to the server's side of it.
    """

    def __init__(self, broker: SimBroker, subject: str, after: int) -> None:
        self.subject = subject
        self.link = broker.link
        self.epoch: str | None = None
        self.start = after
        self.sent = after
        self.stalled = False
        self.generation = -1
        self._broker = broker
        self._position = after
        self._arrived: list[Entry] = []
        self._reset: LogReset | None = None
        self._parked = trio.lowlevel.ParkingLot()
        self._open = True
        self.asked = 0
        self.link.on_connect.append(self.ask)
        self.link.on_leader.append(self.ask)

    def ask(self) -> None:
        """Make the consumer, from where the last message was received."""
        if not self._open or self.link.dead or self._reset is not None:
            return
        self.asked += 1
        asked = self.asked
        server = self._broker.server
        self.generation = -1
        self.link.to_server(
            lambda: server.consume(self, self._position) if asked == self.asked else None
        )
        server.timeline.after(_ASK_AGAIN, lambda: self._ask_again(asked))

    def _ask_again(self, asked: int) -> None:
        if asked == self.asked and self.link.connected:
            self.ask()

    def confirmed(self, asked: int) -> None:
        """Unless it has asked again since: that question makes another consumer."""
        if asked == self.asked:
            self.asked += 1

    def broken(self, reset: LogReset) -> None:
        self._reset = reset
        self._parked.unpark_all()

    def arrive(self, entries: list[Entry]) -> None:
        if not self._open or not self._broker.io("deliver"):
            return
        if not self._broker.server.faults.repeat:
            entries = [e for e in entries if e.sequence > self._position]
            if not entries:
                return
        self._arrived.extend(entries)
        self._position = max(self._position, entries[-1].sequence)
        node = self._broker.node
        for entry in entries:
            self._broker.server.trace.event(node, "deliver", str(entry.sequence), entry.message_id)
        self._parked.unpark_all()

    def close(self) -> None:
        self._open = False
        self._broker.server.forget(self)
        self.link.on_connect.remove(self.ask)
        self.link.on_leader.remove(self.ask)

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
        if self._arrived:
            entries, self._arrived = self._arrived, []
            return entries
        if self._reset is not None:
            raise self._reset
        return []
