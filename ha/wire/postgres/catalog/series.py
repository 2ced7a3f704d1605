"""Table functions: generate_series over numbers and times, and unnest."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import apsw

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.wire.postgres import datetimes
from ha.wire.postgres.arrays import parse_array
from ha.wire.postgres.catalog.vtab import Row, TableSpec

MAX_ROWS = 10_000_000


def _series(start: Value, stop: Value, step: Value) -> list[Row]:
    if start is None or stop is None:
        return []
    if isinstance(start, str):
        return _times(start, str(stop), step)
    by: Any = 1 if step is None else step
    if by == 0:
        raise HaError(Code.BAD_PARAMETERS, "step size cannot equal zero")
    if not isinstance(start, int | float) or not isinstance(stop, int | float):
        raise HaError(Code.TYPE_MISMATCH, "generate_series takes numbers or times")
    count = max(0, int((stop - start) // by) + 1)
    if count > MAX_ROWS:
        raise HaError(Code.TOO_LARGE, f"generate_series of more than {MAX_ROWS} rows")
    return [(start + i * by,) for i in range(count)]


_STEP = re.compile(r"\s*([+-]?\d+)\s*(second|minute|hour|day|week)s?\s*\Z", re.IGNORECASE)


def _times(start: str, stop: str, step: Value) -> list[Row]:
    match = _STEP.match(str(step or "1 day"))
    if match is None:
        raise HaError(Code.UNSUPPORTED, f"generate_series by {step!r} is not supported")
    by = timedelta(**{f"{match[2].lower()}s": int(match[1])})
    if not by:
        raise HaError(Code.BAD_PARAMETERS, "step size cannot equal zero")
    try:
        moment: datetime = datetimes.read_timestamp(start)
        last = datetimes.read_timestamp(stop)
    except ValueError as error:
        raise HaError(Code.TYPE_MISMATCH, f"not a time: {error}") from error
    out: list[Row] = []
    while (moment <= last) if by > timedelta() else (moment >= last):
        out.append((datetimes.write_timestamp(moment),))
        if len(out) > MAX_ROWS:
            raise HaError(Code.TOO_LARGE, f"generate_series of more than {MAX_ROWS} rows")
        moment += by
    return out


def _unnest(array: Value) -> list[Row]:
    if array is None:
        return []
    text = str(array).strip()
    elements = parse_array(text) if text[:1] == "{" else text.split()
    return [(_number(e),) for e in elements]


def _subscripts(array: Value, _dimension: Value, _reverse: Value) -> list[Row]:
    if array is None:
        return []
    text = str(array).strip()
    if text[:1] == "{":
        return [(i,) for i in range(1, len(parse_array(text)) + 1)]
    return [(i,) for i in range(len(text.split()))]


def _expand(array: Value) -> list[Row]:
    """information_schema._pg_expandarray: element and position, as the text of a composite."""
    return [(f"({row[0]!r},{n})",) for n, row in enumerate(_unnest(array), 1)]


def _number(element: str | None) -> Value:
    if element is not None and re.fullmatch(r"-?\d{1,18}", element):
        return int(element)
    return element


def _keywords() -> list[Row]:
    return [(word.lower(), "R", "reserved") for word in sorted(apsw.keywords)]


TABLE_FUNCTIONS = (
    TableSpec(
        "pg_get_keywords",
        (("word", "text"), ("catcode", "text"), ("catdesc", "text")),
        lambda _state: _keywords(),
    ),
    TableSpec("generate_series", (("value", ""),), _series, arguments=3),
    TableSpec("generate_subscripts", (("value", ""),), _subscripts, arguments=3),
    TableSpec("_pg_expandarray", (("pair", "text"),), _expand, arguments=1),
    TableSpec("pg_partition_ancestors", (("relid", "oid"),), lambda _oid: [], arguments=1),
    TableSpec(
        "pg_options_to_table",
        (("option_name", "text"), ("option_value", "text")),
        lambda _options: [],
        arguments=1,
    ),
    TableSpec("unnest", (("unnest", ""),), _unnest, arguments=1),
)
