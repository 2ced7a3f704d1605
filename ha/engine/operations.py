"""The operations of a node: see :class:`ha.engine.api.Operations`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio

from ha.core.dsn import parse_dsn
from ha.core.errors import Code, HaError
from ha.core.naming import durable_name
from ha.engine import dead_letters, repair
from ha.engine.api import ClusterStatus, DatabaseStatus, DeadLetter, Download
from ha.engine.database import Database
from ha.engine.databases import Databases
from ha.engine.iterating import closing
from ha.engine.sight import look
from ha.engine.snapshots import newest
from ha.log.api import LogError
from ha.store.copying import copy_chunks, position_of

logger = logging.getLogger(__name__)


class NodeOperations:
    """Implements :class:`ha.engine.api.Operations` over the databases of a node."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    async def create_database(self, dsn: str) -> str:
        if self._databases.cluster is None:
            return (await self._databases.create(dsn)).id
        await self._ask_leader("CREATE DATABASE", dsn)
        return parse_dsn(dsn).database_id

    async def drop_database(self, database_id: str) -> None:
        if self._databases.cluster is None:
            await self._databases.drop(database_id)
        else:
            await self._ask_leader("DROP DATABASE", database_id)

    async def _ask_leader(self, command: str, name: str) -> None:
        session = self._databases.session(protocol="http")
        try:
            await session.execute(command + ' "' + name.replace('"', '""') + '"')
        finally:
            with trio.CancelScope(shield=True):
                await session.aclose()

    # --- copies ----------------------------------------------------------------------

    async def etag(self, database_id: str | None) -> str:
        database = self._databases.get(database_id)
        position = database.fold.position
        return _etag(position.epoch, position.applied)

    @asynccontextmanager
    async def download(self, database_id: str | None) -> AsyncIterator[Download]:
        database = self._databases.get(database_id)
        name = f"{await _now(database)}_{database.id}"
        async with database.replacing.shared():
            copy = await database.runtime.run_stoppable(database.store.copy)
        try:
            position = position_of(copy.path, database.log.subject)
            chunks = copy_chunks(copy.path, database.runtime.run_in_thread)
            async with closing(chunks):
                yield Download(
                    name,
                    position.applied,
                    copy.size,
                    _etag(position.epoch, position.applied),
                    chunks,
                )
        finally:
            copy.remove()

    async def take_snapshot(self, database_id: str | None) -> int:
        return await self._databases.get(database_id).snapshots.take()

    @asynccontextmanager
    async def latest_snapshot(self, database_id: str | None) -> AsyncIterator[Download]:
        database = self._databases.get(database_id)
        try:
            info = await newest(database.broker, database.id)
            if info is None:
                raise HaError(
                    Code.NOT_FOUND,
                    f"there is no snapshot of {database.id!r}",
                    hint="take one: POST /snapshot",
                )
            stem = database.id.removesuffix(".db")
            name = f"{await _now(database)}_{stem}_snapshot_{info.sequence}.db"
            etag = _etag(info.epoch, info.sequence)
            async with closing(_told(database.broker.get_snapshot(database.id))) as chunks:
                yield Download(name, info.sequence, None, etag, chunks)
        except LogError as error:
            raise _unreachable(error) from error

    # --- the cluster -----------------------------------------------------------------

    async def replications(self, database_id: str | None) -> list[dict[str, object]]:
        database = self._databases.get(database_id)
        try:
            return await database.broker.consumers(database.id)
        except LogError as error:
            raise _unreachable(error) from error

    async def remove_replication(self, database_id: str | None, name: str) -> None:
        database = self._databases.get(database_id)
        try:
            if not await database.broker.delete_consumer(database.id, name):
                raise HaError(
                    Code.NOT_FOUND,
                    f"there is no replication {name!r} of {database.id!r}",
                    hint="GET /replications lists them",
                )
        except LogError as error:
            raise _unreachable(error) from error

    async def dead_letters(self, database_id: str | None) -> list[DeadLetter]:
        found = await dead_letters.dead_letters(self._databases.get(database_id))
        return [DeadLetter(d.sequence, d.message, d.error, d.time_ns, d.state) for d in found]

    async def skip_dead_letter(self, database_id: str | None, sequence: int) -> int:
        return await dead_letters.skip(self._databases.get(database_id), sequence)

    async def adopt(self, database_id: str | None) -> int:
        return await repair.adopt(self._databases.get(database_id))

    async def rebase(self, database_id: str | None) -> int:
        return await repair.rebase(self._databases.get(database_id))

    async def status(self) -> list[DatabaseStatus]:
        return [
            await self._status(database, default=index == 0)
            for index, database in enumerate(self._databases.all())
        ]

    async def cluster(self) -> ClusterStatus:
        return await look(self._databases)

    async def _status(self, database: Database, *, default: bool) -> DatabaseStatus:
        position = database.committer.applied
        last: int | None = None
        snapshot: int | None = None
        peers: dict[str, int] = {}
        try:
            last = max((await database.log.state()).subject_last, position)
            info = await newest(database.broker, database.id)
            snapshot = info.sequence if info is not None else None
            own = durable_name(database.id, database.options.commit.node)
            for consumer in await database.broker.consumers(database.id):
                name = str(consumer.get("name"))
                floor = consumer.get("ack_floor")
                if name != own and isinstance(floor, dict):
                    peers[name] = int(floor.get("stream_seq") or 0)
        except LogError as error:
            logger.info("the log of %s is not in reach: %s", database.id, error)
        return DatabaseStatus(
            database_id=database.id,
            path=database.store.path,
            default=default,
            position=position,
            last=last,
            lag=None if last is None else await _lag(database, position, last),
            snapshot=snapshot,
            peers=peers,
            problem=database.not_ready(),
            leader=_leader(database),
        )


def _leader(database: Database) -> str | None:
    """Its name, "none" while there is none."""
    if database.leadership is None:
        return None
    leader = database.leadership.leader
    return "none" if leader is None else leader.name


async def _lag(database: Database, position: int, last: int) -> int:
    """Messages of the log that are not applied yet."""
    if last <= position:
        return 0
    count = 0
    async with closing(database.log.history(position + 1, last)) as entries:
        async for _ in entries:
            count += 1
    return count


async def _told(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """As they are, with HaError in place of LogError."""
    try:
        async with closing(chunks):
            async for chunk in chunks:
                yield chunk
    except LogError as error:
        raise _unreachable(error) from error


async def _now(database: Database) -> str:
    """The broker's time in the form of file names, UTC; the node's if it is alone."""
    now_ns = database.runtime.now_ns()
    if not database.options.standalone:
        try:
            now_ns = await database.log.now_ns()
        except LogError as error:
            logger.info("the broker's time is not in reach: %s", error)
    return f"{datetime.fromtimestamp(now_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"


def _etag(epoch: str | None, sequence: int) -> str:
    word = "".join(c for c in epoch or "none" if c.isalnum())
    return f"{word}-{sequence}"


def _unreachable(error: LogError) -> HaError:
    return HaError(Code.UNAVAILABLE, f"the log is not in reach: {error}", hint="try again")
