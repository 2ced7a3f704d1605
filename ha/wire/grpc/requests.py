"""The requests of one session, read ahead so that a CANCEL is heard while a statement runs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import trio

R = TypeVar("R")

_WAITING = 64  # requests; more stay in the transport, which slows the client down


class Requests(Generic[R]):
    """Run :meth:`read` in a task; :meth:`next` gives the requests in order.

    ``on_cancel`` is called when one has come that ``cancels``, before it takes its place in the
    order.
    """

    def __init__(
        self,
        messages: AsyncIterator[R],
        on_cancel: Callable[[], None],
        cancels: Callable[[R], bool],
    ) -> None:
        self._messages = messages
        self._on_cancel = on_cancel
        self._cancels = cancels
        self._waiting: deque[R] = deque()
        self._read = 0
        self._given = 0
        self._cancelled = 0
        self._ended = False
        self._failure: Exception | None = None
        self._news = trio.Event()
        self._room = trio.Event()
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def read(self) -> None:
        """Until the client has said all, is gone, or :meth:`stop` is called."""
        try:
            with self._scope:
                async for request in self._messages:
                    self._read += 1
                    if self._cancels(request):
                        self._cancelled = self._read
                        self._on_cancel()
                    self._waiting.append(request)
                    self._news.set()
                    while len(self._waiting) >= _WAITING:
                        self._room = trio.Event()
                        await self._room.wait()
        except Exception as error:
            # A malformed message, one over the limit, a client that is gone: the handler ends.
            self._failure = error
        finally:
            self._ended = True
            self._news.set()
            self._stopped.set()

    async def next(self, patience: float = float("inf")) -> R | None:
        """The next request, None after the last one.

        Raises trio.TooSlowError after ``patience`` seconds without one, and ConnectError for
        what is no request, when those before it are answered.
        """
        with trio.fail_after(patience):
            while not self._waiting and not self._ended:
                self._news = trio.Event()
                await self._news.wait()
        if self._waiting:
            self._given += 1
            self._room.set()
            return self._waiting.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    @property
    def idle(self) -> bool:
        """No request waits to be answered."""
        return not self._waiting

    @property
    def cancelled(self) -> bool:
        """Has a CANCEL come after the request that :meth:`next` gave last?"""
        return self._given < self._cancelled

    def end(self) -> None:
        """Give what waits, and then nothing more."""
        self._ended = True
        self._news.set()

    async def stop(self) -> None:
        """End :meth:`read`, and return when it has."""
        self._scope.cancel()
        await self._stopped.wait()
