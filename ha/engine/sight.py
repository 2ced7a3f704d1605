"""The cluster as this node sees it: who is there, who leads, and how far each has come."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping
from math import isinf

from ha.core.naming import durable_name
from ha.engine.api import ClusterNode, ClusterStatus, NodePosition
from ha.engine.database import Database
from ha.engine.databases import Databases
from ha.engine.iterating import closing
from ha.engine.leadership import Member
from ha.log.api import LogError

logger = logging.getLogger(__name__)

_MOST = 100_000
"""Messages of a log that are counted; a node further behind is said to lack as many."""


async def look(databases: Databases) -> ClusterStatus:
    found = databases.all()
    logs = {database.id: await _Log.read(database) for database in found}
    cluster = databases.cluster
    if cluster is None:
        return ClusterStatus("leaderless", None, 0, None, _by_consumers(found, logs))
    leadership = cluster.leadership
    left = leadership.lease_left
    nodes = [
        ClusterNode(m.name, m.address or None, m.role.value, m.last_seen, _of(m, logs))
        for m in leadership.members
    ]
    return ClusterStatus(
        "static" if isinf(left) else "elected",
        leadership.leader,
        leadership.term,
        None if isinf(left) else left,
        nodes,
    )


class _Log:
    """Where the messages of a database stand, as far as anybody lacks them."""

    def __init__(self, sequences: list[int] | None, positions: Mapping[str, int]) -> None:
        self._sequences = sequences
        self.positions = positions
        """Of the nodes, by the names of their consumers."""

    @classmethod
    async def read(cls, database: Database) -> _Log:
        applied = database.committer.applied
        try:
            state = await database.log.state()
            positions = await _positions(database)
            first = min([applied, *positions.values()])
            if state.subject_last <= first:
                return cls([], positions)
            sequences: list[int] = []
            async with closing(database.log.history(first + 1, state.subject_last)) as entries:
                async for entry in entries:
                    sequences.append(entry.sequence)
                    if len(sequences) > _MOST:
                        break
            return cls(sequences, positions)
        except LogError as error:
            logger.info("the log of %s is not in reach: %s", database.id, error)
            return cls(None, {})

    def lag(self, position: int) -> int | None:
        if self._sequences is None:
            return None
        return len(self._sequences) - bisect_right(self._sequences, position)


async def _positions(database: Database) -> dict[str, int]:
    out: dict[str, int] = {}
    for consumer in await database.broker.consumers(database.id):
        floor = consumer.get("ack_floor")
        if isinstance(floor, dict):
            out[str(consumer.get("name"))] = int(floor.get("stream_seq") or 0)
    return out


def _of(member: Member, logs: Mapping[str, _Log]) -> list[NodePosition]:
    """What it said of itself, or what its consumers have acknowledged since."""
    out = []
    for database_id, said in sorted(member.positions.items()):
        log = logs.get(database_id)
        if log is not None:
            position = max(said, log.positions.get(durable_name(database_id, member.name), 0))
            out.append(NodePosition(database_id, position, log.lag(position)))
    return out


def _by_consumers(databases: list[Database], logs: Mapping[str, _Log]) -> list[ClusterNode]:
    """Without a leader nodes show by their durable consumers: one a database."""
    name = databases[0].options.commit.node if databases else ""
    own: list[NodePosition] = []
    others: dict[str, list[NodePosition]] = {}
    for database in databases:
        log = logs[database.id]
        applied = database.committer.applied
        own.append(NodePosition(database.id, applied, log.lag(applied)))
        # A consumer is named by both; the end is kept where the whole is too long.
        prefix = durable_name(database.id, "")
        mine = durable_name(database.id, name)
        for consumer, position in log.positions.items():
            if consumer != mine:
                other = consumer.removeprefix(prefix).strip("_") or consumer
                others.setdefault(other, []).append(
                    NodePosition(database.id, position, log.lag(position))
                )
    nodes = [ClusterNode(name, None, "writer", 0.0, own)]
    nodes += [ClusterNode(n, None, "writer", None, p) for n, p in sorted(others.items())]
    return nodes
