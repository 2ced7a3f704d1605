"""The databases of a node: each open, running, and found by its id; made and dropped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import apsw
import trio

from ha.core.dsn import parse_dsn
from ha.core.errors import Code, HaError
from ha.core.naming import same_id, subject_of
from ha.engine.announcements import Announced, read_announced
from ha.engine.commands import find_command
from ha.engine.database import Database, DatabaseOptions
from ha.engine.forwarding import Cluster
from ha.engine.joining import LOCAL_EPOCH
from ha.engine.place import Place, parameters_of
from ha.engine.routing import RoutedSession
from ha.engine.runtime import Runtime
from ha.engine.session import Session
from ha.engine.shards import find_cross_shard
from ha.log.api import Broker, LogError
from ha.log.memory import MemoryBroker
from ha.store import control
from ha.store.file import Store

logger = logging.getLogger(__name__)
_DROP_PATIENCE = 10.0
"""Seconds that writes under way may take before a database is dropped."""
_RETRY = 5.0


@dataclass(slots=True)
class _Running:
    database: Database
    scope: trio.CancelScope
    ended: trio.Event


class Databases:
    """Implements :class:`ha.engine.api.Sessions`. The first database opened is the default.

    ``place``: where databases are made at run time; ``follow``: those that other nodes announce
    are made (and dropped) here too.
    """

    def __init__(
        self,
        broker: Broker,
        options: DatabaseOptions,
        runtime: Runtime,
        *,
        stream: str,
        place: Place | None = None,
        follow: bool = True,
    ) -> None:
        self.broker = broker
        self.leadership = options.leadership
        self.cluster: Cluster | None = None
        """In leader mode, how sessions reach the leader; set before the first of them."""
        self._options = options
        self._runtime = runtime
        self._stream = stream
        self._place = place
        self._follow = follow
        self._running: dict[str, _Running] = {}
        self._nursery: trio.Nursery | None = None
        self._changing = trio.Lock()

    # --- opening ---------------------------------------------------------------------

    async def open(
        self,
        database_id: str,
        store: Store,
        nursery: trio.Nursery,
        since_ns: int | None = None,
    ) -> Database:
        """Open and run a database in ``nursery``. Raises HaError when its name is taken.

        ``since_ns``: see :meth:`ha.engine.database.Database.open`.
        """
        self._check_free(database_id)
        if isinstance(self.broker, MemoryBroker) and self._options.standalone:
            self._resume_local(self.broker, database_id, store)
        database = await Database.open(
            database_id, store, self.broker, self._options, self._runtime, since_ns
        )
        self._nursery = nursery
        running = _Running(database, trio.CancelScope(), trio.Event())
        try:
            await nursery.start(self._run, running)
        except BaseException:
            database.close()
            raise
        self._running[database_id] = running
        return database

    async def _run(
        self, running: _Running, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            with running.scope:
                await running.database.run(task_status)
        finally:
            running.ended.set()

    def _check_free(self, database_id: str) -> None:
        for other in self._running:
            if same_id(other, database_id):
                raise HaError(Code.ALREADY_EXISTS, f"a database {other!r} is served already")
            if subject_of(self._stream, other) == subject_of(self._stream, database_id):
                raise HaError(
                    Code.ALREADY_EXISTS,
                    f"the names {other!r} and {database_id!r} would share one log:"
                    f" both are {subject_of(self._stream, other)!r} in NATS",
                    hint="rename one of them",
                )

    def _resume_local(self, broker: MemoryBroker, database_id: str, store: Store) -> None:
        """A log that lives in the node alone goes on where the file stands."""
        control.ensure(store.executor, subject_of(self._stream, database_id))
        subject = subject_of(self._stream, database_id)
        position = control.position(store.executor, subject)
        applied = position.applied if position.epoch == LOCAL_EPOCH else 0
        broker.stream.resume(
            subject, applied, lambda payload: control.digest_of(payload) == position.digest
        )

    # --- a folder of databases -------------------------------------------------------

    async def open_all(self, nursery: trio.Nursery) -> None:
        """Open what the folder holds, but for what was dropped while the node was down."""
        self._nursery = nursery
        if self._place is None:
            return
        announced = await self._announced()
        for dsn in self._place.files():
            if any(_same_file(r.database.store.path, dsn.path) for r in self._running.values()):
                continue
            store = self._place.open_store(dsn)
            last = announced.get(dsn.database_id)
            if self._follow and last is not None and last.is_gone(_uuid_of(store)):
                logger.warning(
                    "%s was dropped on %s: its files are removed", dsn.database_id, last.node
                )
                store.delete()
                self._place.forget(dsn.path)
                continue
            try:
                database = await self.open(dsn.database_id, store, nursery)
            except BaseException:
                store.close()
                raise
            if last is None or not last.exists:
                nursery.start_soon(self._announce_later, database, "")

    async def _announced(self) -> dict[str, Announced]:
        if self._options.standalone:
            return {}
        try:
            return {a.database_id: a for a in read_announced(await self.broker.catalogue.read())}
        except LogError as error:
            logger.warning("the catalogue of databases cannot be read: %s", error)
            return {}

    # --- making ----------------------------------------------------------------------

    async def create(self, text: str, request_id: str = "") -> Database:
        """Make a database, and tell the other nodes. ``request_id``: a follower's name for that.
        Raises HaError."""
        async with self._changing:
            database = await self._create(text)
            parameters = parameters_of(text)
            try:
                # One that joins an existing log learns its identity from there.
                with trio.move_on_after(self._options.commit.publish_timeout):
                    await database.caught_up.wait()
                announced = await self._last_word(database.id)
                await self._announce(database, announced, parameters, request_id)
            except trio.Cancelled:
                # It is there, so the others must hear of it, though nobody waits any more.
                assert self._nursery is not None
                self._nursery.start_soon(self._announce_later, database, parameters, request_id)
                raise
            return database

    async def has_carried_out(self, name: str, request_ids: Collection[str]) -> bool:
        """Was one of these requests to make or drop the database carried out, by whichever node?
        Raises HaError when the catalogue does not answer."""
        database_id = parse_dsn(name).database_id
        try:
            words = read_announced(await self.broker.catalogue.read())
        except LogError as error:
            raise _unreachable(error) from error
        return any(
            same_id(word.database_id, database_id)
            and not set(request_ids).isdisjoint(word.requests)
            for word in words
        )

    async def _create(self, text: str) -> Database:
        if self._place is None or self._nursery is None:
            raise HaError(
                Code.REFUSED,
                "databases cannot be created here",
                hint="start the node with --create-db-dir or --memory",
            )
        dsn = self._place.dsn(text)
        self._check_free(dsn.database_id)
        if not dsn.memory and self._place.exists(dsn):
            raise HaError(Code.ALREADY_EXISTS, f"a file {dsn.path!r} is there already")
        await self._clear_away(dsn.database_id)
        store = self._place.open_store(dsn)
        try:
            database = await self.open(dsn.database_id, store, self._nursery)
        except BaseException:
            store.delete()
            raise
        self._place.remember(dsn, text)
        logger.info("created the database %s", database.id)
        return database

    async def _clear_away(self, database_id: str) -> None:
        """What a dropped database of this name has left in the log: nobody could purge it, since
        a node that was down still had its consumer there, which tells of a position."""
        announced = await self._last_word(database_id)
        if announced is not None and not announced.exists and announced.dropped:
            try:
                await self.broker.forget(database_id)
                for consumer in await self.broker.consumers(database_id):
                    await self.broker.delete_consumer(database_id, str(consumer["name"]))
            except LogError as error:
                raise _unreachable(error) from error

    async def _last_word(self, database_id: str) -> Announced | None:
        if self._options.standalone:
            return None
        try:
            words = read_announced(await self.broker.catalogue.read())
        except LogError as error:
            raise _unreachable(error) from error
        return next((a for a in words if a.database_id == database_id), None)

    async def _announce(
        self, database: Database, last: Announced | None, parameters: str, request_id: str
    ) -> None:
        if self._options.standalone:
            return
        word = Announced(
            database.id,
            exists=True,
            uuid=_uuid_of(database.store),
            parameters=parameters,
            node=self._options.commit.node,
            dropped=last.dropped if last is not None else (),
            requests=last.requests if last is not None else (),
        ).asked_by(request_id)
        try:
            await self.broker.catalogue.put(database.id, word.to_bytes())
        except LogError as error:
            logger.warning("%s is not announced yet: %s", database.id, error)
            assert self._nursery is not None
            self._nursery.start_soon(self._announce_later, database, parameters, request_id)

    async def _announce_later(
        self, database: Database, parameters: str, request_id: str = ""
    ) -> None:
        """Until it is said, or the database is gone."""
        while self._running.get(database.id) is not None:
            try:
                last = await self._last_word(database.id)
                if last is None or not last.exists:
                    await self._announce(database, last, parameters, request_id)
            except HaError:
                await trio.sleep(_RETRY)
            else:
                return

    # --- dropping --------------------------------------------------------------------

    async def drop(self, database_id: str, request_id: str = "") -> None:
        """Close a database and remove its files, here and on the nodes that follow.

        ``request_id``: a follower's name for that. Raises HaError: NOT_FOUND, REFUSED for the
        default one while there are others."""
        async with self._changing:
            database = self.get(database_id)
            if database is self.get() and len(self._running) > 1:
                raise HaError(
                    Code.REFUSED,
                    f"{database.id!r} is the default database: it cannot be dropped while there"
                    " are others",
                )
            last = await self._last_word(database.id)
            if not self._options.standalone:
                uuid = _uuid_of(database.store) or (last.uuid if last is not None else None)
                word = (
                    (last or Announced(database.id, exists=True))
                    .without(uuid, self._options.commit.node)
                    .asked_by(request_id)
                )
                try:
                    await self.broker.catalogue.put(database.id, word.to_bytes())
                except LogError as error:
                    raise _unreachable(error) from error
            await self._remove(database, delete=True)

    async def _remove(self, database: Database, *, delete: bool) -> None:
        running = self._running.pop(database.id)
        error = HaError(Code.NOT_FOUND, f"the database {database.id!r} was dropped")
        with trio.CancelScope(shield=True):
            database.committer.refuse(error)
            await database.evict(error, for_good=True)
            with trio.move_on_after(_DROP_PATIENCE):
                await database.committer.stop()
            running.scope.cancel()
            await running.ended.wait()
            database.committer.abandon(error)
            database.close()
            if delete:
                database.store.delete()
                if self._place is not None:
                    self._place.forget(database.store.path)
            try:
                if await self.broker.release(database.id):
                    await self.broker.forget(database.id)
            except LogError as problem:
                logger.warning("the log of %s may still be there: %s", database.id, problem)
        logger.info("dropped the database %s", database.id)

    # --- following the others --------------------------------------------------------

    async def follow(self) -> None:
        """Make and drop what other nodes announce, until cancelled."""
        if self._place is None or not self._follow or self._options.standalone:
            return
        while True:
            try:
                async with self.broker.catalogue.watch() as watch:
                    while True:
                        for announced in read_announced(await watch.receive()):
                            await self._learn(announced)
            except LogError as error:
                logger.warning("the catalogue of databases is not in reach: %s", error)
                await trio.sleep(_RETRY)

    async def _learn(self, announced: Announced) -> None:
        async with self._changing:
            try:
                if announced != await self._last_word(announced.database_id):
                    return  # something newer was said while we waited; it will be heard too
                running = self._running.get(announced.database_id)
                if running is not None:
                    database = running.database
                    if announced.is_gone(_uuid_of(database.store)):
                        await self._drop_here(database, announced)
                elif announced.exists and self._place is not None and self._place.usable:
                    parameters = announced.parameters
                    name = announced.database_id
                    await self._create(f"{name}?{parameters}" if parameters else name)
            except HaError as error:
                logger.warning(
                    "%s, announced by %s: %s",
                    announced.database_id,
                    announced.node,
                    error.message,
                )

    async def _drop_here(self, database: Database, announced: Announced) -> None:
        """Files that were named on the command line stay: they are not ours to remove."""
        assert self._place is not None
        path = database.store.path
        ours = database.store.temporary or self._place.holds(path)
        if not ours:
            logger.warning(
                "%s was dropped on %s: it is not served any more, its file stays",
                database.id,
                announced.node,
            )
        await self._remove(database, delete=ours)

    # --- finding ---------------------------------------------------------------------

    def get(self, database_id: str | None = None) -> Database:
        """By id, with or without ``.db``; the default for None. Raises NOT_FOUND."""
        if database_id is None:
            for running in self._running.values():
                return running.database
            raise HaError(Code.NOT_FOUND, "this node serves no database")
        if database_id in self._running:
            return self._running[database_id].database
        for other, candidate in self._running.items():
            if same_id(other, database_id):
                return candidate.database
        known = ", ".join(self._running) or "none"
        raise HaError(
            Code.NOT_FOUND, f"no database {database_id!r}", hint=f"databases of this node: {known}"
        )

    def all(self) -> list[Database]:
        return [running.database for running in self._running.values()]

    def database_ids(self) -> list[str]:
        return list(self._running)

    def session(
        self,
        database_id: str | None = None,
        *,
        protocol: str,
        prepare_connection: Callable[[apsw.Connection], None] | None = None,
        forwarded: bool = False,
    ) -> Session:
        """``forwarded``: for a session of a follower, to be served by this node as the leader."""
        database = self.get(database_id)
        options: dict[str, Any] = {
            "protocol": protocol,
            "find_database": self.get,
            "commands": lambda session, sql: find_command(self, session, sql),
            "cross_shards": lambda sql: find_cross_shard(self, sql),
            "prepare_connection": prepare_connection,
        }
        if self.cluster is None:
            return Session(database, **options)
        return RoutedSession(database, cluster=self.cluster, forwarded=forwarded, **options)

    def not_ready(self) -> str | None:
        """Why the node should get no traffic, None if it should."""
        if not self._running:
            return "no database is open yet"
        for database in self.all():
            reason = database.not_ready()
            if reason is not None:
                return f"{database.id}: {reason}"
        return None

    async def stop(self) -> None:
        """Refuse new work, and return when what is under way is done."""
        async with trio.open_nursery() as nursery:
            for database in self.all():
                nursery.start_soon(database.committer.stop)

    def close(self) -> None:
        for database in self.all():
            database.close()
        self._running.clear()


def _same_file(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _uuid_of(store: Store) -> str | None:
    """The identity that the file has now; None before it has one."""
    connection = store.take_reader()
    try:
        return control.uuid_of(connection)
    finally:
        store.give_reader(connection)


def _unreachable(error: LogError) -> HaError:
    return HaError(
        Code.UNAVAILABLE, f"the log is not in reach: {error}", hint="nothing was changed; try again"
    )
