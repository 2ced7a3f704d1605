"""How long a test waits for a node: as long as that comes further."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST = 900.0
"""Seconds after which a node that still comes further is given up."""


class Patience:
    """``seconds`` of standing still, and ``longest`` in all. ``progress`` says how far it is, None
    where it cannot tell, or is at no such work.

    What is bounded is not how long the work takes: a node may have a long log to read again on a
    slow machine. It is how long nothing comes of it.
    """

    def __init__(
        self,
        seconds: float,
        progress: Callable[[], int | None],
        *,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self._progress = progress
        self._clock = clock
        self._seen: int | None = None
        self._over = clock() + seconds
        self._last = clock() + max(longest, seconds)

    def is_over(self) -> bool:
        seen = self._progress()
        now = self._clock()
        if seen is not None and seen != self._seen:
            self._seen = seen
            self._over = now + self.seconds
        return now > min(self._over, self._last)
