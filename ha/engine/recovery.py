"""When the log has forgotten what comes next: go on by a snapshot, or find that nothing is missing.

The stream forgets messages of all databases alike. Of a quiet database none may be missing
although the stream begins beyond its position. What tells: the newest snapshot, since what the
stream forgets a snapshot holds; and the positions that nodes had reached, which their consumers
show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import apsw
import trio

from ha.core.errors import Code, HaError
from ha.engine.identity import Mismatch
from ha.engine.snapshots import SnapshotInfo, fetch_snapshot, newest_of, settle_position
from ha.log.api import LogError, LogState
from ha.log.durable import shown_position
from ha.store import control
from ha.store.sqlite_errors import from_sqlite

if TYPE_CHECKING:
    from ha.engine.database import Database

logger = logging.getLogger(__name__)
_RETRY_FIRST, _RETRY_LAST = 0.2, 5.0  # seconds, as are the others
_DISK_RETRY = 0.5


async def recover(database: Database, missing: int | None, rebased: bool = False) -> int:
    """The position in the log to go on from; the file stands where that is right.

    ``missing``: messages up to there are known to be missing; ``rebased``: whatever the stream
    holds, only a snapshot can bring them. Raises Mismatch.
    """
    try:
        return await _recover(database, missing, rebased)
    finally:
        database.stranded = False


async def _recover(database: Database, missing: int | None, rebased: bool) -> int:
    delay = _RETRY_FIRST
    while True:
        try:
            state = await database.log.state()
            if state.epoch != database.fold.position.epoch:
                raise Mismatch("the stream was made anew: it is not the log of this file")
            applied = database.committer.applied
            doubtful = missing is not None and not rebased
            if doubtful and await _is_false_alarm(database, state, missing or 0):
                missing = None
            if missing is not None and missing <= applied:
                missing = None
            info = await newest_of(database.log, database.broker, database.id)
            if _serves(info, applied, missing):
                assert info is not None
                database.committer.fall_behind(f"the snapshot at {info.sequence} is being loaded")
                await replace_by_snapshot(database)
                continue
            behind = missing or await _forgotten_position(database, state, applied)
            if behind is None:
                return max(applied, state.first - 1)
            if not database.stranded:
                database.stranded = True
                database.committer.fall_behind(
                    f"it lacks messages up to {behind}, which the stream has forgotten, and waits"
                    " for a snapshot of a node that has them; if there is none any more, make this"
                    " file the new base with POST /replications/rebase"
                )
        except (LogError, OSError) as error:
            logger.warning("%s cannot be brought up yet: %s", database.id, error)
        await trio.sleep(delay)
        delay = min(delay * 2, _RETRY_LAST)


async def is_behind(database: Database, state: LogState) -> bool:
    """Does the file lack messages that the stream has forgotten? Raises LogError."""
    applied = database.committer.applied
    if state.first <= applied + 1:
        return False
    if _serves(await newest_of(database.log, database.broker, database.id), applied, None):
        return True
    return await _forgotten_position(database, state, applied) is not None


def _serves(info: SnapshotInfo | None, applied: int, missing: int | None) -> bool:
    return info is not None and info.sequence > applied and info.sequence >= (missing or 0)


async def _is_false_alarm(database: Database, state: LogState, missing: int) -> bool:
    """A position that is no message of this log: of a node that began by --replication-policy."""
    if missing < state.first:
        return False
    if await database.log.entry(missing) is None:
        database.fold.trusted = missing
        return True
    return True  # it is there: it will come when we subscribe again


async def _forgotten_position(database: Database, state: LogState, applied: int) -> int | None:
    """Some node stood, or stands, at a message that came after the last one in this file, and that
    the stream has forgotten. It may be this one: then its file has lost its end."""
    best = applied
    for consumer in await database.broker.consumers(database.id):
        reached = shown_position(consumer)
        if reached is not None and reached < state.first:
            best = max(best, reached)
    return best if best > applied else None


async def replace_by_snapshot(database: Database) -> None:
    """Put the newest snapshot in the file's place, under running sessions."""
    path, info = await fetch_snapshot(database)
    epoch = database.fold.position.epoch
    assert epoch is not None
    await put_in_place(database, path, info, epoch)
    logger.info("%s goes on from the snapshot at %d", database.id, info.sequence)


async def put_in_place(
    database: Database, path: str, info: SnapshotInfo | None, epoch: str
) -> None:
    """Let the file at ``path`` take the database's place; ``info``: None for an empty file."""
    error = HaError(
        Code.SERIALIZATION_FAILURE,
        "the database was replaced by a newer snapshot while this was open",
        hint="run it again",
    )
    async with database.replacing.alone():
        await database.evict(error, for_good=False)
        # From here to the end nothing waits, but for a disk that fails: nobody sees anything in
        # between.
        store, subject = database.store, database.log.subject
        try:
            with store.incoming(path) as connection:
                if info is not None:
                    settle_position(connection, subject, info, epoch)
                else:
                    control.ensure(connection, subject)
                    with connection.writing():
                        control.set_identity(connection, None, epoch)
                misplaced = database.hand_over(connection)
        except apsw.Error as problem:
            raise from_sqlite(problem) from problem
        await _insist(database, lambda: store.replace_by(path))
        await _insist(database, lambda: database.reopen(misplaced))


async def _insist(database: Database, step: Callable[[], None]) -> None:
    """There is no way back to the former file: try again until the disk works."""
    while True:
        try:
            return step()
        except (HaError, apsw.Error, OSError) as problem:
            logger.error("the new file of %s cannot be used yet: %s", database.id, problem)
            await trio.sleep(_DISK_RETRY)
