"""The broker of a run: a simulated NATS server, or three of them, and what can go wrong with it.

With its faults off it answers as ``nats-server`` does: one conformance suite compares the two.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from ha.core.naming import DEFAULT_STREAM
from ha.log.api import Entry, Outgoing
from ha.log.js_api import ID_HEADER, split_headers
from ha.log.nats_wire import encode_headers
from sim.ageing import told_up_to
from sim.nats.consumer import Consumer
from sim.nats.core import Core
from sim.nats.errors import ApiError
from sim.nats.jetstream import JetStream
from sim.nats.stream import DEFAULTS, Message, Stream
from sim.nats.wire import SimDialer, Watcher
from sim.network import Link, LinkFaults, Timeline
from sim.trace import Trace
from sim.world import EPOCH_NS

SERVERS = ("s1", "s2", "s3")
_ADMINISTRATION = 0.05
"""Seconds that a new consumer takes in a cluster, on average."""
_STORE_FAILED = 10077
_REFUSALS = (
    (10023, "insufficient resources"),
    (_STORE_FAILED, "error opening msg block file"),
    (10008, "JetStream system temporarily unavailable"),
)
"""What is said of a message that was not stored; after the second it may be there all the same."""


@dataclass(slots=True)
class BrokerFaults:
    """Rates are chances a message. Times in seconds.

    ``refuse``: the broker cannot store it; ``drop``: it loses a publish, or a request, without a
    word; ``lose_ack``
    and ``late_ack`` concern its answers, PubAcks above all; ``stall``: a consumer stands still for
    a while; ``repeat``: it delivers a message twice; ``gap``: one of its messages is lost on the
    way; ``replay``: a publish arrives once more, up to ``replay_delay`` seconds later, beyond the
    dedupe window too.
    """

    refuse: float = 0.0
    drop: float = 0.0
    lose_ack: float = 0.0
    late_ack: float = 0.0
    late_ack_delay: float = 5.0
    stall: float = 0.0
    stall_delay: float = 2.0
    repeat: float = 0.0
    gap: float = 0.0
    replay: float = 0.0
    replay_delay: float = 60.0

    def clear(self) -> None:
        self.refuse = self.drop = self.lose_ack = self.late_ack = 0.0
        self.stall = self.repeat = self.gap = self.replay = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """A power failure of the broker: what it had stored after ``kept`` is gone, none of which it
    had synced.

    ``lost``: the entries of all subjects; ``at``: virtual seconds.
    """

    at: float
    kept: int
    lost: tuple[tuple[str, Entry], ...]


class Server:
    """``name``: of the nodes' stream. ``durable``: it syncs before each ack (``--durability
    full``); else every ``sync_interval`` seconds, and a power failure takes what came after.
    ``clustered``: there are three, s1 to s3, of which one leads each stream; a consumer without
    replicas lives on one of them, and reads the copy there. ``max_message``: bytes that a message
    of the nodes' stream may have; that is then there before the first node comes, as one that
    another program has made. It keeps a message for ``max_age`` seconds, 0 for ever; and longer as
    long as nothing else in the broker tells of it (:mod:`sim.ageing`).
    ``version``: that it says it has. ``clock``: seconds.
    """

    def __init__(
        self,
        timeline: Timeline,
        chance: random.Random,
        trace: Trace,
        *,
        name: str = DEFAULT_STREAM,
        durable: bool = True,
        clustered: bool = False,
        sync_interval: float = 30.0,
        dedupe_window: float = 120.0,
        max_message: int | None = None,
        max_payload: int = 8 * 1024 * 1024,
        max_age: float = 0.0,
        version: str = "2.15.1",
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.time = clock
        self.timeline = timeline
        self.chance = chance
        self.trace = trace
        self.faults = BrokerFaults()
        self.name = name
        self.durable = durable
        self.clustered = clustered
        self.sync_interval = sync_interval
        self.version = version
        self.up = True
        self.leader = True
        self.clock_offset = 0.0
        self.losses: list[Loss] = []
        self.failures = 0
        """Of its power: what was under way to it then, and in it, is gone."""
        self.stored: list[tuple[str, Entry]] = []
        """Every message that the nodes' stream ever stored, but for what it has lost since."""
        self.struck = 0
        """Messages, acks and deliveries that a fault has met."""
        self.links: list[Link] = []
        self.censor: Callable[[str], str] | None = None
        """For scripts: says ``drop`` or ``refuse`` of a message to the nodes' stream, by its id,
        that is to go so."""
        self.core = Core(chance, max_payload=max_payload)
        self.core.take = self._take
        self.core.found_interest = self._found_interest
        self.js = JetStream(
            self.core,
            self,
            respond=self._respond,
            version=version,
            alive=lambda: [s for s in SERVERS if s not in self._dead] if clustered else ["s1"],
            new_name=lambda: f"{chance.getrandbits(32):08x}",
            clustered=clustered,
        )
        self._clients = 0
        self._proposed: list[Callable[[], None]] = []
        """What came while nobody led."""
        self._synced = 0
        self._images: dict[str, tuple[int, int, Any]] = {}
        """What the other streams held when they were synced last."""
        self._dead: set[str] = set()
        self._copies: dict[str, dict[str, int]] = {}
        """Of servers that are behind: how far their copy of each stream goes."""
        if max_message is not None or dedupe_window != 120.0 or max_age:
            config = {
                **DEFAULTS,
                "name": name,
                "subjects": [name, f"{name}.>"],
                "allow_direct": True,
                "num_replicas": 3 if clustered else 1,
                "max_msg_size": -1 if max_message is None else max_message,
                "max_age": int(max_age * 1e9),
                "duplicate_window": int(min(dedupe_window, max_age or dedupe_window) * 1e9),
                "metadata": {},
            }
            stream = self.js.create(config)
            stream.may_age = lambda sequence: sequence <= told_up_to(self.js, name)

    # --- connections -----------------------------------------------------------------

    def connect(self, name: str, chance: random.Random, faults: LinkFaults) -> Link:
        """A new process's cable."""
        link = Link(name, self.timeline, chance, faults, self.trace, self._takes_calls)
        self.links = [x for x in self.links if not x.dead] + [link]
        return link

    def _takes_calls(self, host: str) -> bool:
        return self.up and host not in self._dead

    @property
    def urls(self) -> str:
        """As nodes are told them."""
        return ",".join(f"nats://{s}:4222" for s in (SERVERS if self.clustered else SERVERS[:1]))

    def dialer(self, link: Link, watch: Watcher | None = None) -> SimDialer:
        if watch is None:
            return SimDialer(self.core, link, self._info)
        return SimDialer(self.core, link, self._info, watch)

    def _info(self, host: str) -> dict[str, Any]:
        self._clients += 1
        info: dict[str, Any] = {
            "server_id": host,
            "server_name": host,
            "version": self.version,
            "proto": 1,
            "host": host,
            "port": 4222,
            "client_id": self._clients,
            "headers": True,
            "jetstream": True,
            "max_payload": self.core.max_payload,
        }
        if self.clustered:
            info["cluster"] = "sim"
            info["connect_urls"] = [f"{s}:4222" for s in SERVERS if s not in self._dead]
        return info

    # --- what clients ask ------------------------------------------------------------

    def _take(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        if subject.startswith("$JS."):
            return self._request(subject, reply, headers, payload)
        if subject.startswith("_"):
            return False
        stream = self.js.stream_for(subject)
        if stream is None:
            return False
        if not self.leader:
            heard = self.chance.random() < 0.5
            if heard:
                self._proposed.append(
                    partial(self._publish, stream, subject, reply, headers, payload)
                )
            return heard
        self._publish(stream, subject, reply, headers, payload)
        return True

    def _request(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """Of JetStream's own subjects. Without a leader nobody answers."""
        faults, chance = self.faults, self.chance
        if not self.leader and not subject.startswith("$JS.FC."):
            return True
        if faults.drop and chance.random() < faults.drop:
            self.struck += 1
            return True
        if self.clustered and subject.startswith("$JS.API.CONSUMER.CREATE."):
            # It goes through the leader of the cluster's own administration.
            failures = self.failures

            def serve() -> None:
                if self.up and self.leader and failures == self.failures:
                    self.js.request(subject, reply, headers, payload)

            self.after(chance.expovariate(1 / _ADMINISTRATION), serve)
            return True
        return self.js.request(subject, reply, headers, payload)

    def _publish(
        self, stream: Stream, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        faults, chance = self.faults, self.chance
        message_id, _ = split_headers(headers)
        said = ""
        if self.censor is not None and stream.name == self.name:
            said = self.censor(message_id)
        if said == "drop" or (faults.drop and chance.random() < faults.drop):
            self.struck += 1
            self.trace.event("log", "dropped", message_id, message_id)
            return
        if said == "refuse" or (faults.refuse and chance.random() < faults.refuse):
            self.struck += 1
            self.trace.event("log", "refused", message_id, message_id)
            refusal = _REFUSALS[0] if said else chance.choice(_REFUSALS)
            if refusal[0] == _STORE_FAILED and chance.random() < 0.5:
                with suppress(ApiError):  # it failed on one server, and not on the others
                    self._store(stream, subject, headers, payload)
            self._reply(reply, _failed(stream, ApiError(503, *refusal)))
            return
        if faults.replay and chance.random() < faults.replay:
            self.struck += 1
            failures = self.failures
            self.after(
                chance.uniform(0, faults.replay_delay),
                lambda: self._arrive_again(stream, subject, headers, payload, failures),
            )
        try:
            answer = self._store(stream, subject, headers, payload)
        except ApiError as error:
            answer = _failed(stream, error)
        if not stream.config.get("no_ack"):
            self._respond(reply, answer, message_id)

    def _respond(self, reply: str, answer: bytes, about: str = "") -> None:
        """An answer, which may be lost, or late. ``about``: the message that it acknowledges."""
        faults, chance = self.faults, self.chance
        if faults.lose_ack and chance.random() < faults.lose_ack:
            self.struck += 1
            self.trace.event("log", "ack lost" if about else "answer lost", about)
            return
        if faults.late_ack and chance.random() < faults.late_ack:
            self.struck += 1
            delay = chance.expovariate(1 / faults.late_ack_delay)
            self.after(delay, lambda: self._reply(reply, answer))
            return
        self._reply(reply, answer)

    def _reply(self, reply: str, answer: bytes) -> None:
        if reply and self.up:
            self.core.route(reply, "", b"", answer)

    def _arrive_again(
        self, stream: Stream, subject: str, headers: bytes, payload: bytes, failures: int
    ) -> None:
        there = self.js.streams.get(stream.name) is stream
        if self.up and self.leader and failures == self.failures and there:
            with suppress(ApiError):
                self._store(stream, subject, headers, payload)

    def _store(self, stream: Stream, subject: str, headers: bytes, payload: bytes) -> bytes:
        """The ack. Raises ApiError."""
        result = stream.store(subject, headers, payload)
        message_id, words = split_headers(headers)
        if result.duplicate:
            self.trace.event("log", "duplicate", message_id, message_id)
            return b'{"stream":"%b","seq":%d,"duplicate": true}' % (
                stream.name.encode(),
                result.sequence,
            )
        self.trace.add(str(zlib.crc32(payload)))
        if stream.name == self.name:
            entry = Entry(result.sequence, message_id, payload, stream.last_ns, words)
            self.stored.append((subject, entry))
            if self.durable:
                self._synced = result.sequence
            text = f"{result.sequence} {message_id}"
            self.trace.event("log", "stored", text, message_id)
        elif subject.endswith("_LEADER.leader"):
            self.trace.event("log", "lease", f"{result.sequence} {payload.decode()}")
        elif subject.startswith("$O.") and ".M." in subject:
            self.trace.event("log", "snapshot", str(result.sequence))
        return b'{"stream":"%b","seq":%d}' % (stream.name.encode(), result.sequence)

    # --- how consumers reach their clients (sim.nats.consumer.Post) ------------------

    def interest(self, subject: str, *, exact: bool = False) -> bool:
        return self.core.interest(subject, exact=exact)

    def send(self, subject: str, reply: str, headers: bytes, payload: bytes, to: str) -> None:
        if self.up:
            self.core.route(subject, reply, headers, payload, to)

    def after(self, delay: float, work: Callable[[], None]) -> None:
        self.timeline.after(delay, work)

    def now_ns(self) -> int:
        """The broker's clock."""
        return EPOCH_NS + int((self.time() + self.clock_offset) * 1e9)

    def delivers(self, consumer: Consumer) -> str:
        faults, chance = self.faults, self.chance
        if not self.up:
            return "stall"
        if faults.stall and chance.random() < faults.stall:
            self.struck += 1

            def go_on() -> None:
                consumer.stalled = False
                consumer.pump()

            self.after(chance.expovariate(1 / faults.stall_delay), go_on)
            return "stall"
        if not consumer.is_push:
            return ""
        if faults.repeat and chance.random() < faults.repeat:
            self.struck += 1
            return "repeat"
        if faults.gap and chance.random() < faults.gap:
            self.struck += 1
            return "gap"
        return ""

    def sees(self, consumer: Consumer) -> int:
        copies = self._copies.get(consumer.server)
        if copies is None or consumer.durable:
            return -1
        return copies.get(consumer.stream.name, -1)

    def ended(self, consumer: Consumer) -> None:
        self.js.forget(consumer)

    def _found_interest(self, subject: str) -> None:
        for consumers in self.js.consumers.values():
            for consumer in list(consumers.values()):
                if consumer.is_push and consumer.config["deliver_subject"] == subject:
                    consumer.pump()

    # --- the nodes' stream, for those who judge --------------------------------------

    @property
    def stream(self) -> Stream | None:
        return self.js.streams.get(self.name)

    @property
    def last(self) -> int:
        return 0 if self.stream is None else self.stream.last

    def entry(self, subject: str, sequence: int) -> Entry | None:
        message = None if self.stream is None else self.stream.get(sequence)
        return _entry(message) if message is not None and message.subject == subject else None

    def append(self, subject: str, message: Outgoing) -> int:
        """Somebody who is no node writes; the sequence. Raises ApiError."""
        assert self.stream is not None
        headers = encode_headers({**message.headers, ID_HEADER: message.message_id})
        self._store(self.stream, subject, headers, message.payload)
        return self.last

    # --- what goes wrong -------------------------------------------------------------

    def stop(self) -> None:
        """The process of the broker ends; what it has stored in files stays."""
        self.up = False
        self._proposed.clear()
        self.trace.event("log", "stopped")
        self._copies.clear()
        for peer in list(self.core.peers):
            self.core.leave(peer)
        for link in self.links:
            link.break_off("the broker went away")
        self._end_consumers("")
        for name, stream in list(self.js.streams.items()):
            if stream.config["storage"] == "memory":
                self.js.delete(name)
        for consumers in self.js.consumers.values():
            for consumer in consumers.values():
                consumer.restart()

    def _end_consumers(self, server: str) -> None:
        """Those that live in the memory of a server, or of all."""
        for consumers in self.js.consumers.values():
            for consumer in list(consumers.values()):
                if consumer.config.get("mem_storage") and (not server or consumer.server == server):
                    consumer.delete("")
                    self.js.forget(consumer)

    def start(self) -> None:
        self.up = True
        self._dead.clear()
        self.trace.event("log", "started")

    def sync(self) -> None:
        """No power failure takes what it holds now."""
        self._synced = self.last
        self._images = {n: s.image() for n, s in self.js.streams.items() if n != self.name}

    def power_failure(self) -> Loss | None:
        """Stops it, and takes what it had not synced, or the end of that: some of it may have
        reached the disk by itself. With the other streams it is as with this one, or not."""
        self.stop()
        self.failures += 1
        if not self.durable:
            for name, stream in self.js.streams.items():
                if name != self.name and self.chance.random() < 0.5:
                    stream.restore(self._images.get(name, (0, 0, {})))
        nodes = self.stream
        if nodes is None or self._synced >= nodes.last:
            return None
        kept = self._synced
        if self.chance.random() < 0.5:
            kept = self.chance.randint(kept, nodes.last - 1)
        lost = tuple(x for x in self.stored if x[1].sequence > kept)
        self.stored = [x for x in self.stored if x[1].sequence <= kept]
        self._synced = kept
        nodes.truncate(kept)
        for consumer in self.js.consumers[self.name].values():
            consumer.truncate(kept)
        loss = Loss(self.time(), kept, lost)
        self.losses.append(loss)
        self.trace.event("log", "lost", f"{len(lost)} messages after {kept}")
        return loss

    def lose_leader(self) -> None:
        """Nobody leads the streams any more; the consumers in the memory of who did are gone."""
        self.leader = False
        self.trace.event("log", "leader lost")
        self._end_consumers(self._leading if self.clustered else "")

    @property
    def _leading(self) -> str:
        return self.js.leaders.get(self.name, SERVERS[0])

    def elect_leader(self, clock_offset: float = 0.0) -> None:
        """Unless too few are there. Each stream whose leader is not is given another one."""
        alive = [s for s in SERVERS if s not in self._dead]
        if len(alive) < 2:
            return
        for name, leader in self.js.leaders.items():
            if self.clustered and (leader in self._dead or name == self.name):
                self.js.leaders[name] = self.chance.choice([s for s in alive if s != leader])
        self.leader = True
        self.clock_offset += clock_offset
        self.trace.event("log", "leader elected")
        # Of what the former leader had proposed, the new one may commit the beginning.
        proposed, self._proposed = self._proposed, []
        for store in proposed[: self.chance.randint(0, len(proposed))]:
            store()

    def lose_server(self, host: str) -> None:
        """One of three is gone, with its connections and what lived in its memory."""
        self._dead.add(host)
        self.trace.event("log", "server lost", host)
        for peer in [p for p in self.core.peers if p.host == host]:
            self.core.leave(peer)
        for link in self.links:
            if link.host == host:
                link.break_off("the server went away")
        self._end_consumers(host)
        if self.leader and (host in self.js.leaders.values() or len(self._dead) > 1):
            self.lose_leader()

    def bring_back(self, host: str) -> None:
        if host in self._dead:
            self._dead.discard(host)
            self.trace.event("log", "server back", host)

    def lag(self, server: str) -> None:
        """From now on the copies there stand still, and what reads them."""
        self._copies[server] = {name: stream.last for name, stream in self.js.streams.items()}
        self.trace.event("log", "lags", server)

    def catch_up(self, server: str) -> None:
        if self._copies.pop(server, None) is not None:
            self.trace.event("log", "caught up", server)
            for name in self.js.streams:
                self.js.pump(name)

    async def keep_house(self) -> None:
        """Sync from time to time."""
        while True:
            await trio.sleep(self.sync_interval)
            if self.up and not self.durable:
                self.sync()


def _failed(stream: Stream, error: ApiError) -> bytes:
    answer = {"error": error.json, "stream": stream.name, "seq": 0}
    return json.dumps(answer, separators=(",", ":")).encode()


def _entry(message: Message) -> Entry:
    message_id, words = split_headers(message.headers)
    return Entry(message.sequence, message_id, message.payload, message.time_ns, words)
