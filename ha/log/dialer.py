"""How a connection to a NATS server comes about, and what it then is: a wire.

In a node this is nats-py (:mod:`ha.log.nats_client`); a simulated network has wires of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from ha.log.api import LogError
from ha.log.endpoint import Endpoint
from ha.log.frames import Deliver


class NoConnection(LogError):
    """There is none to be had. ``refused``: the server does not know the credentials."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Wire(Protocol):
    """One connection, until it is lost."""

    async def dial(self, endpoint: Endpoint, name: str, timeout: float) -> None:
        """Connect and log in; ``name`` is shown in the server's monitoring.

        Raises NoConnection.
        """
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What the server said of itself, the latest."""
        ...

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        ...

    def deliver_to(self, deliver: Deliver) -> None:
        """From now on messages go there."""
        ...

    def when_closed(self, tell: Callable[[str], None]) -> None:
        """Call ``tell(reason)`` when the connection is lost, at once if it is."""
        ...

    def send(self, data: bytes) -> None:
        """Hand whole commands to the socket. Raises OSError."""
        ...

    async def aclose(self) -> None:
        """Never raises. To be called once, when it was never connected, or is lost, too."""
        ...


class Dialer(Protocol):
    def running(self) -> AbstractAsyncContextManager[None]:
        """All wires live and die in here."""
        ...

    def wire(self) -> Wire:
        """A new one, not connected yet."""
        ...
