"""Buckets of keys and values of the simulated JetStream, each change checked by its revision.

A bucket is a stream of its own, with a sync before each answer. What goes wrong with publishes
goes wrong with changes of keys too: they are dropped, or their answer is lost or late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from ha.log.api import KeyEntry, LogError, NotSent, WrongRevision

if TYPE_CHECKING:
    from sim.jetstream import SimBroker

T = TypeVar("T")
_ASK_AGAIN = 5.0


class Bucket:
    """What all nodes share. ``trace`` is told of each change."""

    def __init__(self, trace: Callable[[str], None]) -> None:
        self.revision = 0
        self.entries: dict[str, KeyEntry] = {}
        self._watches: list[SimKeyWatch] = []
        self._trace = trace

    def set(self, key: str, value: bytes | None, expected: int | None = None) -> int:
        """Raises WrongRevision."""
        known = self.entries.pop(key, None)
        revision = 0 if known is None else known.revision
        if expected is not None and revision != expected:
            if known is not None:
                self.entries[key] = known
            raise WrongRevision(f"{key} has the revision {revision}, not {expected}", revision)
        self.revision += 1
        self.entries[key] = KeyEntry(key, value, self.revision)
        if key == "leader":
            self._trace(f"{self.revision} {(value or b'').decode()}")
        self._watches = [w for w in self._watches if w.attached]
        for watch in self._watches:
            watch.send([self.entries[key]])
        return self.revision

    def attach(self, watch: SimKeyWatch, after: int) -> None:
        if watch not in self._watches:
            self._watches.append(watch)
        found = [e for e in self.entries.values() if e.revision > after]
        watch.generation = watch.link.generation
        watch.send(sorted(found, key=lambda e: e.revision))


class SimKeys:
    """A :class:`ha.log.api.KeyValue`, as one process sees it."""

    def __init__(self, broker: SimBroker, bucket: Bucket, timeout: float = 2.0) -> None:
        self._broker = broker
        self._bucket = bucket
        self._timeout = timeout

    async def get(self, key: str) -> KeyEntry | None:
        return await self._broker.request(lambda: self._bucket.entries.get(key), self._timeout)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._change(lambda: self._bucket.set(key, value, revision))

    async def put(self, key: str, value: bytes) -> int:
        return await self._change(lambda: self._bucket.set(key, value))

    async def delete(self, key: str) -> None:
        await self._change(lambda: self._bucket.set(key, None))

    async def _change(self, work: Callable[[], int]) -> int:
        server = self._broker.server
        faults, chance = server.faults, server.chance

        def change() -> int:
            if faults.drop and chance.random() < faults.drop:
                raise _Silence
            if faults.refuse and chance.random() < faults.refuse:
                raise NotSent("the broker has no room")
            revision = work()
            if faults.lose_ack and chance.random() < faults.lose_ack:
                raise _Silence
            return revision

        try:
            return await self._broker.request(change, self._timeout)
        except _Silence:
            await trio.sleep(self._timeout)
            raise LogError("the log did not answer in time") from None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[SimKeyWatch]:
        await trio.lowlevel.checkpoint()
        watch = SimKeyWatch(self._broker, self._bucket)
        watch.ask()
        try:
            yield watch
        finally:
            watch.close()


class _Silence(LogError):
    """No answer comes. (It travels all the same: only its time counts.)"""


class SimKeyWatch:
    """``generation`` and ``attached`` belong to the server's side of it."""

    def __init__(self, broker: SimBroker, bucket: Bucket) -> None:
        self.link = broker.link
        self.generation = -1
        self._timeline = broker.server.timeline
        self._server = broker.server
        self._bucket = bucket
        self._position = 0
        self._arrived: list[KeyEntry] = []
        self._woken = trio.Event()
        self._open = True
        self._asked = 0
        self.link.on_connect.append(self.ask)
        self.link.on_leader.append(self.ask)

    @property
    def attached(self) -> bool:
        return self._open and not self.link.dead and self.generation == self.link.generation

    def ask(self) -> None:
        """Let the server send what has changed, from here on."""
        if not self._open or self.link.dead:
            return
        self._asked += 1
        asked = self._asked

        def attach() -> None:
            if asked == self._asked and self._server.up and self._server.leader:
                self._bucket.attach(self, self._position)

        self.link.to_server(attach)
        self._timeline.after(_ASK_AGAIN, lambda: self._ask_again(asked))

    def _ask_again(self, asked: int) -> None:
        if asked == self._asked and self.link.connected and not self.attached:
            self.ask()

    def send(self, entries: Sequence[KeyEntry]) -> None:
        """On the server's side."""
        if self.attached:
            self.link.to_client(partial(self._arrive, list(entries)), self.generation)

    def _arrive(self, entries: list[KeyEntry]) -> None:
        for entry in entries:
            if entry.revision > self._position:
                self._position = entry.revision
                self._arrived.append(entry)
        if self._arrived:
            self._woken.set()

    async def receive(self) -> Sequence[KeyEntry]:
        while not self._arrived:
            self._woken = trio.Event()
            await self._woken.wait()
        await trio.lowlevel.checkpoint()
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        self._open = False
        for asks in (self.link.on_connect, self.link.on_leader):
            if self.ask in asks:
                asks.remove(self.ask)
