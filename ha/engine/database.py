"""One replicated database: its file, its log, its writer, and the sessions on it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self

import apsw
import trio

from ha.core.errors import Code, HaError
from ha.core.policy import ALL, Policy
from ha.engine.committer import CommitOptions, Committer
from ha.engine.history import History
from ha.engine.joining import join
from ha.engine.leadership import Leadership
from ha.engine.mandate import Mandate
from ha.engine.recovery import is_behind, recover
from ha.engine.relay import Relay
from ha.engine.runtime import Limiter, Runtime, SharedLock
from ha.engine.snapshots import SnapshotOptions, Snapshots
from ha.engine.statements import StatementCache
from ha.log.api import Broker, Log, LogError, LogState
from ha.store import control
from ha.store.apply import Applier
from ha.store.connection import Connection
from ha.store.executor import Executor
from ha.store.file import Store
from ha.store.fold import Fold, Interceptor
from ha.store.outbox import Outbox
from ha.store.parse import CONTROL_TABLES
from ha.store.sqlite_errors import from_sqlite

logger = logging.getLogger(__name__)

_SOON = 0.05  # seconds in which what is on its way arrives


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """``patience``: seconds that a statement waits for its place among ``concurrent`` ones;
    ``staleness``: seconds that a reader waits for its ``txseq``; ``from_snapshot``: begin with
    the newest snapshot if that is further on than the file; ``leadership``, ``mandate``:
    None if every node takes writes."""

    commit: CommitOptions
    concurrent: int = 50
    patience: float = 5.0
    staleness: float = 5.0
    standalone: bool = False
    policy: Policy = ALL
    interceptor: Interceptor | None = field(default=None)
    snapshots: SnapshotOptions = field(default_factory=SnapshotOptions)
    from_snapshot: bool = False
    leadership: Leadership | None = field(default=None)
    mandate: Mandate | None = field(default=None)


class Client(Protocol):
    """Who uses a database: its sessions."""

    async def evict(self, error: HaError, *, for_good: bool) -> None: ...


class Database:
    """Open it with :meth:`open`, run :meth:`run` in a nursery, then make sessions."""

    def __init__(
        self,
        database_id: str,
        store: Store,
        log: Log,
        broker: Broker,
        options: DatabaseOptions,
        runtime: Runtime,
    ) -> None:
        self.id = database_id
        self.store = store
        self.log = log
        self.broker = broker
        self.options = options
        self.runtime = runtime
        self.leadership = options.leadership
        self.cache = StatementCache()
        self.limiter = Limiter(options.concurrent, options.patience)
        relay: Relay | None = None
        if options.commit.asynchronous:
            reader = store.connect(reading=True)
            relay = Relay(log, Outbox(store.executor), reader, options.commit.publish_timeout)
        self.relay = relay
        self.fold = self._make_fold()
        self.committer = Committer(
            database_id,
            log,
            Executor(store.executor),
            self.fold,
            options.commit,
            runtime,
            self.cache.clear,
            intercepting=options.interceptor is not None,
            relay=relay,
            mandate=options.mandate,
        )
        self.history = History(log, self._ignored, lambda: self.committer.applied, runtime)
        self.committer.recover = partial(recover, self)
        self.replacing = SharedLock()
        """Shared by those who copy the file, held alone by who replaces it."""
        self.snapshots = Snapshots(self, options.snapshots)
        self.stranded = False
        """It is behind its log, and only another node's snapshot can help."""
        self.caught_up = trio.Event()
        self.closing = False
        self.sessions: Counter[str] = Counter()
        """Open sessions by protocol."""
        self.clients: set[Client] = set()

    def _make_fold(self) -> Fold:
        options = self.options
        return Fold(
            self.store.applier,
            self.log.subject,
            options.commit.identify,
            options.interceptor,
            self.relay.outbox if self.relay is not None else None,
        )

    @classmethod
    async def open(
        cls,
        database_id: str,
        store: Store,
        broker: Broker,
        options: DatabaseOptions,
        runtime: Runtime,
        since_ns: int | None = None,
    ) -> Self:
        """Find the file's place in its log. Raises HaError when it may not follow it.

        ``since_ns``: the broker's time from which a file that knows no place is to follow it.
        """
        try:
            log = await broker.log(database_id)
        except LogError as error:
            raise HaError(Code.UNAVAILABLE, f"the log did not answer in time: {error}") from error
        try:
            control.ensure(store.executor, log.subject)
            joined = await join(
                store,
                database_id,
                options.commit.node,
                broker,
                log,
                runtime,
                timeout=options.commit.publish_timeout,
                standalone=options.standalone,
                policy=options.policy,
                from_snapshot=options.from_snapshot,
                since_ns=since_ns,
            )
            database = cls(database_id, store, log, broker, options, runtime)
            if joined.severed is not None:
                database.committer.sever(joined.severed)
            else:
                database.committer.begin(joined.state)
            return database
        except apsw.Error as error:
            raise from_sqlite(error) from error

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the log until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mark_position)
            nursery.start_soon(self._catch_up)
            nursery.start_soon(self.snapshots.run)
            await self.committer.run(task_status)

    async def _catch_up(self) -> None:
        """The database is ready once it contains what the log held when the node started."""
        if self.committer.severed is None:
            state = await self._state_at_start()
            await self.committer.wait_applied(state.subject_last)
        self.caught_up.set()

    async def _state_at_start(self) -> LogState:
        """What the log held, once the file lacks nothing that it has forgotten."""
        while True:
            try:
                state = await self.log.state()
                while await is_behind(self, state):
                    await self.committer.wait_applied(self.committer.applied + 1)
            except LogError as error:
                logger.info("the log of %s is not in reach: %s", self.id, error)
                await trio.sleep(0.2)
            else:
                return state

    def _ignored(self, first: int) -> frozenset[int]:
        connection = self.store.take_reader()
        try:
            return control.ignored(connection, first)
        except apsw.Error as error:
            raise connection.translated(error) from error
        finally:
            self.store.give_reader(connection)

    async def _mark_position(self) -> None:
        marked = 0
        while True:
            applied = self.committer.applied
            if applied > marked:
                await self.log.mark(applied)
                marked = applied
            await self.committer.wait_applied(marked + 1)

    def not_ready(self) -> str | None:
        """Why the database should get no traffic, None if it should."""
        problem = self.committer.problem
        if problem is not None:
            return f"{problem.message}; {problem.hint}" if problem.hint else problem.message
        if not self.caught_up.is_set():
            return f"catching up with the log, at {self.committer.applied}"
        if not self.log.connected:
            return "the log is not in reach"
        return None

    async def wait_for(self, txseq: int) -> None:
        """Return when the file contains all of its log up to ``txseq``.

        That may be another database's: they share a stream, and a client that writes to one of
        them reads from another. Raises STALE after a bound.
        """
        committer = self.committer
        with trio.move_on_after(self.options.staleness):
            with trio.move_on_after(min(_SOON, self.options.staleness / 2)):
                await committer.wait_applied(txseq)
            if committer.applied < txseq:
                await committer.wait_applied(await self._own_part_of(txseq))
            return
        raise HaError(
            Code.STALE,
            f"the database is at {committer.applied}, not yet at {txseq}",
            hint="try again, or ask another node",
            sequence=committer.applied,
        )

    async def _own_part_of(self, txseq: int) -> int:
        """The sequence up to which this database must be read to be at ``txseq``."""
        while True:
            try:
                state = await self.log.state()
            except LogError:
                await self.log.wait_connected()
                await trio.sleep(_SOON)
                continue
            if txseq > state.last:
                raise HaError(
                    Code.STALE,
                    f"the log ends at {state.last}: {txseq} is of another stream, or was lost",
                    hint="forget the sequence, and read again",
                    sequence=self.committer.applied,
                )
            return min(txseq, state.subject_last)

    def hand_over(self, connection: Connection) -> bool:
        """Let what waits for the log wait in another file, that is to take this one's place: so a
        crash in between loses none of it. True: the log has some of it where it does not count."""
        if self.relay is None:
            return False
        rows = self.relay.outbox.all_rows(self.store.executor)
        with connection.writing():
            applier = Applier(connection.raw, CONTROL_TABLES)
            return Outbox(connection).put_back(connection, rows, applier)

    def reopen(self, misplaced: bool) -> None:
        """Go on with the file that has taken the former one's place; see :meth:`hand_over`."""
        self.cache.clear()
        store, relay = self.store, self.relay
        if relay is not None:
            relay.reopen(Outbox(store.executor), store.connect(reading=True))
        self.fold = self._make_fold()
        self.fold.suffix.misplaced = misplaced
        self.committer.replaced(Executor(store.executor), self.fold)

    async def evict(self, error: HaError, *, for_good: bool) -> None:
        """Take the file from all sessions: see :meth:`ha.engine.session.Session.evict`."""
        async with trio.open_nursery() as nursery:
            for client in tuple(self.clients):
                nursery.start_soon(partial(client.evict, error, for_good=for_good))

    def close(self) -> None:
        """After :meth:`run` has ended and no session is left."""
        if self.relay is not None:
            self.relay.close()
        self.store.close()
