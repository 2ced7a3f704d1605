"""The transactions of a log, read page by page: what HISTORY shows and UNDO is computed from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import trio

from ha.core.changeset import Change, ChangeSet, FormatError, Kind, decode
from ha.core.errors import Code, HaError
from ha.core.parts import Assembler, part_of
from ha.core.since import Since
from ha.core.sqltext import statement
from ha.engine.api import HistoryItem
from ha.engine.iterating import closing
from ha.engine.runtime import Runtime
from ha.log.api import Entry, Log, LogError

MOST_STATEMENTS = 1_000
"""Statements of one transaction that history shows."""
_FIRST_LOOK = 64
_PAGE = 50
"""Messages that are read before others may have the event loop."""
_LONG = 64 * 1024
"""Bytes of a message that is decoded on a thread."""


@dataclass(frozen=True, slots=True)
class Past:
    """A transaction in the log. ``time_ns``: the broker's, Unix nanoseconds; ``parts``: where
    those parts of it stand that come before its last one; its place is the last one's."""

    sequence: int
    time_ns: int
    change_set: ChangeSet
    parts: tuple[int, ...] = ()


class History:
    """Over one log. ``ignored`` names, from a sequence on, the messages without effect;
    ``applied`` is how far that is known."""

    def __init__(
        self,
        log: Log,
        ignored: Callable[[int], frozenset[int]],
        applied: Callable[[], int],
        runtime: Runtime,
    ) -> None:
        self._log = log
        self._runtime = runtime
        self._ignored = ignored
        self._applied = applied

    async def transactions(self, first: int, last: int | None = None) -> AsyncIterator[Past]:
        """Those that had an effect, with first ≤ sequence ≤ last (None: all that are applied
        here). Raises LogError."""
        if last is None:
            last = self._applied()
        ignored = self._ignored(first)
        reader = PastReader()
        count = 0
        async with closing(self._log.history(first, last)) as entries:
            async for entry in entries:
                if len(entry.payload) > _LONG:
                    past = await self._read_long(reader, entry)
                else:
                    past = reader.read(entry)
                    count += 1
                    if count % _PAGE == 0:
                        await trio.lowlevel.checkpoint()
                if past is None or past.sequence in ignored:
                    continue
                if reader.missing:
                    parts = await self._find_parts(past)
                    if parts is None:
                        continue
                    past = Past(past.sequence, past.time_ns, past.change_set, parts)
                yield past

    async def _read_long(self, reader: PastReader, entry: Entry) -> Past | None:
        past: Past | None = await self._runtime.run_in_thread(lambda: reader.read(entry))
        return past

    async def _find_parts(self, past: Past) -> tuple[int, ...] | None:
        """The parts of a transaction whose first ones lie before the page that is read."""
        reader = PastReader()
        first = (past.change_set.base or 0) + 1
        async with closing(self._log.history(first, past.sequence)) as entries:
            async for entry in entries:
                found = reader.read(entry)
                if found is not None and found.sequence == past.sequence:
                    return None if reader.missing else found.parts
        return None

    async def changes(self, past: Past) -> AsyncIterator[tuple[Change, ...]]:
        """The changes of a transaction, a part at a time. Raises LogError, FormatError."""
        assembler = Assembler()
        for sequence in past.parts:
            entry = await self._log.entry(sequence)
            if entry is None:
                raise LogError(f"the part at {sequence} of the transaction is gone")
            changes = assembler.feed(decode(entry.payload))
            if changes:
                yield changes
        changes = assembler.feed(past.change_set)
        assembler.end()
        if changes:
            yield changes

    async def item(self, past: Past) -> HistoryItem:
        """With its statements, at most ``MOST_STATEMENTS``."""
        item = HistoryItem(past.sequence, past.time_ns, past.change_set.node)
        whole = past.change_set.changes
        if not past.parts and len(whole) <= MOST_STATEMENTS:
            item.statements.extend(map(statement, whole))
            return item
        async with closing(self.changes(past)) as parts:
            async for changes in parts:
                for change in changes:
                    if len(item.statements) == MOST_STATEMENTS:
                        return HistoryItem(
                            item.sequence, item.time_ns, item.node, item.statements, more=True
                        )
                    item.statements.append(statement(change))
        return item

    async def items(self, since: Since) -> AsyncIterator[HistoryItem]:
        """Raises HaError."""
        first = await self.resolve(since)
        if first is None:
            return
        try:
            async with closing(self.transactions(first)) as transactions:
                async for past in transactions:
                    yield await self.item(past)
        except (LogError, FormatError) as error:
            raise unreadable(error) from error

    # --- places ----------------------------------------------------------------------

    async def resolve(self, since: Since) -> int | None:
        """The sequence meant; None if there is no transaction there. Raises HaError.

        A duration reaches from the broker's time back: to the first message that the broker
        stamped within it, and all that follow, whatever the stamps of those say.
        """
        try:
            if since.seconds is not None:
                cut = await self._log.now_ns() - int(since.seconds * 1e9)
                first = await self._log.sequence_at(cut)
                return first if first <= self._applied() else None
            if since.sequence:
                return since.sequence
            return await self._last()
        except LogError as error:
            raise unreadable(error) from error

    async def _last(self) -> int | None:
        """The last transaction: found from the end, in growing steps."""
        state = await self._log.state()
        end = self._applied()
        look = _FIRST_LOOK
        while True:
            first = max(state.subject_first, end - look + 1)
            found: int | None = None
            async with closing(self.transactions(first)) as transactions:
                async for past in transactions:
                    found = past.sequence
            if found is not None or first <= state.subject_first:
                return found
            look *= 8

    async def require(self, first: int) -> None:
        """Raises NOT_FOUND unless the log still holds everything from ``first`` on."""
        try:
            state = await self._log.state()
            if first > self._applied():
                raise HaError(
                    Code.NOT_FOUND,
                    f"the log ends at {self._applied()}: there is nothing at {first}",
                )
            if state.first <= 1 or (state.subject_first and first >= state.subject_first):
                return
            opening = await self._log.entry(state.subject_first) if state.subject_first else None
        except LogError as error:
            raise unreadable(error) from error
        if opening is None or not _opens(opening):
            raise HaError(
                Code.NOT_FOUND,
                f"the log no longer holds what was written from {first} on:"
                f" it begins at {state.subject_first or self._applied() + 1}",
                hint="see --replication-max-age; an earlier snapshot may hold that state",
            )


def _opens(entry: Entry) -> bool:
    try:
        return decode(entry.payload).kind is Kind.BASE
    except FormatError:
        return False


class PastReader:
    """Puts transactions together from messages, in the order of the log."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int, int], dict[int, int]] = {}
        self.missing = False
        """Does the transaction read last lack parts, that must come earlier?"""

    def read(self, entry: Entry) -> Past | None:
        """The transaction that ``entry`` ends, if it ends one."""
        self.missing = False
        try:
            cs = decode(entry.payload)
            part = part_of(cs)
        except FormatError:
            return None
        if cs.kind is not Kind.TRANSACTION:
            return None
        if part is None:
            return Past(entry.sequence, entry.time_ns, cs)
        key = (cs.node, cs.process_id, cs.origin.number if cs.origin else 0)
        if not part.last:
            self._parts.setdefault(key, {}).setdefault(part.index, entry.sequence)
            return None
        known = self._parts.pop(key, {})
        self.missing = len(known) < part.count - 1
        parts = tuple(known[i] for i in sorted(known))
        return Past(entry.sequence, entry.time_ns, cs, parts)


def unreadable(error: Exception) -> HaError:
    """For who wanted to read the history."""
    return HaError(Code.UNAVAILABLE, f"the history cannot be read: {error}", hint="try again")
