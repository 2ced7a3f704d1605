"""How a client speaks with a node: one transaction, one answer, over HTTP or PostgreSQL's wire."""

from __future__ import annotations

import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from tests.jepsen_like.history import Outcome
from tests.support.processes import HaProcess

# The log does not hold the write, or holds it without effect on any node: it must never show.
CERTAIN = frozenset(
    {
        "not_written", "not_applied", "unavailable", "busy", "stale", "disk_full",
        "serialization_failure", "transaction_hold", "unique_violation", "object_exists",
        "no_leader", "not_leader",
    }
)  # fmt: skip
# The log holds it: as good as acknowledged.
WRITTEN = frozenset({"written_not_applied"})
_CERTAIN_STATES = frozenset(
    {"40001", "57P03", "57P05", "53100", "23505", "42P07", "25006"}
)  # of PostgreSQL
_WRITTEN_STATE = "58000"
TIMEOUT = 4.0

Statement = tuple[str, Sequence[Any]]
"""SQL with ``?`` for each parameter."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``rows``: of each statement; ``txseq``: where the write stands, 0 for a read."""

    rows: list[list[list[Any]]]
    txseq: int


class Failed(Exception):
    """``txseq``: the sequence that the error spoke of."""

    def __init__(self, outcome: Outcome, code: str, txseq: int | None = None) -> None:
        super().__init__(code)
        self.outcome = outcome
        self.code = code
        self.txseq = txseq


class Wire(ABC):
    """Of one client to all nodes; not thread-safe."""

    name: str

    @abstractmethod
    def write(self, node: HaProcess, statements: Sequence[Statement]) -> Answer:
        """One transaction. Raises Failed."""

    @abstractmethod
    def read(
        self, node: HaProcess, statement: Statement, *, txseq: int, linearizable: bool = False
    ) -> Answer:
        """A state that is not older than ``txseq``, or a linearizable one. Raises Failed."""

    @abstractmethod
    def close(self) -> None: ...


class Http(Wire):
    name = "http"

    def __init__(self) -> None:
        self._http = httpx.Client(timeout=TIMEOUT)

    def close(self) -> None:
        self._http.close()

    def write(self, node: HaProcess, statements: Sequence[Statement]) -> Answer:
        return self._post(node, statements, {}, {})

    def read(
        self, node: HaProcess, statement: Statement, *, txseq: int, linearizable: bool = False
    ) -> Answer:
        parameters = {"consistency": "linearizable"} if linearizable else {}
        return self._post(node, [statement], {"x-txseq": str(txseq)}, parameters)

    def _post(
        self,
        node: HaProcess,
        statements: Sequence[Statement],
        headers: dict[str, str],
        parameters: dict[str, str],
    ) -> Answer:
        body = [{"sql": sql, "params": list(values)} for sql, values in statements]
        try:
            answer = self._http.post(
                node.url + "/query", json=body, headers=headers, params=parameters
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, KeyError):
            raise Failed(Outcome.FAIL, "not_connected") from None  # nothing was sent
        except httpx.HTTPError as error:
            raise Failed(Outcome.INFO, type(error).__name__) from error
        if answer.status_code == 200:
            results = answer.json()["results"]
            return Answer([one["rows"] for one in results], int(answer.headers.get("x-txseq", "0")))
        told = answer.json()["error"]
        code, sequence = told["code"], told.get("sequence")
        if code in WRITTEN:
            raise Failed(Outcome.OK, code, sequence)
        raise Failed(Outcome.FAIL if code in CERTAIN else Outcome.INFO, code, sequence)


class Postgres(Wire):
    """One statement is sent alone, several between BEGIN and COMMIT."""

    name = "pg"

    def __init__(self) -> None:
        self._connections: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def write(self, node: HaProcess, statements: Sequence[Statement]) -> Answer:
        with self._connected(node) as connection:
            rows = []
            alone = len(statements) == 1
            cursor = connection.cursor()
            try:
                if not alone:
                    cursor.execute("BEGIN")
                for sql, values in statements:
                    rows.append(self._run(cursor, sql, values))
            except psycopg.Error as error:
                # Without a COMMIT nothing of a transaction can be anywhere, ever.
                raise self._failure(error, certain=not alone) from error
            try:
                if not alone:
                    cursor.execute("COMMIT")
            except psycopg.Error as error:
                raise self._failure(error) from error
            try:
                (txseq,) = cursor.execute("SHOW ha.txseq").fetchone() or ("0",)
            except psycopg.Error as error:  # it is written; where was not told any more
                raise Failed(Outcome.OK, "no_txseq") from error
            return Answer(rows, int(txseq))

    def read(
        self, node: HaProcess, statement: Statement, *, txseq: int, linearizable: bool = False
    ) -> Answer:
        with self._connected(node) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute(f"SET ha.txseq = {txseq}")
                if linearizable:
                    cursor.execute("SET ha.consistency = 'linearizable'")
                return Answer([self._run(cursor, *statement)], 0)
            except psycopg.Error as error:
                raise self._failure(error) from error
            finally:
                if linearizable and not connection.closed:
                    with suppress(psycopg.Error):
                        cursor.execute("RESET ha.consistency")

    @staticmethod
    def _run(cursor: psycopg.Cursor[Any], sql: str, values: Sequence[Any]) -> list[list[Any]]:
        cursor.execute(sql.replace("?", "%s"), list(values))
        if cursor.description is None:
            return [[cursor.rowcount]]
        return [list(row) for row in cursor.fetchall()]

    @contextmanager
    def _connected(self, node: HaProcess) -> Iterator[psycopg.Connection[Any]]:
        """The connection to this run of the node, broken off when it takes too long."""
        connection = self._connection(node)
        number = os.dup(connection.fileno())
        watchdog = threading.Timer(TIMEOUT, _break, [number])
        watchdog.start()
        try:
            yield connection
        finally:
            watchdog.cancel()
            watchdog.join()
            os.close(number)
            with suppress(psycopg.Error):
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.close()

    def _connection(self, node: HaProcess) -> psycopg.Connection[Any]:
        try:
            port = node.ports["postgresql"]
        except KeyError:
            raise Failed(Outcome.FAIL, "not_connected") from None
        key = f"{node.host}:{port}"
        connection = self._connections.get(key)
        if connection is None or connection.closed:
            try:
                connection = psycopg.connect(
                    host=node.host, port=port, user="ha", password="ha", dbname="db.sqlite",
                    connect_timeout=int(TIMEOUT), autocommit=True,
                )  # fmt: skip
            except psycopg.Error:
                raise Failed(Outcome.FAIL, "not_connected") from None
            self._connections[key] = connection
        return connection

    @staticmethod
    def _failure(error: psycopg.Error, *, certain: bool = False) -> Failed:
        state = error.sqlstate
        if certain:
            return Failed(Outcome.FAIL, f"pg_{state or 'lost'}")
        if state is None:
            return Failed(Outcome.INFO, "pg_lost")
        if state == _WRITTEN_STATE:
            return Failed(Outcome.OK, f"pg_{state}")
        outcome = Outcome.FAIL if state in _CERTAIN_STATES else Outcome.INFO
        return Failed(outcome, f"pg_{state}")


def _break(number: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as one:
        one.shutdown(socket.SHUT_RDWR)
