"""Errors as HTTP tells them: a status, and ``{"error": {"code", "message", …}}``."""

from __future__ import annotations

import json
from types import MappingProxyType

from ha.core.errors import Code, HaError

CLIENT_GONE = 499
"""Not in any RFC: nginx's word for a request whose client went away, or that was cancelled."""

STATUS = MappingProxyType(
    {
        Code.BAD_REQUEST: 400,
        Code.UNAUTHORIZED: 401,
        Code.NOT_FOUND: 404,
        Code.ALREADY_EXISTS: 409,
        Code.TOO_LARGE: 413,
        Code.REFUSED: 403,
        Code.UNSUPPORTED: 400,
        Code.SQL_ERROR: 400,
        Code.SYNTAX_ERROR: 400,
        Code.UNKNOWN_TABLE: 400,
        Code.UNKNOWN_COLUMN: 400,
        Code.UNKNOWN_FUNCTION: 400,
        Code.OBJECT_EXISTS: 400,
        Code.BAD_PARAMETERS: 400,
        Code.UNIQUE_VIOLATION: 409,
        Code.FOREIGN_KEY_VIOLATION: 409,
        Code.NOT_NULL_VIOLATION: 409,
        Code.CHECK_VIOLATION: 409,
        Code.CONSTRAINT_VIOLATION: 409,
        Code.TYPE_MISMATCH: 400,
        Code.NUMERIC_OUT_OF_RANGE: 400,
        Code.READ_ONLY: 409,
        Code.BAD_TEXT: 400,
        Code.NO_TRANSACTION: 400,
        Code.IN_TRANSACTION: 400,
        Code.SERIALIZATION_FAILURE: 409,
        Code.TRANSACTION_HOLD: 409,
        Code.CANCELLED: CLIENT_GONE,
        Code.TIMEOUT: 504,
        Code.BUSY: 503,
        Code.DISK_FULL: 507,
        Code.IO_ERROR: 500,
        Code.CORRUPT: 500,
        Code.NOT_WRITTEN: 503,
        Code.OUTCOME_UNKNOWN: 503,
        Code.NOT_APPLIED: 409,
        Code.WRITTEN_NOT_APPLIED: 503,
        Code.UNAVAILABLE: 503,
        Code.STALE: 503,
        Code.NOT_LEADER: 503,
        Code.NO_LEADER: 503,
        Code.INTERNAL: 500,
    }
)

# Only where doing the same again is right and may help. Never for OUTCOME_UNKNOWN, whose
# repetition may write twice, nor for WRITTEN_NOT_APPLIED, which is written already.
_RETRY_AFTER_SECONDS = MappingProxyType(
    {
        Code.BUSY: 1,
        Code.NOT_WRITTEN: 1,
        Code.STALE: 1,
        Code.UNAVAILABLE: 5,
        Code.NOT_LEADER: 1,
        Code.NO_LEADER: 1,
    }
)


def status_of(error: HaError) -> int:
    return STATUS[error.code]


def body_of(error: HaError) -> bytes:
    """The JSON body; members that the error does not know are absent."""
    members: dict[str, str | int] = {"code": error.code.value, "message": error.message}
    if error.hint is not None:
        members["hint"] = error.hint
    if error.detail is not None:
        members["detail"] = error.detail
    if error.offset is not None:
        members["offset"] = error.offset
    if error.sequence is not None:
        members["sequence"] = error.sequence
    text = json.dumps({"error": members}, ensure_ascii=False, separators=(",", ":"))
    # A message may quote a name with a lone surrogate, which UTF-8 cannot write.
    return text.encode("utf-8", "replace")


def headers_of(error: HaError) -> list[tuple[bytes, bytes]]:
    """Headers beside the body: when to try again, how to authenticate."""
    headers: list[tuple[bytes, bytes]] = []
    seconds = _RETRY_AFTER_SECONDS.get(error.code)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if error.code is Code.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
