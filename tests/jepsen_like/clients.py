"""A client that asks one node at a time, over one wire or the other, and records the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.jepsen_like.history import History, Outcome
from tests.jepsen_like.wires import Failed, Http, Postgres, Statement, Wire
from tests.support.processes import HaProcess


class Client:
    """Not thread-safe: each belongs to one process of the workload.

    ``txseq`` is the highest sequence that it was told: with it, reads on any node show it.
    ``met``: whether there was a connection for the last operation.
    """

    def __init__(
        self, process: int, nodes: dict[str, HaProcess], history: History, rng: random.Random
    ) -> None:
        self.process = process
        self.txseq = 0
        self.met = True
        self._nodes = nodes
        self._history = history
        self._rng = rng
        self._wires: list[Wire] = [Http(), Postgres()]

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    def write(
        self,
        node: str,
        kind: str,
        value: Any,
        statements: Sequence[Statement],
        expected: str | None = None,
    ) -> list[list[list[Any]]] | None:
        """One transaction. The rows of each statement, if it was acknowledged with them.

        ``expected`` is recorded: the value without which it has no effect.
        """
        wire = self._rng.choice(self._wires)
        operation = self._history.invoke(self.process, node, kind, value, wire.name)
        operation.expected = expected
        done = self._history.complete
        try:
            answer = wire.write(self._nodes[node], statements)
        except Failed as failed:
            self.met = failed.code != "not_connected"
            done(operation, failed.outcome, code=failed.code, txseq=failed.txseq)
            return None
        self.met = True
        self.txseq = max(self.txseq, answer.txseq)
        done(operation, Outcome.OK, txseq=answer.txseq, result=answer.rows[0][0][0])
        return answer.rows

    def read(
        self, node: str, kind: str, value: Any, statement: Statement, *, linearizable: bool = False
    ) -> list[list[Any]] | None:
        """Not older than all that this client was told so far. The rows, if there was an answer."""
        wire = self._rng.choice(self._wires)
        operation = self._history.invoke(self.process, node, kind, value, wire.name)
        done = self._history.complete
        try:
            answer = wire.read(
                self._nodes[node], statement, txseq=self.txseq, linearizable=linearizable
            )
        except Failed as failed:
            self.met = failed.code != "not_connected"
            done(operation, failed.outcome, code=failed.code, txseq=failed.txseq)
            return None
        self.met = True
        done(operation, Outcome.OK, result=answer.rows[0])
        return answer.rows[0]
