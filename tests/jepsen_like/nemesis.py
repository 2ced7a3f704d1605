"""Faults, one at a time, each mended before the next. Which and when: from one seed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial

from tests.jepsen_like.history import History
from tests.jepsen_like.nodes import Cluster
from tests.jepsen_like.proxy import Mode

KINDS = (
    "kill_node",
    "kill_nats",
    "stop_node",
    "stop_nats",
    *(mode.value for mode in Mode if mode is not Mode.PASS),
)


class Nemesis:
    """``longest`` is the longest time in seconds that a fault lasts."""

    def __init__(
        self, cluster: Cluster, history: History, rng: random.Random, longest: float
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._rng = rng
        self._longest = longest

    def run(self, over: threading.Event) -> None:
        """Until ``over``: every kind once in a random order, then again in another."""
        while True:
            for kind in self._rng.sample(KINDS, len(KINDS)):
                quiet = self._rng.uniform(0.3, 1.0)
                length = self._rng.uniform(0.3, 1.0) * self._longest
                if over.wait(quiet):
                    return
                self._fault(kind, partial(over.wait, length))

    def _fault(self, kind: str, wait: Callable[[], object]) -> None:
        cluster = self._cluster
        if kind in ("kill_nats", "stop_nats"):
            target = self._rng.choice(cluster.servers)
        elif kind in ("kill_node", "stop_node"):
            target = self._rng.choice(sorted(cluster.nodes))
        else:
            target = self._rng.choice(sorted(cluster.links))
        fault = self._history.begin_fault(kind, target)
        try:
            if kind == "kill_node":
                cluster.nodes[target].kill()
                wait()
                cluster.restart(target)
            elif kind == "kill_nats":
                cluster.signal_nats(target, signal.SIGKILL)  # its node starts another
            elif kind == "stop_nats":
                pid = cluster.signal_nats(target, signal.SIGSTOP)
                try:
                    wait()
                finally:
                    os.kill(pid, signal.SIGCONT)
            elif kind == "stop_node":
                process = cluster.nodes[target].process
                process.send_signal(signal.SIGSTOP)
                try:
                    wait()
                finally:
                    process.send_signal(signal.SIGCONT)
            else:
                try:
                    self._link(target, Mode(kind))
                    wait()
                finally:
                    self._link(target, Mode.PASS)
        finally:
            self._history.end_fault(fault)

    def _link(self, target: str, mode: Mode) -> None:
        for proxy in self._cluster.links[target]:
            proxy.set(mode)
