"""Errors by SQLSTATE, and HaError as PostgreSQL clients expect to see it.

Source: PostgreSQL documentation, appendix A "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

from ha.core.errors import Code, HaError
from ha.wire.postgres.backend import Notice


class PgError(Exception):
    """An error that this wire itself finds. ``position`` counts characters from 1."""

    def __init__(
        self,
        sqlstate: str,
        message: str,
        *,
        hint: str | None = None,
        detail: str | None = None,
        position: int | None = None,
        column: str | None = None,
        routine: str | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.hint = hint
        self.detail = detail
        self.position = position
        self.column = column
        self.routine = routine

    def notice(self, severity: str = "ERROR") -> Notice:
        return Notice(
            severity,
            self.sqlstate,
            self.message,
            detail=self.detail,
            hint=self.hint,
            position=self.position,
            column=self.column,
            routine=self.routine,
        )


def unsupported(message: str, hint: str | None = None) -> PgError:
    return PgError("0A000", message, hint=hint)


class Fatal(PgError):
    """The session ends after this error."""


SQLSTATES: dict[Code, str] = {
    Code.BAD_REQUEST: "08P01",
    Code.UNAUTHORIZED: "28P01",
    Code.NOT_FOUND: "3D000",
    Code.ALREADY_EXISTS: "42P04",
    Code.TOO_LARGE: "54000",
    Code.REFUSED: "42501",
    Code.UNSUPPORTED: "0A000",
    Code.SQL_ERROR: "42000",
    Code.SYNTAX_ERROR: "42601",
    Code.UNKNOWN_TABLE: "42P01",
    Code.UNKNOWN_COLUMN: "42703",
    Code.UNKNOWN_FUNCTION: "42883",
    Code.OBJECT_EXISTS: "42P07",
    Code.BAD_PARAMETERS: "08P01",
    Code.UNIQUE_VIOLATION: "23505",
    Code.FOREIGN_KEY_VIOLATION: "23503",
    Code.NOT_NULL_VIOLATION: "23502",
    Code.CHECK_VIOLATION: "23514",
    Code.CONSTRAINT_VIOLATION: "23000",
    Code.TYPE_MISMATCH: "42804",
    Code.NUMERIC_OUT_OF_RANGE: "22003",
    Code.READ_ONLY: "25006",
    Code.BAD_TEXT: "22021",
    Code.NO_TRANSACTION: "25P01",
    Code.IN_TRANSACTION: "25001",
    Code.SERIALIZATION_FAILURE: "40001",
    Code.TRANSACTION_HOLD: "40001",
    Code.CANCELLED: "57014",
    Code.TIMEOUT: "55P03",
    Code.BUSY: "55P03",
    Code.DISK_FULL: "53100",
    Code.IO_ERROR: "58030",
    Code.CORRUPT: "XX001",
    Code.NOT_WRITTEN: "40001",
    Code.OUTCOME_UNKNOWN: "08007",
    Code.NOT_APPLIED: "40001",
    Code.WRITTEN_NOT_APPLIED: "58000",
    Code.UNAVAILABLE: "57P03",
    Code.STALE: "57P05",
    Code.NOT_LEADER: "25006",
    Code.NO_LEADER: "57P03",
    Code.INTERNAL: "XX000",
}
"""The SQLSTATE of each code; a test holds that none is missing."""

_CONSTRAINT = re.compile(r"^(?:UNIQUE|NOT NULL) constraint failed: (?P<columns>.+)$")
_CHECK = re.compile(r"^CHECK constraint failed: (?P<name>.+)$")


def from_ha(error: HaError, sql: str | None = None) -> Notice:
    """``sql`` is the client's text, if the offset of ``error`` counts in it."""
    message = error.message
    table = column = constraint = None
    if match := _CONSTRAINT.match(message):
        names = [c.strip().rpartition(".") for c in match["columns"].split(",")]
        table = names[0][0] or None
        if error.code is Code.NOT_NULL_VIOLATION:
            column = names[0][2]
    elif match := _CHECK.match(message):
        constraint = match["name"]
    detail = error.detail
    if error.sequence is not None:
        at = f"sequence {error.sequence} of the log"
        detail = at if detail is None else f"{detail} ({at})"
    return Notice(
        "ERROR",
        SQLSTATES.get(error.code, "XX000"),
        message,
        detail=detail,
        hint=error.hint or _function_hint(error),
        position=_position(sql, error.offset),
        table=table,
        column=column,
        constraint=constraint,
    )


_INSTEAD = {
    "to_char": "SQLite has strftime('%Y-%m-%d', x) for times and printf('%.2f', x) for numbers",
    "to_date": "SQLite has date(x) for ISO 8601",
    "to_timestamp": "SQLite has datetime(x, 'unixepoch')",
    "regexp_replace": "SQLite has replace(x, from, to)",
    "regexp_matches": "the operators ~ and ~* match, LIKE and GLOB too",
    "age": "SQLite has julianday(a) - julianday(b), in days, and timediff(a, b)",
    "pg_sleep": "let the client wait",
    "nextval": "an INTEGER PRIMARY KEY generates its values",
    "currval": "last_insert_rowid() is the last generated key",
    "lastval": "last_insert_rowid() is the last generated key",
    "crypt": "hash passwords in the application",
}


def _function_hint(error: HaError) -> str | None:
    """What SQLite offers in place of a function of PostgreSQL's."""
    if error.code is not Code.UNKNOWN_FUNCTION:
        return None
    name = error.message.rpartition(" ")[2].lower()
    return _INSTEAD.get(name, "functions are SQLite's, and PostgreSQL's that its drivers need")


def _position(sql: str | None, offset: int | None) -> int | None:
    if sql is None or offset is None:
        return None
    return len(sql.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore")) + 1
