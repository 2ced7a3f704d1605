"""The exceptions of PEP 249, and which of them a node's error becomes."""

from __future__ import annotations

from ha.core.errors import Code


class Warning(Exception):
    """Never raised: a node has no warnings."""


class Error(Exception):
    """``code``: a word of :class:`ha.core.errors.Code`; None for what the driver itself refuses.

    ``sequence``: the log sequence that the error speaks of; ``position``: where in the SQL text,
    in bytes, from 1.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        detail: str | None = None,
        sequence: int | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message = message
        self.code = code
        self.hint = hint
        self.detail = detail
        self.sequence = sequence
        self.position = position


class InterfaceError(Error):
    """The driver is used in a way that it does not take."""


class DatabaseError(Error):
    """What the node answered, or that it did not."""


class DataError(DatabaseError):
    """A value that does not fit: its type, its size, its range."""


class OperationalError(DatabaseError):
    """Not the program's fault: no node in reach, a time-out, a lost connection, a full disk."""


class ConnectionLost(OperationalError):
    """The connection is gone; the next statement opens a new one.

    ``code`` says what became of the statement that was under way: ``not_written``, or
    ``outcome_unknown``.
    """


class IntegrityError(DatabaseError):
    """A constraint refused it."""


class InternalError(DatabaseError):
    """The node has a fault, or its database is corrupt."""


class ProgrammingError(DatabaseError):
    """The statement is wrong: syntax, names, parameters."""


class NotSupportedError(DatabaseError):
    """Understood, but not done here."""


_CLASSES: dict[type[DatabaseError], tuple[Code, ...]] = {
    IntegrityError: (
        Code.UNIQUE_VIOLATION,
        Code.FOREIGN_KEY_VIOLATION,
        Code.NOT_NULL_VIOLATION,
        Code.CHECK_VIOLATION,
        Code.CONSTRAINT_VIOLATION,
    ),
    DataError: (
        Code.TYPE_MISMATCH,
        Code.NUMERIC_OUT_OF_RANGE,
        Code.BAD_TEXT,
        Code.TOO_LARGE,
    ),
    ProgrammingError: (
        Code.BAD_REQUEST,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.SYNTAX_ERROR,
        Code.UNKNOWN_TABLE,
        Code.UNKNOWN_COLUMN,
        Code.UNKNOWN_FUNCTION,
        Code.OBJECT_EXISTS,
        Code.BAD_PARAMETERS,
        Code.NO_TRANSACTION,
        Code.IN_TRANSACTION,
    ),
    NotSupportedError: (Code.REFUSED, Code.UNSUPPORTED),
    InternalError: (Code.INTERNAL, Code.CORRUPT),
}
_BY_CODE = {code.value: cls for cls, codes in _CLASSES.items() for code in codes}


def class_for(code: str) -> type[DatabaseError]:
    return _BY_CODE.get(code, OperationalError)
