"""The simulator's NATS server, on the clock of the test, for the conformance suite."""

from __future__ import annotations

import random

import trio

from ha.log.client import Client
from ha.log.endpoint import parse_urls
from sim.broker import Server
from sim.network import LinkFaults, Timeline
from sim.trace import Trace
from tests.support.nats_harness import NatsHarness


class SimulatedNats(NatsHarness):
    """With its faults off."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        trace = Trace(time=trio.current_time)
        self._server = Server(self._timeline, random.Random(1), trace)
        self._faults = LinkFaults(latency=0.0001, reconnect=0.005)

    def new_client(self, name: str) -> Client:
        link = self._server.connect(name, random.Random(name), self._faults)
        return Client(
            parse_urls("nats://s1:4222"),
            name=name,
            rng=random.SystemRandom(),
            dialer=self._server.dialer(link),
        )

    async def run(self) -> None:
        """Of clients at the same time each has a hand that turns the wheel."""
        await self._timeline.run()

    async def restart(self) -> None:
        self._server.stop()
        await trio.lowlevel.checkpoint()
        self._server.start()
