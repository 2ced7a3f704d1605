"""What was done is taken back: history and undo, while others write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.workloads.base import Watch, Workload

if TYPE_CHECKING:
    from sim.client import Client


class Undoing(Workload):
    """Rows that are set, and set back. Their values are no tokens: an undo brings old ones in."""

    name = "undo"
    schema = ("CREATE TABLE page(k INTEGER PRIMARY KEY, v TEXT)",)
    watches = (Watch("page", "page", "k", "SELECT k, v FROM page {where} ORDER BY k"),)
    weight = 0.7

    async def step(self, client: Client) -> None:
        chance = client.chance
        roll = chance.random()
        key = client.pick(range(6))
        # Of this log: in one that goes on after a loss the numbers are other transactions'.
        losses = len(client.cluster.server.losses)
        written = client.written.setdefault(f"{self.name} {losses}", [])
        if roll < 0.15:
            await client.read(self.watches[0])
            return
        if roll < 0.4 and written:
            sequence = written.pop(chance.randrange(max(len(written) - 4, 0), len(written)))
            await client.undo("UNDOE" if chance.random() < 0.7 else "UNDOT", sequence)
            return
        if roll < 0.45 and written:
            await client.write("history", [(f"HISTORY {written[-1]}", [])])
            return
        value = f"v{client.name}.{client.step}"
        sql = chance.choice(
            (
                ("INSERT OR REPLACE INTO page VALUES (?, ?)", [key, value]),
                ("UPDATE page SET v = ? WHERE k >= ?", [value, key]),
                ("DELETE FROM page WHERE k = ?", [key]),
                ("UPDATE OR REPLACE page SET k = ?1, v = ?2 WHERE k = ?1 + 1", [key, value]),
            )
        )
        done = await client.write("turn a page", [sql])
        if done and client.sequence and losses == len(client.cluster.server.losses):
            written.append(client.sequence)
