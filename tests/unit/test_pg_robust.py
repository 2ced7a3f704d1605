"""Hostile bytes, slow readers, large results: one session may suffer, the server does not."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import psycopg
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ha.wire.postgres.config import Auth, Config, Limits
from tests.support.pg import (
    SYNC,
    PgServer,
    RawClient,
    bind,
    close,
    describe,
    execute,
    framed,
    open_pg,
    parse,
)

TRUST = Config(auth=Auth.TRUST, limits=Limits(message=1 << 16))

SQL = st.sampled_from(
    ["SELECT 1", "SELECT $1", "BEGIN", "COMMIT", "ROLLBACK", "SELEKT", "", ";", "SHOW ALL",
     "INSERT INTO t VALUES (1)", "SAVEPOINT a", "ROLLBACK TO a", "DECLARE c CURSOR FOR SELECT 1",
     "FETCH c", "COPY t FROM STDIN", "COPY t TO STDOUT", "SELECT 1; SELECT 2", "DISCARD ALL",
     "PREPARE p AS SELECT 1", "EXECUTE p", "SET x.y = 1", "SELECT 'x'::int8"]
)  # fmt: skip
NAMES = st.sampled_from(["", "a", "c", "p"])
MESSAGES = st.one_of(
    SQL.map(lambda sql: framed("Q", sql.encode() + b"\0")),
    st.builds(parse, SQL, NAMES),
    st.builds(lambda p, s: bind(portal=p, statement=s), NAMES, NAMES),
    st.builds(lambda v, s: bind(v, statement=s), st.none() | st.binary(max_size=9), NAMES),
    st.builds(describe, st.sampled_from("SP"), NAMES),
    st.builds(execute, NAMES, st.integers(0, 2)),
    st.builds(close, st.sampled_from("SP"), NAMES),
    st.just(SYNC),
    st.just(framed("H")),
    st.builds(framed, st.sampled_from("dcf"), st.just(b"1\n\0")),
    st.builds(framed, st.sampled_from("QPBDECSHXdcfpFz"), st.binary(max_size=20)),
    st.binary(max_size=8),
)


def fuzz(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


async def drain(client: RawClient) -> None:
    """Read until the server has hung up, or waits."""
    with trio.move_on_after(0.05):
        while await client.stream.receive_some(65536):
            pass


@fuzz(40)
@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=12), min_size=1, max_size=12))
def test_any_conversation_leaves_the_server_alive(conversations: list[list[bytes]]) -> None:
    async def main() -> None:
        async with open_pg(TRUST) as server:
            await server.node.run("CREATE TABLE t(x)")
            async with trio.open_nursery() as nursery:
                for messages in conversations:
                    nursery.start_soon(one, server, messages)
            await alive(server)

    async def one(server: PgServer, messages: list[bytes]) -> None:
        client = await server.raw()
        await client.until()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send(*messages)
            await drain(client)
        await client.aclose()

    trio.run(main)


ROUNDS = st.one_of(
    MESSAGES,
    st.builds(
        lambda sql, name, value, described, rows: (
            parse(sql, name)
            + bind(*([] if value is None else [value]), statement=name)
            + (describe() if described else b"")
            + execute("", rows)
            + SYNC
        ),
        st.sampled_from(
            ["SELECT x FROM t ORDER BY x", "SELECT x FROM t WHERE x >= $1", "SELECT 1 / 0, 1",
             "INSERT INTO t VALUES (7) RETURNING x", "SELECT CAST('a' AS BLOB) AS x"]
        ),
        st.just(""),
        st.sampled_from([None, b"2", b"x"]),
        st.booleans(),
        st.integers(0, 3),
    ),
)  # fmt: skip


@fuzz(40)
@given(st.lists(ROUNDS, min_size=1, max_size=8), st.booleans())
def test_answers_do_not_depend_on_how_the_messages_arrive(
    messages: list[bytes], in_transaction: bool
) -> None:
    """At once, when much is done in one step; and one by one, piece by piece."""
    begin = [framed("Q", b"BEGIN\0")] if in_transaction else []
    whole = b"".join([*begin, *messages, SYNC, framed("X")])

    async def main(pieces: list[bytes]) -> tuple[bytes, bool]:
        async with open_pg(TRUST) as server:
            await server.node.run("CREATE TABLE t(x INTEGER)")
            await server.node.run("INSERT INTO t VALUES (1), (2), (3)")
            client = await server.raw()
            await client.until()
            answer, whole = b"", True
            try:
                for piece in pieces:
                    await client.send(piece)
                    await trio.testing.wait_all_tasks_blocked(0.001)
            except trio.BrokenResourceError:
                whole = False  # a session that broke the protocol ends with bytes unread
            try:
                with trio.fail_after(30):
                    while data := await client.stream.receive_some(65536):
                        answer += data
            except trio.BrokenResourceError:
                whole = False
            await client.aclose()
            return answer, whole

    step = max(1, len(whole) // 12)
    at_once, all_of_it = trio.run(main, [whole])
    cut, all_of_that = trio.run(main, [whole[i : i + step] for i in range(0, len(whole), step)])
    if all_of_it and all_of_that:
        assert cut == at_once
    else:
        assert cut.startswith(at_once) or at_once.startswith(cut)


async def alive(server: PgServer) -> None:
    """A new session works, and can write: nobody kept the writer."""
    with trio.fail_after(20):
        client = await server.raw()
        await client.until()
        assert await client.query("INSERT INTO t VALUES (1)") == "CZI"
        await client.aclose()


@fuzz(60)
@given(st.binary(max_size=200))
def test_any_first_bytes_leave_the_server_alive(data: bytes) -> None:
    async def main() -> None:
        async with open_pg(TRUST) as server:
            await server.node.run("CREATE TABLE t(x)")
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                await stream.send_eof()
                await drain(RawClient(stream))
            await stream.aclose()
            await alive(server)

    trio.run(main)


async def test_a_message_that_is_cut_off_ends_the_session() -> None:
    async with open_pg(TRUST) as server:
        await server.node.run("CREATE TABLE t(x)")
        whole = framed("Q", b"BEGIN; INSERT INTO t VALUES (1)\0") + parse("SELECT 1") + SYNC
        for cut in (1, 4, 5, 20, len(whole) - 1):
            client = await server.raw()
            await client.until()
            await client.send(whole[:cut])
            await client.aclose()
        await alive(server)


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


async def test_a_slow_reader_holds_the_server_back_and_memory_stays_flat() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        rows = 5_000_000
        sql = f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows})"
        await client.send(("Q", f"{sql} SELECT x FROM c\0".encode()))
        before = resident()
        received = 0
        with trio.fail_after(240):
            data = await client.stream.receive_some(65536)
            await trio.sleep(0.3)  # the server must wait with us
            grown = resident() - before
            while not data.endswith(b"Z\0\0\0\5I"):
                received += len(data)
                data = (data + await client.stream.receive_some(1 << 20))[-(1 << 20) :]
        assert grown < 32 * 1024 * 1024
        assert resident() - before < 64 * 1024 * 1024
        assert received > rows * 12


async def test_a_reader_that_never_reads_can_be_cancelled() -> None:
    async with open_pg(TRUST) as server:
        await server.node.run("CREATE TABLE t(x)")
        client = await server.raw()
        await client.until()
        endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
        await client.send(("Q", endless.encode() + b"\0"))
        await client.receive()
        await client.aclose()
        await alive(server)


async def test_many_sessions_at_once() -> None:
    async with open_pg(TRUST) as server:
        await server.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")

        async def one(number: int) -> None:
            client = await server.raw()
            await client.until()
            chance = random.Random(number)
            for n in range(20):
                key = number * 100 + n
                assert await client.query(f"INSERT INTO t VALUES ({key}, {n})") == "CZI"
                if chance.random() < 0.5:
                    assert await client.query(f"SELECT x FROM t WHERE id = {key}") == "TDCZI"
            await client.aclose()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(one, number)
        assert await server.node.rows("SELECT count(*) FROM t") == [(600,)]


async def test_large_values() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            c.execute("CREATE TABLE t(b BLOB, x TEXT)")
            for size in (0, 1, 1023, 1024, 4095, 4096, 65536, 3_000_000):
                value = bytes(size)
                c.execute("DELETE FROM t")
                c.execute("INSERT INTO t VALUES (%b, %s)", (value, "é" * size))
                found = c.execute("SELECT * FROM t", binary=True).fetchone()
                assert found == (value, "é" * size)

        await server.psycopg(work)


async def test_a_nul_and_other_odd_text() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        assert await client.query("SELECT 'a' || char(0)") == "TEZI"
        assert await client.query("SELECT CAST(x'ff' AS TEXT)") in ("TEZI", "EZI")
        assert await client.query("SELECT 1 -- \x01 é 🎉") == "TDCZI"
        deep = "SELECT " + "(" * 3000 + "1" + ")" * 3000
        assert (await client.query(deep))[-3:] == "EZI"
        assert (await client.query("SELECT " + "1+" * 5000 + "count(*)"))[-2:] == "ZI"
        assert await client.exchange(parse("SELECT 1"), framed("H", b""), SYNC) == "1ZI"
