"""The errors that a client can meet, named once for all protocols.

Every wire maps :class:`Code` to its own vocabulary (HTTP status, SQLSTATE, MySQL errno,
gRPC text). Nothing else than an :class:`HaError` may reach a client.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What went wrong, as a stable word that clients may match on."""

    # the request
    BAD_REQUEST = "bad_request"  # malformed protocol input: JSON, parameters, flags
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"  # database, replication, snapshot
    ALREADY_EXISTS = "already_exists"
    TOO_LARGE = "too_large"  # body, result or message over a limit
    REFUSED = "refused"  # forbidden by name: ATTACH, VACUUM, control tables
    UNSUPPORTED = "unsupported"  # understood, but this system does not do it

    # SQL, as SQLite sees it
    SQL_ERROR = "sql_error"  # anything SQLite refuses that has no name below
    SYNTAX_ERROR = "syntax_error"
    UNKNOWN_TABLE = "unknown_table"
    UNKNOWN_COLUMN = "unknown_column"
    UNKNOWN_FUNCTION = "unknown_function"
    OBJECT_EXISTS = "object_exists"  # CREATE TABLE of one that is there
    BAD_PARAMETERS = "bad_parameters"  # wrong number or name of bindings
    UNIQUE_VIOLATION = "unique_violation"
    FOREIGN_KEY_VIOLATION = "foreign_key_violation"
    NOT_NULL_VIOLATION = "not_null_violation"
    CHECK_VIOLATION = "check_violation"
    CONSTRAINT_VIOLATION = "constraint_violation"  # RAISE, STRICT datatype, others
    TYPE_MISMATCH = "type_mismatch"
    NUMERIC_OUT_OF_RANGE = "numeric_out_of_range"
    READ_ONLY = "read_only"  # query_only, a follower, a file that is not writable
    BAD_TEXT = "bad_text"  # TEXT that is not valid Unicode

    # transactions
    NO_TRANSACTION = "no_transaction"  # COMMIT or ROLLBACK outside of one
    IN_TRANSACTION = "in_transaction"  # BEGIN inside one; UNDO inside one
    SERIALIZATION_FAILURE = "serialization_failure"  # try the transaction again
    TRANSACTION_HOLD = "transaction_hold"  # held foreign messages too long; rolled back
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    BUSY = "busy"  # too many statements at once; waited in vain
    DISK_FULL = "disk_full"
    IO_ERROR = "io_error"
    CORRUPT = "corrupt"

    # replication
    NOT_WRITTEN = "not_written"  # certain: the log does not hold the transaction
    OUTCOME_UNKNOWN = "outcome_unknown"  # the log may or may not hold it
    NOT_APPLIED = "not_applied"  # the log holds it, the fold ignores it, on every node
    WRITTEN_NOT_APPLIED = "written_not_applied"  # the log holds it, this node could not commit
    UNAVAILABLE = "unavailable"  # halted, catching up, or no log in reach
    STALE = "stale"  # txseq not reached in time
    NOT_LEADER = "not_leader"  # certain: not written here; the message says who leads
    NO_LEADER = "no_leader"  # nobody leads (yet): nothing was written

    INTERNAL = "internal"


class HaError(Exception):
    """An error with a name, a sentence, and where it helps a hint.

    ``offset`` is the zero-based byte offset in the SQL text, where SQLite knows it;
    ``sequence`` the log sequence that the error speaks of; ``sqlite_code`` SQLite's
    extended result code.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        detail: str | None = None,
        offset: int | None = None,
        sequence: int | None = None,
        sqlite_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail
        self.offset = offset
        self.sequence = sequence
        self.sqlite_code = sqlite_code
        self.leader: str | None = None
        """The URL of the node that takes the write, where this one does not send it on."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
