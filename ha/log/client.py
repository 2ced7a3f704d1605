"""Keeps a NATS connection up for ever: connects, logs in, and connects again.

Each time it is a new :class:`ha.log.connection.Connection`.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any

import trio

from ha.log import nats_wire as wire
from ha.log.connection import RECEIVE_SIZE, Connection, Disconnected, Stream
from ha.log.endpoint import Endpoint

_log = logging.getLogger("ha.log")

_CONNECT_TIMEOUT = 5.0
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
        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                connection, stream = await self._handshake(endpoint)
        except (OSError, trio.TooSlowError, trio.BrokenResourceError, _HandshakeError) as error:
            words = str(error) or type(error).__name__
            if isinstance(error, trio.TooSlowError):
                words = f"no connection within {_CONNECT_TIMEOUT:g} s"
            self.last_error = f"{endpoint}: {words}"
            _log.debug("no connection to %s", self.last_error)
            if "authorization" in words.lower() or "authentication" in words.lower():
                self.refused.set()
            return False
        since = trio.current_time()
        connection.on_info = self._learn
        self._learn(connection.info)
        connection.attach(stream)
        self.connection = connection
        self.connects += 1
        self._down = trio.Event()
        self._up.set()
        _log.info("connected to %s", endpoint)
        try:
            await connection.run()
        finally:
            self.last_error = f"{endpoint}: {connection.reason}"
            self.connection = None
            self._up = trio.Event()
            self._down.set()
        _log.warning("lost the connection to %s", self.last_error)
        return trio.current_time() - since > _SHORT_LIVED

    def _learn(self, info: dict[str, Any]) -> None:
        """Other servers of the cluster, with the credentials of the first URL."""
        given = self._pool[0]
        for address in info.get("connect_urls") or ():
            host, _, port = str(address).rpartition(":")
            new = Endpoint(host.strip("[]"), int(port), given.tls, given.user, given.password)
            if all((new.host, new.port) != (old.host, old.port) for old in self._pool):
                self._pool.append(new)

    async def _handshake(self, endpoint: Endpoint) -> tuple[Connection, Stream]:
        stream: Stream
        plain = stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line, rest = await _read_line(stream, b"")
            if not line.startswith(b"INFO "):
                raise _HandshakeError("this is no NATS server")
            info = json.loads(line[5:])
            if endpoint.tls or info.get("tls_required"):
                context = self._tls or ssl.create_default_context()
                stream = trio.SSLStream(plain, context, server_hostname=endpoint.host)
                await _tls_handshake(stream)
                rest = b""
            options: dict[str, object] = {
                "verbose": False,
                "pedantic": False,
                "lang": "python-trio",
                "version": f"{sys.version_info.major}.{sys.version_info.minor}",
                "protocol": 1,
                "headers": True,
                "no_responders": True,
                "echo": True,
                "name": self._name,
                **endpoint.login(),
            }
            await stream.send_all(wire.connect(options) + wire.PING)
            while True:
                line, rest = await _read_line(stream, rest)
                if line.startswith(b"-ERR"):
                    raise _HandshakeError(line[4:].decode(errors="replace").strip(" '"))
                if line == b"PONG":
                    break
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        connection = Connection(endpoint, info, f"_INBOX.{self.token()}", trio.current_time())
        if rest:
            connection._feed(rest)
        return connection, stream


class _HandshakeError(Exception):
    pass


async def _read_line(stream: trio.abc.ReceiveStream, rest: bytes) -> tuple[bytes, bytes]:
    while wire.CRLF not in rest:
        data = await stream.receive_some(RECEIVE_SIZE)
        if not data:
            raise _HandshakeError("the server closed the connection")
        rest += bytes(data)
        if len(rest) > wire.MAX_LINE:
            raise _HandshakeError("this is no NATS server")
    line, _, rest = rest.partition(wire.CRLF)
    return line, rest


async def _tls_handshake(stream: trio.SSLStream[trio.SocketStream]) -> None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        raise _HandshakeError(f"TLS: {error.__cause__ or error}") from error
