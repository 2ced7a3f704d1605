"""The tentative suffix of asynchronous replication: what is in the file, but not in the log yet.

The file is ``fold(n)`` and then these transactions, in order (the committed prefix and the
tentative suffix of Bayou, Terry et al., SOSP 1995). They are written with their effects, in
one SQLite transaction. When messages of others arrive first, the suffix is taken back, they
are applied, and it is applied again; when its own first message arrives, it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import apsw

from ha.core.changeset import Change, ChangeSet, Identify, Operation, Origin, decode, encode
from ha.core.inverse import inverse_changes, inverse_sequences
from ha.core.parts import changes_of, encode_all
from ha.core.suffix import may_be_under_way_with
from ha.log.api import Outgoing
from ha.store import control
from ha.store.apply import Applier
from ha.store.capture import Captured, Recorder
from ha.store.connection import Connection
from ha.store.parse import CONTROL_TABLES


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits for the log. ``position`` orders all that wait. ``part``: of a big
    transaction; ``closes``: it is its last part."""

    position: int
    message: Outgoing
    part: bool = False
    closes: bool = False


class Outbox:
    """Over the rows of ``ha_outbox``; all calls run on a connection that the caller gives."""

    def __init__(self, connection: Connection) -> None:
        self.depth = 0
        self._counted = True
        self._last = 0
        """The greatest position given: none is given twice, since who sends goes by them."""
        self.count(connection)

    def count(self, connection: Connection) -> None:
        """Read ``depth``, the number of waiting messages, again. Raises apsw.Error."""
        self.depth = int(connection.execute("SELECT count(*) FROM ha_outbox"))
        self._counted = True

    def rolled_back(self, connection: Connection) -> None:
        """A transaction in which it was changed: ``depth`` is read again as soon as that can be."""
        self._counted = False
        with suppress(apsw.Error):
            self.count(connection)

    @property
    def may_wait(self) -> bool:
        """Does anything wait, as far as is known?"""
        return self.depth > 0 or not self._counted

    def waits(self, connection: Connection) -> bool:
        """Does anything wait? Raises apsw.Error when that must be read and cannot be."""
        if not self._counted:
            self.count(connection)
        return self.depth > 0

    def transactions(self, connection: Connection) -> int:
        """How many transactions wait."""
        if not self.may_wait:
            return 0
        return int(connection.execute("SELECT count(DISTINCT transaction_id) FROM ha_outbox"))

    def add(self, connection: Connection, messages: Sequence[Outgoing]) -> int:
        """One transaction, in as many messages as it needs; its id. In the caller's transaction."""
        last = max(connection.execute("SELECT max(position) FROM ha_outbox") or 0, self._last)
        for offset, message in enumerate(messages, 1):
            connection.execute(
                "INSERT INTO ha_outbox VALUES (?, ?, ?, ?)",
                (last + offset, last + 1, message.message_id, message.payload),
            )
        self.depth += len(messages)
        self._last = last + len(messages)
        return int(last) + 1

    def after(self, connection: Connection, position: int, limit: int) -> list[Waiting]:
        """Up to ``limit`` messages beyond ``position`` that may be published.

        Those of a later process wait until those of an earlier one have their places: no message
        names one of another process as the one that must precede it.
        """
        oldest = connection.execute("SELECT message_id FROM ha_outbox ORDER BY position LIMIT 1")
        rows: list[Any] = connection.raw.execute(
            "SELECT position, message_id, payload, transaction_id FROM ha_outbox"
            " WHERE position > ? ORDER BY position LIMIT ?",
            (position, limit + 1),
        ).fetchall()
        out: list[Waiting] = []
        for index, (at, message_id, payload, transaction) in enumerate(rows[:limit]):
            if not may_be_under_way_with(oldest, message_id):
                break
            last = index + 1 == len(rows) or rows[index + 1][3] != transaction
            part = not last or at != transaction
            out.append(Waiting(at, Outgoing(message_id, payload), part, part and last))
        return out

    def transaction_of(self, connection: Connection, message_id: str) -> int | None:
        """The waiting transaction that is published under this id."""
        found = connection.execute(
            "SELECT transaction_id FROM ha_outbox WHERE message_id = ?", (message_id,)
        )
        return None if found is None else int(found)

    def first(self, connection: Connection) -> int | None:
        """The transaction that waits the longest."""
        found = connection.execute("SELECT transaction_id FROM ha_outbox ORDER BY position LIMIT 1")
        return None if found is None else int(found)

    def remove(self, connection: Connection, transaction: int) -> None:
        # Its messages stand together, from the position that is its name: nobody need look at all
        # that waits to find them.
        connection.execute(
            "DELETE FROM ha_outbox WHERE position >= ?1 AND position < coalesce((SELECT position"
            " FROM ha_outbox WHERE position > ?1 AND transaction_id <> ?1 ORDER BY position"
            " LIMIT 1), 9223372036854775807)",
            (transaction,),
        )
        self.depth -= connection.raw.changes()
        connection.execute("DELETE FROM ha_redone WHERE transaction_id = ?", (transaction,))

    def clear(self, connection: Connection) -> None:
        """Forget all that waits, and what doing it again has done: the numbers of transactions are
        given anew in each file."""
        connection.execute("DELETE FROM ha_outbox")
        connection.execute("DELETE FROM ha_redone")
        self.depth = 0

    # --- into another file -----------------------------------------------------------

    def all_rows(self, connection: Connection) -> list[tuple[object, ...]]:
        """All that waits, for :meth:`put_back`."""
        if not self.waits(connection):
            return []
        return connection.raw.execute("SELECT * FROM ha_outbox ORDER BY position").fetchall()

    def put_back(
        self, connection: Connection, rows: Sequence[tuple[object, ...]], applier: Applier
    ) -> bool:
        """Let what waited in a former file wait in this one, and stand in it: but for what the
        log had of it by then. In the caller's transaction.

        True: the log has some of it where it does not count, so that it needs new numbers.
        """
        misplaced = False
        for row in rows:
            payload = row[-1]
            assert isinstance(payload, bytes)
            cs = decode(payload)
            seen = control.origin_seen(connection, cs.node, cs.process_id)
            if cs.origin is None or cs.origin.number > seen.applied:
                connection.raw.execute("INSERT INTO ha_outbox VALUES (?, ?, ?, ?)", row)
                misplaced |= cs.origin is not None and cs.origin.number <= seen.number
        self.count(connection)
        self.redo(connection, applier)
        return misplaced

    # --- the suffix ------------------------------------------------------------------

    def undo(self, connection: Connection, applier: Applier) -> int:
        """Take back all, last first: the file is the committed prefix. How many they were.

        What is taken back is what was done: by executing it, or by applying it again to
        another state, where it may have done something else.
        """
        count = 0
        for transaction in self._transactions(connection, "DESC"):
            redone = self._redone(connection, transaction)
            slices, whole = self._read(connection, transaction)
            if redone is not None:
                slices, whole = [redone.changes], redone
            reverse = whole.with_changes(
                tuple(change for part in reversed(slices) for change in inverse_changes(part))
            )
            # A row that comes back by INSERT moves AUTOINCREMENT on, if it was UPDATE that had
            # given it its number.
            back = {c.table for c in reverse.changes if c.operation is Operation.INSERT}
            back.difference_update(s.table for s in whole.sequences)
            applier.apply(
                replace(
                    reverse,
                    identify=Identify.PK,
                    sequences=inverse_sequences(whole.sequences)
                    + applier.sequences_as_they_are(back),
                )
            )
            count += 1
        return count

    def redo(self, connection: Connection, applier: Applier) -> int:
        """Apply all again, by the rules of the fold. How many they were."""
        count = 0
        recorder = Recorder(connection.raw, CONTROL_TABLES)
        try:
            for transaction in self._transactions(connection, "ASC"):
                slices, whole = self._read(connection, transaction)
                last = slices.pop() if slices else ()
                recorder.start()
                applier.apply(whole.with_changes(last), earlier=slices)
                self._remember(connection, transaction, whole, recorder.finish())
                count += 1
        finally:
            recorder.close()
        return count

    @staticmethod
    def _remember(
        connection: Connection, transaction: int, whole: ChangeSet, done: Captured | None
    ) -> None:
        changes, sequences, _ = done or Captured((), (), ())
        redone = replace(whole, changes=changes, sequences=sequences, extra={})
        connection.execute(
            "INSERT OR REPLACE INTO ha_redone VALUES (?, ?)", (transaction, encode(redone))
        )

    @staticmethod
    def _redone(connection: Connection, transaction: int) -> ChangeSet | None:
        payload = connection.execute(
            "SELECT payload FROM ha_redone WHERE transaction_id = ?", (transaction,)
        )
        return None if payload is None else decode(payload)

    def renumber(self, connection: Connection, number: Callable[[], Origin], limit: int) -> None:
        """Give all new numbers, in order: what was published of them is a hole in the log."""
        transactions = list(self._transactions(connection, "ASC"))
        again: list[tuple[list[Outgoing], ChangeSet | None]] = []
        after: int | None = None
        for transaction in transactions:
            slices, whole = self._read(connection, transaction)
            origin = number()
            extra = {k: v for k, v in whole.extra.items() if k not in ("part", "piece", "more")}
            cs = replace(
                whole,
                node=origin.node,
                process_id=origin.process_id,
                origin=origin,
                after=after,
                changes=tuple(change for part in slices for change in part),
                extra=extra,
            )
            after = origin.number
            redone = self._redone(connection, transaction)
            again.append((messages_of(origin, encode_all(cs, limit)), redone))
        self.clear(connection)
        for messages, redone in again:
            transaction = self.add(connection, messages)
            if redone is not None:
                connection.execute(
                    "INSERT INTO ha_redone VALUES (?, ?)", (transaction, encode(redone))
                )

    def _transactions(self, connection: Connection, order: str) -> Iterator[int]:
        rows = connection.raw.execute(
            f"SELECT DISTINCT transaction_id FROM ha_outbox ORDER BY transaction_id {order}"
        ).fetchall()
        return (int(row[0] or 0) for row in rows)

    def _read(
        self, connection: Connection, transaction: int
    ) -> tuple[list[tuple[Change, ...]], ChangeSet]:
        parts: list[ChangeSet] = []
        for of, payload in connection.raw.execute(
            "SELECT transaction_id, payload FROM ha_outbox WHERE position >= ? ORDER BY position",
            (transaction,),
        ):
            if of != transaction:
                break
            parts.append(decode(payload))
        return list(changes_of(parts)), parts[-1]


def messages_of(origin: Origin, payloads: Sequence[bytes]) -> list[Outgoing]:
    """One message, or parts whose ids end in their index."""
    name = origin.message_id
    if len(payloads) == 1:
        return [Outgoing(name, payloads[0])]
    return [Outgoing(f"{name}.{i}", payload) for i, payload in enumerate(payloads)]
