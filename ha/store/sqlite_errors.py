"""SQLite's errors as :class:`HaError`. Source: https://sqlite.org/rescode.html."""

from __future__ import annotations

import re

import apsw

from ha.core.errors import Code, HaError

_CONSTRAINTS = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: Code.UNIQUE_VIOLATION,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: Code.UNIQUE_VIOLATION,
    apsw.SQLITE_CONSTRAINT_ROWID: Code.UNIQUE_VIOLATION,
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: Code.FOREIGN_KEY_VIOLATION,
    apsw.SQLITE_CONSTRAINT_NOTNULL: Code.NOT_NULL_VIOLATION,
    apsw.SQLITE_CONSTRAINT_CHECK: Code.CHECK_VIOLATION,
    apsw.SQLITE_CONSTRAINT_DATATYPE: Code.TYPE_MISMATCH,
}

_PRIMARY = {
    apsw.SQLITE_CONSTRAINT: Code.CONSTRAINT_VIOLATION,
    apsw.SQLITE_MISMATCH: Code.TYPE_MISMATCH,
    apsw.SQLITE_READONLY: Code.READ_ONLY,
    apsw.SQLITE_INTERRUPT: Code.CANCELLED,
    apsw.SQLITE_FULL: Code.DISK_FULL,
    apsw.SQLITE_IOERR: Code.IO_ERROR,
    apsw.SQLITE_CORRUPT: Code.CORRUPT,
    apsw.SQLITE_NOTADB: Code.CORRUPT,
    apsw.SQLITE_TOOBIG: Code.TOO_LARGE,
    apsw.SQLITE_RANGE: Code.BAD_PARAMETERS,
    apsw.SQLITE_AUTH: Code.REFUSED,
    apsw.SQLITE_BUSY: Code.SERIALIZATION_FAILURE,
    apsw.SQLITE_LOCKED: Code.SERIALIZATION_FAILURE,
}

_MESSAGES = (
    (re.compile(r"syntax error|incomplete input|unrecognized token"), Code.SYNTAX_ERROR),
    (re.compile(r"^no such (table|view)\b"), Code.UNKNOWN_TABLE),
    (re.compile(r"^no such column|has no column named"), Code.UNKNOWN_COLUMN),
    (re.compile(r"^no such function"), Code.UNKNOWN_FUNCTION),
    (re.compile(r"already exists"), Code.OBJECT_EXISTS),
    (re.compile(r"integer overflow"), Code.NUMERIC_OUT_OF_RANGE),
)


def from_sqlite(error: BaseException) -> HaError:
    """The HaError that says what ``error``, raised by APSW, means to a client."""
    if isinstance(error, HaError):
        return error
    if isinstance(error, apsw.BindingsError):
        return HaError(Code.BAD_PARAMETERS, f"wrong number of parameters: {error}")
    if isinstance(error, apsw.ConnectionClosedError):
        return HaError(Code.UNAVAILABLE, "the database's file is being replaced", hint="try again")
    if isinstance(error, apsw.Error):
        return _from_result(error)
    if isinstance(error, UnicodeDecodeError):
        return HaError(
            Code.BAD_TEXT,
            "a TEXT value is not valid UTF-8",
            hint="read it as bytes: CAST(column AS BLOB)",
        )
    if isinstance(error, UnicodeEncodeError):
        return HaError(Code.BAD_TEXT, "the text has a lone surrogate, which UTF-8 cannot hold")
    if isinstance(error, ValueError) and "null character" in str(error):
        return HaError(Code.SYNTAX_ERROR, "the SQL text has a NUL character (U+0000)")
    if isinstance(error, OverflowError):
        return HaError(Code.NUMERIC_OUT_OF_RANGE, "an integer needs more than 64 bits")
    if isinstance(error, TypeError):
        return HaError(Code.BAD_PARAMETERS, str(error))
    if isinstance(error, MemoryError):
        return HaError(Code.TOO_LARGE, "out of memory")
    return HaError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _from_result(error: apsw.Error) -> HaError:
    extended = int(getattr(error, "extendedresult", 0) or 0)
    message = str(error)
    offset = getattr(error, "error_offset", None)
    code = _CONSTRAINTS.get(extended) or _PRIMARY.get(extended & 0xFF)
    hint = None
    if code is None:
        code = next((c for pattern, c in _MESSAGES if pattern.search(message)), Code.SQL_ERROR)
    if code is Code.SERIALIZATION_FAILURE:
        message = "the database changed since this transaction began to read"
        hint = "run the transaction again; BEGIN IMMEDIATE takes the writer at once"
    if code is Code.CANCELLED:
        message = "the statement was cancelled"
    return HaError(
        code,
        message,
        hint=hint,
        offset=offset if isinstance(offset, int) and offset >= 0 else None,
        sqlite_code=extended or None,
    )
