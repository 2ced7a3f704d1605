"""Buckets of keys and values in memory, as :mod:`ha.log.keys` has them in NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from ha.log.api import KeyEntry, KeyWatch, WrongRevision


class MemoryBucket:
    """What a bucket holds: one for all nodes of a stream."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: dict[str, KeyEntry] = {}
        self.changed = trio.Event()

    def set(self, key: str, value: bytes | None, expected: int | None = None) -> int:
        """Raises WrongRevision."""
        known = self.entries.get(key)
        revision = 0 if known is None else known.revision
        if expected is not None and revision != expected:
            raise WrongRevision(f"{key} has the revision {revision}, not {expected}", revision)
        self.revision += 1
        self.entries.pop(key, None)  # so that the order is that of the revisions
        self.entries[key] = KeyEntry(key, value, self.revision)
        self.changed.set()
        self.changed = trio.Event()
        return self.revision

    def after(self, revision: int) -> list[KeyEntry]:
        return [entry for entry in self.entries.values() if entry.revision > revision]


class MemoryKeys:
    """A :class:`ha.log.api.KeyValue`, as one node sees it. ``reach`` raises LogError while the
    node is cut off."""

    def __init__(self, bucket: MemoryBucket, reach: Callable[[], Awaitable[None]]) -> None:
        self._bucket = bucket
        self._reach = reach

    async def get(self, key: str) -> KeyEntry | None:
        await self._reach()
        return self._bucket.entries.get(key)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        await self._reach()
        return self._bucket.set(key, value, revision)

    async def put(self, key: str, value: bytes) -> int:
        await self._reach()
        return self._bucket.set(key, value)

    async def delete(self, key: str) -> None:
        await self._reach()
        self._bucket.set(key, None)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[KeyWatch]:
        await self._reach()
        yield _MemoryWatch(self._bucket, self._reach)


class _MemoryWatch:
    def __init__(self, bucket: MemoryBucket, reach: Callable[[], Awaitable[None]]) -> None:
        self._bucket = bucket
        self._reach = reach
        self._revision = 0

    async def receive(self) -> Sequence[KeyEntry]:
        while True:
            await self._reach()
            entries = self._bucket.after(self._revision)
            self._revision = self._bucket.revision
            if entries:
                return entries
            await self._bucket.changed.wait()
