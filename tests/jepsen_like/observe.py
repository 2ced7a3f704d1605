"""What a node holds at the end, as its clients see it over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.processes import HaProcess

_TABLES = {
    "register": "SELECT k, v FROM register ORDER BY k",
    "items": "SELECT id, v FROM items ORDER BY id",
    "lists": "SELECT v, list FROM lists ORDER BY v, list",
    "schema": "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name",
}
# Every value that a workload writes, as the log's statements show it.
_VALUE = re.compile(r"'(r\d+-\d+-\d+|a-\d+-\d+|s\d+)'")
_TABLE = re.compile(r"\ACREATE TABLE (t_\d+_\d+)\b")


@dataclass(frozen=True, slots=True)
class Observation:
    """``rows`` by table; ``log``: for each transaction its sequence and the values it wrote."""

    received: int
    rows: dict[str, list[list[Any]]]
    log: list[tuple[int, frozenset[str]]]


def observe(node: HaProcess) -> Observation:
    """All tables in one transaction, then the log as this node reads it."""
    queries = ["SELECT max(received_seq) FROM ha_stats", *_TABLES.values()]
    results = node.query([{"sql": sql} for sql in queries])["results"]
    tables = {name: result["rows"] for name, result in zip(_TABLES, results[1:], strict=True)}
    answer = node.client.get(node.url + "/history/1")
    answer.raise_for_status()
    log = [(item["seq"], _values(item["sql"])) for item in answer.json()["history"]]
    return Observation(results[0]["rows"][0][0], tables, log)


def _values(statements: list[str]) -> frozenset[str]:
    found: set[str] = set()
    for sql in statements:
        found.update(_VALUE.findall(sql))
        found.update(_TABLE.findall(sql))
    return frozenset(found)


def settle(nodes: Mapping[str, HaProcess], timeout: float) -> dict[str, Observation]:
    """Every node's state when all are ready and equal, or when ``timeout`` seconds are over.

    Whether they are equal is not judged here. Each node takes a last write first: what it still
    had in doubt stands before that, or never will.
    """
    end = time.monotonic() + timeout
    last = 0
    for name, node in nodes.items():
        node.wait_ready(timeout)
        last = max(last, _write(node, f"CREATE TABLE IF NOT EXISTS last_{name}(x)", end))
    while True:
        seen = {name: observe(node) for name, node in nodes.items()}
        first, *others = seen.values()
        if first.received >= last and all(one == first for one in others):
            return seen
        if time.monotonic() > end:
            return seen
        time.sleep(0.2)  # polling is all that a client can do


def _write(node: HaProcess, sql: str, end: float) -> int:
    while True:
        answer = node.client.post(node.url + "/query", json={"sql": sql})
        if answer.status_code == 200:
            return int(answer.headers["x-txseq"])
        if time.monotonic() > end:
            raise AssertionError(f"a ready node refuses a write: {answer.text}")
        time.sleep(0.2)
