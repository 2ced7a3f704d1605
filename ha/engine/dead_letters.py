"""Messages that could not be applied: what they are, and how all nodes pass over one."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from ha.core.changeset import ChangeSet, Kind, Origin, encode
from ha.core.errors import Code, HaError
from ha.engine.database import Database
from ha.log.api import LogError, Outgoing


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``state``: ``halted`` (the database stands before it) or ``skipped``. ``time_ns``: the
    broker's, in Unix nanoseconds."""

    sequence: int
    message: bytes
    error: str
    time_ns: int
    state: str


async def dead_letters(database: Database) -> list[DeadLetter]:
    """All that are kept, in the order of the log."""
    connection = database.store.take_reader()
    try:
        rows = connection.raw.execute(
            "SELECT sequence, message, error, time_ns, state FROM ha_dead_letters ORDER BY sequence"
        )
        return [DeadLetter(*row) for row in rows]
    except apsw.Error as error:
        raise connection.translated(error) from error
    finally:
        database.store.give_reader(connection)


async def skip(database: Database, sequence: int) -> int:
    """Publish that every node passes over the message at ``sequence``; where that stands.

    Raises NOT_FOUND when the database does not stand before that message, and
    OUTCOME_UNKNOWN or NOT_WRITTEN when the log does not take it.
    """
    committer = database.committer
    if committer.halted_at != sequence:
        standing = committer.halted_at
        where = "does not stand before any message" if standing is None else f"stands at {standing}"
        raise HaError(
            Code.NOT_FOUND, f"there is nothing to skip at {sequence}: the database {where}"
        )
    node = database.options.commit.node
    process_id = database.runtime.random.getrandbits(53)
    origin = Origin(node, process_id, 1)
    message = ChangeSet(
        node=node,
        process_id=process_id,
        database_id=database.id,
        changes=(),
        timestamp_ns=database.runtime.now_ns(),
        kind=Kind.SKIP,
        origin=origin,
        uuid=database.fold.position.uuid,
        base=sequence,  # who has not come that far lacks messages
        target=sequence,
    )
    try:
        ack = await database.log.publish_one(
            Outgoing(origin.message_id, encode(message)), database.options.commit.publish_timeout
        )
    except LogError as error:
        raise HaError(
            Code.OUTCOME_UNKNOWN, f"the log did not say that it took the skip: {error}"
        ) from error
    await database.wait_for(ack.sequence)
    return ack.sequence
