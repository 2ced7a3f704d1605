"""Keeps a NATS connection up for ever: connects, logs in, and connects again.

Each time it is a new :class:`ha.log.connection.Connection`.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Sequence
from typing import Any

import trio

from ha.log.connection import Connection, Disconnected
from ha.log.dialer import Dialer, NoConnection
from ha.log.endpoint import Endpoint
from ha.log.nats_client import NatsDialer

_log = logging.getLogger("ha.log")

_CONNECT_TIMEOUT = 5.0
_BACKOFF_FIRST, _BACKOFF_LAST = 0.05, 2.0
_SHORT_LIVED = 1.0  # a connection that is lost so soon is followed by a pause


class Client:
    """Keeps one connection up for ever. ``run`` it in a nursery.

    ``tls``: the context for ``tls://`` servers and those that require TLS (default: the
    system's authorities). ``name`` is shown in the server's monitoring. ``dialer``: in place of
    nats-py.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        name: str,
        rng: random.Random,
        tls: ssl.SSLContext | None = None,
        dialer: Dialer | None = None,
    ) -> None:
        self._dialer = NatsDialer(tls) if dialer is None else dialer
        self._pool = list(endpoints)
        self._given = len(self._pool)
        self._name = name
        self._rng = rng
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
        """Until cancelled."""
        async with self._dialer.running():
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
        wire = self._dialer.wire()
        try:
            await wire.dial(endpoint, self._name, _CONNECT_TIMEOUT)
            connection = Connection(endpoint, wire, f"_INBOX.{self.token()}")
            wire.when_closed(connection.close)
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
        except (NoConnection, Disconnected) as error:
            self.last_error = f"{endpoint}: {error}"
            _log.debug("no connection to %s", self.last_error)
            if isinstance(error, NoConnection) and error.refused:
                self.refused.set()
            return False
        finally:
            await wire.aclose()

    def _learn(self, info: dict[str, Any]) -> None:
        """Other servers of the cluster, with the credentials of the first URL."""
        given = self._pool[0]
        for address in info.get("connect_urls") or ():
            host, _, port = str(address).rpartition(":")
            new = Endpoint(host.strip("[]"), int(port), given.tls, given.user, given.password)
            if all((new.host, new.port) != (old.host, old.port) for old in self._pool):
                self._pool.append(new)
