"""What goes wrong in a run, and when: the faults of a plan, put into effect one by one."""

from __future__ import annotations

import trio

from sim.broker import SERVERS
from sim.cluster import Cluster, Process
from sim.letters import poison
from sim.plan import Fault


async def run_faults(cluster: Cluster) -> None:
    """Put all faults of the plan into effect at their times; ends when the last has passed."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for fault in cluster.plan.faults:
            if fault.reserve and not cluster.wants_hits:
                break  # they are the last
            await trio.sleep_until(start + fault.at)
            cluster.strikes += 1
            nursery.start_soon(_strike, cluster, fault)
        cluster.out_of_faults = True


def heal_all(cluster: Cluster) -> None:
    """The end of all faults: what is broken is mended, what is down comes back."""
    cluster.server.faults.clear()
    if not cluster.server.up:
        cluster.server.start()
    for host in SERVERS:
        cluster.server.catch_up(host)
        cluster.server.bring_back(host)
    if not cluster.server.leader:
        cluster.server.elect_leader()
    link = cluster.link_faults
    link.spike_rate = link.late = 0.0
    for node in cluster.nodes.values():
        node.disk.faults.clear()
        node.heal()
        if node.process is not None:
            node.process.disarm()


async def _strike(cluster: Cluster, fault: Fault) -> None:
    if fault.aimed and fault.kind in _OF_A_NODE:
        await _aim(cluster, fault)
    cluster.world.trace.event("faults", fault.kind, str(fault))
    struck = _in_flight(cluster, fault)
    if struck:
        cluster.hits += 1
    handler = _HANDLERS[fault.kind]
    await handler(cluster, fault)


async def _aim(cluster: Cluster, fault: Fault) -> None:
    """Wait for the target to publish, and for a part of what a message takes on its way."""
    process = cluster.process(fault.target)
    if process is None or process.dead:
        return
    process.publishing = trio.Event()
    with trio.move_on_after(2):
        await process.publishing.wait()
        await trio.sleep(cluster.link_faults.latency * process.chance.uniform(0, 3))


def _in_flight(cluster: Cluster, fault: Fault) -> bool:
    """Does something wait for what breaks now?"""
    targets = [fault.target] if fault.kind in _OF_A_NODE else list(cluster.nodes)
    for name in targets:
        process = cluster.process(name)
        if process is None or process.dead:
            continue
        if process.link.up.in_flight or process.link.down.in_flight or process.busy:
            return True
    return False


async def _cut(cluster: Cluster, fault: Fault) -> None:
    node = cluster.nodes[fault.target]
    node.cut(up=fault.how != "down", down=fault.how != "up")
    await trio.sleep(fault.duration)
    node.heal()


async def _reset(cluster: Cluster, fault: Fault) -> None:
    process = cluster.process(fault.target)
    if process is not None:
        process.link.break_off("reset")


async def _crash(cluster: Cluster, fault: Fault) -> None:
    node = cluster.nodes[fault.target]
    process = node.process
    if process is None:
        return
    node.restart_delay = fault.duration
    what, _, power = fault.how.partition(" ")
    if what == "time":
        process.crash(power=bool(power))
    else:
        process.crash_after(what, int(fault.amount), power=bool(power))


async def _restart(cluster: Cluster, fault: Fault) -> None:
    process = cluster.process(fault.target)
    if process is not None:
        process.shutdown.set()


async def _wipe(cluster: Cluster, fault: Fault) -> None:
    """The machine is replaced: the same name, an empty disk."""
    node = cluster.nodes[fault.target]
    if node.process is not None:
        node.process.crash()
    node.disk.wipe()
    node.lost_something()


async def _clock(cluster: Cluster, fault: Fault) -> None:
    cluster.nodes[fault.target].clock_offset += fault.amount


async def _disk_full(cluster: Cluster, fault: Fault) -> None:
    faults = cluster.nodes[fault.target].disk.faults
    faults.full = True
    await trio.sleep(fault.duration)
    faults.full = False


async def _disk_errors(cluster: Cluster, fault: Fault) -> None:
    faults = cluster.nodes[fault.target].disk.faults
    kinds = ["read", "write", "sync"] if fault.how == "all" else [fault.how]
    for kind in kinds:
        setattr(faults, f"{kind}_errors", fault.amount)
    await trio.sleep(fault.duration)
    for kind in kinds:
        setattr(faults, f"{kind}_errors", 0.0)


async def _slow_disk(cluster: Cluster, fault: Fault) -> None:
    faults = cluster.nodes[fault.target].disk.faults
    faults.delay = fault.amount
    await trio.sleep(fault.duration)
    faults.delay = 0.0


async def _stall(cluster: Cluster, fault: Fault) -> None:
    process: Process | None = cluster.process(fault.target)
    if process is not None:
        process.link.stall(fault.duration)


async def _broker_restart(cluster: Cluster, fault: Fault) -> None:
    server = cluster.server
    if server.up:
        server.stop()
        await trio.sleep(fault.duration)
        if not server.up:
            server.start()


async def _broker_power(cluster: Cluster, fault: Fault) -> None:
    server = cluster.server
    if server.up:
        loss = server.power_failure()
        if loss is not None:
            cluster.poisoned[:] = [s for s in cluster.poisoned if s <= loss.kept]
        await trio.sleep(fault.duration)
        if not server.up:
            server.start()


async def _leader(cluster: Cluster, fault: Fault) -> None:
    server = cluster.server
    if server.leader:
        server.lose_leader()
        await trio.sleep(fault.duration)
        if not server.leader:
            server.elect_leader(fault.amount)


async def _lag(cluster: Cluster, fault: Fault) -> None:
    cluster.server.lag(fault.how)
    await trio.sleep(fault.duration)
    cluster.server.catch_up(fault.how)


async def _server(cluster: Cluster, fault: Fault) -> None:
    """One of the cluster dies; if it led, the others elect."""
    server = cluster.server
    if not server.up or not server.leader:
        return
    server.lose_server(fault.how)
    await trio.sleep(fault.amount)
    if not server.leader:
        server.elect_leader()
    await trio.sleep(fault.duration)
    server.bring_back(fault.how)
    if not server.leader:
        server.elect_leader()


async def _storm(cluster: Cluster, fault: Fault) -> None:
    faults = cluster.server.faults
    setattr(faults, fault.how, fault.amount)
    await trio.sleep(fault.duration)
    if getattr(faults, fault.how) == fault.amount:  # no other one has come since
        setattr(faults, fault.how, getattr(cluster.plan.broker, fault.how))


async def _poison(cluster: Cluster, fault: Fault) -> None:
    await poison(cluster, fault.how, fault.duration)


_HANDLERS = {
    "cut": _cut,
    "reset": _reset,
    "crash": _crash,
    "restart": _restart,
    "wipe": _wipe,
    "clock": _clock,
    "disk full": _disk_full,
    "disk errors": _disk_errors,
    "slow disk": _slow_disk,
    "stall": _stall,
    "broker restart": _broker_restart,
    "broker power": _broker_power,
    "leader": _leader,
    "storm": _storm,
    "lag": _lag,
    "server": _server,
    "poison": _poison,
}
_OF_A_NODE = {"cut", "reset", "crash", "restart", "wipe", "disk full", "disk errors", "stall"}
