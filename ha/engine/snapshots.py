"""Snapshots: whole copies of a database in the object store, with the sequence they contain.

They are what lets a node begin where the log does not. So one is taken before the stream
forgets a message that none holds, and by a node that starts beyond the newest one. Whoever
comes first takes it; the others see that it is there.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw
import trio

from ha.core.errors import Code, HaError
from ha.core.naming import object_stream, snapshot_bucket
from ha.core.policy import Start
from ha.engine.identity import Mismatch, check_message
from ha.engine.iterating import closing
from ha.engine.runtime import Runtime
from ha.log.api import Broker, Log, LogError, LogState, WrongLast
from ha.log.durable import shown_position
from ha.store import content, control
from ha.store.connection import Connection
from ha.store.copying import copy_chunks, position_of, receive
from ha.store.file import Store

if TYPE_CHECKING:
    from ha.engine.database import Database

logger = logging.getLogger(__name__)

SNAPSHOT_PATIENCE = 60.0
"""Seconds to wait for a snapshot that the log speaks of."""
_OWED_PAUSE = 1.0
_GUARD_LONGEST = 600.0
_GUARD_SHORTEST = 0.25
_GUARD_AGAIN = 10.0
"""Seconds to the next look at a bucket that did not answer."""
_SILENCE_TOLD_AFTER, _SILENCE_TOLD_AGAIN = 60.0, 600.0
"""Seconds without an answer of the bucket, beside a log that answers, until that is told."""


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """``interval``: seconds from one to the next, 0 for none by time; ``base``: take one rather
    than let what no snapshot holds be forgotten; ``jitter``: seconds among which nodes that
    start together spread, so that one of them takes the snapshot."""

    interval: float = 0.0
    base: bool = True
    jitter: float = 2.0


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What the object store says of the newest snapshot. ``epoch``: of the log that it belongs
    to, None if an existing node took it; ``digest``: of the message at its sequence, in hex."""

    sequence: int
    epoch: str | None
    uuid: str | None
    digest: str | None = None


async def newest(broker: Broker, database_id: str) -> SnapshotInfo | None:
    """Raises LogError."""
    headers = await broker.snapshot_headers(database_id)
    if headers is None:
        return None
    text = headers.get("seq", "0")
    sequence = int(text) if text.isdigit() else 0
    return SnapshotInfo(sequence, headers.get("epoch"), headers.get("uuid"), headers.get("digest"))


async def newest_of(log: Log, broker: Broker, database_id: str) -> SnapshotInfo | None:
    """The newest snapshot, if it is one of this log as it is now. Raises LogError.

    A broker that has lost messages may still have a snapshot that holds them, and other
    messages at their places by now.
    """
    info = await newest(broker, database_id)
    if info is None:
        return None
    state = await log.state()
    if info.epoch not in (None, state.epoch) or info.sequence > state.last:
        return None
    if info.digest is not None:
        try:
            await check_message(log, info.sequence, bytes.fromhex(info.digest))
        except (Mismatch, ValueError):  # or its header is no digest at all
            return None
    return info


async def publish_snapshot(
    store: Store, database_id: str, broker: Broker, log: Log, runtime: Runtime
) -> int:
    """Put the file, as it is now, into the object store; the sequence that it contains.

    0 if the newest snapshot holds all of it, or another node put one meanwhile. Raises LogError,
    and HaError when the file cannot be copied.
    """
    copy = await runtime.run_stoppable(store.copy)
    try:
        position: control.Position = await runtime.run_in_thread(
            lambda: position_of(copy.path, log.subject)
        )
        headers = {"seq": str(position.applied)}
        if position.epoch is not None:
            headers["epoch"] = position.epoch
        if position.uuid is not None:
            headers["uuid"] = position.uuid
        if position.digest is not None:
            headers["digest"] = position.digest.hex()

        async def if_newer() -> AsyncGenerator[bytes, None]:
            # Looked at once the revision that is replaced is fixed: what comes later is refused.
            former = await newest_of(log, broker, database_id)
            if former is not None and former.sequence >= position.applied:
                raise WrongLast(f"there is a snapshot of {database_id!r} at {former.sequence}")
            async with closing(copy_chunks(copy.path, runtime.run_in_thread)) as chunks:
                async for chunk in chunks:
                    yield chunk

        async with closing(if_newer()) as chunks:
            await broker.put_snapshot(database_id, chunks, headers)
    except WrongLast:
        return 0
    finally:
        copy.remove()
    logger.info("snapshot of %s at %d", database_id, position.applied)
    return position.applied


async def load_snapshot(
    store: Store,
    database_id: str,
    broker: Broker,
    log: Log,
    state: LogState,
    runtime: Runtime,
) -> None:
    """Replace the file's content by the newest snapshot. Raises HaError if there is none."""
    with trio.move_on_after(SNAPSHOT_PATIENCE):
        while True:
            with suppress(LogError):
                if await newest_of(log, broker, database_id) is not None:
                    break
            logger.info("waiting for a snapshot of %s", database_id)
            await trio.sleep(0.5)
    path = store.incoming_path()
    info = await _fetch(log, broker, database_id, path, runtime)
    if info is None:
        raise await _no_snapshot(database_id, broker, log, state)
    with store.incoming(path) as connection:
        settle_position(connection, log.subject, info, state.epoch)
    store.replace_by(path)


async def _no_snapshot(database_id: str, broker: Broker, log: Log, state: LogState) -> HaError:
    hint = "start a node that still has the database; it publishes a snapshot"
    if state.subject_first:
        where = f"begins at {state.subject_first}, and no snapshot holds what came before"
        return HaError(Code.UNAVAILABLE, f"the log {log.subject} {where}", hint=hint)
    shown = {c.get("name"): shown_position(c) for c in await broker.consumers(database_id)}
    names = ", ".join(sorted(str(name) for name, position in shown.items() if position))
    stream, _, _ = log.subject.partition(".")
    return HaError(
        Code.UNAVAILABLE,
        f"the log {log.subject} has let go of all its messages, and no snapshot holds them; that"
        f" there were some its consumers tell: {names}",
        hint=f"{hint}. If there is none, let the database begin anew: remove each of these with"
        f" nats consumer rm {stream} NAME",
    )


async def fetch_snapshot(database: Database) -> tuple[str, SnapshotInfo]:
    """The newest snapshot in a file beside the database's, whole. Raises LogError, OSError."""
    path = database.store.incoming_path()
    info = await _fetch(database.log, database.broker, database.id, path, database.runtime)
    if info is None:
        raise LogError(f"there is no snapshot of {database.id} any more")
    return path, info


async def _fetch(
    log: Log, broker: Broker, database_id: str, path: str, runtime: Runtime
) -> SnapshotInfo | None:
    """Write the newest snapshot of the log to ``path``, and tell what it is; None if there is none.

    Another one may take its place between the look at its headers and the reading: then it is
    read again, so that a file is never taken for one at another position.
    """
    while (info := await newest_of(log, broker, database_id)) is not None:
        async with closing(broker.get_snapshot(database_id)) as chunks:
            await receive(path, chunks, runtime.run_in_thread)
        if await newest(broker, database_id) == info:
            break
    return info


def settle_position(connection: Connection, subject: str, info: SnapshotInfo, epoch: str) -> None:
    """What a file from the object store says of itself holds, and what its header adds."""
    control.ensure(connection, subject)
    position = control.position(connection, subject)
    with connection.writing():
        if position.applied != info.sequence:
            control.set_position(connection, subject, info.sequence, None)
        control.set_identity(connection, position.uuid, epoch)


class Snapshots:
    """Takes the snapshots of one database."""

    def __init__(self, database: Database, options: SnapshotOptions) -> None:
        self._database = database
        self._options = options
        self._lock = trio.Lock()
        self.taken = 0
        self._uncovered: tuple[int, int] | None = None
        self._tell_silence_at: float | None = None
        self._was_there = False
        """Has there been a snapshot? One that is gone may have held what the log has not."""
        self._owed = trio.Event()

    def owe(self) -> None:
        """Take one as soon as it can be: others wait for it."""
        self._owed.set()

    async def take(self) -> int:
        """Take one now; the sequence that it contains, 0 if the newest holds all there is.

        Raises HaError.
        """
        database = self._database
        if database.options.standalone:
            raise HaError(
                Code.UNSUPPORTED,
                "snapshots need the object store of a NATS server",
                hint="GET /download gives a copy of the database",
            )
        if database.committer.severed is not None:
            raise HaError(
                Code.UNAVAILABLE,
                f"the database does not follow its log: {database.committer.severed}",
            )
        async with self._lock:
            try:
                if not await self._is_beyond_newest():
                    self._was_there = True
                    return 0
                async with database.replacing.shared():
                    sequence = await publish_snapshot(
                        database.store,
                        database.id,
                        database.broker,
                        database.log,
                        database.runtime,
                    )
            except LogError as error:
                raise HaError(
                    Code.UNAVAILABLE, f"the snapshot cannot be stored: {error}", hint="try again"
                ) from error
            self.taken += sequence > 0
            self._was_there = True
            return sequence

    async def _is_beyond_newest(self) -> bool:
        database = self._database
        info = await newest_of(database.log, database.broker, database.id)
        return info is None or database.committer.applied > info.sequence

    # --- by themselves ---------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        database = self._database
        if database.options.standalone or database.options.policy.start is not Start.ALL:
            return  # what does not hold all of the log is no base for others
        await database.caught_up.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pay)
            if self._options.interval > 0:
                nursery.start_soon(self._by_time)
            if self._options.base:
                nursery.start_soon(self._guard)

    async def _pay(self) -> None:
        while True:
            await self._owed.wait()
            if self._database.committer.problem is None and await self._try():
                self._owed = trio.Event()
            else:
                await trio.sleep(_OWED_PAUSE)

    async def _by_time(self) -> None:
        while True:
            await trio.sleep(self._options.interval)
            await self._try()

    async def _guard(self) -> None:
        """The base is never lost: by a start, by the age of messages, nor with the bucket."""
        await trio.sleep(self._chance() * self._options.jitter)
        if not self._seems_empty():
            self.owe()
        while True:
            pause = _GUARD_LONGEST
            try:
                state = await self._database.log.state()
                if state.max_age:
                    pause = max(_GUARD_SHORTEST, min(state.max_age / 8, _GUARD_LONGEST))
                info = await self._newest()
                if info is None and self._was_there:
                    self.owe()  # somebody has removed it, or all of the bucket
                elif state.max_age and await self._oldest_uncovered(info) > state.max_age / 2:
                    await self._try()
            except LogError as error:
                logger.info("the age of the log cannot be seen: %s", error)
                pause = min(pause, _GUARD_AGAIN)
            # Not all nodes at the same moment.
            await trio.sleep(pause * (0.5 + self._chance() / 2))

    async def _newest(self) -> SnapshotInfo | None:
        """While the log answers. Raises LogError; if that lasts, an operator is told what to do."""
        database = self._database
        try:
            info = await newest_of(database.log, database.broker, database.id)
        except LogError as error:
            now = trio.current_time()
            if self._tell_silence_at is None:
                self._tell_silence_at = now + _SILENCE_TOLD_AFTER
            elif now >= self._tell_silence_at:
                self._tell_silence_at = now + _SILENCE_TOLD_AGAIN
                stream, _, _ = database.log.subject.partition(".")
                logger.warning(
                    "the log of %s answers, and its snapshots do not: %s. If that lasts while all"
                    " NATS servers are up, and some node that has the database in a file is ready:"
                    " nats stream rm %s; nodes publish theirs anew then",
                    database.id,
                    error,
                    object_stream(snapshot_bucket(stream)),
                )
            raise
        self._tell_silence_at = None
        self._was_there = self._was_there or info is not None
        return info

    async def _oldest_uncovered(self, info: SnapshotInfo | None) -> float:
        """Seconds since the oldest message that no snapshot holds; 0 if there is none."""
        database = self._database
        covered = 0 if info is None else info.sequence
        if database.committer.applied <= covered:
            return 0.0
        if self._uncovered is None or self._uncovered[0] <= covered:
            self._uncovered = None
            async with closing(database.log.history(covered + 1)) as entries:
                async for entry in entries:
                    self._uncovered = entry.sequence, entry.time_ns
                    break
            if self._uncovered is None:
                return float("inf")  # it is forgotten already: the file has it, the log has not
        return (await database.log.now_ns() - self._uncovered[1]) / 1e9

    def _seems_empty(self) -> bool:
        """False if the disk does not tell."""
        store = self._database.store
        try:
            connection = store.take_reader()
            try:
                return content.is_empty(connection.raw)
            finally:
                store.give_reader(connection)
        except (HaError, apsw.Error) as error:
            logger.warning("%s cannot be read: %s", self._database.id, error)
            return False

    async def _try(self) -> bool:
        """False if there is none for now."""
        database = self._database
        if database.committer.problem is not None:
            return False
        try:
            await self.take()
        except HaError as error:
            logger.warning("no snapshot of %s: %s", database.id, error.message)
            return False
        return True

    def _chance(self) -> float:
        return self._database.runtime.random.random()
