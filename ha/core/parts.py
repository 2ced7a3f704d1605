"""Big transactions in parts: one message each, one place in the log, the last part's.

Every part is a message of the usual format with a slice of the changes, so that an existing
node still reads it (though as transactions of its own). A change too big for one message
travels as pieces of its JSON text. Members of ``ha``: ``part`` [index, count]; ``piece``
a slice of it, ``more`` true while the change is not complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ha.core.changeset import Change, ChangeSet, FormatError, decode_change, encode, encode_changes

HEADROOM = 1_024
"""Bytes of a message that the envelope may take beside its changes."""
_CHANGES_A_PART = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """Index from 0, and how many there are."""

    index: int
    count: int

    @property
    def last(self) -> bool:
        return self.index == self.count - 1


def part_of(cs: ChangeSet) -> Part | None:
    """The part that a message is, None if it is whole. Raises FormatError."""
    raw = cs.extra.get("part")
    if raw is None:
        return None
    if (
        not isinstance(raw, list)
        or len(raw) != 2
        or not all(type(n) is int for n in raw)
        or not 0 <= raw[0] < raw[1]
    ):
        raise FormatError(f"bad part: {raw!r}")
    return Part(raw[0], raw[1])


def encode_all(cs: ChangeSet, limit: int) -> list[bytes]:
    """The messages that carry ``cs``, none longer than ``limit`` bytes: one, if it fits."""
    if len(cs.changes) <= _CHANGES_A_PART:
        whole = encode(cs)
        if len(whole) <= limit:
            return [whole]
    overhead = len(encode(cs.with_changes(()))) + HEADROOM
    room = limit - overhead
    if room < HEADROOM:
        raise ValueError(f"messages of {limit} bytes are too small")
    slices: list[tuple[str, dict[str, object]]] = []
    for start in range(0, len(cs.changes), _CHANGES_A_PART):
        slices.extend(_split(cs.changes[start : start + _CHANGES_A_PART], room))
    count = len(slices)
    return [
        encode(replace(cs, extra={**cs.extra, **extra, "part": [i, count]}), changes)
        for i, (changes, extra) in enumerate(slices)
    ]


def _split(changes: Sequence[Change], room: int) -> Iterator[tuple[str, dict[str, object]]]:
    """The encoded changes of each part, and what else it says."""
    text = encode_changes(changes)
    if len(text) <= room:
        yield text, {}
    elif len(changes) > 1:
        half = len(changes) // 2
        yield from _split(changes[:half], room)
        yield from _split(changes[half:], room)
    else:
        text = text[1:-1]
        start = 0
        while start < len(text):
            size = room
            while len(json.dumps(text[start : start + size])) > room:
                size = size * 3 // 4
            yield "[]", {"piece": text[start : start + size], "more": start + size < len(text)}
            start += size


class Assembler:
    """Puts the pieces of a change together. Feed it the parts of one transaction, in order."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def feed(self, cs: ChangeSet) -> tuple[Change, ...]:
        """The changes that are whole with this part. Raises FormatError."""
        piece = cs.extra.get("piece")
        if piece is None:
            self.end()
            return cs.changes
        try:
            self._pieces.append(_text(piece))
            if cs.extra.get("more"):
                return ()
            change = decode_change(json.loads("".join(self._pieces)))
        except (ValueError, TypeError) as error:
            raise FormatError(f"broken piece of a change: {error}") from error
        self._pieces = []
        return (change,)

    def end(self) -> None:
        """Nothing follows. Raises FormatError if a change has no end."""
        if self._pieces:
            raise FormatError("a change in pieces has no end")


def _text(piece: object) -> str:
    if not isinstance(piece, str):
        raise TypeError("a piece is a string")
    return piece


def changes_of(parts: Iterable[ChangeSet]) -> Iterator[tuple[Change, ...]]:
    """The changes of all parts, a part at a time, pieces put together. Raises FormatError."""
    assembler = Assembler()
    for cs in parts:
        changes = assembler.feed(cs)
        if changes:
            yield changes
    assembler.end()
