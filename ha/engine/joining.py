"""How a file and a log find each other when a node starts.

A file that has followed this log goes on. An empty file joins by the log's own base, from
the beginning or from a snapshot. A file with content becomes the base of an empty log, or is
refused: it is never mixed with another database's log.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass

import trio

from ha.core.changeset import ChangeSet, FormatError, Kind, Origin, decode
from ha.core.errors import Code, HaError
from ha.core.naming import durable_name
from ha.core.parts import encode_all
from ha.core.policy import ALL, Policy, Start
from ha.engine.identity import Mismatch, check_identity
from ha.engine.iterating import closing
from ha.engine.runtime import Runtime
from ha.engine.snapshots import load_snapshot, newest_of, publish_snapshot
from ha.log.api import Broker, Entry, Log, LogError, LogState, Outgoing, WrongLast
from ha.log.durable import shown_position
from ha.store import content, control
from ha.store.file import Store

logger = logging.getLogger(__name__)

_ELECTION = 30.0  # seconds; NATS takes up to ten to find a leader, on a quiet machine

LOCAL_EPOCH = "local"
"""The epoch of a log that lives in the node alone. Such a file may still become a base."""


@dataclass(frozen=True, slots=True)
class Joined:
    """``severed``: why the file must not follow the log, None if it may; ``state``: the log as it
    was then."""

    state: LogState
    severed: str | None = None


async def join(
    store: Store,
    database_id: str,
    node: str,
    broker: Broker,
    log: Log,
    runtime: Runtime,
    timeout: float,
    standalone: bool = False,
    policy: Policy = ALL,
    from_snapshot: bool = False,
    since_ns: int | None = None,
) -> Joined:
    """Make the file's position one from which its log can be followed.

    ``from_snapshot``: begin with the newest snapshot, if it holds more than the file;
    ``since_ns``: the broker's time up to which a file without a position holds all. ``timeout``
    is that of one message; a log that does not answer is waited for longer, since its cluster
    may be about to elect.

    Raises HaError when the file may not follow the log, before anything was changed.
    """
    patience = max(timeout, _ELECTION)
    deadline = trio.current_time() + patience
    while True:
        try:
            return await _join(
                store, database_id, node, broker, log, runtime, timeout, standalone, policy,
                from_snapshot, since_ns,
            )  # fmt: skip
        except LogError as error:
            now = trio.current_time()
            if now >= deadline:
                raise HaError(
                    Code.UNAVAILABLE, f"the log did not answer within {patience:g} s: {error}"
                ) from error
            logger.warning("waiting for the log: %s", error)
            if from_snapshot and now >= deadline - patience / 2:
                # The bucket may never answer again, and the log alone may be enough.
                logger.warning("the latest snapshot is not in reach: trying without it")
                from_snapshot = False
            await trio.sleep(0.2)


async def _join(
    store: Store,
    database_id: str,
    node: str,
    broker: Broker,
    log: Log,
    runtime: Runtime,
    timeout: float,
    standalone: bool,
    policy: Policy,
    from_snapshot: bool,
    since_ns: int | None,
) -> Joined:
    """Raises LogError when the log stops to answer; it may be tried again then."""
    while True:
        state = await _state(log, max(timeout, _ELECTION))
        position = control.position(store.executor, log.subject)
        if position.uuid is not None and position.epoch == state.epoch:
            # What waits in the outbox is in this file alone: then it goes on from where it is.
            waiting = store.executor.execute("SELECT count(*) FROM ha_outbox")
            behind = from_snapshot and not waiting
            if behind and await _is_behind_snapshot(broker, database_id, log, position):
                await load_snapshot(store, database_id, broker, log, state, runtime)
                position = control.position(store.executor, log.subject)
            try:
                await check_identity(log, position)
            except Mismatch as mismatch:
                return Joined(state, str(mismatch))
            return Joined(state)
        empty = content.is_empty(store.executor.raw)
        if state.subject_last == 0:
            follows = position.epoch is not None and position.epoch != LOCAL_EPOCH
            if follows and not standalone:
                return Joined(
                    state, "its log is gone: the stream was made anew, or is another server's"
                )
            if not standalone and await _had_messages(broker, database_id, node, log):
                # The stream has forgotten all of them, but the log goes on: unless another node has
                # just opened it.
                if (await log.state()).subject_last:
                    continue
                if not empty:
                    raise _not_its_log(log.subject)
                await load_snapshot(store, database_id, broker, log, state, runtime)
                return Joined(state)
            if await _open_log(
                store, database_id, node, broker, log, runtime, state,
                empty=empty or standalone, timeout=timeout,
            ):  # fmt: skip
                return Joined(state)
            continue
        if not empty:
            if since_ns is not None:
                await _join_since(store, log, state, since_ns)
            else:
                await _adopt_equal(store, log, state)
            return Joined(state)
        if policy.start is not Start.ALL:
            await _join_by_policy(store, log, state, policy)
            return Joined(state)
        if from_snapshot and await _has_snapshot(broker, database_id, log):
            await load_snapshot(store, database_id, broker, log, state, runtime)
        else:
            await _join_from_start(store, database_id, node, broker, log, state, runtime)
        return Joined(state)


async def _has_snapshot(broker: Broker, database_id: str, log: Log) -> bool:
    return await newest_of(log, broker, database_id) is not None


async def _had_messages(
    broker: Broker, database_id: str, node: str, log: Log, before: float = math.inf
) -> bool:
    """Does anything tell of messages that the log does not hold any more, and others may have?"""
    if await _has_snapshot(broker, database_id, log):
        return True
    own = durable_name(database_id, node)
    for consumer in await broker.consumers(database_id):
        position = shown_position(consumer)
        if position and position < before and consumer.get("name") != own:
            return True
    return False


async def _is_behind_snapshot(
    broker: Broker, database_id: str, log: Log, position: control.Position
) -> bool:
    info = await newest_of(log, broker, database_id)
    return info is not None and info.sequence > position.applied


async def _state(log: Log, timeout: float) -> LogState:
    with trio.move_on_after(timeout):
        while True:
            try:
                return await log.state()
            except LogError as error:
                logger.warning("waiting for the log: %s", error)
                await trio.sleep(0.2)
    raise HaError(Code.UNAVAILABLE, f"the log did not answer within {timeout:g} s")


async def _open_log(
    store: Store,
    database_id: str,
    node: str,
    broker: Broker,
    log: Log,
    runtime: Runtime,
    state: LogState,
    *,
    empty: bool,
    timeout: float,
) -> bool:
    """Publish the base. False when another node was first.

    ``empty``: there is no content that others would need to join.
    """
    connection = store.executor
    position = control.position(connection, log.subject)
    uuid = position.uuid or runtime.uuid()
    extra: dict[str, object] = {}
    if not empty:
        extra["digest"] = await runtime.run_in_thread(lambda: content.digest(connection.raw))
    process_id = runtime.random.getrandbits(53)
    base = ChangeSet(
        node=node,
        process_id=process_id,
        database_id=database_id,
        changes=(),
        timestamp_ns=runtime.now_ns(),
        kind=Kind.BASE,
        origin=Origin(node, process_id, 1),
        uuid=uuid,
        extra=extra,
    )
    assert base.origin is not None
    payload = encode_all(base, log.max_payload)[0]
    message = Outgoing(base.origin.message_id, payload, expect_last=0)
    try:
        ack = await log.publish_one(message, timeout)
    except WrongLast:
        return False
    except LogError as error:
        logger.warning("cannot open the log yet: %s", error)
        await trio.sleep(0.2)
        return False
    with connection.writing():
        control.set_identity(connection, uuid, state.epoch)
        control.set_position(connection, log.subject, ack.sequence, control.digest_of(payload))
    if not empty:
        logger.info("publishing the content of %s as the base of its log", database_id)
        await publish_snapshot(store, database_id, broker, log, runtime)
    return True


async def _adopt_equal(store: Store, log: Log, state: LogState) -> None:
    """A file with content may follow a log that began with just this content."""
    entry = await _first_entry(log, state)
    base: ChangeSet | None = None
    with suppress(FormatError):
        base = decode(entry.payload)
    if base is None or base.kind is not Kind.BASE:
        raise _not_its_log(log.subject)
    connection = store.executor
    if base.extra.get("digest") != content.digest(connection.raw):
        raise _not_its_log(log.subject)
    with connection.writing():
        control.set_identity(connection, base.uuid, state.epoch)
        control.set_position(
            connection, log.subject, entry.sequence, control.digest_of(entry.payload)
        )


async def _first_entry(log: Log, state: LogState) -> Entry:
    """Raises LogError, also when the log has let go of it since ``state``."""
    entry = await log.entry(state.subject_first)
    if entry is None:
        raise LogError(f"the message at {state.subject_first} has just grown too old")
    return entry


async def _first_readable(log: Log, state: LogState) -> ChangeSet | None:
    """What tells whether the log begins there. Raises LogError, also when the log has let go of its
    first message since ``state``."""
    entry = await _first_entry(log, state)
    with suppress(FormatError):
        return decode(entry.payload)
    async with closing(log.history(entry.sequence + 1)) as entries:
        async for entry in entries:
            with suppress(FormatError):
                return decode(entry.payload)
    return None


def _not_its_log(subject: str) -> HaError:
    return HaError(
        Code.ALREADY_EXISTS,
        f"the log {subject} exists already, and belongs to a database with other content",
        hint="start with an empty or missing file to join it, or use another file name"
        " or --replication-stream",
    )


async def _join_since(store: Store, log: Log, state: LogState, since_ns: int) -> None:
    """A copy that says when it was made, but not where in the log: what it may lack is replayed.

    A copy of an existing node knows its place, in the table that it shares with us.
    """
    connection = store.executor
    position = control.position(connection, log.subject)
    before = position.applied or max(await log.sequence_at(since_ns) - 1, 0)
    uuid = await _uuid_of(log, state)
    with connection.writing():
        control.set_identity(connection, uuid, state.epoch)
        control.set_position(connection, log.subject, before, None)


async def _uuid_of(log: Log, state: LogState) -> str | None:
    """The identity that the log's last message names."""
    entry = await log.entry(state.subject_last)
    if entry is None:
        return None
    try:
        return decode(entry.payload).uuid
    except FormatError:
        return None


async def _join_by_policy(store: Store, log: Log, state: LogState, policy: Policy) -> None:
    """Begin somewhere in the log, on an empty file: the user's wish, not a fold."""
    if policy.start is Start.NEW:
        before = state.subject_last
    elif policy.start is Start.LAST:
        before = state.subject_last - 1
    elif policy.start is Start.SEQUENCE:
        before = min(policy.sequence - 1, state.subject_last)
    else:
        before = await log.sequence_at(policy.time_ns) - 1
    uuid = await _uuid_of(log, state)
    connection = store.executor
    with connection.writing():
        control.set_identity(connection, uuid, state.epoch)
        control.set_position(connection, log.subject, max(before, 0), None)


async def _join_from_start(
    store: Store,
    database_id: str,
    node: str,
    broker: Broker,
    log: Log,
    state: LogState,
    runtime: Runtime,
) -> None:
    first = await _first_readable(log, state)
    if first is None:  # the fold halts where it begins, and says so
        whole = not await _had_messages(broker, database_id, node, log, state.subject_first)
    elif first.kind is Kind.BASE:
        whole = "digest" not in first.extra
    else:
        whole = first.uuid is None
    if not whole:
        await load_snapshot(store, database_id, broker, log, state, runtime)
        return
    connection = store.executor
    with connection.writing():
        control.set_identity(connection, None, state.epoch)
