"""What a client is told last arrives, also when the server had not read all that it sent."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import trio

from ha.wire.postgres.config import Auth, Config, Limits
from tests.support.pg import RawClient, fields, framed, open_pg
from tests.support.processes import running_node

TRUST = Config(auth=Auth.TRUST, limits=Limits())
UNREAD = framed("Q", b"SELECT '" + b"x" * 100_000 + b"'\0")
"""More than the server takes at once."""


async def the_end(client: RawClient) -> tuple[str | None, bytes]:
    """The SQLSTATE of the last error, and what comes after it: b"" is the orderly end."""
    kind, body = await client.receive()
    while kind != "E":
        kind, body = await client.receive()
    with trio.fail_after(5):
        rest = await client.stream.receive_some(1)
    return fields(body)["C"], rest


async def test_a_shutdown_is_told_with_unread_bytes_in_the_way() -> None:
    async with open_pg(TRUST) as server:
        await server.node.run("CREATE TABLE t(x)")
        holder, waiter = await server.raw(), await server.raw()
        await holder.until()
        await waiter.until()
        await holder.query("BEGIN IMMEDIATE")
        # It waits for the writer, so the server reads nothing more of this client.
        await waiter.send(("Q", b"INSERT INTO t VALUES (1)\0"), UNREAD)
    assert await the_end(holder) == ("57P01", b"")
    assert await the_end(waiter) == ("57P01", b"")


async def test_a_refusal_is_told_with_unread_bytes_in_the_way() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw(database="nowhere")
        await client.send(UNREAD)
        assert await the_end(client) == ("3D000", b"")


async def test_a_start_up_that_is_refused_is_told_with_unread_bytes_in_the_way() -> None:
    async with open_pg(TRUST) as server:
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port))
        await client.stream.send_all(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000)
        assert await the_end(client) == ("08P01", b"")


async def test_a_client_that_goes_on_and_on_does_not_hold_the_shutdown_up() -> None:
    async with trio.open_nursery() as nursery:
        async with open_pg(TRUST) as server:
            client = await server.raw()
            await client.until()

            async def talk() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await client.stream.send_all(framed("Q", b"SELECT 1\0") * 1_000)

            nursery.start_soon(talk)
            await client.until()
            began = trio.current_time()
        assert trio.current_time() - began < 5


async def test_no_error_is_put_in_the_middle_of_a_message() -> None:
    """The client would take it for a part of its row."""
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        await client.send(("Q", b"SELECT printf('%.*c', 50000000, 'x')\0"))
        await client.receive()  # RowDescription: the row follows, and fills all buffers
    received = bytearray()
    with trio.fail_after(20):
        while data := await client.stream.receive_some(1 << 20):
            received += data
    assert b"57P01" not in received


@pytest.mark.timeout(120)
def test_a_node_with_idle_clients_ends_in_time_with_status_0(tmp_path: Path) -> None:
    with running_node("n", "--pg-port", "-1", cwd=tmp_path, nats=False) as node:
        port = node.ports["postgresql"]
        dsn = f"host=127.0.0.1 port={port} user=ha password=ha dbname=ha"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SELECT 1")
            began = time.monotonic()
            assert node.stop() == 0
            assert time.monotonic() - began < 10
            with pytest.raises(psycopg.errors.AdminShutdown):
                connection.execute("SELECT 1")
