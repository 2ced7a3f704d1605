"""Dates and times: ISO text as SQLite keeps it, and PostgreSQL's text and binary forms.

Stored forms: ``YYYY-MM-DD``, ``HH:MM:SS[.ffffff]``, ``YYYY-MM-DD HH:MM:SS[.ffffff]``; a
timestamptz is stored in UTC without an offset, so that texts order as instants do and agree
with SQLite's CURRENT_TIMESTAMP. Binary forms: PostgreSQL, ``src/backend/utils/adt/timestamp.c``
(microseconds since 2000-01-01) and ``date.c`` (days since then).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

_EPOCH_DAYS = date(2000, 1, 1).toordinal()
_EPOCH = datetime(2000, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z")
_SHAPE = re.compile(
    r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d([.,]\d+)?)?\s*(Z|[+-]\d\d(:?\d\d)?)?)?\Z", re.I
)
_TIME = re.compile(r"\d\d:\d\d(:\d\d(\.\d+)?)?\Z")
INT64_MAX = 2**63 - 1


def _stamp(text: str) -> datetime:
    text = text.strip()
    if not _SHAPE.match(text):
        raise ValueError(text)
    return datetime.fromisoformat(text.replace(" +", "+").replace(" -", "-"))


def read_date(text: str) -> date:
    """Raises ValueError for anything that is not a day."""
    text = text.strip()
    if _DATE.match(text):
        return date.fromisoformat(text)
    stamp = _stamp(text)
    if stamp.timetz() != time(0):
        raise ValueError(text)
    return stamp.date()


def read_time(text: str) -> time:
    text = text.strip()
    if not _TIME.match(text):
        raise ValueError(text)
    return time.fromisoformat(text)


def read_timestamp(text: str) -> datetime:
    """Without zone; an offset in the text is ignored, as PostgreSQL does."""
    return _stamp(text).replace(tzinfo=None)


def read_timestamptz(text: str, zone: tzinfo = UTC) -> datetime:
    """In UTC, without tzinfo. A text without offset is in ``zone``."""
    stamp = _stamp(text)
    if stamp.tzinfo is None:
        if zone is UTC:
            return stamp
        stamp = stamp.replace(tzinfo=zone)
    return stamp.astimezone(UTC).replace(tzinfo=None)


def write_timestamp(stamp: datetime) -> str:
    """The stored form, and PostgreSQL's text form without zone."""
    text = stamp.isoformat(" ")
    return text.rstrip("0") if stamp.microsecond else text


def write_time(value: time) -> str:
    text = value.isoformat()
    return text.rstrip("0") if value.microsecond else text


def write_timestamptz(stamp: datetime, zone: tzinfo = UTC) -> str:
    """PostgreSQL's text form (``… 03:04:05+00``) of an instant in UTC, shown in ``zone``."""
    if zone is UTC:
        return write_timestamp(stamp) + "+00"
    local = stamp.replace(tzinfo=UTC).astimezone(zone)
    offset = local.utcoffset() or timedelta()
    seconds = int(offset.total_seconds())
    sign = "-" if seconds < 0 else "+"
    hours, rest = divmod(abs(seconds), 3600)
    suffix = f"{sign}{hours:02d}"
    if rest:
        suffix += f":{rest // 60:02d}"
        if rest % 60:
            suffix += f":{rest % 60:02d}"
    return write_timestamp(local.replace(tzinfo=None)) + suffix


def date_to_days(value: date) -> int:
    return value.toordinal() - _EPOCH_DAYS


def days_to_date(days: int) -> date:
    """Raises ValueError (or OverflowError) beyond the years 1 to 9999."""
    return date.fromordinal(days + _EPOCH_DAYS)


def stamp_to_microseconds(stamp: datetime) -> int:
    return (stamp - _EPOCH) // _MICROSECOND


def microseconds_to_stamp(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def time_to_microseconds(value: time) -> int:
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 10**6 + value.microsecond


def microseconds_to_time(microseconds: int) -> time:
    seconds, rest = divmod(microseconds, 10**6)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, rest)
