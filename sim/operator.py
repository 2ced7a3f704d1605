"""The operator: reads what ``/readyz`` says, and gives the command that it names.

After the broker has lost messages, files that are ahead of it stop, and wait for this.
"""

from __future__ import annotations

import random
import re

import apsw
import trio

from ha.core.errors import HaError
from ha.engine.operations import NodeOperations
from ha.store import content
from sim.cluster import DATABASE, Cluster, Gone, Process

_COMMAND = re.compile(r"POST /replications/(adopt|rebase)")


async def operate(cluster: Cluster) -> None:
    """Look at each node from time to time, until cancelled."""
    chance = cluster.world.chance("operator")
    waited = 0
    while True:
        await trio.sleep(chance.expovariate(1 / 2))
        # Bases that are chosen at two places at once are the operator's own mistake.
        severed = [p for p in cluster.serving() if "adopt" in _named(p)]
        stranded = [p for p in cluster.serving() if _named(p) == ["rebase"]]
        waited = waited + 1 if stranded and _others_wait(cluster, stranded) else 0
        if severed:
            await _repair(cluster, chance.choice(severed), chance)
        elif waited > 5:  # all wait for another, and none is there
            await _repair(cluster, chance.choice(stranded), chance)


def _others_wait(cluster: Cluster, stranded: list[Process]) -> bool:
    """Each of the others is up, and waits for a snapshot to begin with."""
    others = [n.process for n in cluster.nodes.values() if n.process not in stranded]
    return all(p is not None and not p.dead and not p.serving for p in others)


def _named(process: Process) -> list[str]:
    """The commands that its readiness names."""
    assert process.databases is not None
    return _COMMAND.findall(process.databases.not_ready() or "")


async def _repair(cluster: Cluster, process: Process, chance: random.Random) -> None:
    assert process.databases is not None
    operations = NodeOperations(process.databases)
    command = chance.choice(_named(process))
    if cluster.plan.asynchronous and "adopt" in _named(process):
        command = "adopt"  # what waits for the log would be in the base, and come again
    process.say("repairs", f"POST /replications/{command}")
    try:
        if command == "adopt":
            await process.call(lambda: operations.adopt(None))
        else:
            _remember(cluster, process)
            await process.call(lambda: operations.rebase(None))
        process.era = len(cluster.server.losses)
    except HaError as error:
        process.say("repair failed", f"{error.message}; {error.hint}")
    except Gone:
        process.say("repair failed", "the node died")


def _remember(cluster: Cluster, process: Process) -> None:
    """The file as it is, which does not change while it does not follow its log."""
    db = apsw.Connection(process.mount.path(DATABASE), vfs="unix")
    memory = apsw.Connection(":memory:")
    try:
        with memory.backup("main", db, "main") as backup:
            backup.step()
        image = bytearray(memory.serialize("main"))
        image[18:20] = b"\x01\x01"  # it is in WAL mode, in which no file can be in memory
        cluster.history.rebases.append(cluster.world.clock.now)
        cluster.history.bases[content.digest(memory)] = bytes(image)
    finally:
        memory.close()
        db.close(True)
