"""Faults, one at a time, each mended before the next. Which and when: from one seed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.jepsen_like.history import History
from tests.jepsen_like.nodes import Cluster
from tests.jepsen_like.observe import write_surely
from tests.jepsen_like.proxy import Mode

RECOVERY = 120.0
"""Seconds after the end of a fault within which its node takes writes again, beside those in
which it catches up with the log."""
PROBE = "UPDATE probe SET x = x + 1"
_SLOW = (0.01, 0.1)  # seconds for each write and each sync of a slow disk
_SKEWS = (-86_400.0, -3600.0, -5.0, -0.5, 0.5, 5.0, 3600.0, 86_400.0)


class Nemesis:
    """``longest`` is the longest time in seconds that a fault lasts."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        rng: random.Random,
        longest: float,
        kinds: Sequence[str] = (),
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._rng = rng
        self._longest = longest
        self._kinds = list(kinds or cluster.kinds)
        self.problems: list[str] = []

    def run(self, over: threading.Event) -> None:
        """Until ``over``: every kind once in a random order, then again in another."""
        while True:
            for kind in self._rng.sample(self._kinds, len(self._kinds)):
                if over.wait(self._rng.uniform(0.3, 1.0)):
                    return
                self._fault(kind, over.wait)

    def once(self, over: threading.Event) -> None:
        """Every kind once, whatever time that takes; then it is over."""
        for kind in self._rng.sample(self._kinds, len(self._kinds)):
            if over.wait(self._rng.uniform(0.3, 1.0)):
                return  # something else failed
            self._fault(kind, over.wait)
        over.set()

    def _fault(self, kind: str, wait: Callable[[float], object]) -> None:
        length = self._rng.uniform(0.3, 1.0) * self._longest
        target = self._target(kind)
        fault = self._history.begin_fault(kind, "+".join(target))
        try:
            with self._broken(kind, target):
                wait(length)
        finally:
            self._history.end_fault(fault)
        slow = [name for name in target if not self._recovers(name, kind)]
        if not slow:
            fault.recovered = self._history.now()

    def _recovers(self, name: str, kind: str) -> bool:
        """If it does not, that is an anomaly, and the run goes on with a node started anew."""
        cluster = self._cluster
        try:
            node = cluster.nodes[name]
            write_surely(node, PROBE, node.patience(RECOVERY))
        except AssertionError as error:
            self.problems.append(
                f"{name} did not recover from {kind} within {RECOVERY:g} s: {error}\n"
                + cluster.tell_where(name)
            )
            cluster.restart(name)
            return False
        return True

    def _target(self, kind: str) -> list[str]:
        cluster, rng = self._cluster, self._rng
        if kind in ("kill_nats", "stop_nats"):
            return [rng.choice(cluster.servers)]
        if kind == "power_loss":
            # Of all, half the time: then nobody remembers what the disks have not kept.
            names = sorted(cluster.disks)
            return names if rng.random() < 0.5 else [rng.choice(names)]
        if kind in ("disk_full", "slow_disk"):
            return [rng.choice(sorted(cluster.disks))]
        if kind in tuple(Mode):
            return [rng.choice(sorted(cluster.links))]
        return [rng.choice(sorted(cluster.nodes))]

    @contextmanager
    def _broken(self, kind: str, target: list[str]) -> Iterator[None]:
        cluster, rng = self._cluster, self._rng
        network = cluster.network
        assert network is not None
        (name, *_) = target
        if kind == "kill_node":
            cluster.kill(name)
            yield
            cluster.restart(name)
        elif kind == "power_loss":
            cluster.lose_power(target, seed=rng.randrange(1_000_000) * rng.randrange(2))
            yield
        elif kind == "kill_nats":
            cluster.signal_nats(name, signal.SIGKILL)  # its node starts another
            yield
        elif kind == "stop_nats":
            with _stopped(cluster.signal_nats(name, signal.SIGSTOP)):
                yield
        elif kind == "stop_node":
            pid = cluster.nodes[name].process.pid
            os.kill(pid, signal.SIGSTOP)
            with _stopped(pid):
                yield
        elif kind == "clock_skew":
            cluster.clocks[name].set(rng.choice(_SKEWS), rng.choice((0.5, 1.0, 1.0, 2.0)))
            try:
                yield
            finally:
                cluster.clocks[name].set(0.0)
        elif kind == "disk_full":
            cluster.disks[name].fill()
            try:
                yield
            finally:
                cluster.disks[name].make_room()
        elif kind == "slow_disk":
            cluster.disks[name].slow(rng.uniform(*_SLOW))
            try:
                yield
            finally:
                cluster.disks[name].slow(0.0)
        elif kind in network.kinds:
            try:
                network.break_up(kind, name)
                yield
            finally:
                network.heal()
        else:
            try:
                self._link(name, Mode(kind))
                yield
            finally:
                self._link(name, Mode.PASS)

    def _link(self, target: str, mode: Mode) -> None:
        for proxy in self._cluster.links[target]:
            proxy.set(mode)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
