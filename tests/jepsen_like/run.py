"""One run: start, prepare, load and faults, mend, settle, judge."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.jepsen_like import checkers, strict, workloads
from tests.jepsen_like.clients import Client
from tests.jepsen_like.history import History
from tests.jepsen_like.nemesis import Nemesis
from tests.jepsen_like.nodes import Cluster
from tests.jepsen_like.observe import Observation, settle

SETTLE_TIMEOUT = 90.0  # seconds from the last fault to equal nodes
_PREPARE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """``notes``: what is no anomaly in this mode, but worth a number."""

    history: History
    seen: dict[str, Observation]
    anomalies: list[str]
    notes: list[str]


def run(
    cluster: Cluster,
    seed: int,
    seconds: float | None,
    *,
    longest: float = 2.5,
    clients: int = 6,
    kinds: Sequence[str] = (),
) -> Result:
    """For ``seconds``, or without them until each kind of fault was there once.

    ``longest``: of a fault, in seconds. All files are in the cluster's folder, its logs too.
    """
    rng = random.Random(seed)
    leader = cluster.options.mode == "leader"
    try:
        cluster.start()
        first = workloads.prepare(cluster.nodes["n1"], _PREPARE_TIMEOUT)
        history = History()
        over = threading.Event()
        names = sorted(cluster.nodes)
        everyone = [
            Client(number, cluster.nodes, history, random.Random(rng.random()))
            for number in range(1, clients + 1)
        ]
        failures: list[BaseException] = []

        def guarded(work: Callable[..., None], *arguments: Any) -> threading.Thread:
            def body() -> None:
                try:
                    work(*arguments)
                except BaseException as error:
                    failures.append(error)
                    over.set()

            return threading.Thread(target=body)

        nemesis = Nemesis(cluster, history, random.Random(rng.random()), longest, kinds)
        threads = [guarded(nemesis.once if seconds is None else nemesis.run, over)]
        for client in everyone:
            client.txseq = first
            load = workloads.Load(client, names, random.Random(rng.random()), leader=leader)
            threads.append(guarded(load.run, over))
        for thread in threads:
            thread.start()
        over.wait(seconds)
        over.set()
        for thread in threads:
            thread.join()
        for client in everyone:
            client.close()
        history.save(cluster.folder / "history.json")
        if failures:
            raise failures[0]
        seen = settle(cluster.nodes, SETTLE_TIMEOUT)
    finally:
        cluster.close()
    initial = {f"r{key}-0-0" for key in range(workloads.KEYS)}
    anomalies = nemesis.problems + checkers.check(history, seen, initial)
    broken = strict.check(history, seen)
    if leader:
        return Result(history, seen, anomalies + broken, [])
    return Result(history, seen, anomalies, strict.lost_updates(history, seen))
