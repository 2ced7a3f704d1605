"""What happened in a run: a hash over all of it, and a time line of it for people."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_FLUSH = 4_096
_FOLDER_MARK = "/sim-"
_FOLDER = re.compile(r"[^\s'\"]*/sim-[^/\s]+/\d+/")
"""Where the files of a node lie, which is not the same in two runs."""


@dataclass(slots=True)
class Event:
    """Something that a reader of the time line wants to see.

    ``time``: virtual seconds; ``lane``: a node, ``log``, ``faults`` or a client; ``key`` joins
    the events of one message, so that they can be drawn as an arrow; ``step``: how many
    scheduling steps the run had made.
    """

    time: float
    step: int
    lane: str
    kind: str
    text: str
    key: str = ""


@dataclass(slots=True)
class Trace:
    """``keep``: remember the events (the hash is always made). ``time``: the virtual clock.

    Every scheduling step, message, SQL result and VFS write goes into the hash.
    """

    keep: bool = False
    time: Callable[[], float] = lambda: 0.0
    events: list[Event] = field(default_factory=list)
    steps: int = 0
    on_step: Callable[[int], None] | None = None
    _hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _buffer: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Into the hash alone."""
        self._buffer.append(text)
        if len(self._buffer) > _FLUSH:
            self._flush()

    def event(self, lane: str, kind: str, text: str = "", key: str = "") -> None:
        """Into the hash, and into the time line if it is kept."""
        now = self.time()
        if _FOLDER_MARK in text:
            text = _FOLDER.sub("", text)
        self._buffer.append(f"{now:.9f} {lane} {kind} {text} {key}")
        if self.keep:
            self.events.append(Event(now, self.steps, lane, kind, text, key))

    def _flush(self) -> None:
        self._hash.update("\n".join(self._buffer).encode("utf-8", "surrogatepass"))
        self._buffer.clear()

    def digest(self) -> str:
        """16 hexadecimal digits: equal for equal runs."""
        self._flush()
        return str(self._hash.hexdigest())
