"""Where one writing node races with itself: its processes, one after the other.

A message of a process that died may reach the log after its node has started again, and an
asynchronous process whose disk has lost something takes writes while the log is not in reach.
Either way one process writes without having seen what another one wrote, as two nodes do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.checkers.answers import OPEN
from sim.history import Call

Losses = Mapping[str, Sequence[float]]
"""When a node's disk lost something, by node."""


def may_race(winner: Call, loser: Call, losses: Losses) -> bool:
    """May ``winner``, which stands later in the log, not have seen ``loser``?

    Only if they are of two processes; and what was acknowledged is seen by every later process
    that writes, or with asynchronous replication by one that says that it is ready: so it may
    miss only what was in doubt.
    """
    before, after = _life(loser), _life(winner)
    if after == before:
        return False
    if after < before:  # a late message of a process that has died
        return _in_doubt(winner, losses)
    return (winner.tentative and not winner.ready) or _in_doubt(loser, losses)


def _life(call: Call) -> int:
    return int(call.process.partition("#")[2])


def _in_doubt(call: Call, losses: Losses) -> bool:
    """A tentative write was acknowledged by a file alone, which may have been lost."""
    node = call.process.partition("#")[0]
    lost = any(t >= call.begun for t in losses.get(node, ()))
    return call.outcome in OPEN or (call.tentative and lost)
