"""Brings the outbox of asynchronous replication into the log, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

import apsw
import trio

from ha.log.api import Ack, Log, LogError, NotSent
from ha.store.connection import Connection
from ha.store.outbox import Outbox, Waiting

logger = logging.getLogger(__name__)

WINDOW = 512
"""Messages that may be under way at once."""
_REFUSED_PAUSE = 0.1  # seconds, as the next
_CAREFUL = 10.0


class Relay:
    """Publishes what waits; the database's own subscription tells what has arrived.

    A message that does not come back in ``patience`` seconds is published again, under the
    same id: what the broker no longer remembers, the fold ignores by its number. For a while after
    something was refused or did not count, the last part of a big transaction waits for the acks of
    the others, of which one that is missing is published again alone: a transaction of very many
    parts would hardly ever arrive whole otherwise.
    """

    def __init__(self, log: Log, outbox: Outbox, reader: Connection, patience: float) -> None:
        self.outbox = outbox
        self.published = 0
        """Messages sent, those sent again too."""
        self._log = log
        self._reader = reader
        self._patience = patience
        self._sent = 0
        self._careful_until = -inf
        self._parts: dict[int, Waiting] = {}
        """Parts of one transaction that have no ack yet, while we are careful."""
        self._arrived: set[int] = set()
        """Positions of parts that have."""
        self._refused = False
        self._wake = trio.Event()

    def reopen(self, outbox: Outbox, reader: Connection) -> None:
        """The database has another file."""
        self._reader.close()
        self.outbox = outbox
        self._reader = reader
        self.again()

    def close(self) -> None:
        """After :meth:`run` has ended."""
        self._reader.close()

    def wake(self) -> None:
        """Something may have changed: the outbox, the position, the connection."""
        self._wake.set()

    def again(self, *, careful: bool = False) -> None:
        """Publish all that waits once more; ``careful``: what was published did not count."""
        if careful:
            self._careful_until = trio.current_time() + _CAREFUL
        self._sent = 0
        self._parts.clear()
        self._arrived.clear()
        self._refused = False
        self.wake()

    async def run(self, may_publish: Callable[[], bool]) -> None:
        """Until cancelled."""
        oldest, since = 0, trio.current_time()
        while True:
            try:
                first = self._first()
                if first != oldest:
                    oldest, since = first, trio.current_time()
                    self._arrived = {position for position in self._arrived if position >= first}
                may = bool(first) and may_publish()
                if may and self._refused:
                    await trio.sleep(_REFUSED_PAUSE)
                    self._repeat()
                    continue
                under_way = self._sent - first - len(self._arrived)
                if may and under_way < WINDOW and self._send():
                    continue
            except apsw.Error as error:
                logger.error("the outbox cannot be read: %s", error)
                await trio.sleep(1)
                continue
            if not may:
                await self._sleep(self._patience)
            elif not await self._sleep(since + self._patience - trio.current_time()):
                logger.warning("publishing again", extra={"messages": self.outbox.depth})
                self._repeat()
                since = trio.current_time()

    def _first(self) -> int:
        if not self.outbox.may_wait:
            return 0
        return int(self._reader.execute("SELECT min(position) FROM ha_outbox") or 0)

    def _send(self) -> bool:
        """Publish the next messages; False if there are none or they could not be sent."""
        next_ones: list[Waiting] = []
        before = self._parts
        self._parts = dict(before)
        careful = trio.current_time() < self._careful_until
        for waiting in self.outbox.after(self._reader, self._sent, WINDOW):
            if waiting.closes and self._parts:
                break
            if careful and waiting.part and not waiting.closes:
                self._parts[waiting.position] = waiting
            next_ones.append(waiting)
        if not next_ones or not self._publish(next_ones):
            self._parts = before
            return False
        self._sent = next_ones[-1].position
        return True

    def _repeat(self) -> None:
        """What was published last was refused, or has not arrived in time."""
        if not self._parts:
            self.again()
        elif self._publish(list(self._parts.values())):
            self._refused = False

    def _publish(self, messages: Sequence[Waiting]) -> bool:
        def on_ack(index: int, outcome: Ack | LogError) -> None:
            position = messages[index].position
            if isinstance(outcome, LogError):
                logger.warning("the log refuses a message: %s", outcome)
                self._careful_until = trio.current_time() + _CAREFUL
                self._refused = self._refused or position in self._parts
                self.wake()
            elif messages[index].part:
                self._parts.pop(position, None)
                self._arrived.add(position)
                if not self._parts:
                    self.wake()

        try:
            self._log.publish([m.message for m in messages], on_ack)
        except NotSent:
            return False
        self.published += len(messages)
        return True

    async def _sleep(self, seconds: float) -> bool:
        """Wait to be woken; False when ``seconds`` passed first."""
        with trio.move_on_after(max(seconds, 0)):
            await self._wake.wait()
        rung = self._wake.is_set()
        self._wake = trio.Event()
        return rung
