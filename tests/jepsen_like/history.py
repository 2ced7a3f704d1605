"""What clients asked and were told: the record that checkers judge, and nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What the client knows. An operation without an answer yet is :attr:`INFO`."""

    OK = "ok"  # acknowledged
    FAIL = "fail"  # certain: no effect, ever
    INFO = "info"  # it may have an effect, now or later


@dataclass(slots=True)
class Operation:
    """One request. Times are seconds since the run began, on the one clock of this machine.

    ``kind`` names the workload's operation, ``value`` what it writes or asks for. ``code`` is
    the node's word for an error, ``txseq`` the sequence that a write was told, ``result`` the
    rows that a read was told, or of how many rows a write was. ``wire``: http or pg.
    ``expected``: without this value the write has no effect.
    """

    process: int
    node: str
    kind: str
    value: Any
    start: float
    end: float | None = None
    outcome: Outcome = Outcome.INFO
    code: str | None = None
    txseq: int | None = None
    result: Any = None
    wire: str = ""
    expected: str | None = None


@dataclass(slots=True)
class Fault:
    """What the nemesis did, from ``start`` until all was mended at ``end``.

    ``recovered``: when the node, or all of them, had taken a write again.
    """

    kind: str
    target: str
    start: float
    end: float | None = None
    recovered: float | None = None


class History:
    """Thread-safe. Operations stand in the order of their start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.operations: list[Operation] = []
        self.faults: list[Fault] = []

    def now(self) -> float:
        return time.monotonic() - self._began

    def invoke(self, process: int, node: str, kind: str, value: Any, wire: str = "") -> Operation:
        with self._lock:
            operation = Operation(process, node, kind, value, self.now(), wire=wire)
            self.operations.append(operation)
        return operation

    def complete(
        self,
        operation: Operation,
        outcome: Outcome,
        *,
        code: str | None = None,
        txseq: int | None = None,
        result: Any = None,
    ) -> None:
        with self._lock:
            operation.end = self.now()
            operation.outcome = outcome
            operation.code = code
            operation.txseq = txseq
            operation.result = result

    def begin_fault(self, kind: str, target: str) -> Fault:
        fault = Fault(kind, target, self.now())
        with self._lock:
            self.faults.append(fault)
        return fault

    def end_fault(self, fault: Fault) -> None:
        fault.end = self.now()

    def of(self, *kinds: str) -> Iterator[Operation]:
        return (one for one in self.operations if one.kind in kinds)

    def summary(self) -> dict[str, int]:
        """How many operations ended how, by outcome and word."""
        counts: dict[str, int] = {}
        for one in self.operations:
            name = one.outcome.value if one.code is None else f"{one.outcome.value} {one.code}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def save(self, path: Path) -> None:
        """As JSON: ``{"operations": […], "faults": […]}``, as :meth:`load` reads it."""
        whole = {
            "operations": [asdict(one) for one in self.operations],
            "faults": [asdict(one) for one in self.faults],
        }
        path.write_text(json.dumps(whole), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> History:
        whole = json.loads(path.read_text(encoding="utf-8"))
        history = cls()
        history.operations = [
            Operation(**{**one, "outcome": Outcome(one["outcome"])}) for one in whole["operations"]
        ]
        history.faults = [Fault(**one) for one in whole["faults"]]
        return history
