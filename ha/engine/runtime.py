"""What a node takes from outside: time, chance and threads. The simulator gives its own."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from ha.core.errors import Code, HaError
from ha.store.connection import INLINE_TICKS, Connection, OverBudget

T = TypeVar("T")


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work)


@dataclass(frozen=True, slots=True)
class Runtime:
    """``now_ns``: the wall clock, for information only, in Unix nanoseconds; ``random``: for
    ids; ``run_in_thread``: runs work that is too long for the event loop."""

    now_ns: Callable[[], int] = time.time_ns
    random: random.Random = field(default_factory=random.SystemRandom)
    run_in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = _in_thread

    def uuid(self) -> str:
        """A random UUID (RFC 9562, version 4) in its usual form."""
        bits = self.random.getrandbits(128)
        bits = bits & ~(0xF << 76) | (0x4 << 76)
        bits = bits & ~(0x3 << 62) | (0x2 << 62)
        text = f"{bits:032x}"
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    async def run(
        self,
        connection: Connection,
        work: Callable[[], T],
        undo: Callable[[], None] | None = None,
        *,
        long: bool = False,
        ticks: int = INLINE_TICKS,
    ) -> T:
        """Run ``work``, which uses ``connection`` alone: here if it is short, else on a thread.

        ``undo`` takes back what a first try had begun; ``ticks``: its budget. If the caller is
        cancelled while the thread runs, the statement is interrupted and waited for.
        """
        if not long:
            try:
                return self.run_here(connection, work, ticks)
            except OverBudget:
                if undo is not None:
                    undo()
        connection.cancelled = False
        connection.abandoned = False
        connection.ticks = None
        return await self._on_thread(connection, work)

    @staticmethod
    def run_here(connection: Connection, work: Callable[[], T], ticks: int = INLINE_TICKS) -> T:
        """The first try of :meth:`run`, on the event loop. Raises OverBudget."""
        connection.cancelled = False
        connection.abandoned = False
        connection.ticks = ticks
        try:
            return work()
        finally:
            connection.ticks = None

    async def _on_thread(self, connection: Connection, work: Callable[[], T]) -> T:
        result: list[T] = []
        failure: list[BaseException] = []
        done = trio.Event()

        async def interrupt_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not done.is_set():
                    connection.abandoned = True
                    connection.interrupt()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt_when_cancelled)
            with trio.CancelScope(shield=True):
                try:
                    result.append(await self.run_in_thread(work))
                except Exception as error:
                    failure.append(error)
            done.set()
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        await trio.lowlevel.checkpoint_if_cancelled()
        return result[0]

    async def run_stoppable(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run long work on a thread. It is given a function that says True once nobody waits
        for it any more; the caller, cancelled, waits until it has ended."""
        stopped = False
        result: list[T] = []
        failure: list[Exception] = []

        async def stop_when_cancelled() -> None:
            nonlocal stopped
            try:
                await trio.sleep_forever()
            finally:
                stopped = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_cancelled)
            with trio.CancelScope(shield=True):
                try:
                    result.append(await self.run_in_thread(lambda: work(lambda: stopped)))
                except Exception as error:
                    failure.append(error)
            nursery.cancel_scope.cancel()
        if failure:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise failure[0]
        return result[0]


class SharedLock:
    """Held by many at once, or by one alone. Who waits to be alone lets nobody in before it."""

    def __init__(self) -> None:
        self._entry = trio.Lock()
        self._holders = 0
        self._free = trio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._entry:
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._free.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._entry:
            while self._holders:
                self._free = trio.Event()
                await self._free.wait()
            yield


class Limiter:
    """How many statements of a database may run at once; more wait, but not for ever."""

    def __init__(self, limit: int, patience: float) -> None:
        self._semaphore = trio.Semaphore(limit)
        self._limit = limit
        self._patience = patience

    async def __aenter__(self) -> None:
        try:
            self._semaphore.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_after(self._patience) as scope:
                await self._semaphore.acquire()
            if scope.cancelled_caught:
                raise HaError(
                    Code.BUSY,
                    f"{self._limit} statements were running for {self._patience:g} s",
                    hint="try again, or raise --concurrent-queries",
                ) from None

    async def __aexit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        self._semaphore.release()
