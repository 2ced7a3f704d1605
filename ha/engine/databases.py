"""The databases of a node: each open, running, and found by its id."""

from __future__ import annotations

from collections.abc import Callable

import apsw
import trio

from ha.core.errors import Code, HaError
from ha.core.naming import same_id, subject_of
from ha.engine.commands import find_command
from ha.engine.database import Database, DatabaseOptions
from ha.engine.joining import LOCAL_EPOCH
from ha.engine.runtime import Runtime
from ha.engine.session import Session
from ha.log.api import Broker
from ha.log.memory import MemoryBroker
from ha.store import control
from ha.store.file import Store


class Databases:
    """Implements :class:`ha.engine.api.Sessions`. The first database opened is the default."""

    def __init__(
        self, broker: Broker, options: DatabaseOptions, runtime: Runtime, *, stream: str
    ) -> None:
        self.broker = broker
        self._options = options
        self._runtime = runtime
        self._stream = stream
        self._databases: dict[str, Database] = {}

    async def open(self, database_id: str, store: Store, nursery: trio.Nursery) -> Database:
        """Open and run a database in ``nursery``. Raises HaError when its name is taken."""
        for other in self._databases:
            if same_id(other, database_id):
                raise HaError(Code.ALREADY_EXISTS, f"a database {other!r} is served already")
            if subject_of(self._stream, other) == subject_of(self._stream, database_id):
                raise HaError(
                    Code.ALREADY_EXISTS,
                    f"the names {other!r} and {database_id!r} would share one log:"
                    f" both are {subject_of(self._stream, other)!r} in NATS",
                    hint="rename one of them",
                )
        if isinstance(self.broker, MemoryBroker) and self._options.standalone:
            self._resume_local(self.broker, database_id, store)
        database = await Database.open(
            database_id, store, self.broker, self._options, self._runtime
        )
        await nursery.start(database.run)
        self._databases[database_id] = database
        return database

    def _resume_local(self, broker: MemoryBroker, database_id: str, store: Store) -> None:
        """A log that lives in the node alone goes on where the file stands."""
        control.ensure(store.executor, subject_of(self._stream, database_id))
        position = control.position(store.executor, subject_of(self._stream, database_id))
        if position.epoch == LOCAL_EPOCH:
            broker.stream.last = max(broker.stream.last, position.applied)

    def get(self, database_id: str | None = None) -> Database:
        """By id, with or without ``.db``; the default for None. Raises NOT_FOUND."""
        if database_id is None:
            for database in self._databases.values():
                return database
            raise HaError(Code.NOT_FOUND, "this node serves no database")
        if database_id in self._databases:
            return self._databases[database_id]
        for other, candidate in self._databases.items():
            if same_id(other, database_id):
                return candidate
        known = ", ".join(self._databases) or "none"
        raise HaError(
            Code.NOT_FOUND, f"no database {database_id!r}", hint=f"databases of this node: {known}"
        )

    def all(self) -> list[Database]:
        return list(self._databases.values())

    def database_ids(self) -> list[str]:
        return list(self._databases)

    def session(
        self,
        database_id: str | None = None,
        *,
        protocol: str,
        prepare_connection: Callable[[apsw.Connection], None] | None = None,
    ) -> Session:
        return Session(
            self.get(database_id),
            protocol=protocol,
            find_database=self.get,
            commands=lambda session, sql: find_command(self, session, sql),
            prepare_connection=prepare_connection,
        )

    def not_ready(self) -> str | None:
        """Why the node should get no traffic, None if it should."""
        if not self._databases:
            return "no database is open yet"
        for database in self._databases.values():
            reason = database.not_ready()
            if reason is not None:
                return f"{database.id}: {reason}"
        return None

    async def stop(self) -> None:
        """Refuse new work, and return when what is under way is done."""
        async with trio.open_nursery() as nursery:
            for database in self._databases.values():
                nursery.start_soon(database.committer.stop)

    def close(self) -> None:
        for database in self._databases.values():
            database.close()
        self._databases.clear()
