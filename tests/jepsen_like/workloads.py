"""What the clients do. Every value written is unique, so that the log's text tells whose it is.

=========  ======================================================================================
register   ``UPDATE register SET v = <unique> WHERE k = <one of a few>``, and reads
cas        the same if the register still has the value that this client saw last (leader mode)
set        INSERT into ``items`` with ids that no other client uses; reads of own acknowledged ones
pair       two rows into two lists in one transaction: both are there, or none
list       a word is appended to the text of one of a few rows, and marked in ``marks``
bank       an amount goes from one account to another, and is marked in ``marks``
table      CREATE TABLE, so that schemas must converge too
=========  ======================================================================================
"""

from __future__ import annotations

import random
import threading
from typing import Any

from tests.jepsen_like.clients import Client
from tests.jepsen_like.observe import write_surely
from tests.jepsen_like.wires import Statement
from tests.support.processes import HaProcess

KEYS = 5
LISTS = 4
ACCOUNTS = 5
BALANCE = 100
SCHEMA = (
    "CREATE TABLE register(k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
    "CREATE TABLE items(id INTEGER PRIMARY KEY, v TEXT NOT NULL UNIQUE)",
    "CREATE TABLE lists(v TEXT NOT NULL, list INTEGER NOT NULL, PRIMARY KEY (v, list))",
    "CREATE TABLE words(k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
    "CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE marks(v TEXT PRIMARY KEY)",
    "CREATE TABLE probe(x INTEGER NOT NULL)",
)
_IDS_A_CLIENT = 1_000_000
# Of a client; then it goes on to the next lists. Histories show no text whole that is longer than
# 256 characters, and the judges read them.
_OPERATIONS_A_LIST = 40

READ_REGISTER = "SELECT v FROM register WHERE k = ?"


def prepare(node: HaProcess, timeout: float) -> int:
    """Makes the tables; the sequence at which they are there. In leader mode one may have to be
    found first. Raises AssertionError."""
    patience = node.patience(timeout)
    for sql in SCHEMA:
        write_surely(node, sql.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"), patience)
    rows = [f"({key}, 'r{key}-0-0')" for key in range(KEYS)]
    write_surely(node, f"INSERT OR IGNORE INTO register VALUES {', '.join(rows)}", patience)
    rows = [f"({one}, {BALANCE})" for one in range(ACCOUNTS)]
    write_surely(node, f"INSERT OR IGNORE INTO accounts VALUES {', '.join(rows)}", patience)
    return write_surely(node, "INSERT INTO probe VALUES (0)", patience)


class Load:
    """One client's. ``leader``: with what only leader mode promises."""

    def __init__(
        self, client: Client, nodes: list[str], rng: random.Random, *, leader: bool
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._rng = rng
        self._leader = leader
        self._number = 0
        self._mine: list[int] = []
        self._seen = {key: f"r{key}-0-0" for key in range(KEYS)}

    def run(self, over: threading.Event) -> None:
        """Until ``over``: each operation on a random node, as a load balancer would."""
        choices: list[tuple[Any, float]] = [
            (self._register, 0.25), (self._set, 0.2), (self._pair, 0.1), (self._list, 0.08),
            (self._bank, 0.08), (self._table, 0.01), (self._read_set, 0.08),
            (self._read_register, 0.12), (self._read_bank, 0.04), (self._read_list, 0.04),
        ]  # fmt: skip
        if self._leader:
            choices += [(self._cas, 0.1), (self._read_linearizable, 0.15)]
        kinds, weights = zip(*choices, strict=True)
        # A client whose node is not there takes a breath before it asks the next one.
        while not over.wait(self._rng.uniform(0.0, 0.02 if self._client.met else 0.4)):
            self._number += 1
            (kind,) = self._rng.choices(kinds, weights)
            kind(self._rng.choice(self._nodes))

    def _name(self) -> str:
        return f"{self._client.process}-{self._number}"

    def _key(self) -> int:
        return self._rng.randrange(KEYS)

    def _list_key(self) -> int:
        return self._number // _OPERATIONS_A_LIST * LISTS + self._rng.randrange(LISTS)

    def _register(self, node: str) -> None:
        key = self._key()
        value = f"r{key}-{self._name()}"
        write = ("UPDATE register SET v = ? WHERE k = ?", [value, key])
        if self._client.write(node, "register", value, [write]) is not None:
            self._seen[key] = value

    def _cas(self, node: str) -> None:
        key = self._key()
        value = f"r{key}-{self._name()}"
        write = ("UPDATE register SET v = ? WHERE k = ? AND v = ?", [value, key, self._seen[key]])
        rows = self._client.write(node, "cas", value, [write], expected=self._seen[key])
        if rows is not None and rows[0][0][0] == 1:
            self._seen[key] = value

    def _set(self, node: str) -> None:
        id = self._client.process * _IDS_A_CLIENT + self._number
        write = ("INSERT INTO items VALUES (?, ?)", [id, f"s{id}"])
        if self._client.write(node, "set", f"s{id}", [write]) is not None:
            self._mine.append(id)

    def _pair(self, node: str) -> None:
        value = f"a-{self._name()}"
        pair = self._rng.sample(range(LISTS), 2)
        writes: list[Statement] = [
            ("INSERT INTO lists VALUES (?, ?)", [value, one]) for one in pair
        ]
        self._client.write(node, "pair", value, writes)

    def _list(self, node: str) -> None:
        key = self._list_key()
        value = f"m{key}-{self._name()}"
        append = "INSERT INTO words VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = v || excluded.v"
        writes: list[Statement] = [
            (append, [key, f"{value};"]),
            ("INSERT INTO marks VALUES (?)", [value]),
        ]
        self._client.write(node, "list", value, writes)

    def _bank(self, node: str) -> None:
        source, target = self._rng.sample(range(ACCOUNTS), 2)
        amount = self._rng.randint(1, 9)
        value = f"b{source}-{target}-{amount}-{self._name()}"
        writes: list[Statement] = [
            ("UPDATE accounts SET balance = balance - ? WHERE id = ?", [amount, source]),
            ("UPDATE accounts SET balance = balance + ? WHERE id = ?", [amount, target]),
            ("INSERT INTO marks VALUES (?)", [value]),
        ]
        self._client.write(node, "bank", value, writes)

    def _table(self, node: str) -> None:
        name = f"t_{self._client.process}_{self._number}"
        self._client.write(node, "table", name, [(f"CREATE TABLE {name}(x)", [])])

    def _read_set(self, node: str) -> None:
        if self._mine:
            id = self._rng.choice(self._mine)
            self._client.read(
                node, "read_set", f"s{id}", ("SELECT v FROM items WHERE id = ?", [id])
            )

    def _read_register(self, node: str) -> None:
        key = self._key()
        self._read(node, "read_register", key, linearizable=False)

    def _read_linearizable(self, node: str) -> None:
        self._read(node, "read_linearizable", self._key(), linearizable=True)

    def _read(self, node: str, kind: str, key: int, *, linearizable: bool) -> None:
        rows = self._client.read(
            node, kind, [key, self._client.txseq], (READ_REGISTER, [key]), linearizable=linearizable
        )
        if rows:
            self._seen[key] = rows[0][0]

    def _read_bank(self, node: str) -> None:
        self._client.read(
            node, "read_bank", "balances", ("SELECT id, balance FROM accounts ORDER BY id", [])
        )

    def _read_list(self, node: str) -> None:
        key = self._list_key()
        self._client.read(node, "read_list", key, ("SELECT v FROM words WHERE k = ?", [key]))
