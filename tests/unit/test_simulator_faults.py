"""Faults of the simulator: they come, and they end."""

from __future__ import annotations

from dataclasses import replace

import trio
from trio.testing import MockClock

from sim.cluster import Cluster
from sim.faults import run_faults
from sim.plan import Fault, Plan, draw
from sim.world import World


def plan_with(*faults: Fault, hits: int = 0) -> Plan:
    plan = draw(1, "calm", 1)
    return replace(plan, faults=faults, hits=hits)


async def test_a_storm_ends_though_another_one_began_in_it(autojump_clock: MockClock) -> None:
    storms = [
        Fault(1.0, "storm", "n1", 4.0, 0.5, "stall"),
        Fault(2.0, "storm", "n1", 4.0, 0.7, "stall"),
    ]
    cluster = Cluster(World(1), plan_with(*storms))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_faults, cluster)
            await trio.sleep(5.5)
            assert cluster.server.faults.stall == 0.7
        assert cluster.server.faults.stall == cluster.plan.broker.stall == 0.0
    finally:
        cluster.destroy()


async def test_the_reserve_comes_while_too_little_was_struck(autojump_clock: MockClock) -> None:
    faults = [Fault(float(at), "clock", "n1", reserve=at > 1) for at in range(1, 9)]
    cluster = Cluster(World(1), plan_with(*faults, hits=2))
    cluster.active = 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_faults, cluster)
            await trio.sleep(4.5)
            assert cluster.strikes == 4
            assert cluster.wants_operations
            cluster.hits = 2
        assert cluster.strikes == 5  # the one that it waited for
        assert cluster.out_of_faults
        assert not cluster.wants_operations
    finally:
        cluster.destroy()
