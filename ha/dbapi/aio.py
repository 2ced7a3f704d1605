"""The driver for trio and asyncio, by anyio: the same as :mod:`ha.dbapi`, with ``await``::

    import ha.dbapi.aio

    async with await ha.dbapi.aio.connect("ha://node1:8080,node2:8080/shop.db") as connection:
        cursor = await connection.execute("SELECT item FROM orders")
        async for (item,) in cursor:
            print(item)

When a task is cancelled while a statement of its runs, the connection is dropped, so that the
node stops and rolls back at once; the next statement connects again.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.abc
from anyio.abc import SocketAttribute

from ha.core.values import Value
from ha.dbapi.address import Address, Options, parse
from ha.dbapi.connection import ConnectionState
from ha.dbapi.cursor import CursorState
from ha.dbapi.sockets import readable, tune
from ha.dbapi.steps import Check, Close, Open, Receive, Send, Step, Steps
from ha.dbapi.types import Parameters

T = TypeVar("T")

_RECEIVE_BYTES = 256 * 1024


async def connect(
    dsn: str = "ha://localhost:8080",
    *,
    database: str | None = None,
    token: str | None = None,
    autocommit: bool = False,
    tls: ssl.SSLContext | bool | None = None,
    connect_timeout: float | None = None,
    timeout: float | None = None,
    txseq: int = 0,
    consistency: str | None = None,
) -> AsyncConnection:
    """As :func:`ha.dbapi.connect`."""
    options = parse(
        dsn,
        database=database,
        token=token,
        tls=tls,
        connect_timeout=connect_timeout,
        timeout=timeout,
        txseq=txseq,
        consistency=consistency,
    )
    connection = AsyncConnection(options, autocommit=autocommit)
    await connection._run(connection._core.connect())
    return connection


class _Driver:
    """Carries out the steps of the core with anyio. Statements of several tasks take turns."""

    def __init__(self) -> None:
        self._turn = anyio.Lock()
        self._sending = anyio.Lock()
        self._stream: anyio.abc.ByteStream | None = None

    async def run(self, steps: Steps[T]) -> T:
        async with self._turn:
            try:
                step = next(steps)
                while True:
                    try:
                        data = await self._do(step)
                    except BaseException as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(data)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                steps.close()

    async def send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._open_stream().send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ConnectionError("the connection was lost") from error

    async def _do(self, step: Step) -> bytes:
        match step:
            case Open(address, tls, timeout):
                await self._close()
                with anyio.fail_after(timeout):
                    self._stream = await _connect(address, tls)
            case Send(data):
                await self.send(data)
            case Receive(timeout):
                return await self._receive(timeout)
            case Check():
                raw = self._open_stream().extra(SocketAttribute.raw_socket)
                return b"1" if readable(raw) else b""
            case Close():
                await self._close()
        return b""

    async def _receive(self, timeout: float | None) -> bytes:
        try:
            with anyio.fail_after(timeout):
                return await self._open_stream().receive(_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ConnectionError("the connection was lost") from error

    def _open_stream(self) -> anyio.abc.ByteStream:
        if self._stream is None:
            raise ConnectionError("the connection is closed")
        return self._stream

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)


async def _connect(address: Address, tls: ssl.SSLContext | None) -> anyio.abc.ByteStream:
    stream: anyio.abc.ByteStream
    if tls is None:
        stream = await anyio.connect_tcp(address.host, address.port)
    else:
        stream = await anyio.connect_tcp(
            address.host, address.port, ssl_context=tls, tls_standard_compatible=False
        )
    tune(stream.extra(SocketAttribute.raw_socket))
    return stream


class AsyncConnection(ConnectionState):
    """A session with a node: see :func:`connect`. Tasks that share it take turns, but for
    :meth:`interrupt`; a transaction is everybody's."""

    def __init__(self, options: Options, *, autocommit: bool = False) -> None:
        super().__init__(options, autocommit=autocommit)
        self._driver = _Driver()

    async def _run(self, steps: Steps[T]) -> T:
        return await self._driver.run(steps)

    # --- PEP 249 ---------------------------------------------------------------------

    def cursor(self) -> AsyncCursor:
        self._core.check_open()
        return AsyncCursor(self)

    async def commit(self) -> None:
        """The transaction is in the log and in the node's database when this returns."""
        self._core.check_open()
        await self._run(self._core.commit())

    async def rollback(self) -> None:
        self._core.check_open()
        await self._run(self._core.rollback())

    async def close(self) -> None:
        """Roll back what is open. A second time it does nothing."""
        if not self._core.closed:
            with anyio.CancelScope(shield=True):
                await self._run(self._core.close())

    # --- more ------------------------------------------------------------------------

    async def execute(self, sql: str, parameters: Parameters = ()) -> AsyncCursor:
        """On a new cursor, which is returned."""
        return await self.cursor().execute(sql, parameters)

    async def executemany(self, sql: str, sets: Iterable[Parameters]) -> AsyncCursor:
        """On a new cursor, which is returned."""
        return await self.cursor().executemany(sql, sets)

    async def ping(self) -> None:
        """Raises OperationalError when the node is gone and no other can be reached."""
        await self._run(self._core.ping())

    async def interrupt(self) -> None:
        """From any task: the running statement ends with an OperationalError."""
        data = self._core.cancellation()
        if data:
            with suppress(OSError):
                await self._driver.send(data)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an exception; then close."""
        try:
            if kind is None:
                await self.commit()
        finally:
            await self.close()


class AsyncCursor(CursorState):
    """Statements on a connection, and their rows."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__()
        self.connection = connection

    async def execute(self, sql: str, parameters: Parameters = ()) -> Self:
        core = self._begin(self.connection._core)
        bound = self._adapt(parameters)
        self._finish(await self._run(core.execute(sql, bound)))
        return self

    async def executemany(self, sql: str, sets: Iterable[Parameters]) -> Self:
        """In one request, whatever their number: all or none. Rows that it returns are dropped."""
        core = self._begin(self.connection._core)
        batch = [self._adapt(parameters) for parameters in sets]
        self._finish(await self._run(core.execute_many(sql, batch)), many=True)
        return self

    async def executescript(self, script: str) -> Self:
        """Several statements with semicolons between; what the last one answers."""
        return await self.execute(script)

    async def fetchone(self) -> tuple[Value, ...] | None:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[tuple[Value, ...]]:
        outcome = self._result()
        wanted = self.arraysize if size is None else size
        while len(outcome.rows) < wanted and outcome.more:
            await self._run(self.connection._core.fetch(outcome))
        return self._take(outcome, wanted)

    async def fetchall(self) -> list[tuple[Value, ...]]:
        outcome = self._result()
        while outcome.more:
            await self._run(self.connection._core.fetch(outcome))
        return self._take(outcome, len(outcome.rows))

    async def close(self) -> None:
        self._close(self.connection._core)

    async def _run(self, steps: Steps[T]) -> T:
        return await self.connection._run(steps)

    def __aiter__(self) -> AsyncIterator[tuple[Value, ...]]:
        return self

    async def __anext__(self) -> tuple[Value, ...]:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
