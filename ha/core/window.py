"""The transactions before the first one that an undo reverts, as far as others raced with that.

From them follows what a row was just before, where the message that changed it next had not seen
it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ha.core.strays import Strays
from ha.core.touches import Image, Key, Shape, Special, State, Touch, Transaction, same_in

EVER = 2**63
"""Beyond all sequences."""


class Seen(NamedTuple):
    """A row's state, from ``sequence`` on. ``loose``: an existing node wrote it."""

    sequence: int
    image: State
    loose: bool


class Window:
    """Feed it the transactions from ``start`` on, in order; then :meth:`look_back` at those before,
    from :attr:`outlook` on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.strays = Strays(start)
        self.last: dict[str, dict[Key, Seen]] = {}
        """The last state of each row, by table."""
        self._touches: dict[str, list[tuple[int, Touch]]] = {}
        self._sequences: list[tuple[int, Transaction]] = []
        self._touched: dict[str, int] = {}

    def feed(self, tx: Transaction, touches: Iterable[Touch]) -> None:
        touches = list(touches)
        self.strays.feed(tx, touches)
        for touch in touches:
            self.last.setdefault(touch.table, {})[touch.key] = Seen(
                tx.sequence, touch.after, tx.existing
            )
            self._touches.setdefault(touch.table, []).append((tx.sequence, touch))
        if tx.sequences:
            self._sequences.append((tx.sequence, tx))

    @property
    def outlook(self) -> int:
        """The first sequence with which transactions of the window raced, where that matters."""
        return self.strays.reach

    def look_back(self, tx: Transaction, touches: Iterable[Touch]) -> None:
        """A transaction from :attr:`outlook` on, and before ``start``; in order."""
        for touch in touches:
            self._touched[touch.table] = tx.sequence

    def close(self) -> Strays:
        """All has been fed."""
        self.strays.resolve_roughly(self._touched)
        return self.strays

    def survived(self, shape: Shape, table: str, key: Key, seen: Seen) -> State:
        """What became of a row after ``seen``, when no message named it: an INSERT or UPDATE that
        did not see it removed it if it clashed. Special.UNKNOWN if that cannot be told."""
        image = seen.image
        if not isinstance(image, Image):
            return image
        for sequence, touch in self._touches.get(table, ()):
            if sequence <= seen.sequence or touch.key == key or not isinstance(touch.after, Image):
                continue
            if shape.unique is None:
                return Special.UNKNOWN
            if any(same_in(index, image, touch.after) for index in shape.unique):
                return None
        return image

    def sequences(self, at: Mapping[str, tuple[int | None, int]]) -> dict[str, int | None]:
        """The numbers of ``sqlite_sequence`` at the window's end, by the rule of the fold, from
        each table's number and the position where it had that."""
        values = {name: number for name, (number, _) in at.items()}
        for sequence, tx in self._sequences:
            met = [c for c in tx.sequences if at.get(c.table, (0, EVER))[1] < sequence]
            exact = all(values[c.table] == c.old for c in met)
            for c in met:
                known = [n for n in (values[c.table], c.new) if n is not None]
                values[c.table] = c.new if exact else max(known, default=None)
        return values
