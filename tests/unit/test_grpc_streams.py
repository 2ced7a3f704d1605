"""Streams that end, are cut, wait, are many, or are in a hurry; the client is grpcio."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.connection
import h2.events
import pytest
import trio

from ha.engine.session import Session
from tests.support.grpc_client import (
    ROOT,
    Request,
    Stream,
    channel,
    messages,
    request,
    rows,
    services,
)
from tests.support.grpc_server import Served, serving

FOREVER = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
CANCEL = Request(type=messages.QUERY_TYPE_CANCEL)


@pytest.fixture
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture
def stub(node: Served) -> Iterator[object]:
    with channel(node.target) as connection:
        yield services.DatabaseServiceStub(connection)


def open_stream(stub: object, **options: object) -> Stream:
    return Stream(stub, **{"timeout": 60, **options})


def gives(node: Served, sql: str, expected: object) -> None:
    """Wait, looking at the database itself, until ``sql`` gives ``expected``."""

    async def look() -> None:
        session = node.databases.session(protocol="test")
        try:
            with trio.fail_after(20):
                while True:
                    result = await session.execute(sql)
                    if result.rows == expected:
                        return
                    await trio.sleep(0.005)
        finally:
            await session.aclose()

    node.call(look)


def closed_sessions(node: Served) -> Callable[[int], None]:
    """A function that waits until so many sessions have been closed."""
    count = 0
    news = threading.Condition()
    original = Session.aclose

    async def aclose(self: Session) -> None:
        nonlocal count
        await original(self)
        with news:
            count += 1
            news.notify_all()

    Session.aclose = aclose  # type: ignore[method-assign]

    def wait(number: int) -> None:
        with news:
            assert news.wait_for(lambda: count >= number, 20), count

    wait.undo = lambda: setattr(Session, "aclose", original)  # type: ignore[attr-defined]
    return wait


@pytest.fixture
def wait_closed(node: Served) -> Iterator[Callable[[int], None]]:
    wait = closed_sessions(node)
    yield wait
    wait.undo()  # type: ignore[attr-defined]


def test_half_close_answers_what_was_asked_and_ends_in_order(stub: object) -> None:
    stream = open_stream(stub)
    stream.send(*(request("SELECT ?", n) for n in range(100)))
    stream.half_close()
    assert [rows(r) for r in stream.rest()] == [[(n,)] for n in range(100)]
    assert stream.call.code() is grpc.StatusCode.OK


def test_half_close_at_once_is_no_error(stub: object) -> None:
    stream = open_stream(stub)
    stream.half_close()
    assert list(stream.rest()) == []


def test_half_close_rolls_back_what_is_open(node: Served, stub: object) -> None:
    stream = open_stream(stub)
    stream.ask("CREATE TABLE t(x)")
    stream.ask("BEGIN IMMEDIATE")
    stream.ask("INSERT INTO t VALUES (1)")
    stream.close()
    other = open_stream(stub)
    assert not other.ask("INSERT INTO t VALUES (2)").error
    assert other.rows("SELECT x FROM t") == [(2,)]
    other.close()


def test_a_client_that_cancels_the_call_rolls_back_at_once(
    node: Served, stub: object, wait_closed: Callable[[int], None]
) -> None:
    stream = open_stream(stub)
    stream.ask("CREATE TABLE t(x)")
    stream.ask("BEGIN IMMEDIATE")
    stream.ask("INSERT INTO t VALUES (1)")
    stream.call.cancel()
    wait_closed(1)
    gives(node, "SELECT count(*) FROM t", [(0,)])


def test_a_client_that_is_killed_in_a_transaction_rolls_back_at_once(
    node: Served, stub: object, wait_closed: Callable[[int], None]
) -> None:
    open_stream(stub).ask("CREATE TABLE t(x)")
    script = (
        "from tests.support.grpc_client import *\n"
        f"s = Stream(services.DatabaseServiceStub(channel('{node.target}')))\n"
        "s.ask('BEGIN IMMEDIATE'); s.ask('INSERT INTO t VALUES (1)')\n"
        "print('open', flush=True); s.receive()"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"open\n"
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    client.stdout.close()
    wait_closed(1)
    other = open_stream(stub)
    assert not other.ask("INSERT INTO t VALUES (2)").error
    assert other.rows("SELECT x FROM t") == [(2,)]
    other.close()


def test_a_client_that_goes_while_a_statement_runs_stops_it(
    node: Served, stub: object, wait_closed: Callable[[int], None]
) -> None:
    for half_closed in (False, True):
        stream = open_stream(stub)
        stream.ask("SELECT 1")
        stream.send(request(FOREVER))
        if half_closed:
            stream.half_close()
        node.wait_running()
        stream.call.cancel()
        wait_closed(1 + half_closed)


def test_a_deadline_ends_the_call_and_the_statement(
    node: Served, stub: object, wait_closed: Callable[[int], None]
) -> None:
    stream = open_stream(stub, timeout=0.5)
    stream.send(request(FOREVER))
    with pytest.raises(grpc.RpcError) as info:
        stream.receive()
    assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_closed(1)


def test_a_deadline_between_statements_rolls_back(
    node: Served, stub: object, wait_closed: Callable[[int], None]
) -> None:
    open_stream(stub).ask("CREATE TABLE t(x)")
    stream = open_stream(stub, timeout=0.5)
    stream.ask("BEGIN IMMEDIATE")
    stream.ask("INSERT INTO t VALUES (1)")
    with pytest.raises(grpc.RpcError):
        stream.receive()
    wait_closed(1)
    gives(node, "SELECT count(*) FROM t", [(0,)])


def test_cancel_ends_the_statement_not_the_session(stub: object) -> None:
    stream = open_stream(stub)
    stream.ask("CREATE TEMP TABLE mine(x)")
    stream.send(request(FOREVER), request("SELECT 'not run'"))
    stream.send(CANCEL, request("SELECT count(*) FROM mine"))
    assert stream.receive().error_detail.code == "cancelled"
    assert stream.receive().error_detail.code == "cancelled"
    assert not stream.receive().error
    assert rows(stream.receive()) == [(0,)]
    assert not stream.ask(CANCEL).error
    stream.close()


def test_ten_thousand_rows(stub: object) -> None:
    stream = open_stream(stub)
    stream.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, score REAL)")
    made = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 10000)"
    assert (
        stream.ask(f"{made} INSERT INTO t SELECT i, 'name ' || i, i / 2.0 FROM n").rows_affected
        == 10_000
    )
    expected = [(i, f"name {i}", i / 2) for i in range(1, 10_001)]
    assert stream.rows("SELECT * FROM t ORDER BY id") == expected
    stream.close()


def test_a_hundred_sessions_at_once_on_one_connection(stub: object) -> None:
    setup = open_stream(stub)
    setup.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, session, n)")

    def work(number: int) -> int:
        stream = open_stream(stub)
        for n in range(5):
            response = stream.ask("INSERT INTO t(session, n) VALUES (?, ?)", number, n)
            assert not response.error, response.error
            assert stream.rows("SELECT count(*) FROM t WHERE session = ?", number) == [(n + 1,)]
        stream.close()
        return number

    with ThreadPoolExecutor(100) as pool:
        assert sorted(pool.map(work, range(100))) == list(range(100))
    assert setup.rows("SELECT count(*), count(DISTINCT session) FROM t") == [(500, 100)]
    setup.close()


def test_many_requests_ahead_of_their_answers(stub: object) -> None:
    """Far more than the windows of HTTP/2 hold, both ways: nobody waits for the other for ever."""
    count = 3_000
    stream = open_stream(stub)
    text = "x" * 500
    stream.send(*(request("SELECT ?, ?", n, text) for n in range(count)))
    stream.half_close()
    assert [rows(r)[0][0] for r in stream.rest()] == list(range(count))


def test_a_stream_whose_answers_nobody_reads_holds_up_nobody(stub: object) -> None:
    lazy = open_stream(stub)
    lazy.send(*(request("SELECT zeroblob(100000)") for _ in range(100)))
    lazy.send(*(request("SELECT ?", bytes(10_000)) for _ in range(500)))
    busy = open_stream(stub)
    for n in range(20):
        assert busy.rows("SELECT ?", n) == [(n,)]
    busy.close()
    lazy.call.cancel()


def test_an_orderly_end_lets_a_transaction_finish_and_sends_the_idle_away() -> None:
    with serving() as node, channel(node.target) as connection:
        stub = services.DatabaseServiceStub(connection)
        idle, busy = open_stream(stub), open_stream(stub)
        idle.ask("CREATE TABLE t(x)")
        busy.ask("BEGIN")
        busy.ask("INSERT INTO t VALUES (1)")
        node.call(node.shutdown.set)
        with pytest.raises(grpc.RpcError) as info:
            idle.receive()
        assert info.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in info.value.details()
        assert not busy.ask("INSERT INTO t VALUES (2)").error
        assert not busy.ask("COMMIT").error
        with pytest.raises(grpc.RpcError, match="shutting down"):
            busy.receive()
        assert node.stopped.wait(5)


def test_what_a_client_still_sends_after_the_status_is_taken_in_silence() -> None:
    """RST_STREAM in answer to it could be taken for the status."""
    with (
        serving(token="secret") as node,
        socket.create_connection(("127.0.0.1", node.port)) as sock,
    ):
        sock.settimeout(20)
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        connection.send_headers(
            1,
            [(":method", "POST"), (":scheme", "http"), (":authority", node.target),
             (":path", "/sql.v1.DatabaseService/Query"), ("te", "trailers"),
             ("content-type", "application/grpc")],
        )  # fmt: skip
        sock.sendall(connection.data_to_send())

        answered = bytearray()

        def until(kind: type[h2.events.Event]) -> None:
            while True:
                data = sock.recv(65536)
                answered.extend(data)
                if any(isinstance(event, kind) for event in connection.receive_data(data)):
                    return

        until(h2.events.StreamEnded)
        connection.ping(b"all sent")
        sock.sendall(connection.data_to_send())
        until(h2.events.PingAckReceived)
        connection.send_data(1, bytes(1000))
        connection.send_data(1, bytes(1000), end_stream=True)
        connection.ping(b"all read")
        sock.sendall(connection.data_to_send())
        until(h2.events.PingAckReceived)
        kinds = frame_types(answered)
        assert 6 in kinds  # the PING's ACK
        assert 3 not in kinds  # RST_STREAM


def frame_types(data: bytes) -> list[int]:
    """The types of HTTP/2's frames (RFC 9113, section 4.1)."""
    out = []
    while data:
        out.append(data[3])
        data = data[9 + int.from_bytes(data[:3], "big") :]
    return out
