"""SIGTERM and SIGINT: the first asks the node to finish, the second ends it at once.

A node that does neither within a bound is ended by force, so that a supervisor never waits.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import trio

from ha.config import Config

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that what is in flight has to finish after the first signal."""
FORCE = 5.0
"""Seconds that cancelled tasks have to close before the process is ended under them."""


class Running(Protocol):
    """What a node hands to ``task_status.started``: setting ``shutdown`` makes it finish."""

    @property
    def shutdown(self) -> trio.Event: ...


class Service:
    """Runs a node until it returns or a signal ends it."""

    def __init__(self, run: Callable[..., Awaitable[None]], config: Config) -> None:
        """``run(config, task_status=…)`` is the node; it returns when it has shut down."""
        self._run = run
        self._config = config
        self._running: Running | None = None
        self._scope = trio.CancelScope()

    @property
    def started(self) -> bool:
        return self._running is not None

    async def main(self) -> None:
        """Raises what the node raises, in exception groups."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, signals)
                with self._scope:
                    async with trio.open_nursery() as inner:
                        self._running = await inner.start(self._run, self._config)
                nursery.cancel_scope.cancel()

    async def _watch(self, signals: AsyncIterator[int]) -> None:
        number = await anext(signals)
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        if self._running is None:
            self._scope.cancel()
        else:
            self._scope.deadline = trio.current_time() + GRACE
            self._running.shutdown.set()
        with trio.move_on_at(trio.current_time() + GRACE + FORCE):
            await anext(signals)
            log.warning("stopping at once")
            self._scope.cancel()
            with trio.move_on_after(FORCE):
                await anext(signals)
        log.error("not stopped in time: ended by force")
        os._exit(1)
