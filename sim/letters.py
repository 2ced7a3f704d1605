"""A message that no rule takes, and the operator who lets all nodes pass over it.

Somebody who is no node of ours writes it into the log. Every node must stand before it, keep
it, and name it, until a message says that it is to be skipped.
"""

from __future__ import annotations

import trio

from ha.core.errors import HaError
from ha.core.naming import subject_of
from ha.engine.operations import NodeOperations
from ha.log.api import Outgoing
from sim.cluster import DATABASE, Broken, Cluster, Gone, Process

BROKEN = {
    "not JSON": b"\x00 this is no message",
    "not an object": b"[1, 2, 3]",
    "a version from the future": b'{"node":"x","changes":[],"ha":{"v":99}}',
    "no such operation": b'{"node":"x","changes":[{"operation":"MERGE","table":"t"}]}',
    "a row that does not fit": b'{"node":"x","changes":[{"operation":"INSERT","table":"t",'
    b'"columns":["a"],"new_values":[1, 2]}]}',
}
"""What such a message may look like."""
_LOOK = 1.0
"""Seconds between two looks of the operator."""


async def poison(cluster: Cluster, how: str, patience: float) -> None:
    """Write a broken message into the log; the operator sees to it after ``patience`` seconds."""
    server = cluster.server
    if not server.up or not server.leader:
        return
    number = len(cluster.poisoned) + 1
    message = Outgoing(f"poison-{number}", BROKEN[how])
    sequence = server.append(subject_of(server.name, DATABASE), message)
    cluster.poisoned.append(sequence)
    await trio.sleep(patience)
    await let_pass(cluster, sequence)


async def let_pass(cluster: Cluster, sequence: int) -> None:
    """Ask nodes that stand before the message to let all pass over it, until one is beyond, or
    the broker has lost it."""
    server = cluster.server
    while _is_there(cluster, sequence):
        committers = [(p, p.database.committer) for p in cluster.serving()]
        if any(c.applied >= sequence and c.severed is None for _, c in committers):
            return
        for process, _ in committers:
            # It may stand before an earlier one again: the broker may have lost that word.
            halted = _standing(process)
            due = halted is not None and halted <= sequence and server.up
            if due and await _ask(process, halted or sequence):
                break
        await trio.sleep(_LOOK)


async def let_all_pass(cluster: Cluster) -> None:
    """Do what nodes that stand before a message ask for, until cancelled. One that had passed may
    do so although the others have not: the broker may have lost the word that let it."""
    while True:
        for process in cluster.serving():
            halted = _standing(process)
            if halted is not None:
                await _ask(process, halted)
        await trio.sleep(_LOOK)


def _standing(process: Process) -> int | None:
    """Before which message; None also if it has ended, while another one was asked."""
    if not process.serving or process.database.committer.severed is not None:
        return None
    return process.database.committer.halted_at


def _is_there(cluster: Cluster, sequence: int) -> bool:
    server = cluster.server
    entry = server.entry(subject_of(server.name, DATABASE), sequence)
    return entry is not None and entry.message_id.startswith("poison-")


async def _ask(process: Process, sequence: int) -> bool:
    databases = process.databases
    assert databases is not None
    operations = NodeOperations(databases)
    said = databases.not_ready() or "nothing"
    if str(sequence) not in said:
        raise Broken(f"{process.label} stands before the message at {sequence}; it says: {said}")
    try:
        letters = await process.call(lambda: operations.dead_letters(DATABASE))
        if not any(x.sequence == sequence and x.state == "halted" for x in letters):
            raise Broken(f"{process.label} stands before {sequence}, and does not keep it")
        await process.call(lambda: operations.skip_dead_letter(DATABASE, sequence))
    except (HaError, Gone):
        return False
    return True
