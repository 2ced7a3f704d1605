"""The blocking face of the driver: PEP 249."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from ha.core.values import Value
from ha.dbapi.address import Address, Options
from ha.dbapi.connection import ConnectionState
from ha.dbapi.cursor import CursorState
from ha.dbapi.sockets import readable, tune
from ha.dbapi.steps import Check, Close, Open, Receive, Send, Step, Steps
from ha.dbapi.types import Parameters

T = TypeVar("T")

_RECEIVE_BYTES = 256 * 1024


class _Driver:
    """Carries out the steps of the core with a socket.

    ``lock`` is held while the core computes and while bytes go out, never while it waits for
    an answer: then another thread may send a cancellation.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._socket: socket.socket | None = None

    def run(self, steps: Steps[T]) -> T:
        with self.lock:
            try:
                step = next(steps)
                while True:
                    try:
                        data = self._do(step)
                    except BaseException as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(data)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                steps.close()

    def send(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.sendall(data)

    def _do(self, step: Step) -> bytes:
        match step:
            case Open(address, tls, timeout):
                self._close()
                self._socket = _connect(address, tls, timeout)
            case Send(data):
                self._open_socket().settimeout(None)
                self._open_socket().sendall(data)
            case Receive(timeout):
                sock = self._open_socket()
                sock.settimeout(timeout)
                self.lock.release()
                try:
                    return sock.recv(_RECEIVE_BYTES)
                finally:
                    self.lock.acquire()
            case Check():
                return b"1" if readable(self._open_socket()) else b""
            case Close():
                self._close()
        return b""

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the connection is closed")
        return self._socket

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _connect(address: Address, tls: ssl.SSLContext | None, timeout: float) -> socket.socket:
    sock = socket.create_connection((address.host, address.port), timeout)
    try:
        tune(sock)
        if tls is not None:
            return tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


class Connection(ConnectionState):
    """A session with a node. Threads may not share it, but for :meth:`interrupt`."""

    def __init__(self, options: Options, *, autocommit: bool = False) -> None:
        super().__init__(options, autocommit=autocommit)
        self._driver = _Driver()
        self._run(self._core.connect())

    def _run(self, steps: Steps[T]) -> T:
        return self._driver.run(steps)

    # --- PEP 249 ---------------------------------------------------------------------

    def cursor(self) -> Cursor:
        self._core.check_open()
        return Cursor(self)

    def commit(self) -> None:
        """The transaction is in the log and in the node's database when this returns."""
        self._core.check_open()
        self._run(self._core.commit())

    def rollback(self) -> None:
        self._core.check_open()
        self._run(self._core.rollback())

    def close(self) -> None:
        """Roll back what is open. A second time it does nothing."""
        if not self._core.closed:
            self._run(self._core.close())

    # --- more ------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """On a new cursor, which is returned."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, sets: Iterable[Parameters]) -> Cursor:
        """On a new cursor, which is returned."""
        return self.cursor().executemany(sql, sets)

    def ping(self) -> None:
        """Raises OperationalError when the node is gone and no other can be reached."""
        self._run(self._core.ping())

    def interrupt(self) -> None:
        """From any thread: the running statement ends with an OperationalError."""
        with self._driver.lock, suppress(OSError):
            data = self._core.cancellation()
            if data:
                self._driver.send(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an exception; then close."""
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()


class Cursor(CursorState):
    """Statements on a connection, and their rows."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def execute(self, sql: str, parameters: Parameters = ()) -> Self:
        core = self._begin(self.connection._core)
        bound = self._adapt(parameters)
        self._finish(self._run(core.execute(sql, bound)))
        return self

    def executemany(self, sql: str, sets: Iterable[Parameters]) -> Self:
        """In one request, whatever their number: all or none. Rows that it returns are dropped."""
        core = self._begin(self.connection._core)
        batch = [self._adapt(parameters) for parameters in sets]
        self._finish(self._run(core.execute_many(sql, batch)), many=True)
        return self

    def executescript(self, script: str) -> Self:
        """Several statements with semicolons between; what the last one answers."""
        return self.execute(script)

    def fetchone(self) -> tuple[Value, ...] | None:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Value, ...]]:
        outcome = self._result()
        wanted = self.arraysize if size is None else size
        while len(outcome.rows) < wanted and outcome.more:
            self._run(self.connection._core.fetch(outcome))
        return self._take(outcome, wanted)

    def fetchall(self) -> list[tuple[Value, ...]]:
        outcome = self._result()
        while outcome.more:
            self._run(self.connection._core.fetch(outcome))
        return self._take(outcome, len(outcome.rows))

    def close(self) -> None:
        self._close(self.connection._core)

    def _run(self, steps: Steps[T]) -> T:
        return self.connection._run(steps)

    def __iter__(self) -> Iterator[tuple[Value, ...]]:
        return self

    def __next__(self) -> tuple[Value, ...]:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
