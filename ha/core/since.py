"""A place in the log, as a person names it: a sequence, or a time back from now."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ha.core.durations import parse_duration
from ha.core.errors import Code, HaError

_SEQUENCE = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Since:
    """From ``sequence`` on (0: the last transaction alone), or the last ``seconds``, by the
    broker's clock."""

    sequence: int = 0
    seconds: float | None = None


def parse_since(text: str) -> Since:
    """``150``, ``5m``, ``'1h30m'``; nothing: the last transaction. Raises HaError (BAD_REQUEST)."""
    bare = text.strip().strip("'\"").strip()
    if not bare:
        return Since()
    if _SEQUENCE.fullmatch(bare):
        sequence = int(bare)
        if sequence < 2**63:
            return Since(sequence)
    try:
        seconds = parse_duration(bare)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise HaError(
            Code.BAD_REQUEST,
            f"{text!r} is neither a sequence nor a duration: write 150, or 5m, 1h30m, 300ms",
        )
    return Since(seconds=seconds)
