"""The log of a node without NATS: in memory, and in a history file for HISTORY and UNDO.

The database's own file is the truth: what the history has beyond it was never acknowledged, and is
removed; a history that lacks something before it would make UNDO wrong, and begins anew. Messages
older than ``max_age`` are removed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import apsw
import trio

from ha.log.api import Entry, LogState, Refused
from ha.log.memory import Durable, MemoryBroker, MemoryLog, MemoryStream

logger = logging.getLogger("ha.log")

_IN_MEMORY = 1_000
"""Messages of each log that are kept in memory too."""
_PAGE = 256
_TRIM_EVERY = 1_000


class LocalStream(MemoryStream):
    """``path``: the history file, None for one that goes with the process. ``max_age``: seconds,
    0 for ever. Raises Refused where a message cannot be stored."""

    def __init__(
        self,
        *,
        epoch: str,
        name: str,
        path: str | None,
        max_age: float,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__(epoch=epoch, name=name, keep=_IN_MEMORY, now_ns=now_ns)
        self.max_age = max_age
        self._stored = 0
        self._db = apsw.Connection(path or "")
        self._db.set_busy_timeout(5_000)
        self._db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").fetchall()
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS messages(subject TEXT, sequence INTEGER, id TEXT,"
            " payload BLOB, time_ns INTEGER, PRIMARY KEY (subject, sequence)) WITHOUT ROWID"
        )
        self.last = int(self._db.execute("SELECT max(sequence) FROM messages").get or 0)
        self._forget_old()

    def close(self) -> None:
        self._db.close()

    def _keep_entry(self, subject_name: str, entry: Entry) -> None:
        try:
            self._db.execute(
                "INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?)",
                (subject_name, entry.sequence, entry.message_id, entry.payload, entry.time_ns),
            )
        except apsw.Error as error:
            raise Refused(f"the history cannot be written: {error}") from error
        self._stored += 1
        if self._stored % _TRIM_EVERY == 0:
            self._forget_old()

    def _forget_old(self) -> None:
        """The last message of each log stays: it tells where the log stands."""
        if self.max_age:
            self._db.execute(
                "DELETE FROM messages AS m WHERE time_ns < ? AND sequence <"
                " (SELECT max(sequence) FROM messages WHERE subject = m.subject)",
                (self._now_ns() - int(self.max_age * 1e9),),
            )

    def resume(self, subject_name: str, applied: int, is_ours: Callable[[bytes], bool]) -> None:
        super().resume(subject_name, applied, is_ours)
        self._db.execute(
            "DELETE FROM messages WHERE subject = ? AND sequence > ?", (subject_name, applied)
        )
        last = self.stored_entry(subject_name, applied)
        if last is None or not is_ours(last.payload):
            self._db.execute("DELETE FROM messages WHERE subject = ?", (subject_name,))
            if self._db.changes():
                logger.warning("the history of %s has a gap: it begins anew", subject_name)

    def purge(self, subject_name: str) -> None:
        super().purge(subject_name)
        self._db.execute("DELETE FROM messages WHERE subject = ?", (subject_name,))

    # --- reading ---------------------------------------------------------------------

    def state(self, subject_name: str) -> LogState:
        state = super().state(subject_name)
        first = self._db.execute(
            "SELECT min(sequence) FROM messages WHERE subject = ?", (subject_name,)
        ).get
        if first is None:
            return state
        whole = self._db.execute("SELECT min(sequence) FROM messages").get
        return replace(state, subject_first=int(first), first=int(whole or first))

    def stored_entry(self, subject_name: str, sequence: int) -> Entry | None:
        for entry in self.stored(subject_name, sequence, sequence):
            return entry
        return None

    def stored(self, subject_name: str, first: int, last: int) -> list[Entry]:
        """A page of what is kept of a log."""
        return [
            Entry(sequence, message_id, payload, time_ns)
            for sequence, message_id, payload, time_ns in self._db.execute(
                "SELECT sequence, id, payload, time_ns FROM messages WHERE subject = ?"
                " AND sequence BETWEEN ? AND ? ORDER BY sequence LIMIT ?",
                (subject_name, first, last, _PAGE),
            )
        ]

    def sequence_at(self, subject_name: str, time_ns: int) -> int | None:
        found = self._db.execute(
            "SELECT min(sequence) FROM messages WHERE subject = ? AND time_ns >= ?",
            (subject_name, time_ns),
        ).get
        return None if found is None else int(found)


class LocalBroker(MemoryBroker):
    """The node's own broker."""

    def __init__(self, stream: LocalStream, *, node: str) -> None:
        super().__init__(stream, node=node)
        self._local = stream

    def _make_log(self, subject: str, durable: Durable) -> MemoryLog:
        return LocalLog(self, self._local, subject, durable)


class LocalLog(MemoryLog):
    """A :class:`ha.log.api.Log` that reads its past from the history file."""

    def __init__(
        self, broker: LocalBroker, stream: LocalStream, subject: str, durable: Durable
    ) -> None:
        super().__init__(broker, subject, durable)
        self._local = stream

    async def entry(self, sequence: int) -> Entry | None:
        await trio.lowlevel.checkpoint()
        return self._local.stored_entry(self.subject, sequence)

    async def history(self, first: int, last: int | None = None) -> AsyncIterator[Entry]:
        end = self._local.last if last is None else min(last, self._local.last)
        while first <= end:
            await trio.lowlevel.checkpoint()
            page = self._local.stored(self.subject, first, end)
            for entry in page:
                yield entry
            if len(page) < _PAGE:
                return
            first = page[-1].sequence + 1

    async def sequence_at(self, time_ns: int) -> int:
        await trio.lowlevel.checkpoint()
        found = self._local.sequence_at(self.subject, time_ns)
        return self._local.last + 1 if found is None else found
