"""The control tables of a database file: its identity, and where in the log it stands.

They are part of every file and snapshot, are never replicated, and change in the SQLite
transaction of the effects that they account for.

====================  =================================================================
``ha_stats``          the applied sequence, in the shape of the existing system
``ha_log``            one row: identity of the database and of its log, digest of the
                      message at the applied sequence
``ha_origins``        a row a writing process: the last number seen, and the last applied
``ha_virtual``        a row a virtual table: the message that last changed it
``ha_parts``          parts of big transactions whose last part is still to come
``ha_outbox``         with asynchronous replication, what the log does not have yet
``ha_redone``         what applying such a transaction again did, to be taken back as it was
``ha_dead_letters``   messages that could not be applied
``ha_ignored``        sequences of messages that the fold ignored, for history and undo
``ha_term``           one row: the highest term of a leader in the log, and who opened it
====================  =================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from ha.core.fold import NO_TERM, Term
from ha.store.connection import Connection

_TABLES = (
    "CREATE TABLE IF NOT EXISTS ha_stats("
    "subject TEXT UNIQUE, received_seq INTEGER, updated_at DATETIME)",
    "CREATE TABLE IF NOT EXISTS ha_log("
    "id INTEGER PRIMARY KEY CHECK (id = 1), subject TEXT, uuid TEXT, epoch TEXT, digest BLOB)",
    "CREATE TABLE IF NOT EXISTS ha_origins(node TEXT, process_id INTEGER, number INTEGER,"
    " applied INTEGER, PRIMARY KEY (node, process_id)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ha_virtual(name TEXT PRIMARY KEY, sequence INTEGER,"
    " node TEXT, process_id INTEGER, number INTEGER) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ha_parts(node TEXT, process_id INTEGER, number INTEGER,"
    " part INTEGER, payload BLOB, PRIMARY KEY (node, process_id, number, part))",
    "CREATE TABLE IF NOT EXISTS ha_redone(transaction_id INTEGER PRIMARY KEY, payload BLOB)",
    "CREATE TABLE IF NOT EXISTS ha_outbox(position INTEGER PRIMARY KEY, transaction_id INTEGER,"
    " message_id TEXT UNIQUE, payload BLOB)",
    "CREATE TABLE IF NOT EXISTS ha_dead_letters(sequence INTEGER PRIMARY KEY, message BLOB,"
    " error TEXT, time_ns INTEGER, state TEXT)",
    "CREATE TABLE IF NOT EXISTS ha_ignored(sequence INTEGER PRIMARY KEY, verdict TEXT)",
    "CREATE TABLE IF NOT EXISTS ha_term("
    "id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER, node TEXT, process_id INTEGER)",
)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a file stands. ``uuid`` and ``epoch`` are None before it has met a log."""

    applied: int
    uuid: str | None
    epoch: str | None
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class OriginSeen:
    """Of one writing process: the last number in the log, and the last whose effects count."""

    number: int
    applied: int


def digest_of(payload: bytes) -> bytes:
    """What is remembered of the message at the applied sequence (16 bytes)."""
    return hashlib.blake2b(payload, digest_size=16).digest()


def ensure(connection: Connection, subject: str) -> None:
    """Create what is missing; keep what is there. In a transaction of its own."""
    with connection.writing():
        for sql in _TABLES:
            connection.execute(sql)
        connection.execute("INSERT OR IGNORE INTO ha_log(id, subject) VALUES (1, ?)", (subject,))
        connection.execute(
            "INSERT OR IGNORE INTO ha_stats(subject, received_seq) VALUES (?, 0)", (subject,)
        )


def position(connection: Connection, subject: str) -> Position:
    applied = connection.execute("SELECT received_seq FROM ha_stats WHERE subject = ?", (subject,))
    row = next(iter(connection.raw.execute("SELECT uuid, epoch, digest FROM ha_log WHERE id = 1")))
    return Position(int(applied or 0), row[0], row[1], row[2])


def uuid_of(connection: Connection) -> str | None:
    """The identity of the database in a file, None if it has none (yet)."""
    if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'ha_log'"):
        return None
    uuid = connection.execute("SELECT uuid FROM ha_log WHERE id = 1")
    return None if uuid is None else str(uuid)


def advance(
    connection: Connection, subject: str, sequence: int, time_ns: int, payload: bytes
) -> None:
    """The file now contains the log up to ``sequence``, whose message is ``payload``."""
    connection.execute(
        "UPDATE ha_stats SET received_seq = ?, updated_at = ? WHERE subject = ?",
        (sequence, _timestamp(time_ns), subject),
    )
    connection.execute("UPDATE ha_log SET digest = ? WHERE id = 1", (digest_of(payload),))


def set_identity(connection: Connection, uuid: str | None, epoch: str) -> None:
    connection.execute("UPDATE ha_log SET uuid = ?, epoch = ? WHERE id = 1", (uuid, epoch))


def set_position(connection: Connection, subject: str, sequence: int, digest: bytes | None) -> None:
    """Adopt a position that was not reached message by message (a base, another log)."""
    connection.execute(
        "UPDATE ha_stats SET received_seq = ? WHERE subject = ?", (sequence, subject)
    )
    connection.execute("UPDATE ha_log SET digest = ? WHERE id = 1", (digest,))


def origin_seen(connection: Connection, node: str, process_id: int) -> OriginSeen:
    for number, applied in connection.raw.execute(
        "SELECT number, applied FROM ha_origins WHERE node = ? AND process_id = ?",
        (node, process_id),
    ):
        return OriginSeen(number, applied)
    return OriginSeen(0, 0)


def set_origin_seen(
    connection: Connection, node: str, process_id: int, number: int, applied: int
) -> None:
    connection.execute(
        "INSERT INTO ha_origins VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET number = excluded.number, applied = excluded.applied",
        (node, process_id, number, applied),
    )


def term(connection: Connection) -> Term:
    """The highest term of a leader in the log, as far as the file has it."""
    for row in connection.raw.execute("SELECT number, node, process_id FROM ha_term"):
        return Term(*row)
    return NO_TERM


def set_term(connection: Connection, term: Term) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO ha_term VALUES (1, ?, ?, ?)",
        (term.number, term.node, term.process_id),
    )


def set_virtual(
    connection: Connection, name: str, sequence: int, node: str, process_id: int, number: int
) -> None:
    """The message that last changed the virtual table ``name``."""
    connection.execute(
        "INSERT OR REPLACE INTO ha_virtual VALUES (?, ?, ?, ?, ?)",
        (name, sequence, node, process_id, number),
    )


def set_ignored(connection: Connection, sequence: int, verdict: str) -> None:
    """The message at ``sequence`` has no effect: history leaves it out."""
    connection.execute("INSERT OR REPLACE INTO ha_ignored VALUES (?, ?)", (sequence, verdict))


def ignored(connection: Connection, first: int) -> frozenset[int]:
    """Sequences from ``first`` on of messages that have no effect."""
    rows = connection.raw.execute("SELECT sequence FROM ha_ignored WHERE sequence >= ?", (first,))
    return frozenset(int(row[0]) for row in rows)


def forget_places(connection: Connection, sequence: int) -> None:
    """What the file knows of messages beyond ``sequence`` is of a log that is no more."""
    connection.execute("DELETE FROM ha_ignored WHERE sequence >= ?", (sequence,))
    connection.execute("DELETE FROM ha_dead_letters WHERE sequence >= ?", (sequence,))
    connection.execute("UPDATE ha_virtual SET sequence = ?1 WHERE sequence > ?1", (sequence,))


def _timestamp(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
