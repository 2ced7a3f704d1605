"""Races made on purpose: messages are held on their way to the log, and let go in an order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from ha.core.errors import Code, HaError
from ha.engine.api import Statement
from ha.engine.database import DatabaseOptions
from ha.log.api import Ack, AckCallback, LogError, NotSent, Outgoing
from ha.log.memory import MemoryBroker, MemoryLog, MemoryStream
from tests.support.cluster import OPTIONS, TestNode, open_node, settle


@dataclass
class Held:
    """One published batch that has not reached the log yet."""

    log: MemoryLog
    messages: list[Outgoing]
    on_ack: AckCallback

    def let_go(self, stream: MemoryStream) -> None:
        for index, message in enumerate(self.messages):
            outcome: Ack | LogError
            try:
                outcome = stream.append(self.log.subject, message)
            except LogError as error:
                outcome = error
            self.on_ack(index, outcome)

    def arrive(self, stream: MemoryStream) -> None:
        """Let it go when nobody waits for its acks any more."""
        for message in self.messages:
            with suppress(LogError):
                stream.append(self.log.subject, message)


class HoldingBroker(MemoryBroker):
    """Holds what its node publishes while ``holding``."""

    def __init__(self, stream: MemoryStream, *, node: str) -> None:
        super().__init__(stream, node=node)
        self.holding = False
        self.held: list[Held] = []
        self.arrived = trio.Event()

    async def log(self, database_id: str) -> MemoryLog:
        log = await super().log(database_id)
        publish = log.publish

        def hold(messages: Sequence[Outgoing], on_ack: AckCallback) -> None:
            if not log.connected:
                raise NotSent("no connection to the log")
            if not self.holding:
                publish(messages, on_ack)
                return
            self.held.append(Held(log, list(messages), on_ack))
            self.arrived.set()

        publish_one = log.publish_one

        async def hold_one(message: Outgoing, timeout: float) -> Ack:
            if not log.connected or not self.holding:
                return await publish_one(message, timeout)
            told = trio.Event()
            outcomes: list[Ack | LogError] = []

            def on_ack(_: int, outcome: Ack | LogError) -> None:
                outcomes.append(outcome)
                told.set()

            hold([message], on_ack)
            with trio.move_on_after(timeout):
                await told.wait()
            outcome = outcomes[0] if outcomes else LogError(f"no ack within {timeout:g} s")
            if isinstance(outcome, LogError):
                raise outcome
            return outcome

        log.publish = hold  # type: ignore[method-assign]
        log.publish_one = hold_one  # type: ignore[method-assign]
        return log


@dataclass
class Race:
    """Two nodes on one log, and what each race told their clients."""

    stream: MemoryStream
    nodes: list[TestNode]
    brokers: list[HoldingBroker]
    outcomes: list[Code | None] = field(default_factory=list)

    async def setup(self, *statements: str) -> None:
        for sql in statements:
            await self.nodes[0].run(sql)
        await settle(self.nodes)

    async def run(
        self, one: str | list[str], two: str | list[str], *, first: int
    ) -> list[Code | None]:
        """Run a transaction on each node, on the same state; ``first``: whose message is first."""
        outcomes: list[Code | None] = [None, None]

        async def execute(index: int, work: str | list[str]) -> None:
            session = self.nodes[index].session()
            texts = [work] if isinstance(work, str) else work
            try:
                await session.transaction([Statement(sql) for sql in texts])
            except HaError as error:
                outcomes[index] = error.code

        for broker in self.brokers:
            broker.holding, broker.arrived = True, trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, 0, one)
            nursery.start_soon(execute, 1, two)
            with trio.fail_after(10):
                for broker in self.brokers:
                    await broker.arrived.wait()
            order = self.brokers if first == 0 else self.brokers[::-1]
            for broker in order:
                broker.holding = False
            for broker in order:
                held, broker.held = broker.held, []
                for batch in held:
                    batch.let_go(self.stream)
        await settle(self.nodes)
        self.outcomes = outcomes
        return outcomes

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        """The same on both nodes, or the test fails."""
        one, two = [await node.rows(sql) for node in self.nodes]
        assert one == two
        return one


@asynccontextmanager
async def open_race(options: DatabaseOptions = OPTIONS) -> AsyncIterator[Race]:
    stream = MemoryStream(epoch="test")
    async with (
        HoldingBroker(stream, node="n1") as one_broker,
        HoldingBroker(stream, node="n2") as two_broker,
        open_node("n1", one_broker, options=options) as one,
        open_node("n2", two_broker, options=options) as two,
    ):
        yield Race(stream, [one, two], [one_broker, two_broker])
