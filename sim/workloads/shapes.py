"""Workloads on unusual shapes: cascades, odd names, changing schemas, big and full-text rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.workloads.base import Sql, Watch, Workload, some_value

if TYPE_CHECKING:
    from sim.client import Client


class Family(Workload):
    """Foreign keys with cascades, and triggers that write on their own."""

    name = "family"
    schema = (
        "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT UNIQUE, tok TEXT)",
        "CREATE TABLE child(id INTEGER PRIMARY KEY,"
        " parent INTEGER REFERENCES parent(id) ON DELETE CASCADE ON UPDATE CASCADE,"
        " other INTEGER REFERENCES parent(id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,"
        " tok TEXT)",
        "CREATE TABLE audit(id INTEGER PRIMARY KEY, what TEXT, n INTEGER)",
        "CREATE TRIGGER child_in AFTER INSERT ON child BEGIN"
        " INSERT INTO audit(what, n) VALUES ('in', new.id);"
        " UPDATE audit SET n = n + 1 WHERE id = 1; END",
        "CREATE TRIGGER child_out AFTER DELETE ON child BEGIN"
        " INSERT INTO audit(what, n) VALUES ('out', old.id);"
        " DELETE FROM audit WHERE id < (SELECT max(id) FROM audit) - 30; END",
    )
    watches = (
        Watch("parent", "parent", "id", "SELECT id, name, tok FROM parent {where} ORDER BY id"),
    )

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        parent = client.pick(range(1, 6))
        roll = chance.random()
        statements: list[Sql]
        if roll < 0.15:
            await client.read(self.watches[0])
            return
        if roll < 0.45:
            what = "child"
            statements = [
                ("INSERT OR IGNORE INTO parent VALUES (?, ?, ?)", [parent, f"p{parent}", token]),
                (
                    "INSERT INTO child(parent, other, tok) VALUES (?, ?, ?)",
                    [parent, chance.choice((None, parent)), token],
                ),
            ]
        elif roll < 0.6:
            what = "renumber parent"
            statements = [
                (
                    "UPDATE OR IGNORE parent SET id = ?, tok = ? WHERE id = ?",
                    [chance.randrange(1, 6), token, parent],
                )
            ]
        elif roll < 0.75:
            what = "drop parent"
            statements = [("DELETE FROM parent WHERE id = ?", [parent])]
            token = ""
        elif roll < 0.85:
            what = "replace parent"
            statements = [
                (
                    "REPLACE INTO parent VALUES (?, ?, ?)",
                    [parent, f"p{chance.randrange(1, 6)}", token],
                )
            ]
        elif roll < 0.95:
            what = "no such parent"  # mostly refused, at the latest at COMMIT
            statements = [
                ("INSERT INTO child(parent, other, tok) VALUES (NULL, ?, ?)", [parent, token])
            ]
        else:
            what = "thin out"
            statements = [("DELETE FROM child WHERE id % 3 = 0", [])]
            token = ""
        await client.write(what, statements, token)


class Odd(Workload):
    """Names that need quotes, no primary key, no rowid, strange keys and columns."""

    name = "odd"
    schema = (
        'CREATE TABLE "order"("a""b", "select" TEXT, tok TEXT)',
        "CREATE TABLE pair(a TEXT COLLATE NOCASE, b, v, tok TEXT, PRIMARY KEY (a, b))",
        "CREATE TABLE narrow(a, b INT, tok TEXT, PRIMARY KEY (b DESC, a)) WITHOUT ROWID",
        "CREATE TABLE made(id INTEGER PRIMARY KEY, x INT, tok TEXT,"
        " y AS (x * 2), z TEXT AS ('z' || x) STORED UNIQUE)",
        "CREATE TABLE strict_one(id INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY,"
        " tok TEXT) STRICT",
        'CREATE VIEW "a view" AS SELECT count(*) FROM pair',
    )

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        value = some_value(chance)
        small = client.pick(range(6))
        statement: Sql = chance.choice(
            (
                ('INSERT INTO "order" VALUES (?, ?, ?)', [value, str(small), token]),
                (
                    'UPDATE "order" SET "a""b" = ?, tok = ? WHERE "select" = ?',
                    [value, token, str(small)],
                ),
                (
                    'INSERT INTO "order"(rowid, "a""b", tok) VALUES'
                    ' ((SELECT coalesce(max(rowid), 0) + 5 FROM "order"), ?, ?)',
                    [value, token],
                ),
                ('DELETE FROM "order" WHERE rowid % 7 = ?', [small]),
                (
                    "INSERT OR REPLACE INTO pair VALUES (?, ?, ?, ?)",
                    [chance.choice("aAbB"), chance.choice((small, None)), value, token],
                ),
                ("UPDATE pair SET v = ?, tok = ? WHERE a = ?", [value, token, "A"]),
                (
                    "UPDATE OR REPLACE pair SET b = ?, tok = ? WHERE a = ? AND b > ?",
                    [small, token, "b", small],
                ),
                (
                    "INSERT OR REPLACE INTO narrow VALUES (?, ?, ?)",
                    [chance.choice(("x", 1, 2.5)), small, token],
                ),
                (
                    "UPDATE OR REPLACE narrow SET b = b + 1, tok = ? WHERE b = ?",
                    [token, small],
                ),
                ("INSERT OR REPLACE INTO made(x, tok) VALUES (?, ?)", [small, token]),
                (
                    "UPDATE OR REPLACE made SET x = ?, tok = ? WHERE x = ?",
                    [small, token, chance.randrange(6)],
                ),
                (
                    "INSERT OR REPLACE INTO strict_one VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [small, small, 0.5, "t", b"\xff\x00", value, token],
                ),
                (f"PRAGMA user_version = {chance.randrange(1000)}", []),
            )
        )
        marked = token in statement[1]
        await client.write("odd", [statement], token if marked else "")


class Schema(Workload):
    """Tables come, change and go while others write into them."""

    name = "schema"
    schema = ("CREATE TABLE s0(a, tok TEXT)",)
    weight = 0.6

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        table = f"s{client.pick(range(3))}"
        other = f"s{client.pick(range(3))}"
        column = chance.choice(("a", "b", "c"))
        second = chance.choice(("a", "b", "c"))
        roll = chance.random()
        if roll < 0.4:
            await client.write(
                "into a table that may not be",
                [
                    (
                        f"INSERT INTO {table}({column}, tok) VALUES (?, ?)",
                        [some_value(chance), token],
                    )
                ],
                token,
            )
            return
        if roll < 0.5:
            await client.write(
                "into a table just made",
                [
                    (f"CREATE TABLE IF NOT EXISTS {table}(a, tok TEXT)", []),
                    (f"INSERT INTO {table}(a, tok) VALUES (?, ?)", [some_value(chance), token]),
                    (f"CREATE INDEX IF NOT EXISTS {table}_a ON {table}(a)", []),
                ],
                token,
            )
            return
        sql = client.pick(
            (
                f"CREATE /* {token} */ TABLE {table}(a, tok TEXT)",
                f"CREATE /* {token} */ TABLE {table}(id INTEGER PRIMARY KEY, b UNIQUE, tok TEXT)",
                f"CREATE /* {token} */ TABLE IF NOT EXISTS {table}(a, b DEFAULT 7, tok TEXT)",
                f"DROP /* {token} */ TABLE {table}",
                f"DROP /* {token} */ TABLE IF EXISTS {table}",
                f"ALTER /* {token} */ TABLE {table} ADD COLUMN {column} DEFAULT 3",
                f"ALTER /* {token} */ TABLE {table} RENAME COLUMN {column} TO {second}",
                f"ALTER /* {token} */ TABLE {table} RENAME TO {other}",
                f"ALTER /* {token} */ TABLE {table} DROP COLUMN {column}",
                f"CREATE /* {token} */ INDEX {table}_i ON {table}({column})",
                f"CREATE /* {token} */ UNIQUE INDEX {table}_u ON {table}({column}, tok)",
                f"DROP /* {token} */ INDEX {table}_i",
                f"CREATE /* {token} */ TRIGGER {table}_t AFTER INSERT ON {table} BEGIN"
                f" UPDATE {table} SET tok = tok || '!' WHERE rowid = 1; END",
                f"DROP /* {token} */ TRIGGER {table}_t",
                f"CREATE /* {token} */ VIEW v_{table} AS SELECT * FROM {table}",
                f"DROP /* {token} */ VIEW v_{table}",
                f"CREATE TABLE {table} AS SELECT 1 AS a, '{token}' AS tok",
            )
        )
        await client.write("schema", [(sql, [])], token, visible=False)


class Big(Workload):
    """Transactions of many rows, and rows bigger than a message."""

    name = "big"
    schema = ("CREATE TABLE big(id INTEGER PRIMARY KEY, data BLOB, tok TEXT)",)
    watches = (
        Watch(
            "big",
            "big",
            "tok",
            "SELECT tok, count(*), sum(length(data)) FROM big {where} GROUP BY tok ORDER BY tok",
        ),
    )
    weight = 0.15

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        roll = chance.random()
        if roll < 0.3:
            await client.read(self.watches[0])
        elif roll < 0.5:
            await client.write(
                "a big row",
                [
                    (
                        "INSERT INTO big(data, tok) VALUES (?, ?)",
                        [chance.randbytes(chance.randrange(30_000)), token],
                    )
                ],
                token,
            )
        elif roll < 0.8:
            await client.write(
                "many rows",
                [
                    (
                        "INSERT INTO big(data, tok) WITH RECURSIVE c(n) AS"
                        " (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?2)"
                        " SELECT zeroblob(n), ?1 FROM c",
                        [token, chance.randrange(1, 150)],
                    )
                ],
                token,
            )
        elif roll < 0.9:
            await client.write(
                "all rows", [("UPDATE big SET tok = ? WHERE id % 2 = 0", [token])], token
            )
        else:
            await client.write("away", [("DELETE FROM big WHERE id % 5 <> 0", [])])


class Search(Workload):
    """Full-text rows: one message writes several shadow tables, and two nodes may meet there."""

    name = "search"
    schema = ("CREATE VIRTUAL TABLE doc USING fts5(body, tok)",)
    weight = 0.5

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        words = " ".join(chance.choices(("one", "two", "three", "four"), k=4))
        roll = chance.random()
        if roll < 0.6:
            await client.write(
                "write a text", [("INSERT INTO doc VALUES (?, ?)", [words, token])], token
            )
        elif roll < 0.8:
            await client.write(
                "change a text",
                [
                    (
                        "UPDATE doc SET body = ?, tok = ?"
                        " WHERE rowid = (SELECT min(rowid) FROM doc)",
                        [words, token],
                    )
                ],
                token,
                visible=False,
            )
        else:
            await client.write(
                "remove texts",
                [("DELETE FROM doc WHERE rowid < (SELECT max(rowid) FROM doc) - 5", [])],
            )
