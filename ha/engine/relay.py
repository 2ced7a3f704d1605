"""Brings the outbox of asynchronous replication into the log, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable

import apsw
import trio

from ha.log.api import Ack, Log, LogError, NotSent
from ha.store.connection import Connection
from ha.store.outbox import Outbox

logger = logging.getLogger(__name__)

WINDOW = 512
"""Messages that may be under way at once."""


class Relay:
    """Publishes what waits; the database's own subscription tells what has arrived.

    A message that does not come back in ``patience`` seconds is published again, under the
    same id: what the broker no longer remembers, the fold ignores by its number.
    """

    def __init__(self, log: Log, outbox: Outbox, reader: Connection, patience: float) -> None:
        self.outbox = outbox
        self.published = 0
        """Messages sent, those sent again too."""
        self._log = log
        self._reader = reader
        self._patience = patience
        self._sent = 0
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

    def again(self) -> None:
        """Publish all that waits once more."""
        self._sent = 0
        self.wake()

    async def run(self, may_publish: Callable[[], bool]) -> None:
        """Until cancelled."""
        oldest, since = 0, trio.current_time()
        while True:
            try:
                first = self._first()
                if first != oldest:
                    oldest, since = first, trio.current_time()
                may = bool(first) and may_publish()
                if may and self._sent - first < WINDOW and self._send():
                    continue
            except apsw.Error as error:
                logger.error("the outbox cannot be read: %s", error)
                await trio.sleep(1)
                continue
            if not may:
                await self._sleep(self._patience)
            elif not await self._sleep(since + self._patience - trio.current_time()):
                logger.warning("publishing again", extra={"messages": self.outbox.depth})
                self._sent = 0
                since = trio.current_time()

    def _first(self) -> int:
        if not self.outbox.depth:
            return 0
        return int(self._reader.execute("SELECT min(position) FROM ha_outbox") or 0)

    def _send(self) -> bool:
        """Publish the next messages; False if there are none or they could not be sent."""
        waiting = self.outbox.after(self._reader, self._sent, WINDOW)
        if not waiting:
            return False
        try:
            self._log.publish([w.message for w in waiting], self._on_ack)
        except NotSent:
            return False
        self._sent = waiting[-1].position
        self.published += len(waiting)
        return True

    def _on_ack(self, index: int, outcome: Ack | LogError) -> None:
        if isinstance(outcome, LogError):
            logger.warning("the log refuses a message: %s", outcome)

    async def _sleep(self, seconds: float) -> bool:
        """Wait to be woken; False when ``seconds`` passed first."""
        with trio.move_on_after(max(seconds, 0)):
            await self._wake.wait()
        rung = self._wake.is_set()
        self._wake = trio.Event()
        return rung
