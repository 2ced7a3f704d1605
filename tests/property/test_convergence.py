"""Nodes on one log end equal, whatever they wrote at the same time and however it arrived.

Real stores, a log in memory, random schemas and statements. Messages are held on their way and
reach the log in any order of the nodes; some arrive again later, when the broker no longer
knows their ids; nodes stop between rounds and go on from their files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from ha.log.api import Outgoing
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node, settle
from tests.support.dump import dump
from tests.support.races import HoldingBroker
from tests.support.statements import creates, ddl, dml, virtual

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "100"))
FAST = replace(OPTIONS, commit=replace(OPTIONS.commit, publish_timeout=5.0))

# What an interface tells its client about a race; everything else would be a bug.
RACES = {Code.NOT_APPLIED, Code.NOT_WRITTEN, Code.SERIALIZATION_FAILURE}
UNCLEAR = {Code.INTERNAL, Code.OUTCOME_UNKNOWN, Code.UNAVAILABLE, Code.WRITTEN_NOT_APPLIED}

transactions = st.lists(st.one_of(dml, dml, dml, ddl, virtual()), min_size=1, max_size=3)


@dataclass
class Round:
    """``work``: a node's transactions; ``order``: whose messages reach the log first; ``again``:
    which earlier messages arrive once more. All nodes stop after it."""

    work: list[list[list[str]]]
    order: list[int]
    again: list[int]


def rounds(nodes: int) -> st.SearchStrategy[Round]:
    return st.builds(
        Round,
        st.lists(st.lists(transactions, max_size=2), min_size=nodes, max_size=nodes),
        st.permutations(range(nodes)),
        st.lists(st.integers(0, 30), max_size=2),
    )


async def execute(node: TestNode, work: list[list[str]]) -> None:
    """Each transaction by a client of its own."""

    async def one(texts: list[str]) -> None:
        session = node.databases.session(protocol="test")
        try:
            await session.transaction([Statement(text) for text in texts])
        except HaError as error:
            if error.code in UNCLEAR:
                raise
            event(error.code.value if error.code in RACES else "refused by SQLite")
        finally:
            await session.aclose()

    async with trio.open_nursery() as nursery:
        for texts in work:
            nursery.start_soon(one, texts)


async def release(brokers: list[HoldingBroker], order: list[int], stream: MemoryStream) -> None:
    """Let held messages go, node by node, until all have finished their work."""
    await trio.testing.wait_all_tasks_blocked()
    for index in order:
        broker = brokers[index]
        held, broker.held = broker.held, []
        for batch in held:
            batch.let_go(stream)


async def play_round(
    step: Round, number: int, stream: MemoryStream, folder: Path, nodes: int
) -> dict[str, Any]:
    """Start the nodes from their files, play, and compare; what they all hold afterwards."""
    brokers: list[HoldingBroker] = []
    members: list[TestNode] = []
    done, finished = trio.Event(), trio.Event()

    async def keep(index: int, task_status: trio.TaskStatus[TestNode]) -> None:
        name = f"n{index}"
        path = folder / f"{name}.db"
        async with (
            HoldingBroker(stream, node=name) as broker,
            open_node(name, broker, path, options=FAST, seed=number) as node,
        ):
            brokers.append(broker)
            task_status.started(node)
            await done.wait()

    async def work() -> None:
        async with trio.open_nursery() as clients:
            for node, texts in zip(members, step.work, strict=True):
                clients.start_soon(execute, node, texts)
        finished.set()

    async with trio.open_nursery() as nursery:
        for index in range(nodes):
            members.append(await nursery.start(keep, index))
        await settle(members)
        for broker in brokers:
            broker.holding = True
        nursery.start_soon(work)
        while not finished.is_set():
            await release(brokers, step.order, stream)
            with trio.move_on_after(0.001):
                await finished.wait()
        log = members[0].database.log
        history = [e async for e in log.history(1)]
        for position in step.again:
            entry = history[position % len(history)]
            stream.append(log.subject, Outgoing(entry.message_id, entry.payload))
        await settle(members)
        dumps = [dump(node.database.store.path) for node in members]
        for other in dumps[1:]:
            assert other == dumps[0]
        done.set()
    return dumps[0]


async def play(script: list[Round], opening: list[str], folder: Path, nodes: int) -> None:
    stream = MemoryStream(epoch="test", dedupe_window=0)
    first = Round([[opening]] + [[]] * (nodes - 1), [0], [])
    for number, step in enumerate([first, *script]):
        expected = await play_round(step, number, stream, folder, nodes)
    # Whoever joins now, and replays it all at once, comes to the same.
    async with (
        MemoryBroker(stream, node="late") as broker,
        open_node("late", broker, folder / "late.db", options=FAST) as late,
    ):
        await settle([late])
        assert dump(late.database.store.path) == expected


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
        trio.run(play, script, opening, Path(folder), 2)


@settings(
    max_examples=max(EXAMPLES // 4, 5),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(creates(), min_size=1, max_size=3),
    st.lists(rounds(3), min_size=1, max_size=3),
)
def test_three_nodes_converge(opening: list[str], script: list[Round]) -> None:
    with TemporaryDirectory() as folder:
        trio.run(play, script, opening, Path(folder), 3)
