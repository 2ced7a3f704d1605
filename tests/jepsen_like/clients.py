"""A client of one node at a time, over HTTP, that records what it was told."""

from __future__ import annotations

from typing import Any

import httpx

from tests.jepsen_like.history import History, Operation, Outcome
from tests.support.processes import HaProcess

# The log does not hold the write, or holds it without effect on any node: it must never show.
CERTAIN = frozenset(
    {
        "not_written", "not_applied", "unavailable", "busy", "stale",
        "serialization_failure", "transaction_hold", "unique_violation",
    }
)  # fmt: skip
# The log holds it: as good as acknowledged.
WRITTEN = frozenset({"written_not_applied"})
TIMEOUT = 4.0


class Client:
    """Not thread-safe: each belongs to one process of the workload.

    ``txseq`` is the highest sequence that it was told: with it, reads on any node show it.
    """

    def __init__(self, process: int, nodes: dict[str, HaProcess], history: History) -> None:
        self.process = process
        self.txseq = 0
        self._nodes = nodes
        self._history = history
        self._http = httpx.Client(timeout=TIMEOUT)

    def close(self) -> None:
        self._http.close()

    def write(self, node: str, kind: str, value: Any, statements: list[dict[str, Any]]) -> None:
        """One transaction."""
        operation = self._history.invoke(self.process, node, kind, value)
        answer = self._send(operation, statements, {})
        if answer is not None:
            txseq = int(answer.headers["x-txseq"])
            self.txseq = max(self.txseq, txseq)
            self._history.complete(operation, Outcome.OK, txseq=txseq)

    def read(self, node: str, kind: str, value: Any, statement: dict[str, Any]) -> None:
        """Not older than all that this client was told so far."""
        operation = self._history.invoke(self.process, node, kind, value)
        answer = self._send(operation, [statement], {"x-txseq": str(self.txseq)})
        if answer is not None:
            rows = answer.json()["results"][0]["rows"]
            self._history.complete(operation, Outcome.OK, result=rows)

    def _send(
        self, operation: Operation, body: list[dict[str, Any]], headers: dict[str, str]
    ) -> httpx.Response | None:
        """The answer, if it is 200; else the outcome is recorded."""
        done = self._history.complete
        try:
            url = self._nodes[operation.node].url + "/query"
            answer = self._http.post(url, json=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            done(operation, Outcome.FAIL, code="not_connected")  # nothing was sent
            return None
        except httpx.HTTPError as error:
            done(operation, Outcome.INFO, code=type(error).__name__)
            return None
        if answer.status_code == 200:
            return answer
        told = answer.json()["error"]
        code, sequence = told["code"], told.get("sequence")
        if code in WRITTEN:
            done(operation, Outcome.OK, code=code, txseq=sequence)
        elif code in CERTAIN:
            done(operation, Outcome.FAIL, code=code, txseq=sequence)
        else:
            done(operation, Outcome.INFO, code=code, txseq=sequence)
        return None
