"""What the clients do. Every value written is unique, so that the log's text tells whose it is.

=========  ======================================================================================
register   ``UPDATE register SET v = <unique> WHERE k = <one of a few>``, and reads
set        INSERT into ``items`` with ids that no other client uses; reads of own acknowledged ones
append     two rows into two lists in one transaction: both are there, or none
table      CREATE TABLE, so that schemas must converge too
=========  ======================================================================================
"""

from __future__ import annotations

import random
import threading

from tests.jepsen_like.clients import Client
from tests.support.processes import HaProcess

KEYS = 5
LISTS = 4
SCHEMA = (
    "CREATE TABLE register(k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
    "CREATE TABLE items(id INTEGER PRIMARY KEY, v TEXT NOT NULL UNIQUE)",
    "CREATE TABLE lists(v TEXT NOT NULL, list INTEGER NOT NULL, PRIMARY KEY (v, list))",
)
_IDS_A_CLIENT = 1_000_000


def prepare(node: HaProcess) -> int:
    """Makes the tables; the sequence at which they are there."""
    rows = [{"sql": f"INSERT INTO register VALUES ({key}, 'r{key}-0-0')"} for key in range(KEYS)]
    body = [{"sql": sql} for sql in SCHEMA] + rows
    answer = node.client.post(node.url + "/query", json=body)
    answer.raise_for_status()
    return int(answer.headers["x-txseq"])


def run(client: Client, nodes: list[str], rng: random.Random, over: threading.Event) -> None:
    """One client until ``over``: each operation on a random node, as a load balancer would."""
    number = 0
    mine: list[int] = []
    while not over.wait(rng.uniform(0.0, 0.02)):
        number += 1
        node = rng.choice(nodes)
        name = f"{client.process}-{number}"
        draw = rng.random()
        if draw < 0.35:
            key = rng.randrange(KEYS)
            value = f"r{key}-{name}"
            sql = {"sql": "UPDATE register SET v = ? WHERE k = ?", "params": [value, key]}
            client.write(node, "register", value, [sql])
        elif draw < 0.65:
            id = client.process * _IDS_A_CLIENT + number
            before = client.txseq
            sql = {"sql": "INSERT INTO items VALUES (?, ?)", "params": [id, f"s{id}"]}
            client.write(node, "set", f"s{id}", [sql])
            if client.txseq > before:
                mine.append(id)
        elif draw < 0.8:
            value = f"a-{name}"
            pair = rng.sample(range(LISTS), 2)
            sqls = [
                {"sql": "INSERT INTO lists VALUES (?, ?)", "params": [value, one]} for one in pair
            ]
            client.write(node, "append", value, sqls)
        elif draw < 0.81:
            client.write(node, "table", f"t_{client.process}_{number}",
                         [{"sql": f"CREATE TABLE t_{client.process}_{number}(x)"}])  # fmt: skip
        elif draw < 0.9 and mine:
            id = rng.choice(mine)
            sql = {"sql": "SELECT v FROM items WHERE id = ?", "params": [id]}
            client.read(node, "read_set", f"s{id}", sql)
        else:
            key = rng.randrange(KEYS)
            sql = {"sql": "SELECT v FROM register WHERE k = ?", "params": [key]}
            client.read(node, "read_register", [key, client.txseq], sql)
