"""Finds transactions that may not have met the rows that they name. Pure.

A message under ``--row-identify full`` names a row by all its values. When another transaction
came between, it may do something else than it says, and not tell: an UPDATE or DELETE finds
another row with the same values, or none, and an INSERT goes to another rowid. What is in such a
table afterwards does not follow from the messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from ha.core.changeset import Identify
from ha.core.touches import Image, Key, State, Touch, Transaction, same_row

_REMEMBERED = 200_000
"""Rows whose last state is remembered: more transactions than are ever under way at once."""


class Strays:
    """Feed it the transactions from a sequence on, in order. Then :meth:`resolve` adds what came
    before."""

    def __init__(self, start: int) -> None:
        self.tables: dict[str, int] = {}
        """Where it happened, and the sequence of the first one."""
        self._start = start
        self._blind = start - 1  # up to here nothing is remembered
        self._last: dict[tuple[str, Key], tuple[int, State]] = {}
        self._open: list[tuple[int, int, Touch]] = []

    @property
    def reach(self) -> int:
        """The first sequence that matters to what has been fed."""
        return min((saw + 1 for _, saw, _ in self._open), default=self._start)

    def feed(self, tx: Transaction, touches: Iterable[Touch]) -> None:
        full = tx.identify is Identify.FULL
        if not full and not self._last:
            self._blind = tx.sequence
            return
        for touch in touches:
            where = (touch.table, touch.key)
            if full and not _by_key(touch):
                known = self._last.get(where)
                if known is not None and known[0] > tx.saw:
                    self._compare(tx.sequence, touch, known)
                elif tx.saw < self._blind < self._start:
                    self._open.append((tx.sequence, tx.saw, touch))
                elif tx.saw < self._blind:
                    self._note(touch.table, tx.sequence)
            self._last[where] = (tx.sequence, touch.after)
        if len(self._last) > _REMEMBERED:
            self._last.clear()
            self._blind = tx.sequence

    def resolve(self, earlier: Strays) -> None:
        """``earlier`` was fed what stands before the start of this one."""
        for sequence, saw, touch in self._open:
            known = earlier._last.get((touch.table, touch.key))
            if known is not None and known[0] > saw:
                self._compare(sequence, touch, known)
            elif saw < earlier._blind:
                self._note(touch.table, sequence)
        for table, sequence in earlier.tables.items():
            self._note(table, sequence)

    def resolve_roughly(self, touched: dict[str, int]) -> None:
        """``touched``: the last sequence before the start of this one that touched each table."""
        for sequence, saw, touch in self._open:
            if touched.get(touch.table, 0) > saw:
                self._note(touch.table, sequence)

    def _compare(self, sequence: int, touch: Touch, known: tuple[int, State]) -> None:
        if known[0] != sequence and not _same(known[1], touch.before):
            self._note(touch.table, sequence)

    def _note(self, table: str, sequence: int) -> None:
        self.tables[table] = min(sequence, self.tables.get(table, sequence))


def _by_key(touch: Touch) -> bool:
    """A table WITHOUT ROWID: its rows are always found by their primary key."""
    states = [s for s in (touch.before, touch.after) if isinstance(s, Image)]
    return bool(states) and all(s.rowid is None for s in states)


def _same(a: State, b: State) -> bool:
    if isinstance(a, Image) and isinstance(b, Image):
        return a.rowid == b.rowid and same_row(a.values, b.values, loose=False)
    return a is None and b is None
