"""What a node holds at the end, as its clients see it over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.patience import Patience
from tests.support.processes import HaProcess

_TABLES = {
    "register": "SELECT k, v FROM register ORDER BY k",
    "items": "SELECT id, v FROM items ORDER BY id",
    "lists": "SELECT v, list FROM lists ORDER BY v, list",
    "words": "SELECT k, v FROM words ORDER BY k",
    "accounts": "SELECT id, balance FROM accounts ORDER BY id",
    "marks": "SELECT v FROM marks ORDER BY v",
    "schema": "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name",
}
# Every value that a workload writes, as the log's statements show it.
_VALUE = re.compile(r"'(r\d+-\d+-\d+|a-\d+-\d+|s\d+|m\d+-\d+-\d+|b\d+-\d+-\d+-\d+-\d+)'")
_TABLE = re.compile(r"\ACREATE TABLE (t_\d+_\d+)\b")
_WORDS = re.compile(
    r"\A(?:UPDATE words SET v = '([^']*)' WHERE k = (\d+)"
    r"|INSERT INTO words \(k, v\) VALUES \((\d+), '([^']*)'\))\Z"
)
_ACCOUNTS = re.compile(
    r"\A(?:UPDATE accounts SET balance = (-?\d+) WHERE id = (\d+)"
    r"|INSERT INTO accounts \(id, balance\) VALUES \((\d+), (-?\d+)\))\Z"
)
_TIMEOUT = 300.0  # for a whole log


@dataclass(slots=True)
class Log:
    """``entries``: for each transaction its sequence and the values that it wrote; ``words`` and
    ``accounts``: what it says last of each row; ``strange``: statements that nobody sends."""

    entries: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    words: dict[int, str] = field(default_factory=dict)
    accounts: dict[int, int] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Observation:
    """``rows`` by table."""

    received: int
    rows: dict[str, list[list[Any]]]
    log: Log


def read_log(transactions: list[tuple[int, list[str]]]) -> Log:
    """Of sequences with their statements."""
    log = Log()
    for sequence, statements in transactions:
        values: set[str] = set()
        for sql in statements:
            if match := _WORDS.match(sql):
                log.words[int(match[2] or match[3])] = match[1] or match[4] or ""
            elif match := _ACCOUNTS.match(sql):
                log.accounts[int(match[2] or match[3])] = int(match[1] or match[4])
            elif " words " in sql[:20] or " accounts " in sql[:22]:
                if not sql.startswith("CREATE TABLE"):
                    log.strange.append(sql)
            else:
                values.update(_VALUE.findall(sql))
                values.update(_TABLE.findall(sql))
        log.entries.append((sequence, frozenset(values)))
    return log


def observe(node: HaProcess) -> tuple[int, dict[str, list[list[Any]]]]:
    """The applied sequence and all tables, in one transaction."""
    queries = ["SELECT max(received_seq) FROM ha_stats", *_TABLES.values()]
    body = [{"sql": sql} for sql in queries]
    results = node.query(body, "/query?local=true", timeout=_TIMEOUT)["results"]
    tables = {name: result["rows"] for name, result in zip(_TABLES, results[1:], strict=True)}
    return results[0]["rows"][0][0], tables


def fetch_log(node: HaProcess) -> Log:
    """The whole log, as this node reads it."""
    answer = node.client.get(node.url + "/history/1", timeout=_TIMEOUT)
    answer.raise_for_status()
    return read_log([(item["seq"], item["sql"]) for item in answer.json()["history"]])


def settle(nodes: Mapping[str, HaProcess], timeout: float) -> dict[str, Observation]:
    """Every node's state when all are ready and equal, or when ``timeout`` seconds have brought
    none of them further.

    Whether they are equal is not judged here. Each node takes a last write first: what it still
    had in doubt stands before that, or never will.
    """
    last = 0
    for name, node in nodes.items():
        node.wait_ready(timeout)
        sql = f"CREATE TABLE IF NOT EXISTS last_{name}(x)"
        last = max(last, write_surely(node, sql, node.patience(timeout)))
    seen: dict[str, tuple[int, dict[str, list[list[Any]]]]] = {}
    patience = Patience(timeout, lambda: sum(received for received, _ in seen.values()))
    while True:
        seen |= {name: observe(node) for name, node in nodes.items()}
        first, *others = seen.values()
        if first[0] >= last and all(one == first for one in others):
            break
        if patience.is_over():
            break
        time.sleep(0.2)  # polling is all that a client can do
    return {name: Observation(*seen[name], fetch_log(node)) for name, node in nodes.items()}


def write_surely(node: HaProcess, sql: str, patience: Patience) -> int:
    """Try until it is acknowledged; its sequence. Raises AssertionError when that is over."""
    problem = ""
    while True:
        try:
            answer = node.client.post(node.url + "/query", json={"sql": sql}, timeout=5.0)
        except (httpx.HTTPError, KeyError) as error:
            problem = repr(error)
        else:
            if answer.status_code == 200:
                return int(answer.headers["x-txseq"])
            problem = answer.text
        if patience.is_over():
            raise AssertionError(f"a node refuses a write: {problem}")
        time.sleep(0.1)
