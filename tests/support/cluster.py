"""Nodes in one process, on one log in memory: the engine without wires and without NATS."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from ha.engine.api import Result
from ha.engine.committer import CommitOptions
from ha.engine.database import Database, DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.place import Place
from ha.engine.runtime import Runtime
from ha.engine.session import Session
from ha.log.api import Broker
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.file import Store, StoreOptions

OPTIONS = DatabaseOptions(CommitOptions(node="unnamed"))


@dataclass
class TestNode:
    """One node: its databases, and a shortcut to the first."""

    __test__ = False

    name: str
    databases: Databases
    scope: trio.CancelScope
    sessions: list[Session] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.databases.get()

    def session(self) -> Session:
        session = self.databases.session(protocol="test")
        self.sessions.append(session)
        return session

    async def run(self, sql: str, params: object = None) -> Result:
        """One statement in a session of its own."""
        session = self.databases.session(protocol="test")
        try:
            return await session.execute(sql, params)  # type: ignore[arg-type]
        finally:
            await session.aclose()

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        return list((await self.run(sql)).rows)


def _runtime(rng: random.Random) -> Runtime:
    """Under a mock clock nothing runs on threads: it would not wait for them."""
    if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        return Runtime(random=rng, run_in_thread=_at_once)
    return Runtime(random=rng)


async def _at_once(work: Callable[[], Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


@asynccontextmanager
async def open_node(
    name: str,
    broker: Broker,
    path: Path | None = None,
    *,
    options: DatabaseOptions = OPTIONS,
    store_options: StoreOptions = StoreOptions(synchronous="OFF"),  # noqa: B008
    seed: int = 0,
    place: Place | None = None,
) -> AsyncIterator[TestNode]:
    """A node with the database ``ha.db``, in a temporary folder of its own without ``path``;
    with ``place`` it follows when others make or drop databases."""
    options = replace(options, commit=replace(options.commit, node=name))
    runtime = _runtime(random.Random(f"{name}-{seed}"))
    databases = Databases(broker, options, runtime, stream="ha_replication", place=place)
    store = (
        Store.open_memory("ha.db", store_options)
        if path is None
        else Store.open(str(path), store_options)
    )
    async with trio.open_nursery() as nursery:
        try:
            await databases.open("ha.db", store, nursery)
            nursery.start_soon(databases.follow)
            node = TestNode(name, databases, nursery.cancel_scope)
            yield node
            for session in node.sessions:
                await session.aclose()
        finally:
            nursery.cancel_scope.cancel()
    databases.close()


@asynccontextmanager
async def open_cluster(
    count: int, *, options: DatabaseOptions = OPTIONS, stream: MemoryStream | None = None
) -> AsyncIterator[list[TestNode]]:
    """``count`` nodes n1, n2… on one stream."""
    stream = stream or MemoryStream(epoch="test")
    async with trio.open_nursery() as nursery:
        nodes: list[TestNode] = []
        done = trio.Event()

        async def keep(name: str, task_status: trio.TaskStatus[TestNode]) -> None:
            async with (
                MemoryBroker(stream, node=name) as broker,
                open_node(name, broker, options=options) as node,
            ):
                task_status.started(node)
                await done.wait()

        for number in range(1, count + 1):
            nodes.append(await nursery.start(keep, f"n{number}"))
        try:
            yield nodes
        finally:
            done.set()


async def settle(nodes: list[TestNode], seconds: float = 60) -> int:
    """Wait until all nodes contain all of the log; the sequence reached."""
    last = (await nodes[0].database.log.state()).subject_last
    for node in nodes:
        with trio.fail_after(seconds):
            await node.database.committer.wait_applied(last)
    return last
