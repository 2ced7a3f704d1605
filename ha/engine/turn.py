"""The writer, lent to one interactive transaction.

It runs on its session's own connection, alone, from its first write to its COMMIT. While it
is open other nodes' messages and other clients wait, but not for ever: after
``--transaction-hold`` it is expired, and rolled back.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ha.core.errors import HaError
from ha.engine.unit import Unit
from ha.store.executor import Executor


class Turn:
    """``executor``: the session's; ``on_expire`` must see to its rollback, then release."""

    def __init__(
        self, executor: Executor, deadline: float, on_expire: Callable[[HaError], None]
    ) -> None:
        self.executor = executor
        self.deadline = deadline
        self.granted = trio.Event()
        self.released = trio.Event()
        self.error: HaError | None = None
        self.unit: Unit | None = None
        self._on_expire = on_expire
        self._notify: Callable[[], None] | None = None
        self._over: HaError | None = None

    def grant(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self.granted.set()

    def deny(self, error: HaError) -> None:
        self.error = error
        self.released.set()
        self.granted.set()

    def expire(self, error: HaError) -> None:
        self._on_expire(error)

    def commit(self, unit: Unit) -> None:
        """Publish and commit ``unit``, whose statements ran in this turn; wait for it."""
        self.unit = unit
        if self._over is not None:
            unit.fail(self._over)
        elif self._notify is not None:
            self._notify()

    def end(self, error: HaError) -> None:
        """Nobody serves it any more: what is still committed fails with ``error``."""
        self._over = error

    def release(self) -> None:
        """Give the writer back; the connection holds no lock any more."""
        self.released.set()
        if self._notify is not None:
            self._notify()
