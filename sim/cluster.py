"""A cluster of nodes: processes of the real ``ha`` code that start, die at any point, and start
again from what their disk still holds."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import apsw
import trio

from ha.core.changeset import Identify
from ha.core.errors import HaError
from ha.engine.committer import CommitOptions
from ha.engine.database import Database, DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.elected import Elected, ElectionOptions, bucket_of
from ha.engine.leadership import Role
from ha.engine.runtime import Runtime
from ha.engine.snapshots import SnapshotOptions
from ha.leading import introduce
from ha.log.jetstream import HEADER_ROOM, JetStreamBroker, JetStreamOptions
from ha.log.js_api import split_headers
from ha.store.file import Store, StoreOptions
from sim.broker import Server
from sim.content import digest, read_content
from sim.disk import Disk, Mount, memory_folder
from sim.history import Call, History, Probe
from sim.network import Link, Timeline
from sim.plan import Plan
from sim.world import EPOCH_NS, World, actor

T = TypeVar("T")
DATABASE = "ha.db"
_A_DAY = 86_400.0
STOP_BOUND = 30.0
"""Seconds after which whoever runs the node kills it, if it does not stop by itself."""


class Gone(Exception):
    """The node died under the client, which will never hear what became of its call."""


class Broken(Exception):
    """A promise was broken while the run went on; the text says which, in words."""


class Process:
    """One life of a node. ``dead``: it has crashed; whatever it still does has no effect."""

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.label = f"{node.name}#{number}"
        cluster = node.cluster
        self.chance: random.Random = cluster.world.chance(f"process {self.label}")
        self.mount: Mount = node.disk.mount(node.now_ns)
        self.link: Link = cluster.server.connect(
            node.name, cluster.world.chance(f"link {self.label}"), cluster.link_faults
        )
        node.connect(self.link)
        self.databases: Databases | None = None
        self.ready = trio.Event()
        self.shutdown = trio.Event()
        self.ended = trio.Event()
        self.publishing = trio.Event()
        """Set when it publishes next; whoever aims at that makes a new one."""
        self.era = -1
        """How often the broker had lost messages when this file was known to follow the log."""
        self.dead = False
        self.crashed = False
        self._scope = trio.CancelScope()
        self._calls: dict[int, trio.CancelScope] = {}
        self._call_count = 0
        self._countdown: dict[str, int] = {}
        self._power = False

    @property
    def database(self) -> Database:
        assert self.databases is not None
        return self.databases.get(DATABASE)

    @property
    def serving(self) -> bool:
        """Clients can reach it."""
        return self.databases is not None and self.ready.is_set() and not self.dead

    @property
    def leads(self) -> bool:
        """It says that it is the leader."""
        leadership = None if self.databases is None else self.databases.leadership
        return leadership is not None and leadership.role is Role.LEADER

    # --- life ------------------------------------------------------------------------

    async def run(self) -> None:
        """From its start to its end. Never raises but what breaks a promise."""
        actor.set(self.node.name)
        try:
            with self._scope:
                await self._serve()
        except HaError as error:
            self._note("ended", str(error))
        except BaseExceptionGroup as group:
            ended, rest = group.split(trio.Cancelled)
            if rest is not None:
                self._judge_end(rest)
            if ended is not None:
                raise ended from None
        except apsw.Error as error:
            self._judge_end(error)
        finally:
            self.dead = True
            self._abort_calls()
            self.link.kill()
            self.ended.set()

    async def _serve(self) -> None:
        node, plan = self.node, self.node.cluster.plan
        runtime = Runtime(node.now_ns, self.chance, self._run_in_thread)
        options = DatabaseOptions(
            commit=CommitOptions(
                node=node.name,
                publish_timeout=plan.publish_timeout,
                transaction_hold=plan.hold,
                batch_units=plan.batch_units,
                identify=Identify(plan.identify),
                asynchronous=node.name in plan.asynchronous,
            ),
            snapshots=SnapshotOptions(interval=plan.snapshot_interval),
            from_snapshot=plan.from_snapshot,
        )
        async with self._broker() as broker:
            lead = self._leadership(broker)
            options = replace(options, leadership=lead, mandate=lead)
            # No database is made at run time here: what only that needs is not simulated.
            databases = Databases(broker, options, runtime, stream=node.cluster.server.name)
            self._probe_at_start()
            store = self._open_store()
            self.mount.on_write = lambda _: self.tick("write")
            try:
                async with trio.open_nursery() as nursery:
                    await databases.open(DATABASE, store, nursery)
                    self.databases = databases
                    if lead is not None:
                        introduce(lead, databases)
                        await nursery.start(lead.run)
                    if self.database.committer.severed is None:
                        self.era = len(node.cluster.server.losses)
                    self.ready.set()
                    node.cluster.tell_news()
                    self._note("serves", f"at {self.database.committer.applied}")
                    await self.shutdown.wait()
                    with trio.move_on_after(STOP_BOUND):
                        await databases.stop()
                        if lead is not None:
                            await lead.resign()
                        self._note("stopped")
                    nursery.cancel_scope.cancel()
            finally:
                self.dead = True
                self._abort_calls()
                if self.databases is not None:
                    databases.close()
                else:
                    store.close()

    def _broker(self) -> JetStreamBroker:
        """The product's own, but that its connection goes through the simulated network."""
        server = self.node.cluster.server
        options = JetStreamOptions(
            server.urls,
            self.node.name,
            stream=server.name,
            replicas=3 if server.clustered else 1,
            max_age=self.node.cluster.plan.max_age or _A_DAY,
        )
        chance = self.node.cluster.world.chance(f"tokens {self.label}")
        return JetStreamBroker(options, rng=chance, dialer=server.dialer(self.link, self._on_io))

    def _leadership(self, broker: JetStreamBroker) -> Elected | None:
        """What nodes with ``--leader-addr`` have; nothing is sent on to the leader here."""
        cluster, name = self.node.cluster, self.node.name
        lease = cluster.plan.lease
        if not lease:
            return None
        options = ElectionOptions(name, f"{name}:80", lease=lease, renew=lease / 4)
        return Elected(broker.keys(bucket_of(cluster.server.name)), options, self.chance)

    def _probe_at_start(self) -> None:
        """What the former process left, before this one touches it. A copy is looked at: who
        opens and closes the file itself would move its WAL into it."""
        path = self.mount.path(DATABASE)
        if not os.path.exists(path):
            return
        cluster = self.node.cluster
        with tempfile.TemporaryDirectory(prefix="sim-probe-", dir=memory_folder()) as folder:
            for suffix in ("", "-wal"):
                if os.path.exists(path + suffix):
                    shutil.copy(path + suffix, os.path.join(folder, DATABASE + suffix))
            copy = os.path.join(folder, DATABASE)
            cluster.history.probes.append(probe_file(copy, self.label, cluster.world.clock.now))

    def _open_store(self) -> Store:
        plan = self.node.cluster.plan
        options = StoreOptions(
            synchronous=plan.synchronous,
            pragmas=(("foreign_keys", "ON"), ("wal_autocheckpoint", str(plan.checkpoint))),
            vfs=self.mount.vfs_name,
        )
        return Store.open(self.mount.path(DATABASE), options)

    async def _run_in_thread(self, work: Callable[[], Any]) -> Any:
        """Where the product takes a worker thread: the others go on before and after it."""
        await trio.sleep(self.chance.choice((0.0, 0.0, 0.001, 0.02)))
        try:
            return work()
        finally:
            await trio.sleep(self.chance.choice((0.0, 0.0, 0.001, 0.02)))

    def _judge_end(self, error: BaseException) -> None:
        """An error that ended the process by itself."""
        if self.crashed:
            return
        causes = list(_leaves(error))
        if all(isinstance(e, HaError) for e in causes):
            self._note("ended", "; ".join(map(str, causes)))
            return
        raise Broken(f"the node {self.label} died of {causes!r}") from error

    def say(self, kind: str, text: str = "") -> None:
        """Into the time line."""
        self._note(kind, text)

    def _note(self, kind: str, text: str = "") -> None:
        self.node.cluster.world.trace.event(self.node.name, kind, f"{self.label} {text}")

    # --- death -----------------------------------------------------------------------

    def crash(self, *, power: bool = False) -> None:
        """First its network and its disk are cut from the world, then its tasks are cancelled."""
        if self.dead:
            return
        self.dead = self.crashed = True
        self.link.kill(power=power)
        in_memory = self.node.cluster.plan.synchronous == "OFF"
        self.mount.freeze(power=power, lost=in_memory)
        if in_memory or (power and self.node.cluster.plan.synchronous == "NORMAL"):
            self.node.lost_something()
        self._note("crashed", "with its power" if power else "")
        self._scope.cancel()
        self._abort_calls()

    def crash_after(self, what: str, count: int, *, power: bool) -> None:
        """Die at the ``count``-th write, log event (``io``) or scheduling ``step`` from now."""
        self._countdown[what] = count
        self._power = power
        if what == "step":
            self.node.cluster.world.trace.on_step = lambda _: self.tick("step")

    def _on_io(self, what: str, text: str, headers: bytes) -> bool:
        """A message goes, or comes: the process may die there."""
        if self.link.dead:
            return False
        if what == "publish":
            message_id, _ = split_headers(headers)
            self._trace_message("publish", message_id, message_id)
            if not self.publishing.is_set():
                self.publishing.set()
        elif what == "deliver":
            message_id, _ = split_headers(headers)
            self._trace_message("deliver", text.split(".")[5], message_id)
        elif what == "ack":
            self._trace_message("ack", text)
        self.tick("io")
        return not self.link.dead

    def _trace_message(self, kind: str, text: str, key: str = "") -> None:
        self.node.cluster.world.trace.event(self.node.name, kind, text, key)

    def tick(self, what: str) -> None:
        left = self._countdown.get(what)
        if left is None:
            return
        self._countdown[what] = left - 1
        if left <= 1:
            del self._countdown[what]
            self.crash(power=self._power)

    def disarm(self) -> None:
        """It will not die of an old order."""
        self._countdown.clear()

    @property
    def busy(self) -> bool:
        """Has a client's call, or a batch, under way."""
        return bool(self._calls)

    # --- clients ---------------------------------------------------------------------

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """What a client asks of this process. Raises Gone when it dies before it answers."""
        if not self.serving:
            raise Gone
        self._call_count += 1
        number = self._call_count
        result: list[T] = []
        with trio.CancelScope() as scope:
            self._calls[number] = scope
            try:
                result.append(await work())
            except HaError:
                if self.dead:
                    raise Gone from None
                raise
            finally:
                del self._calls[number]
        self.pay()
        if self.dead or not result:
            raise Gone
        return result[0]

    def pay(self) -> None:
        """Writes to a slow disk took time in which the process did not look at its network."""
        if self.mount.cost:
            self.link.stall(self.mount.cost)
            self.mount.cost = 0.0

    def _abort_calls(self) -> None:
        for scope in list(self._calls.values()):
            scope.cancel()

    # --- looking at it ---------------------------------------------------------------

    def probe(self) -> Probe:
        """Look at the file as another program would."""
        return probe_file(self.mount.path(DATABASE), self.label, self.node.cluster.world.clock.now)


def probe_file(path: str, label: str, now: float) -> Probe:
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
    try:
        db.execute("BEGIN")
        sequence = 0
        waiting: tuple[bytes, ...] = ()
        letters: tuple[tuple[int, str, bytes], ...] = ()
        found = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ha_ignored'").fetchall()
        if found:  # the last table that is made
            sequence = db.execute("SELECT max(received_seq) FROM ha_stats").get or 0
            rows = db.execute("SELECT payload FROM ha_outbox ORDER BY position")
            waiting = tuple(row[0] for row in rows)
            kept: Any = db.execute("SELECT sequence, state, message FROM ha_dead_letters")
            letters = tuple((int(s), str(state), bytes(message)) for s, state, message in kept)
        content = read_content(db)
        return Probe(now, label, int(sequence), digest(content), content, waiting, letters)
    finally:
        db.close(True)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


class Node:
    """A machine: a name, a disk, a clock, a place in the network, and the process on it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        world = cluster.world
        self.disk = Disk(name, world.chance(f"disk {name}"), world.trace)
        self.clock_offset = cluster.plan.skew.get(name, 0.0)
        self.drift = cluster.plan.drift.get(name, 0.0)
        self.process: Process | None = None
        self.restart_delay = 0.5
        self.cut_up = False
        self.cut_down = False
        self._lives = 0

    def now_ns(self) -> int:
        now = self.cluster.world.clock.now * (1 + self.drift) + self.clock_offset
        return EPOCH_NS + int(now * 1e9)

    def connect(self, link: Link) -> None:
        """A new process's connection goes through the same cables."""
        if self.cut_up or self.cut_down:
            link.block(up=self.cut_up, down=self.cut_down)

    def cut(self, *, up: bool, down: bool) -> None:
        self.cut_up, self.cut_down = self.cut_up or up, self.cut_down or down
        if self.process is not None:
            self.process.link.block(up=up, down=down)

    def heal(self) -> None:
        self.cut_up = self.cut_down = False
        if self.process is not None:
            self.process.link.unblock()

    def lost_something(self) -> None:
        """Of what was given to the disk, the next process may not find all."""
        losses = self.cluster.history.losses.setdefault(self.name, [])
        losses.append(self.cluster.world.clock.now)

    async def live(self) -> None:
        """Start processes, one after the other, until cancelled."""
        while True:
            self._lives += 1
            try:
                process = self.process = Process(self, self._lives)
                await process.run()
            finally:
                self.process = None
            delay, self.restart_delay = self.restart_delay, 0.5
            await trio.sleep(delay)


class Cluster:
    """All nodes, their broker, and what clients saw of them."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.timeline = Timeline()
        self.server = Server(
            self.timeline,
            world.chance("server"),
            world.trace,
            durable=plan.durable_broker,
            clustered=plan.clustered_broker,
            dedupe_window=plan.dedupe_window,
            max_message=None if plan.max_payload >= 1 << 20 else plan.max_payload + HEADER_ROOM,
            max_payload=(1 << 20) + HEADER_ROOM,
            max_age=plan.max_age,
            version=plan.nats_version,
            clock=lambda: world.clock.now,
        )
        self.history = History()
        self.nodes = {name: Node(self, name) for name in plan.names}
        self.link_faults = replace(plan.link)
        self.sessions = 0
        self.open_calls: dict[int, Call] = {}
        """What clients wait for at present."""
        self.news = trio.Event()
        self.poisoned: list[int] = []
        """Where messages were put into the log that no rule takes."""
        self.strikes = 0
        """Faults that came about."""
        self.hits = 0
        """Those that struck something in flight."""
        self.out_of_faults = False
        self.active = 0
        """Clients that are still at it."""

    def tell_news(self) -> None:
        """For who waits for a node that serves."""
        self.news.set()
        self.news = trio.Event()

    def serving(self) -> list[Process]:
        return [
            n.process for n in self.nodes.values() if n.process is not None and n.process.serving
        ]

    def writer(self, name: str) -> Process | None:
        """Who takes writes on behalf of a node: the leader, if they elect one, else itself."""
        if not self.plan.lease:
            return self.process(name)
        return next((p for p in self.serving() if p.leads), None)

    @property
    def struck(self) -> int:
        """Faults, and messages touched by one, that struck something under way."""
        return self.hits + self.server.struck

    @property
    def wants_hits(self) -> bool:
        """More faults are called for, and there is something that they can strike."""
        return self.active > 0 and self.struck < self.plan.hits

    @property
    def wants_operations(self) -> bool:
        """The clients are to go on, though they have done what they were to do."""
        if self.struck < self.plan.hits and not self.out_of_faults:
            return True
        return self.history.acknowledged < self.plan.operations

    def process(self, name: str) -> Process | None:
        return self.nodes[name].process

    def destroy(self) -> None:
        for node in self.nodes.values():
            node.disk.destroy()


class QuietLogs(logging.Handler):
    """The product's log records, as events of the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.trace.event(actor.get(), "says", record.getMessage())
