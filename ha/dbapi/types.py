"""Types of PEP 249: constructors, type objects, and what may be a parameter."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from ha.core.values import Value
from ha.dbapi.errors import DataError, InterfaceError, ProgrammingError

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = memoryview


def DateFromTicks(ticks: float) -> datetime.date:  # noqa: N802 (PEP 249 names it so)
    return datetime.date.fromtimestamp(ticks)


def TimeFromTicks(ticks: float) -> datetime.time:  # noqa: N802
    return datetime.datetime.fromtimestamp(ticks).time()


def TimestampFromTicks(ticks: float) -> datetime.datetime:  # noqa: N802
    return datetime.datetime.fromtimestamp(ticks)


class TypeObject:
    """Equal to the declared types that hold such values (SQLite's rules of affinity)."""

    def __init__(self, name: str, parts: Iterable[str]) -> None:
        self._name = name
        self._parts = tuple(parts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return any(part in other.upper() for part in self._parts)
        return self is other

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return self._name


STRING = TypeObject("STRING", ("CHAR", "CLOB", "TEXT"))
BINARY = TypeObject("BINARY", ("BLOB", "BINARY"))
NUMBER = TypeObject("NUMBER", ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BOOL"))
DATETIME = TypeObject("DATETIME", ("DATE", "TIME"))
ROWID = TypeObject("ROWID", ("ROWID",))

_Moment: TypeAlias = datetime.datetime | datetime.date | datetime.time
_Bytes: TypeAlias = bytes | bytearray | memoryview
Parameter: TypeAlias = int | float | str | _Bytes | _Moment | None
Parameters: TypeAlias = Sequence[Parameter] | Mapping[str, Parameter]


def storage_class(value: Value) -> str | None:
    """The type of a column that declares none, by a value in it."""
    match value:
        case int():
            return "INTEGER"
        case float():
            return "REAL"
        case str():
            return "TEXT"
        case bytes():
            return "BLOB"
    return None


def adapt(value: object) -> Value:
    """A parameter as SQLite keeps it; dates and times become ISO 8601 text.

    Raises InterfaceError for another type, DataError for an integer beyond 64 bits.
    """
    if value is None or type(value) is str or type(value) is float or type(value) is bytes:
        return value
    if isinstance(value, int):  # bool too
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise DataError(f"{number} is beyond the 64 bits of SQLite's integers")
        return number
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, str):  # a subclass, such as an enumeration
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise InterfaceError(
        f"a parameter cannot be {type(value).__name__}: it takes None, int, float, str, bytes, "
        "and datetime's date, time and datetime"
    )


def adapt_all(parameters: object) -> list[Value] | dict[str, Value]:
    """Raises ProgrammingError if they are neither a sequence nor a mapping."""
    if isinstance(parameters, Mapping):
        return {str(name): adapt(value) for name, value in parameters.items()}
    if isinstance(parameters, Sequence) and not isinstance(parameters, str | bytes):
        return [adapt(value) for value in parameters]
    raise ProgrammingError(
        f"parameters must be a sequence or a mapping, not {type(parameters).__name__}"
    )
