"""Scripts in the simulator's world: a few nodes, virtual time, and the faults a test names.

For regressions: what a seed once found, told again in a few lines that no change of the
simulator's chance can lose.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from ha.core.errors import HaError
from ha.engine.session import Session
from sim.cluster import Cluster, Process
from sim.plan import draw
from sim.world import World

Script = Callable[[Cluster], Awaitable[None]]


def play(script: Script, *, nodes: int = 2, **options: object) -> None:
    """Run ``script`` when all nodes are ready. ``options``: fields of the plan."""
    fields = {
        "max_payload": 1 << 20,
        "publish_timeout": 5.0,
        "hold": 1.0,
        "synchronous": "NORMAL",
        "lease": 0.0,
        "from_snapshot": False,
        "snapshot_interval": 0.0,
        **options,
    }
    plan = replace(draw(0, "calm"), nodes=nodes, **fields)  # type: ignore[arg-type]
    world = World(0)
    cluster = Cluster(world, plan)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.timeline.run)
            nursery.start_soon(cluster.server.keep_house)
            for node in cluster.nodes.values():
                nursery.start_soon(node.live)
            with trio.fail_after(60):
                await ready(cluster)
            with trio.fail_after(3600):
                await script(cluster)
            nursery.cancel_scope.cancel()

    try:
        world.run(main)
    finally:
        cluster.destroy()


async def ready(cluster: Cluster) -> None:
    """All nodes up, and at the end of the log."""
    while not all(  # noqa: ASYNC110 (on virtual time)
        n.process is not None
        and n.process.serving
        and n.process.database.committer.applied >= cluster.server.last
        for n in cluster.nodes.values()
    ):
        await trio.sleep(0.01)


def process(cluster: Cluster, name: str) -> Process:
    found = cluster.process(name)
    assert found is not None
    return found


def session(cluster: Cluster, name: str) -> Session:
    databases = process(cluster, name).databases
    assert databases is not None
    return databases.session(protocol="test")


async def outcome(work: Awaitable[object]) -> str:
    """``ok``, or the error's code."""
    try:
        await work
    except HaError as error:
        return error.code.value
    return "ok"
