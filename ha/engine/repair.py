"""What an operator does when a file and its log have come apart: one of the two gives way.

*Adopt*: the log is right. The file is replaced by the newest snapshot, or by an empty one that
replays the log from its beginning; what only the file held is lost.

*Rebase*: the file is right. It becomes the base of the log from here on: a message says so,
and its content goes into the object store, from where every other node takes it.
"""

from __future__ import annotations

import logging

import apsw

from ha.core.changeset import ChangeSet, FormatError, Kind, Origin, decode, encode
from ha.core.errors import Code, HaError
from ha.engine.database import Database
from ha.engine.recovery import put_in_place
from ha.engine.snapshots import fetch_snapshot, newest_of, publish_snapshot
from ha.log.api import LogError, LogState, Outgoing, WrongLast
from ha.store import content, control
from ha.store.sqlite_errors import from_sqlite

logger = logging.getLogger(__name__)


async def adopt(database: Database) -> int:
    """Let the log decide; the position from which the file follows it now.

    Raises NOT_FOUND when the two belong together, UNAVAILABLE when the log does not hold all
    that it would take.
    """
    _require_severed(database)
    try:
        return await _adopt(database)
    except apsw.Error as error:
        raise from_sqlite(error) from error


async def _adopt(database: Database) -> int:
    state = await _state(database)
    try:
        info = await newest_of(database.log, database.broker, database.id)
        if info is not None:
            path = await fetch_snapshot(database)
            await put_in_place(database, path, info, state.epoch)
            logger.warning("%s adopted the snapshot at %d", database.id, info.sequence)
        elif await _is_whole(database, state):
            await put_in_place(database, _empty_file(database), None, state.epoch)
            logger.warning("%s adopted its log from the beginning", database.id)
        else:
            raise HaError(
                Code.UNAVAILABLE,
                "the log begins in the middle, and there is no snapshot of it to adopt",
                hint="make this file its new base with POST /replications/rebase",
            )
    except (LogError, OSError) as error:
        raise HaError(Code.UNAVAILABLE, f"the log cannot be adopted now: {error}") from error
    database.committer.resume()
    return database.committer.applied


async def rebase(database: Database) -> int:
    """Let the file decide; the sequence of the message that makes it the base.

    Raises NOT_FOUND when the two belong together, and NOT_WRITTEN or OUTCOME_UNKNOWN when the
    log does not take it.
    """
    _require_severed(database)
    try:
        return await _rebase(database)
    except apsw.Error as error:
        raise from_sqlite(error) from error


async def _rebase(database: Database) -> int:
    connection = database.store.executor
    digest = await database.runtime.run_in_thread(lambda: content.digest(connection.raw))
    uuid = database.fold.position.uuid or database.runtime.uuid()
    node = database.options.commit.node
    while True:
        state = await _state(database)
        origin = Origin(node, database.runtime.random.getrandbits(53), 1)
        payload = encode(
            ChangeSet(
                node=node,
                process_id=origin.process_id,
                database_id=database.id,
                changes=(),
                timestamp_ns=database.runtime.now_ns(),
                kind=Kind.BASE,
                origin=origin,
                uuid=uuid,
                extra={"digest": digest, "rebase": True},
            )
        )
        message = Outgoing(origin.message_id, payload, expect_last=state.subject_last)
        try:
            ack = await database.log.publish_one(message, database.options.commit.publish_timeout)
        except WrongLast:
            continue
        except LogError as error:
            raise HaError(
                Code.OUTCOME_UNKNOWN, f"the log did not say that it took the base: {error}"
            ) from error
        break
    connection.execute("BEGIN IMMEDIATE")
    try:
        control.set_identity(connection, uuid, state.epoch)
        control.set_position(
            connection, database.log.subject, ack.sequence, control.digest_of(payload)
        )
        control.forget_places(connection, ack.sequence)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    database.fold.refresh()
    database.committer.resume()
    logger.warning("%s is the new base of its log, from %d on", database.id, ack.sequence)
    await publish_snapshot(
        database.store, database.id, database.broker, database.log, database.runtime
    )
    return ack.sequence


def _require_severed(database: Database) -> None:
    if database.committer.severed is None:
        raise HaError(Code.NOT_FOUND, f"there is nothing to repair: {database.id} follows its log")


async def _state(database: Database) -> LogState:
    try:
        return await database.log.state()
    except LogError as error:
        raise HaError(Code.UNAVAILABLE, f"the log does not answer: {error}") from error


async def _is_whole(database: Database, state: LogState) -> bool:
    """Does the log begin with the base of an empty database?"""
    entry = await database.log.entry(state.subject_first) if state.subject_first else None
    if entry is None:
        return False
    try:
        first = decode(entry.payload)
    except FormatError:
        return False
    return first.kind is Kind.BASE and "digest" not in first.extra


def _empty_file(database: Database) -> str:
    path = database.store.path + ".incoming"
    raw = apsw.Connection(path, vfs=database.store.options.vfs)
    raw.execute("PRAGMA user_version = 0; CREATE TABLE x(x); DROP TABLE x").fetchall()
    raw.close(True)
    return path
