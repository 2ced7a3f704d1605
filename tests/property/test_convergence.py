"""Nodes on one log end equal, whatever they wrote at the same time and however it arrived.

Real stores, a log in memory, random schemas and statements. Messages are held on their way and
reach the log in any order of the nodes; some arrive again later, when the broker no longer
knows their ids; nodes stop between rounds and go on from their files, some of them with messages
on their way, which are lost or arrive after the restart. Each node writes in sync mode or in
async mode, as the example says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from ha.log.api import Ack, Outgoing, Refused
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump
from tests.support.races import HoldingBroker
from tests.support.statements import creates, ddl, dml, virtual

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "100"))
FAST = replace(OPTIONS, commit=replace(OPTIONS.commit, publish_timeout=5.0))
ASYNC = replace(OPTIONS, commit=replace(OPTIONS.commit, asynchronous=True, publish_timeout=0.05))

# What an interface tells its client about a race; everything else would be a bug.
RACES = {Code.NOT_APPLIED, Code.NOT_WRITTEN, Code.SERIALIZATION_FAILURE}
UNCLEAR = {Code.INTERNAL, Code.OUTCOME_UNKNOWN, Code.UNAVAILABLE, Code.WRITTEN_NOT_APPLIED}

transactions = st.lists(st.one_of(dml, dml, dml, ddl, virtual()), min_size=1, max_size=3)


class Fate(Enum):
    """What becomes of messages that are on their way when the nodes stop."""

    NONE = auto()  # there are none: the nodes stop when all is done
    LOST = auto()
    LATE = auto()  # they reach the log after all


@dataclass
class Round:
    """``work``: a node's transactions; ``order``: whose messages reach the log first; ``again``:
    which earlier messages arrive once more; ``refused``: which of the round's messages the broker
    does not take. All nodes stop after it; unless ``fate`` is NONE when only the messages of the
    first ``released`` nodes have reached the log."""

    work: list[list[list[str]]]
    order: list[int]
    again: list[int]
    refused: set[int] = field(default_factory=set)
    fate: Fate = Fate.NONE
    released: int = 0


def rounds(nodes: int) -> st.SearchStrategy[Round]:
    return st.builds(
        Round,
        st.lists(st.lists(transactions, max_size=2), min_size=nodes, max_size=nodes),
        st.permutations(range(nodes)),
        st.lists(st.integers(0, 30), max_size=2),
        st.sets(st.integers(0, 5), max_size=2),
        st.sampled_from([Fate.NONE, Fate.NONE, Fate.LOST, Fate.LATE]),
        st.integers(0, nodes - 1),
    )


async def execute(node: TestNode, work: list[list[str]], unclear: set[Code]) -> None:
    """Each transaction by a client of its own."""

    async def one(texts: list[str]) -> None:
        session = node.databases.session(protocol="test")
        try:
            await session.transaction([Statement(text) for text in texts])
        except HaError as error:
            if error.code in unclear:
                raise
            event(error.code.value if error.code in RACES else "refused by SQLite")
        finally:
            await session.aclose()

    async with trio.open_nursery() as nursery:
        for texts in work:
            nursery.start_soon(one, texts)


async def release(brokers: list[HoldingBroker], order: list[int], stream: MemoryStream) -> None:
    """Let held messages go, node by node."""
    await trio.testing.wait_all_tasks_blocked()
    for index in order:
        broker = brokers[index]
        held, broker.held = broker.held, []
        for batch in held:
            batch.let_go(stream)


class Broker(MemoryStream):
    """Forgets message ids at once, and does not take some messages."""

    def __init__(self) -> None:
        super().__init__(epoch="test", dedupe_window=0)
        self.refused: set[int] = set()
        self._count = 0

    def begin(self, refused: set[int]) -> None:
        self.refused, self._count = refused, 0

    def append(self, subject_name: str, message: Outgoing) -> Ack:
        self._count += 1
        if self._count - 1 in self.refused:
            raise Refused("no space")
        return super().append(subject_name, message)


class Cluster:
    """Nodes that start from their files, play a round and stop."""

    def __init__(self, stream: Broker, folder: Path, modes: list[bool]) -> None:
        self.stream = stream
        self.folder = folder
        self.modes = modes
        self.brokers: list[HoldingBroker] = []
        self.members: list[TestNode] = []

    async def play(self, step: Round, number: int) -> dict[str, Any] | None:
        """What all nodes hold afterwards; None if they stopped before it was settled."""
        self.brokers, self.members = [], []
        done = trio.Event()
        expected: dict[str, Any] | None = None
        async with trio.open_nursery() as nursery:
            for index in range(len(self.modes)):
                await nursery.start(self._keep, index, number, done)
            await settle(self.members)
            for broker in self.brokers:
                broker.holding = True
            self.stream.begin(step.refused)
            if step.fate is Fate.NONE:
                expected = await self._whole(step)
            else:
                await self._cut_off(step)
            self.stream.begin(set())
            done.set()
        if step.fate is Fate.LATE:
            for broker in self.brokers:
                for batch in broker.held:
                    batch.arrive(self.stream)
        return expected

    async def _keep(
        self, index: int, number: int, done: trio.Event, task_status: trio.TaskStatus[None]
    ) -> None:
        name = f"n{index}"
        path = self.folder / f"{name}.db"
        options = ASYNC if self.modes[index] else FAST
        async with (
            HoldingBroker(self.stream, node=name) as broker,
            open_node(name, broker, path, options=options, seed=number) as node,
        ):
            self.brokers.append(broker)
            self.members.append(node)
            task_status.started()
            await done.wait()

    async def _whole(self, step: Round) -> dict[str, Any]:
        """Until all have finished their work, and nothing waits for the log."""
        finished = trio.Event()

        async def work() -> None:
            async with trio.open_nursery() as clients:
                for node, texts in zip(self.members, step.work, strict=True):
                    clients.start_soon(execute, node, texts, UNCLEAR)
            finished.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            while not finished.is_set() or self._waiting():
                await release(self.brokers, step.order, self.stream)
                with trio.move_on_after(0.001):
                    await finished.wait()
        self.stream.begin(set())
        await self._repeat(step.again)
        await settle(self.members)
        dumps = [dump(node.database.store.path) for node in self.members]
        for other in dumps[1:]:
            assert other == dumps[0]
        return dumps[0]

    def _waiting(self) -> bool:
        relays = [node.database.relay for node in self.members]
        return any(relay is not None and relay.outbox.depth for relay in relays)

    async def _repeat(self, positions: list[int]) -> None:
        log = self.members[0].database.log
        history = [e async for e in log.history(1)]
        for position in positions:
            entry = history[position % len(history)]
            self.stream.append(log.subject, Outgoing(entry.message_id, entry.payload))

    async def _cut_off(self, step: Round) -> None:
        async with trio.open_nursery() as clients:
            for node, texts in zip(self.members, step.work, strict=True):
                clients.start_soon(execute, node, texts, set())
            await release(self.brokers, step.order[: step.released], self.stream)
            await trio.testing.wait_all_tasks_blocked()
            clients.cancel_scope.cancel()


async def play(script: list[Round], opening: list[str], folder: Path, modes: list[bool]) -> None:
    stream = Broker()
    cluster = Cluster(stream, folder, modes)
    nodes = len(modes)
    first = Round([[opening]] + [[]] * (nodes - 1), [0], [])
    last = Round([[]] * nodes, list(range(nodes)), [])
    expected = None
    for number, step in enumerate([first, *script, last]):
        expected = await cluster.play(step, number)
    # Whoever joins now, and replays it all at once, comes to the same.
    async with (
        MemoryBroker(stream, node="late") as broker,
        open_node("late", broker, folder / "late.db", options=FAST) as late,
    ):
        await settle([late])
        assert dump(late.database.store.path) == expected


def modes(nodes: int) -> st.SearchStrategy[list[bool]]:
    """Which nodes replicate asynchronously."""
    return st.lists(st.booleans(), min_size=nodes, max_size=nodes)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(creates(), min_size=1, max_size=3),
    st.lists(rounds(2), min_size=1, max_size=4),
)
def test_two_nodes_converge(opening: list[str], script: list[Round]) -> None:
    with TemporaryDirectory() as folder:
        trio.run(play, script, opening, Path(folder), [False, False])


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(creates(), min_size=1, max_size=3),
    st.lists(rounds(2), min_size=1, max_size=4),
    modes(2),
)
def test_two_nodes_converge_with_asynchronous_replication(
    opening: list[str], script: list[Round], asynchronous: list[bool]
) -> None:
    with TemporaryDirectory() as folder:
        trio.run(play, script, opening, Path(folder), asynchronous)


@settings(
    max_examples=max(EXAMPLES // 4, 5),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(creates(), min_size=1, max_size=3),
    st.lists(rounds(3), min_size=1, max_size=3),
    modes(3),
)
def test_three_nodes_converge(
    opening: list[str], script: list[Round], asynchronous: list[bool]
) -> None:
    with TemporaryDirectory() as folder:
        trio.run(play, script, opening, Path(folder), asynchronous)
