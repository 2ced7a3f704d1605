"""Executes statements on one database with the recorder, applies what came out to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from ha.core.changeset import ChangeSet, Identify, Origin, decode, encode
from ha.store.apply import Applied, Applier
from ha.store.capture import Captured, Recorder, Traced
from ha.store.parse import CONTROL_TABLES, first_word

FAILURES = (apsw.Error, UnicodeDecodeError)
"""What a statement may fail with: the latter when it answers text that is not UTF-8."""

_DDL = {"CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE"}


class Writer:
    """A database on which transactions run and are recorded, as an executor does it."""

    def __init__(
        self, connection: apsw.Connection | None = None, foreign_keys: bool = True
    ) -> None:
        self.db = connection or apsw.Connection(":memory:")
        self.db.pragma("foreign_keys", foreign_keys)
        self.recorder = Recorder(self.db, CONTROL_TABLES)

    def statement(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement. Raises APSW's error when it fails."""
        verb = first_word(sql)
        self.recorder.statement_begin(Traced(sql, verb, verb in _DDL))
        cursor = self.db.cursor()
        try:
            rows = cursor.execute(sql, tuple(args)).fetchall()
        except FAILURES:
            cursor.close(True)
            self.recorder.statement_failed()
            raise
        self.recorder.statement_end()
        return rows

    def transaction(self, *statements: str, errors: bool = False) -> Captured | None:
        """BEGIN, statements, COMMIT. With ``errors`` failing ones are passed over."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self.recorder.start()
            for sql in statements:
                try:
                    self.statement(sql)
                except FAILURES:
                    if not errors:
                        raise
                    if not self.db.in_transaction:
                        return None
            captured = self.recorder.finish()
            self.db.execute("COMMIT")
        except BaseException:
            self.recorder.discard()
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise
        return captured


class Reader:
    """A database that changes by messages alone."""

    def __init__(self, connection: apsw.Connection | None = None) -> None:
        self.db = connection or apsw.Connection(":memory:")
        self.applier = Applier(self.db, CONTROL_TABLES)

    def apply(self, change_set: ChangeSet, identify: Identify = Identify.PK) -> Applied:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            applied = self.applier.apply(change_set, identify)
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        return applied

    def receive(
        self, captured: Captured | None, identify: Identify | None = None
    ) -> Applied | None:
        """Through the wire format, there and back."""
        if captured is None:
            return None
        return self.apply(decode(encode(message(captured, identify))))


def message(captured: Captured, identify: Identify | None = None) -> ChangeSet:
    return ChangeSet(
        node="n",
        process_id=1,
        database_id="t.db",
        changes=captured.changes,
        origin=Origin("n", 1, 1),
        identify=identify,
        virtual=captured.virtual,
        sequences=captured.sequences,
    )


def copy_of(db: apsw.Connection) -> apsw.Connection:
    """A second database with the same content, page by page."""
    other = apsw.Connection(":memory:")
    with other.backup("main", db, "main") as backup:
        backup.step()
    return other


def run_all(db: apsw.Connection, statements: Iterable[str]) -> None:
    for sql in statements:
        db.execute(sql)
