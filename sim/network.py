"""Connections between nodes and the broker: late, broken, cut in one direction, never honest.

A connection is TCP as a client of NATS sees it: in each direction bytes arrive in order, and
when it breaks a prefix of what was under way still arrives, maybe much later, maybe after
the client has connected anew.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from sim.trace import Trace

Work = Callable[[], None]


class Timeline:
    """Calls functions at virtual times, in order; :meth:`run` is its one task."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Work]] = []
        self._count = 0
        self._wake = trio.Event()

    def at(self, time: float, work: Work) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, work))
        if self._heap[0][1] == self._count:
            self._wake.set()

    def after(self, delay: float, work: Work) -> None:
        self.at(trio.current_time() + delay, work)

    async def run(self) -> None:
        heap = self._heap
        while True:
            deadline = heap[0][0] if heap else float("inf")
            with trio.move_on_at(deadline):
                await self._wake.wait()
            if self._wake.is_set():  # else another task waits for this one
                self._wake = trio.Event()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                heapq.heappop(heap)[2]()


@dataclass(slots=True)
class LinkFaults:
    """Times in seconds; rates are chances a packet.

    ``latency`` is the mean of one way; ``spike`` that of the rare slow packet. ``detect``:
    until a silent connection is given up; ``late``: how long what was under way at a break may
    take, at most.
    """

    latency: float = 0.001
    spike_rate: float = 0.0
    spike: float = 0.5
    detect: float = 10.0
    reconnect: float = 1.0
    late: float = 0.0


@dataclass(slots=True)
class _Packet:
    work: Work
    gone: bool = False


class _Direction:
    """One way of a connection: a queue in time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.blocked = False
        self.held = False
        self._free = 0.0
        self._flying: deque[_Packet] = deque()
        self._stuck: deque[_Packet] = deque()

    def send(self, work: Work) -> None:
        packet = _Packet(work)
        if (self.blocked or self.held) and not self._flying:
            self._stuck.append(packet)
        else:
            self._fly(packet)

    def _fly(self, packet: _Packet) -> None:
        link = self._link
        now = trio.current_time()
        arrival = max(now + link.latency(), self._free)
        self._free = arrival
        self._flying.append(packet)
        link.timeline.at(arrival, lambda: self._arrive(packet))

    def _arrive(self, packet: _Packet) -> None:
        if packet.gone:
            return
        if self._flying and self._flying[0] is packet:
            self._flying.popleft()
        if self.blocked or self.held:
            self._stuck.append(packet)
        else:
            packet.work()

    def go_on(self) -> None:
        """After ``blocked`` or ``held`` was taken back."""
        if self.blocked or self.held or not self._stuck:
            return
        # What is still in flight comes after what was held: the order of bytes is kept.
        packets = self.cut()
        for packet in packets:
            self._fly(_Packet(packet.work))

    @property
    def in_flight(self) -> int:
        return len(self._flying) + len(self._stuck)

    def cut(self) -> list[_Packet]:
        """The connection is broken: what was under way, in order, now nobody's."""
        packets = [*self._stuck, *self._flying]
        self._stuck.clear()
        self._flying.clear()
        self._free = 0.0
        for packet in packets:
            packet.gone = True
        return packets


class Link:
    """The cable of one process. ``dead``: the process is gone, nothing comes or goes.

    At most one connection at a time goes through it; each is a ``generation``. ``server_up``
    says of a host whether somebody takes calls there.
    """

    def __init__(
        self,
        name: str,
        timeline: Timeline,
        chance: random.Random,
        faults: LinkFaults,
        trace: Trace,
        server_up: Callable[[str], bool],
    ) -> None:
        self.name = name
        self.host = ""
        """Of the server at the other end, last."""
        self.timeline = timeline
        self.faults = faults
        self.dead = False
        self.connected = False
        self.generation = 0
        self.on_break: Callable[[str], None] = lambda why: None
        """The client: told why the connection that there is was lost."""
        self.on_end: Work = lambda: None
        """The server: told that it is over, after all that still came through it."""
        self._stalled_until = 0.0
        self._chance = chance
        self._trace = trace
        self._server_up = server_up
        self.up = _Direction(self)
        self.down = _Direction(self)

    def latency(self) -> float:
        chance, faults = self._chance, self.faults
        delay = chance.expovariate(1 / faults.latency)
        if faults.spike_rate and chance.random() < faults.spike_rate:
            delay += chance.expovariate(1 / faults.spike)
        return delay

    # --- for the client's side -------------------------------------------------------

    async def connect(self, host: str, timeout: float) -> None:
        """Call it, for ``timeout`` seconds at most. Raises OSError."""
        await trio.sleep(self.faults.reconnect * self._chance.uniform(0.5, 1.5))
        if self.dead or self.up.blocked or self.down.blocked:
            await trio.sleep(timeout)
            raise OSError("nobody answers")
        if not self._server_up(host):
            raise OSError("connection refused")
        self.host = host
        self._trace.event(self.name, "connected")
        self.generation += 1
        self.connected = True

    def to_server(self, work: Work) -> None:
        if not self.dead and self.connected:
            self.up.send(work)

    def to_client(self, work: Work, generation: int) -> None:
        """``generation``: of the connection that it is for; what comes for an older one reaches
        nobody."""
        if self.dead or not self.connected or generation != self.generation:
            return
        self.down.send(lambda: None if self.dead else work())

    def stall(self, seconds: float) -> None:
        """The process is too busy to look at what arrives."""
        until = trio.current_time() + seconds
        if until > self._stalled_until:
            self._stalled_until = until
            self.down.held = True
            self.timeline.at(until, self._awake)

    def _awake(self) -> None:
        if self._stalled_until <= trio.current_time():
            self.down.held = False
            self.down.go_on()

    # --- what happens to it ----------------------------------------------------------

    def block(self, *, up: bool, down: bool) -> None:
        """Nothing gets through, and nobody is told."""
        self.up.blocked = self.up.blocked or up
        self.down.blocked = self.down.blocked or down
        self._trace.event(self.name, "cut", f"{'up ' * up}{'down' * down}".strip())
        generation = self.generation
        patience = self.faults.detect * self._chance.uniform(0.5, 1.5)
        self.timeline.after(patience, lambda: self._notice(generation))

    def _notice(self, generation: int) -> None:
        if generation == self.generation and (self.up.blocked or self.down.blocked):
            self.break_off("silence")

    def unblock(self) -> None:
        if self.up.blocked or self.down.blocked:
            self._trace.event(self.name, "healed")
            self.up.blocked = self.down.blocked = False
            self.up.go_on()
            self.down.go_on()

    def break_off(self, why: str) -> None:
        """The connection is lost, and the client knows it."""
        if not self.connected:
            return
        self._trace.event(self.name, "disconnected", why)
        self.connected = False
        self.down.cut()
        self._leave(told=not self.up.blocked)
        self.on_break(why)

    def _leave(self, *, told: bool) -> None:
        """A prefix of what was under way still reaches the server, and then the end of it; if
        it is not told of that, it finds out by itself, much later."""
        packets = self.up.cut()
        prefix = packets[: self._chance.randint(0, len(packets))]
        at = trio.current_time()
        for packet in prefix:
            at += self._chance.uniform(0, self.faults.late / (len(prefix)))
            self.timeline.at(at, packet.work)
        if not told:
            at += self.faults.detect * self._chance.uniform(1, 3)
        self.timeline.at(at, self.on_end)

    def kill(self, *, power: bool = False) -> None:
        """The process is gone. Its kernel may still send what it had taken; without power it
        does not even say that it is over."""
        if self.dead:
            return
        self.dead = True
        self.down.cut()
        if self.up.blocked:
            self.up.cut()
        if self.connected:
            self._leave(told=not power and not self.up.blocked)
