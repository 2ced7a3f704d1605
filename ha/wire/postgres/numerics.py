"""``numeric``: exact decimals from and to SQLite's integers and floats, and the binary form.

Binary form: PostgreSQL, ``src/backend/utils/adt/numeric.c``, numeric_send and numeric_recv.
"""

from __future__ import annotations

import math
import struct
from decimal import Decimal

_POSITIVE, _NEGATIVE = 0x0000, 0x4000
_NAN, _INFINITE, _MINUS_INFINITE = 0xC000, 0xD000, 0xF000


def to_sqlite(value: Decimal) -> int | float:
    """The integer or float that shows exactly ``value``. Raises OverflowError if none does.

    A float counts as exact when its shortest decimal form is ``value``: 0.1 is, a number of
    twenty digits is not.
    """
    if not value.is_finite():
        if value.is_nan():
            raise OverflowError("NaN is not a SQLite value")
        return float(value)
    if value == value.to_integral_value() and value.adjusted() < 20:
        whole = int(value)
        if -(2**63) <= whole < 2**63:
            return whole
    near = float(value)
    if not math.isfinite(near) or Decimal(repr(near)) != value:
        raise OverflowError(str(value))
    return near


def of_float(value: float) -> Decimal:
    return Decimal(repr(value))


def text(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    return format(value, "f")


def encode(value: Decimal) -> bytes:
    if not value.is_finite():
        sign = _NAN if value.is_nan() else _INFINITE if value > 0 else _MINUS_INFINITE
        return struct.pack("!hhHh", 0, 0, sign, 0)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    whole = "".join(map(str, digits)) + "0" * max(0, exponent)
    left, right = (whole[:-scale], whole[-scale:].rjust(scale, "0")) if scale else (whole, "")
    left = left.lstrip("0")
    left = "0" * (-len(left) % 4) + left
    right += "0" * (-len(right) % 4)
    weight = len(left) // 4 - 1
    groups = [int((left + right)[i : i + 4]) for i in range(0, len(left) + len(right), 4)]
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        weight, sign = 0, 0
    flag = _NEGATIVE if sign else _POSITIVE
    return struct.pack(f"!hhHh{len(groups)}h", len(groups), weight, flag, scale, *groups)


def decode(data: bytes) -> Decimal:
    """Raises ValueError or struct.error on malformed input."""
    count, weight, sign, scale = struct.unpack_from("!hhHh", data)
    if sign == _NAN:
        return Decimal("NaN")
    if sign in (_INFINITE, _MINUS_INFINITE):
        return Decimal("Infinity" if sign == _INFINITE else "-Infinity")
    if sign not in (_POSITIVE, _NEGATIVE) or len(data) != 8 + 2 * count or scale < 0:
        raise ValueError("bad numeric")
    groups = struct.unpack_from(f"!{count}h", data, 8)
    if any(not 0 <= g < 10000 for g in groups):
        raise ValueError("bad numeric digit")
    digits = tuple(int(d) for g in groups for d in f"{g:04d}") or (0,)
    value = Decimal((int(sign == _NEGATIVE), digits, 4 * (weight - count + 1)))
    return value.quantize(Decimal(1).scaleb(-scale)) if _fits(value, scale) else value


def _fits(value: Decimal, scale: int) -> bool:
    return value.adjusted() + scale < 27
