"""Transactions that fail, in every way in which SQLite lets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.workloads.base import Sql, Watch, Workload

if TYPE_CHECKING:
    from sim.client import Client


class Failing(Workload):
    """Errors in the middle of lists, and statements that end everybody's transaction."""

    name = "failing"
    schema = (
        "CREATE TABLE sane(id INTEGER PRIMARY KEY, x NOT NULL UNIQUE, tok TEXT)",
        "INSERT INTO sane VALUES (1, 'fixed', '')",
        "CREATE TRIGGER sane_t BEFORE INSERT ON sane WHEN new.x = 'forbidden' BEGIN"
        " SELECT RAISE(ROLLBACK, 'no'); END",
        "CREATE TRIGGER sane_f BEFORE INSERT ON sane WHEN new.x = 'failing' BEGIN"
        " SELECT RAISE(FAIL, 'no'); END",
    )
    watches = (Watch("sane", "sane", "id", "SELECT id, x, tok FROM sane {where} ORDER BY id"),)
    weight = 0.7

    async def step(self, client: Client) -> None:
        chance = client.chance
        token = client.token()
        good: Sql = ("INSERT INTO sane(x, tok) VALUES (?, ?)", [f"x{token}", token])
        bad: Sql = chance.choice(
            (
                ("INSERT INTO sane(x, tok) VALUES ('fixed', ?)", [token]),
                ("INSERT OR ROLLBACK INTO sane(x, tok) VALUES ('fixed', ?)", [token]),
                ("INSERT INTO sane(x, tok) VALUES ('forbidden', ?)", [token]),
                ("INSERT OR FAIL INTO sane(x, tok) VALUES ('failing', ?)", [token]),
                ("INSERT INTO sane(x, tok) VALUES (NULL, ?)", [token]),
                ("INSERT INTO nowhere VALUES (?)", [token]),
                ("SELECT abs(-9223372036854775808)", []),
                ("nonsense", []),
            )
        )
        roll = chance.random()
        if roll < 0.15:
            await client.read(self.watches[0])
        elif roll < 0.3:
            await client.write("good", [good], token)
        elif roll < 0.4:
            await client.write(
                "thin out",
                [("DELETE FROM sane WHERE id > 1 AND id % 2 = ?", [chance.choice((0, 1))])],
            )
        elif roll < 0.7:
            await client.write("bad", [bad], token)
        else:
            statements = [good, bad]
            chance.shuffle(statements)
            await client.write("good and bad", statements, token)
