"""A PostgreSQL server over a real engine, and ways to talk to it."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg
import trio

from ha.engine.database import DatabaseOptions
from ha.wire.postgres.config import Config, Limits
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.server import serve
from tests.support.cluster import OPTIONS, TestNode, open_cluster

T = TypeVar("T")
FAST = Limits(failure_delay=0.01, login_time=5)


@dataclass
class PgServer:
    """Listens on 127.0.0.1. Blocking clients run in threads: see :meth:`psycopg`."""

    port: int
    node: TestNode
    nodes: list[TestNode] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=ha password=ha dbname=ha connect_timeout=20"

    @property
    def url(self) -> str:
        return f"ha:ha@127.0.0.1:{self.port}/ha"

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """For use inside of a thread."""
        return psycopg.connect(self.dsn, **{"autocommit": True, **options})

    async def psycopg(self, work: Callable[[psycopg.Connection[Any]], T], **options: Any) -> T:
        """Run ``work`` with a connection, in a thread."""

        def run() -> T:
            with self.connect(**options) as connection:
                return work(connection)

        return await in_thread(run)

    async def psql(
        self,
        *commands: str,
        stdin: str | None = None,
        check: bool = True,
        options: Sequence[str] = (),
        database: str | None = "ha",
    ) -> str:
        """What ``psql`` printed, standard error after standard output."""
        arguments = [a for c in commands for a in ("-c", c)]
        command = [
            *("psql", "-X", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ha"),
            *(() if database is None else ("-d", database)),
            *options,
            *arguments,
        ]
        result = await in_thread(
            partial(
                subprocess.run,
                command,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "PGPASSWORD": "ha", "PGCONNECT_TIMEOUT": "20", "PAGER": "cat"},
            )
        )
        if check and result.returncode:
            raise AssertionError(f"psql ended with {result.returncode}: {result.stderr}")
        return result.stdout + result.stderr

    async def raw(self, **parameters: str) -> RawClient:
        """A client that speaks the protocol message by message; the server must trust it."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        client = RawClient(stream)
        words = {"user": "ha", "database": "ha", **parameters}
        body = b"".join(f"{k}\0{v}\0".encode() for k, v in words.items()) + b"\0"
        await client.send_packet(struct.pack("!i", 3 << 16) + body)
        return client


def sqlstate_of(work: Callable[[], object]) -> str | None:
    """The SQLSTATE with which ``work`` fails, None if it does not."""
    try:
        work()
    except PgError as error:
        return error.sqlstate
    except psycopg.Error as error:
        return error.sqlstate
    return None


async def in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


async def in_asyncio(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine of asyncio in a thread of its own."""

    async def main() -> T:
        return await work()

    return await in_thread(lambda: asyncio.run(main()))


@asynccontextmanager
async def open_pg(
    config: Config | None = None, *, nodes: int = 1, options: DatabaseOptions = OPTIONS
) -> AsyncIterator[PgServer]:
    """A server on the first of ``nodes`` nodes that share a log."""
    config = config or Config(limits=FAST)
    async with open_cluster(nodes, options=options) as cluster, trio.open_nursery() as nursery:
        node = cluster[0]
        start = partial(serve, node.databases, host="127.0.0.1", port=0, config=config)
        addresses = await nursery.start(start)
        yield PgServer(addresses[0][1], node, cluster)
        nursery.cancel_scope.cancel()


class RawClient:
    """Messages out and in, as bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send_packet(self, body: bytes) -> None:
        await self.stream.send_all(struct.pack("!i", len(body) + 4) + body)

    async def send(self, *messages: tuple[str, bytes] | bytes) -> None:
        await self.stream.send_all(
            b"".join(m if isinstance(m, bytes) else framed(*m) for m in messages)
        )

    async def receive(self) -> tuple[str, bytes]:
        """The type and the body of the next message. Raises EOFError."""
        with trio.fail_after(20):
            while len(self._buffer) < 5 or len(self._buffer) < 1 + self._length():
                data = await self.stream.receive_some(65536)
                if not data:
                    raise EOFError
                self._buffer += data
        end = 1 + self._length()
        message, self._buffer = self._buffer[:end], self._buffer[end:]
        return chr(message[0]), message[5:]

    def _length(self) -> int:
        (length,) = struct.unpack_from("!i", self._buffer, 1)
        return int(length)

    async def until(self, kind: str = "Z") -> list[tuple[str, bytes]]:
        """Messages up to and with the first of type ``kind``, ParameterStatus left out."""
        out = []
        while True:
            message = await self.receive()
            if message[0] != "S":
                out.append(message)
            if message[0] == kind:
                return out

    async def exchange(self, *messages: tuple[str, bytes] | bytes) -> str:
        """Send, and answer the types of what came back up to ReadyForQuery, with its status."""
        await self.send(*messages)
        found = await self.until()
        return "".join(kind for kind, _ in found) + found[-1][1].decode()

    async def query(self, sql: str) -> str:
        return await self.exchange(("Q", sql.encode() + b"\0"))

    async def aclose(self) -> None:
        await self.stream.aclose()


def framed(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def fields(error: bytes) -> dict[str, str]:
    """Of an ErrorResponse."""
    return {part[:1].decode(): part[1:].decode() for part in error.split(b"\0") if part}


def parse(sql: str, name: str = "", oids: tuple[int, ...] = ()) -> bytes:
    body = f"{name}\0{sql}\0".encode() + struct.pack(f"!h{len(oids)}i", len(oids), *oids)
    return framed("P", body)


def bind(
    *values: bytes | None, portal: str = "", statement: str = "", binary_results: bool = False
) -> bytes:
    body = f"{portal}\0{statement}\0".encode() + struct.pack("!hh", 0, len(values))
    for value in values:
        body += struct.pack("!i", -1 if value is None else len(value)) + (value or b"")
    return framed("B", body + (b"\0\1\0\1" if binary_results else b"\0\0"))


def describe(kind: str = "P", name: str = "") -> bytes:
    return framed("D", f"{kind}{name}\0".encode())


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return framed("E", f"{portal}\0".encode() + struct.pack("!i", max_rows))


def close(kind: str = "P", name: str = "") -> bytes:
    return framed("C", f"{kind}{name}\0".encode())


SYNC = framed("S")
FLUSH = framed("H")
