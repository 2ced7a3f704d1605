"""SQLite values, and their exact form in JSON.

A message must be readable by nodes of the existing system, which know only JSON's own types
and base64 strings for BLOBs, and must restore here exactly. So a row of values travels as
plain JSON beside a string of type letters that is absent while JSON alone tells the truth.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RawText:
    """TEXT whose bytes are not valid UTF-8, as a ``CAST(x'ff' AS TEXT)`` makes them."""

    data: bytes


Value: TypeAlias = int | float | str | bytes | RawText | None
JsonValue: TypeAlias = int | float | str | None

_PLAIN = "."
_BLOB = "b"
_REAL = "r"
_RAW_TEXT = "x"


def encode_values(values: Sequence[Value]) -> tuple[list[JsonValue], str | None]:
    """The JSON values and the type letters (None if every value is plain JSON).

    Letters, one a value: ``.`` plain, ``b`` BLOB as base64, ``r`` a REAL that JSON cannot
    write (``inf``, ``-inf``) as a string, ``x`` text that is not UTF-8 as base64.
    """
    out: list[JsonValue] = []
    letters: list[str] | None = None
    for i, v in enumerate(values):
        letter = _PLAIN
        if v is None or type(v) is int or type(v) is str:
            out.append(v)
        elif type(v) is float:
            if math.isfinite(v):
                out.append(v)
            else:
                out.append(repr(v))
                letter = _REAL
        elif isinstance(v, bytes | bytearray | memoryview):
            out.append(base64.b64encode(v).decode("ascii"))
            letter = _BLOB
        elif isinstance(v, RawText):
            out.append(base64.b64encode(v.data).decode("ascii"))
            letter = _RAW_TEXT
        else:
            raise TypeError(f"not a SQLite value: {type(v).__name__}")
        if letter is not _PLAIN:
            if letters is None:
                letters = [_PLAIN] * i
            letters.append(letter)
        elif letters is not None:
            letters.append(_PLAIN)
    return out, None if letters is None else "".join(letters)


_PLAIN_TYPES = {int, str, type(None)}
_JSON_TYPES = {str, float, type(None)}


def is_plain(values: Sequence[Value]) -> bool:
    """Does JSON tell the truth about all of them, surely? (Floats may be infinite.)"""
    return _PLAIN_TYPES.issuperset(map(type, values))


def decode_values(values: Sequence[object], letters: object) -> tuple[Value, ...]:
    """The inverse of :func:`encode_values`; without letters, JSON's types are taken as they are.

    Raises ValueError on anything that no encoder writes. JSON's booleans, which the existing
    system may send, are the integers 0 and 1.
    """
    if letters is None:
        if _JSON_TYPES.issuperset(map(type, values)):
            return tuple(values)  # type: ignore[arg-type]
        return tuple([_decode_plain(v) for v in values])
    if type(letters) is not str:
        raise ValueError("type letters are not a string")
    if len(letters) != len(values):
        raise ValueError(f"{len(values)} values with {len(letters)} type letters")
    return tuple(
        _decode_plain(v) if letter == _PLAIN else _decode_special(v, letter)
        for v, letter in zip(values, letters, strict=True)
    )


def _decode_plain(v: object) -> Value:
    if type(v) is int:
        if not -(2**63) <= v < 2**63:
            raise ValueError(f"integer out of SQLite's range: {v}")
        return v
    if v is None or type(v) is str or type(v) is float:
        return v
    if type(v) is bool:
        return int(v)
    raise ValueError(f"not a SQLite value in JSON: {type(v).__name__}")


def _decode_special(v: object, letter: str) -> Value:
    if type(v) is not str:
        raise ValueError(f"type letter {letter!r} needs a string, not {type(v).__name__}")
    if letter == _BLOB:
        return base64.b64decode(v, validate=True)
    if letter == _RAW_TEXT:
        return RawText(base64.b64decode(v, validate=True))
    if letter == _REAL:
        return float(v)
    raise ValueError(f"unknown type letter: {letter!r}")
