"""What an operator does when a file and its log have come apart: one of the two gives way.

*Adopt*: the log is right. The file is replaced by the newest snapshot, or by an empty one that
replays the log from its beginning; what only the file held is lost.

*Rebase*: the file is right. It becomes the base of the log from here on: a message says so,
and its content goes into the object store, from where every other node takes it.
"""

from __future__ import annotations

import logging

import apsw
import trio

from ha.core.changeset import ChangeSet, FormatError, Kind, decode, encode
from ha.core.errors import Code, HaError
from ha.engine.database import Database
from ha.engine.iterating import closing
from ha.engine.recovery import put_in_place
from ha.engine.snapshots import fetch_snapshot, newest_of
from ha.log.api import LogError, LogState, Outgoing, WrongLast
from ha.store import content, control
from ha.store.sqlite_errors import from_sqlite

logger = logging.getLogger(__name__)
_TRIES = 5
"""Times the publish time-out that a new base may take to be certain."""


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
        missing = await _base_beyond(database, info.sequence if info is not None else 0)
        if missing is not None:
            raise HaError(
                Code.UNAVAILABLE,
                f"the base at {missing} has not brought its content: no snapshot holds it",
                hint="wait for the node that made it, or make this file the new base with"
                " POST /replications/rebase",
            )
        if info is not None:
            path, info = await fetch_snapshot(database)
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
    payload = encode(
        ChangeSet(
            node=database.options.commit.node,
            process_id=database.runtime.random.getrandbits(53),
            database_id=database.id,
            changes=(),
            timestamp_ns=database.runtime.now_ns(),
            kind=Kind.BASE,
            uuid=uuid,
            extra={"digest": digest, "rebase": True},
        )
    )
    sequence, epoch = await _publish_base(database, payload)
    with connection.writing():
        control.set_identity(connection, uuid, epoch)
        control.set_position(connection, database.log.subject, sequence, control.digest_of(payload))
        control.forget_places(connection, sequence)
    database.fold.refresh()
    database.committer.resume()
    logger.warning("%s is the new base of its log, from %d on", database.id, sequence)
    try:
        await database.snapshots.take()
    except HaError as error:
        logger.warning("the content of the base is not in the object store yet: %s", error.message)
        database.snapshots.owe()
    return sequence


async def _publish_base(database: Database, payload: bytes) -> tuple[int, str]:
    """Where it stands for certain, and in which log. No message of the subject stands between the
    last one that was seen and it, so what is late cannot come in behind another's."""
    timeout = database.options.commit.publish_timeout
    deadline = trio.current_time() + _TRIES * timeout
    while True:
        state = await _state(database)
        message = Outgoing(database.runtime.uuid(), payload, expect_last=state.subject_last)
        while True:
            try:
                ack = await database.log.publish_one(message, timeout)
                return ack.sequence, state.epoch
            except WrongLast as error:
                problem: LogError = error
                found, known = await _find(database, message, state)
                if known and found is None:
                    break  # another message came first
            except LogError as error:
                problem = error
                found, _ = await _find(database, message, state)
            if found is not None:
                return found, state.epoch
            if trio.current_time() >= deadline:
                raise HaError(
                    Code.OUTCOME_UNKNOWN,
                    f"the log did not say that it took the base: {problem}",
                    hint="look at /readyz, and try again",
                ) from problem
            await trio.sleep(0.2)


async def _find(database: Database, message: Outgoing, state: LogState) -> tuple[int | None, bool]:
    """Where the log has a message of which no ack came; and whether it could be asked."""
    try:
        async with closing(database.log.history(state.subject_last + 1)) as entries:
            async for entry in entries:
                if entry.message_id == message.message_id:
                    return entry.sequence, True
    except LogError:
        return None, False
    return None, True


def _require_severed(database: Database) -> None:
    if database.committer.severed is None and not database.stranded:
        raise HaError(Code.NOT_FOUND, f"there is nothing to repair: {database.id} follows its log")


async def _state(database: Database) -> LogState:
    try:
        return await database.log.state()
    except LogError as error:
        raise HaError(Code.UNAVAILABLE, f"the log does not answer: {error}") from error


async def _base_beyond(database: Database, sequence: int) -> int | None:
    """Where a later message makes a file the base; that file is in a snapshot, or in none."""
    found: int | None = None
    async with closing(database.log.history(sequence + 1)) as entries:
        async for entry in entries:
            try:
                message = decode(entry.payload) if b'"rebase"' in entry.payload else None
            except FormatError:
                continue  # the fold halts there, and says so
            if message is not None and message.kind is Kind.BASE and message.extra.get("rebase"):
                found = entry.sequence
    return found


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
    path = database.store.incoming_path()
    raw = apsw.Connection(path, vfs=database.store.options.vfs)
    raw.execute("PRAGMA user_version = 0; CREATE TABLE x(x); DROP TABLE x").fetchall()
    raw.close(True)
    return path
