"""Keeps a NATS connection up for ever: connects, logs in, and connects again.

Each time it is a new :class:`ha.log.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio
import trio_asyncio
from nats.errors import Error as NatsError

from ha.log.connection import Connection, Disconnected
from ha.log.endpoint import Endpoint
from ha.log.nats_client import Wire, discard

_log = logging.getLogger("ha.log")

_CONNECT_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 1.0
_PING_INTERVAL = 4
_MAX_UNANSWERED = 2
_BACKOFF_FIRST, _BACKOFF_LAST = 0.05, 2.0
_SHORT_LIVED = 1.0  # a connection that is lost so soon is followed by a pause


class Client:
    """Keeps one connection up for ever. ``run`` it in a nursery.

    ``tls``: the context for ``tls://`` servers and those that require TLS (default: the
    system's authorities). ``name`` is shown in the server's monitoring.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        name: str,
        rng: random.Random,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._pool = list(endpoints)
        self._given = len(self._pool)
        self._name = name
        self._rng = rng
        self._tls = tls
        self.connection: Connection | None = None
        self.connects = 0
        self.last_error = "not connected yet"
        self._up = trio.Event()
        self._down = trio.Event()
        self._down.set()
        self.refused = trio.Event()  # the server does not know our credentials

    @property
    def connected(self) -> bool:
        connection = self.connection
        return connection is not None and not connection.is_closed

    def require(self) -> Connection:
        """The connection there is. Raises Disconnected."""
        connection = self.connection
        if connection is None or connection.is_closed:
            raise Disconnected(f"no connection to the broker: {self.last_error}")
        return connection

    async def wait_up(self) -> Connection:
        while True:
            await self._up.wait()
            connection = self.connection
            if connection is not None and not connection.is_closed:
                return connection
            await trio.lowlevel.checkpoint()

    async def wait_down(self) -> None:
        if self.connected:
            await self._down.wait()
        else:
            await trio.lowlevel.checkpoint()

    def token(self) -> str:
        """A random word for inboxes and names."""
        return f"{self._rng.getrandbits(96):024x}"

    async def run(self) -> None:
        """Until cancelled. nats-py's tasks live in here, in an asyncio loop on trio."""
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(_on_stray_error)
            await self._keep_up()

    async def _keep_up(self) -> None:
        delay = _BACKOFF_FIRST
        while True:
            for endpoint in list(self._pool):
                if await self._serve(endpoint):
                    delay = _BACKOFF_FIRST
                    break  # it was up: begin with the first again, at once
            else:
                await trio.sleep(delay * self._rng.uniform(0.8, 1.2))
                delay = min(delay * 2, _BACKOFF_LAST)

    async def _serve(self, endpoint: Endpoint) -> bool:
        """Connect, and return when the connection is lost. False: it was none worth the name."""
        nats = Wire()
        try:
            connection = await self._connect(endpoint, nats)
            if connection is None:
                return False
            since = trio.current_time()
            self._learn(connection.info)
            self.connection = connection
            self.connects += 1
            self._down = trio.Event()
            self._up.set()
            _log.info("connected to %s", endpoint)
            try:
                await connection.closed.wait()
            finally:
                connection.close("closed by this node")
                self.last_error = f"{endpoint}: {connection.reason}"
                self.connection = None
                self._up = trio.Event()
                self._down.set()
            _log.warning("lost the connection to %s", self.last_error)
            return trio.current_time() - since > _SHORT_LIVED
        finally:
            nats.deliver_to(discard)
            # It tells of a connection that was reset; there is none any more, that is all.
            with trio.move_on_after(_CLOSE_TIMEOUT) as scope, suppress(OSError, NatsError):
                scope.shield = True
                await trio_asyncio.aio_as_trio(nats.close)()

    async def _connect(self, endpoint: Endpoint, nats: Wire) -> Connection | None:
        """None: there is none to be had; ``last_error`` says why."""
        problem: list[Exception] = []
        lost: list[Connection] = []
        connecting = True

        async def on_error(error: Exception) -> None:
            problem.append(error)
            if connecting:
                raise error  # else nats-py tries again by itself, on its own time
            if "permissions violation" in str(error).lower():
                _log.error("NATS: %s", error)  # of one subject only: the connection lives on

        async def on_closed() -> None:
            for connection in lost:
                error = nats.last_error or (problem[-1] if problem else None)
                connection.close(_words(error) if error else "the server closed the connection")

        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                await trio_asyncio.aio_as_trio(nats.connect)(
                    servers=[str(endpoint)],
                    name=self._name,
                    tls=self._tls or (ssl.create_default_context() if endpoint.tls else None),
                    tls_hostname=endpoint.host if endpoint.tls or self._tls else None,
                    allow_reconnect=False,
                    connect_timeout=int(_CONNECT_TIMEOUT),
                    ping_interval=_PING_INTERVAL,
                    max_outstanding_pings=_MAX_UNANSWERED,
                    pending_size=0,
                    error_cb=on_error,
                    closed_cb=on_closed,
                    **endpoint.login(),
                )
        except (OSError, NatsError, trio.TooSlowError, ssl.SSLError, ValueError) as error:
            words = _words(error)
            if isinstance(error, trio.TooSlowError | TimeoutError):
                words = f"no connection within {_CONNECT_TIMEOUT:g} s"
            self.last_error = f"{endpoint}: {words}"
            _log.debug("no connection to %s", self.last_error)
            if "authorization" in words.lower() or "authentication" in words.lower():
                self.refused.set()
            return None
        finally:
            connecting = False
        connection = Connection(endpoint, nats, f"_INBOX.{self.token()}")
        lost.append(connection)
        if nats.is_closed:
            connection.close("the server closed the connection")
        return connection

    def _learn(self, info: dict[str, Any]) -> None:
        """Other servers of the cluster, with the credentials of the first URL."""
        given = self._pool[0]
        for address in info.get("connect_urls") or ():
            host, _, port = str(address).rpartition(":")
            new = Endpoint(host.strip("[]"), int(port), given.tls, given.user, given.password)
            if all((new.host, new.port) != (old.host, old.port) for old in self._pool):
                self._pool.append(new)


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Of a task of nats-py that nobody waits for. trio-asyncio would end the node with it; what
    it means for us shows in the connection: closed, or silent until the ping finds out."""
    error = context.get("exception")
    _log.warning("nats-py: %s", context.get("message") if error is None else _words(error))


def _words(error: Exception) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__
