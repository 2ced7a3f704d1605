"""Connections whose node goes away: what is asked again, and what the program must know."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import ha.dbapi as db
from ha.log.memory import MemoryStream
from tests.support.grpc_server import Served, serving


@contextmanager
def restarting(node: Served, **options: object) -> Iterator[Served]:
    with serving(port=node.port, **options) as again:  # type: ignore[arg-type]
        yield again


@pytest.fixture
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


def test_an_idle_connection_moves_on_by_itself() -> None:
    with serving(node="n1") as one, serving(node="n2") as two:
        dsn = f"ha://{one.target},{two.target}/ha.db"
        connection = db.connect(dsn, autocommit=True)
        first, second = (one, two) if str(connection.address) == one.target else (two, one)
        first.kill()
        connection.execute("CREATE TABLE t(x)")  # a write: certain not to have run before
        assert str(connection.address) == second.target
        assert connection.reconnected == 1
        connection.close()


def test_a_node_that_stops_in_order_is_left_without_an_error() -> None:
    with serving(node="n1") as one, serving(node="n2") as two:
        connection = db.connect(f"ha://{one.target},{two.target}/ha.db", autocommit=True)
        first, second = (one, two) if str(connection.address) == one.target else (two, one)
        first.stop()
        connection.execute("CREATE TABLE t(x)")
        assert str(connection.address) == second.target
        connection.close()


def kill_when_it_runs(node: Served) -> threading.Thread:
    """Kill the node once it runs a statement."""

    def wait_and_kill() -> None:
        node.wait_running()
        node.kill()

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_read_that_was_under_way_is_asked_again_elsewhere() -> None:
    numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 3000000)"
    with serving(node="n1") as one, serving(node="n2") as two:
        connection = db.connect(f"ha://{one.target},{two.target}/ha.db", autocommit=True)
        first = one if str(connection.address) == one.target else two
        killer = kill_when_it_runs(first)
        assert connection.execute(f"{numbers} SELECT max(i) FROM n").fetchone() == (3_000_000,)
        killer.join()
        assert connection.reconnected == 1
        connection.close()


def test_a_transaction_is_lost_with_its_node_and_says_so() -> None:
    with serving(node="n1") as one, serving(node="n2") as two:
        connection = db.connect(f"ha://{one.target},{two.target}/ha.db")
        first = one if str(connection.address) == one.target else two
        connection.execute("CREATE TABLE t(x)")
        first.kill()
        with pytest.raises(db.ConnectionLost) as info:
            connection.execute("INSERT INTO t VALUES (1)")
        assert info.value.code == "not_written"
        assert not connection.in_transaction
        # From its beginning, on the other node.
        connection.execute("CREATE TABLE t(x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
        connection.close()


def test_a_commit_never_passes_in_silence_when_the_transaction_is_gone() -> None:
    with serving(node="n1") as one, serving(node="n2") as two:
        connection = db.connect(f"ha://{one.target},{two.target}/ha.db")
        first = one if str(connection.address) == one.target else two
        connection.execute("CREATE TABLE t(x)")
        first.kill()
        with pytest.raises(db.ConnectionLost):
            connection.commit()
        connection.commit()
        connection.close()


def test_after_a_rollback_nothing_is_lost_any_more() -> None:
    with serving(node="n1") as one, serving(node="n2") as two:
        connection = db.connect(f"ha://{one.target},{two.target}/ha.db")
        first = one if str(connection.address) == one.target else two
        connection.execute("CREATE TABLE t(x)")
        first.kill()
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.close()


@pytest.mark.parametrize("sql", ["COMMIT", "INSERT INTO t VALUES (1)"])
def test_a_write_whose_answer_is_lost_may_or_may_not_be_there(sql: str) -> None:
    """Through a wire that is cut after the request has passed."""
    with serving() as node, Wire(node) as wire:
        connection = db.connect(f"ha://127.0.0.1:{wire.port}/ha.db", autocommit=sql != "COMMIT")
        connection.execute("CREATE TABLE t(x)")
        wire.swallow_answers()
        run = connection.commit if sql == "COMMIT" else lambda: connection.execute(sql)
        with pytest.raises(db.ConnectionLost) as info:
            run()  # type: ignore[operator]
        assert info.value.code == "outcome_unknown"
        connection.close()


def test_writes_are_read_from_whatever_node_comes_next() -> None:
    stream = MemoryStream(epoch="test")
    with serving(node="n1", stream=stream) as one:
        connection = db.connect(f"ha://{one.target}/ha.db", autocommit=True)
        connection.execute("CREATE TABLE t(x)")
        connection.execute("INSERT INTO t VALUES (1)")
        seen = connection.txseq
        connection.close()
    with (
        serving(node="n2", stream=MemoryStream(epoch="test")) as behind,
        pytest.raises(db.OperationalError, match=f"{seen} is of another stream"),
    ):
        db.connect(f"ha://{behind.target}/ha.db", txseq=seen)


def test_when_no_node_is_left_each_is_named(node: Served) -> None:
    connection = db.connect(f"ha://127.0.0.1:1,{node.target}/ha.db")
    node.kill()
    with pytest.raises(db.OperationalError, match=r"127\.0\.0\.1:1.*; |; .*127\.0\.0\.1:1") as info:
        connection.execute("SELECT 1")
    assert info.value.code == "unavailable"
    with restarting(node):
        assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_rows_that_were_not_fetched_yet_are_lost_with_the_node(node: Served) -> None:
    connection = db.connect(f"ha://{node.target}/ha.db", autocommit=True)
    numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 100)"
    cursor = connection.execute(f"{numbers} SELECT i, zeroblob(100000) FROM n")
    assert cursor.fetchone() is not None
    node.kill()
    with pytest.raises(db.OperationalError), restarting(node):
        cursor.fetchall()
    connection.close()


class Wire:
    """A relay between a client and a node, that can be cut in one direction."""

    def __init__(self, node: Served) -> None:
        self._node = node
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._cut = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def swallow_answers(self) -> None:
        self._cut.set()

    def __enter__(self) -> Wire:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in self._sockets:
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        node = socket.create_connection(("127.0.0.1", self._node.port))
        self._sockets += [client, node]
        self._start(self._pass, client, node, False)
        self._start(self._pass, node, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self._cut.is_set():
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
        except OSError:
            pass
