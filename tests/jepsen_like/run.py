"""One run: start, prepare, load and faults, mend, settle, judge."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.jepsen_like import checkers, workloads
from tests.jepsen_like.clients import Client
from tests.jepsen_like.history import History
from tests.jepsen_like.nemesis import Nemesis
from tests.jepsen_like.nodes import Cluster
from tests.jepsen_like.observe import Observation, settle

SETTLE_TIMEOUT = 60.0  # seconds from the last fault to equal nodes


@dataclass(frozen=True, slots=True)
class Result:
    history: History
    seen: dict[str, Observation]
    anomalies: list[str]


def run(
    cluster: Cluster, seed: int, seconds: float, *, longest: float = 2.5, clients: int = 6
) -> Result:
    """``longest``: of a fault, in seconds. All files are in the cluster's folder, its logs too."""
    rng = random.Random(seed)
    try:
        cluster.start()
        first = workloads.prepare(cluster.nodes["n1"])
        history = History()
        over = threading.Event()
        names = sorted(cluster.nodes)
        everyone = [Client(number, cluster.nodes, history) for number in range(1, clients + 1)]
        failures: list[BaseException] = []

        def guarded(work: Callable[..., None], *arguments: Any) -> threading.Thread:
            def body() -> None:
                try:
                    work(*arguments)
                except BaseException as error:
                    failures.append(error)
                    over.set()

            return threading.Thread(target=body)

        nemesis = Nemesis(cluster, history, random.Random(rng.random()), longest)
        threads = [guarded(nemesis.run, over)]
        for client in everyone:
            own = random.Random(rng.random())
            threads.append(guarded(workloads.run, client, names, own, over))
        for client in everyone:
            client.txseq = first
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
    return Result(history, seen, checkers.check(history, seen, initial))
