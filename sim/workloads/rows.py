"""Workloads on plain rows: registers, counters, lists, a bank, unique addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sim.workloads.base import Watch, Workload, some_value

if TYPE_CHECKING:
    from sim.client import Client


class Registers(Workload):
    """Keys that are set, deleted and read; a value is the last one in the log."""

    name = "registers"
    keys = 8
    schema = ("CREATE TABLE reg(k INTEGER PRIMARY KEY, v, tok TEXT)",)
    watches = (Watch("reg", "reg", "k", "SELECT k, tok FROM reg {where} ORDER BY k"),)
    weight = 2.0

    async def step(self, client: Client) -> None:
        chance = client.chance
        key = client.pick(range(self.keys))
        roll = chance.random()
        if roll < 0.3:
            await client.read(self.watches[0], [key])
        elif roll < 0.4:
            await client.read(self.watches[0])
        elif roll < 0.45 and not client.cluster.plan.lease:
            # (With a leader histories are judged, for which each write needs a value of its own.)
            await client.write("delete", [("DELETE FROM reg WHERE k = ?", [key])])
        elif roll < 0.6:
            token = client.token()
            keys = chance.sample(range(self.keys), chance.randint(2, 4))
            await client.write(
                "set several",
                [
                    ("INSERT OR REPLACE INTO reg VALUES (?, ?, ?)", [k, some_value(chance), token])
                    for k in keys
                ],
                token,
                keys=tuple(keys),
            )
        else:
            token = client.token()
            value = some_value(chance)
            sql = chance.choice(
                (
                    "INSERT OR REPLACE INTO reg(k, v, tok) VALUES (?1, ?2, ?3)",
                    "INSERT INTO reg VALUES (?1, ?2, ?3) ON CONFLICT(k) DO UPDATE"
                    " SET v = excluded.v, tok = excluded.tok",
                    "UPDATE reg SET v = ?2, tok = ?3 WHERE k = ?1",
                    "REPLACE INTO reg SELECT ?1, ?2, ?3",
                )
            )
            await client.write("set", [(sql, [key, value, token])], token, keys=(key,))


class Counters(Workload):
    """Hot rows. With one writing node no increment is lost."""

    name = "counters"
    schema = (
        "CREATE TABLE counter(k TEXT PRIMARY KEY, n INTEGER NOT NULL, tok TEXT)",
        "INSERT INTO counter VALUES ('a', 0, ''), ('b', 0, '')",
    )
    watches = (
        Watch("counter", "counter", "k", "SELECT k, n, tok FROM counter {where} ORDER BY k"),
    )

    async def step(self, client: Client) -> None:
        chance = client.chance
        key = client.pick(("a", "a", "b"))
        if chance.random() < 0.2:
            await client.read(self.watches[0])
            return
        token = client.token()
        if chance.random() < 0.2:
            await client.read_and_write(
                "increment what was read",
                ("SELECT n FROM counter WHERE k = ?", [key]),
                lambda rows: [
                    ("UPDATE counter SET n = ?, tok = ? WHERE k = ?", [rows[0][0] + 1, token, key])
                ],
                token,
                keys=(key,),
            )
        else:
            await client.write(
                "increment",
                [("UPDATE counter SET n = n + 1, tok = ? WHERE k = ?", [token, key])],
                token,
                keys=(key,),
            )


class Lists(Workload):
    """Rows that are only ever added: each one acknowledged is there for ever."""

    name = "lists"
    schema = (
        "CREATE TABLE item(id TEXT PRIMARY KEY, list INTEGER, place, tok TEXT) WITHOUT ROWID",
        "CREATE INDEX item_by_list ON item(list, place)",
    )
    watches = (Watch("item", "item", "id", "SELECT id, tok FROM item {where} ORDER BY id"),)

    async def step(self, client: Client) -> None:
        chance = client.chance
        if chance.random() < 0.1:
            await client.read(self.watches[0])
            return
        token = client.token()
        which = chance.randrange(3)
        sql = (
            "INSERT INTO item SELECT ?1, ?2, (SELECT count(*) FROM item WHERE list = ?2), ?3"
            + chance.choice(("", " RETURNING place"))
        )
        await client.write("append", [(sql, [f"{which}-{token}", which, token])], token)


class Bank(Workload):
    """Money moves, and none is made or lost while one node alone writes."""

    name = "bank"
    accounts = 6
    total: ClassVar[int] = 600
    schema = (
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER CHECK (balance >= 0),"
        " tok TEXT)",
        "INSERT INTO account VALUES (1, 100, ''), (2, 100, ''), (3, 100, ''), (4, 100, ''),"
        " (5, 100, ''), (6, 100, '')",
    )
    watches = (
        Watch(
            "account", "account", "id", "SELECT id, balance, tok FROM account {where} ORDER BY id"
        ),
    )

    @staticmethod
    def holds(rows: tuple[tuple[object, ...], ...]) -> str | None:
        total = sum(int(str(r[1])) for r in rows)
        return None if total == Bank.total else f"the accounts hold {total}, not {Bank.total}"

    async def step(self, client: Client) -> None:
        chance = client.chance
        if chance.random() < 0.25:
            await client.read(self.watches[0])
            return
        a, b = chance.sample(range(1, self.accounts + 1), 2)
        amount = chance.randint(1, 40)
        token = client.token()
        if chance.random() < 0.3:

            def move(rows: list[tuple[int, int]]) -> list[tuple[str, list[object]]]:
                has = dict(rows)
                if has[a] < amount:
                    return []
                sql = "UPDATE account SET balance = ?, tok = ? WHERE id = ?"
                return [(sql, [has[a] - amount, token, a]), (sql, [has[b] + amount, token, b])]

            await client.read_and_write(
                "transfer what was read",
                ("SELECT id, balance FROM account WHERE id IN (?, ?)", [a, b]),
                move,
                token,
            )
        else:
            sql = "UPDATE account SET balance = balance + ?, tok = ? WHERE id = ?"
            await client.write(
                "transfer", [(sql, [-amount, token, a]), (sql, [amount, token, b])], token
            )


class Users(Workload):
    """Unique addresses, keys that SQLite gives, and rows that push others out."""

    name = "users"
    schema = (
        "CREATE TABLE user(id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " email TEXT UNIQUE COLLATE NOCASE, name, tok TEXT)",
        "CREATE UNIQUE INDEX user_name ON user(name) WHERE name IS NOT NULL",
    )
    watches = (Watch("user", "user", "id", "SELECT id, email, tok FROM user {where} ORDER BY id"),)

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        email = f"{client.pick('aAbcdeF')}@example.org"
        name = chance.choice((None, None, "ann", "bob", "eve"))
        roll = chance.random()
        if roll < 0.2:
            await client.read(self.watches[0])
        elif roll < 0.5:
            await client.write(
                "sign up",
                [
                    (
                        f"INSERT {chance.choice(('', 'OR REPLACE', 'OR IGNORE'))} INTO"
                        " user(email, name, tok) VALUES (?, ?, ?)",
                        [email, name, token],
                    )
                ],
                token,
            )
        elif roll < 0.7:
            await client.write(
                "upsert",
                [
                    (
                        "INSERT INTO user(email, name, tok) VALUES (?, ?, ?) ON CONFLICT(email)"
                        " DO UPDATE SET name = excluded.name, tok = excluded.tok",
                        [email, name, token],
                    )
                ],
                token,
            )
        elif roll < 0.8:
            await client.write(
                "move",
                [
                    (
                        "UPDATE OR REPLACE user SET email = ?, tok = ?"
                        " WHERE id = (SELECT min(id) FROM user)",
                        [email, token],
                    )
                ],
                token,
            )
        elif roll < 0.9:
            other = f"{client.pick('aAbcdeF')}@example.org"
            await client.write(
                "swap",
                [
                    ("UPDATE user SET email = 'x', tok = ? WHERE email = ?", [token, email]),
                    ("UPDATE user SET email = ?, tok = ? WHERE email = ?", [email, token, other]),
                    ("UPDATE user SET email = ?, tok = ? WHERE email = 'x'", [other, token]),
                ],
                token,
            )
        elif roll < 0.95:
            await client.write(
                "renumber",
                [
                    (
                        "UPDATE user SET id = id + 3, tok = ?"
                        " WHERE id = (SELECT max(id) FROM user)",
                        [token],
                    )
                ],
                token,
            )
        else:
            await client.write(
                "leave",
                [("DELETE FROM user WHERE id = (SELECT min(id) FROM user)", [])],
            )
