"""One replicated database: its file, its log, its writer, and the sessions on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self

import trio

from ha.core.errors import Code, HaError
from ha.core.policy import ALL, Policy
from ha.engine.committer import CommitOptions, Committer
from ha.engine.history import History
from ha.engine.joining import join
from ha.engine.relay import Relay
from ha.engine.runtime import Limiter, Runtime
from ha.engine.statements import StatementCache
from ha.log.api import Broker, Log
from ha.store import control
from ha.store.executor import Executor
from ha.store.file import Store
from ha.store.fold import Fold, Interceptor
from ha.store.outbox import Outbox


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """``patience``: seconds that a statement waits for its place among ``concurrent`` ones;
    ``staleness``: seconds that a reader waits for its ``txseq``."""

    commit: CommitOptions
    concurrent: int = 50
    patience: float = 5.0
    staleness: float = 5.0
    standalone: bool = False
    policy: Policy = ALL
    interceptor: Interceptor | None = field(default=None)


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
        self.cache = StatementCache()
        self.limiter = Limiter(options.concurrent, options.patience)
        relay: Relay | None = None
        if options.commit.asynchronous:
            reader = store.connect(reading=True)
            relay = Relay(log, Outbox(store.executor), reader, options.commit.publish_timeout)
        self.relay = relay
        self.fold = Fold(
            store.applier,
            log.subject,
            options.commit.identify,
            options.interceptor,
            relay.outbox if relay is not None else None,
        )
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
        )
        self.history = History(log, self._ignored, lambda: self.committer.applied, runtime)
        self.caught_up = trio.Event()
        self.closing = False
        self.sessions: Counter[str] = Counter()
        """Open sessions by protocol."""
        self.clients: set[Client] = set()

    @classmethod
    async def open(
        cls,
        database_id: str,
        store: Store,
        broker: Broker,
        options: DatabaseOptions,
        runtime: Runtime,
    ) -> Self:
        """Find the file's place in its log. Raises HaError when it may not follow it."""
        log = await broker.log(database_id)
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
        )
        database = cls(database_id, store, log, broker, options, runtime)
        if joined.severed is not None:
            database.committer.sever(joined.severed)
        return database

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the log until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mark_position)
            nursery.start_soon(self._catch_up)
            await self.committer.run(task_status)

    async def _catch_up(self) -> None:
        """The database is ready once it contains what the log held when the node started."""
        if self.committer.severed is None:
            state = await self.log.state()
            await self.committer.wait_applied(state.subject_last)
        self.caught_up.set()

    def _ignored(self, first: int) -> frozenset[int]:
        connection = self.store.take_reader()
        try:
            return control.ignored(connection, first)
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
        if self.committer.problem is not None:
            return self.committer.problem.message
        if not self.caught_up.is_set():
            return f"catching up with the log, at {self.committer.applied}"
        if not self.log.connected:
            return "the log is not in reach"
        return None

    async def wait_for(self, txseq: int) -> None:
        """Return when the file contains ``txseq``. Raises STALE after a bound."""
        if txseq <= self.committer.applied:
            return
        with trio.move_on_after(self.options.staleness):
            await self.committer.wait_applied(txseq)
            return
        raise HaError(
            Code.STALE,
            f"the database is at {self.committer.applied}, not yet at {txseq}",
            hint="try again, or ask another node",
            sequence=self.committer.applied,
        )

    async def evict(self, error: HaError, *, for_good: bool) -> None:
        """Take the file from all sessions: see :meth:`ha.engine.session.Session.evict`."""
        async with trio.open_nursery() as nursery:
            for client in tuple(self.clients):
                nursery.start_soon(partial(client.evict, error, for_good=for_good))

    def close(self) -> None:
        """After :meth:`run` has ended and no session is left."""
        self.store.close()
