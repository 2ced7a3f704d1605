"""What the conformance suite needs of a kind of log: brokers, and ways to break them."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from ha.log.api import Broker
from ha.log.client import Client
from ha.log.endpoint import parse_urls
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from ha.log.js_api import Api
from ha.log.memory import MemoryBroker, MemoryStream
from sim.broker import Server
from sim.nats.wire import SimDialer
from sim.network import Link, LinkFaults, Timeline
from sim.trace import Trace


class Harness(ABC):
    """One stream, and what can happen to it. Another implementation of the log gives its own."""

    @abstractmethod
    def broker(self, node: str = "a") -> AbstractAsyncContextManager[Broker]: ...

    @abstractmethod
    async def cut(self) -> None:
        """No node reaches the stream any more. What it holds stays."""

    @abstractmethod
    async def heal(self) -> None: ...

    @abstractmethod
    async def freeze(self) -> None:
        """Connections stay, messages may be taken, no answer comes."""

    @abstractmethod
    async def thaw(self) -> None: ...

    @abstractmethod
    async def recreate(self) -> None:
        """The stream is deleted, and made anew."""

    @abstractmethod
    async def shorten_window(self) -> float:
        """Make the window in which ids are known short; seconds."""

    @abstractmethod
    async def drop_before(self, sequence: int) -> None:
        """Let go of the messages before ``sequence``, as max_age does."""


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self._stream = MemoryStream(epoch="e1", max_payload=100_000)
        self._brokers: list[MemoryBroker] = []

    def broker(self, node: str = "a") -> AbstractAsyncContextManager[Broker]:
        broker = MemoryBroker(self._stream, node=node)
        self._brokers.append(broker)
        return broker

    async def cut(self) -> None:
        for broker in self._brokers:
            broker.connected = False

    async def heal(self) -> None:
        for broker in self._brokers:
            broker.connected = True

    async def freeze(self) -> None:
        for broker in self._brokers:
            broker.lose_acks = True

    async def thaw(self) -> None:
        for broker in self._brokers:
            broker.lose_acks = False

    async def recreate(self) -> None:
        self._stream.recreate("e2")

    async def shorten_window(self) -> float:
        self._stream.dedupe_window = 0.2
        return 0.2

    async def drop_before(self, sequence: int) -> None:
        self._stream.drop_before(sequence)


class OperatedHarness(Harness):
    """Whatever speaks JetStream, where an operator can do as he likes."""

    def __init__(self, stream: str) -> None:
        self.stream = stream

    @abstractmethod
    def operator(self) -> AbstractAsyncContextManager[Client]:
        """A client of his own, not connected yet."""

    async def recreate(self) -> None:
        config = (await self.api(f"STREAM.INFO.{self.stream}"))["config"]
        await self.api(f"STREAM.DELETE.{self.stream}")
        del config["metadata"]
        await self.api(f"STREAM.CREATE.{self.stream}", config)

    async def shorten_window(self) -> float:
        config = (await self.api(f"STREAM.INFO.{self.stream}"))["config"]
        config["duplicate_window"] = 200_000_000
        await self.api(f"STREAM.UPDATE.{self.stream}", config)
        return 0.2

    async def drop_before(self, sequence: int) -> None:
        await self.api(f"STREAM.PURGE.{self.stream}", {"seq": sequence})

    async def api(self, subject: str, request: dict[str, object] | None = None) -> dict[str, Any]:
        async with self.operator() as client:
            await client.wait_up()
            answer = await Api(client).call(subject, request)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


class JetStreamHarness(OperatedHarness):
    """``server``: a NatsProcess (tests/conftest.py) of this test alone, or a shared one."""

    def __init__(self, server: Any, options: dict[str, Any] | None = None) -> None:
        super().__init__(f"S{random.SystemRandom().getrandbits(48):x}")
        self.server = server
        self._options = options or {}

    def broker(self, node: str = "a") -> AbstractAsyncContextManager[Broker]:
        options = JetStreamOptions(
            urls=self.server.url, node=node, stream=self.stream, **self._options
        )
        return JetStreamBroker(options, rng=random.SystemRandom())

    async def cut(self) -> None:
        self.server.kill()

    async def heal(self) -> None:
        self.server.start()

    async def freeze(self) -> None:
        self.server.stop()

    async def thaw(self) -> None:
        self.server.cont()

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Client]:
        rng = random.SystemRandom()
        client = Client(parse_urls(self.server.url), name="operator", rng=rng)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            yield client
            nursery.cancel_scope.cancel()


class SimHarness(OperatedHarness):
    """The simulator's JetStream, with its faults off, on the clock of the test."""

    def __init__(self) -> None:
        super().__init__("HA")
        self._trace = Trace(time=trio.current_time)
        self._timeline = Timeline()
        chance = random.Random(1)
        self._server = Server(self._timeline, chance, self._trace, max_payload=100_000)
        self._faults = LinkFaults(latency=0.0002, reconnect=0.01)
        self._links: list[Link] = []

    @asynccontextmanager
    async def broker(self, node: str = "a") -> AsyncIterator[Broker]:
        async with trio.open_nursery() as nursery:
            # Of brokers at the same time each has a hand that turns the wheel.
            nursery.start_soon(self._timeline.run)
            options = JetStreamOptions("nats://s1:4222", node, stream=self.stream)
            chance = random.SystemRandom()
            async with JetStreamBroker(options, rng=chance, dialer=self._dial(node)) as broker:
                yield broker
            nursery.cancel_scope.cancel()

    def _dial(self, name: str) -> SimDialer:
        link = self._server.connect(name, random.Random(name), self._faults)
        self._links.append(link)
        return self._server.dialer(link)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Client]:
        client = Client(
            parse_urls("nats://s1:4222"),
            name="operator",
            rng=random.SystemRandom(),
            dialer=self._dial("operator"),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timeline.run)
            nursery.start_soon(client.run)
            yield client
            nursery.cancel_scope.cancel()

    async def cut(self) -> None:
        self._server.stop()

    async def heal(self) -> None:
        self._server.start()

    async def freeze(self) -> None:
        for link in self._links:
            link.down.held = True

    async def thaw(self) -> None:
        for link in self._links:
            link.down.held = False
            link.down.go_on()


Kind = Callable[[], Harness]
