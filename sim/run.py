"""One run: a plan, put into effect on a cluster, and judged."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from ha.core.errors import Code, HaError
from sim.checkers import (
    FoldHistory,
    check_answers,
    check_invariant,
    check_letters,
    check_probes,
    check_reads,
    check_registers,
    check_undos,
    fold_log,
    lost_updates,
    may_race,
    with_latest,
)
from sim.client import HANG, Client
from sim.cluster import Broken, Cluster, Gone, QuietLogs
from sim.content import difference, read_content
from sim.faults import heal_all, run_faults
from sim.history import Call, Probe
from sim.letters import let_all_pass
from sim.operator import operate
from sim.past import Past, lost_skips
from sim.plan import Plan
from sim.trace import Trace
from sim.workloads import ALL, Workload
from sim.workloads.rows import Registers
from sim.world import Deadlock, World

SETUP_BOUND = 120.0
OVERTIME = 480.0
"""Virtual seconds more, for runs that have not had their share of operations."""
LIVENESS_BOUND = 90.0
"""Virtual seconds after the last fault in which everything must be well again."""


@dataclass(slots=True)
class Outcome:
    """``problems``: the promises that were broken, in words; empty if none was. ``log``: what it
    held at the end, and ``lost``: what it had taken and lost, as sequence and payload; ``gone``:
    how many acknowledged writes were in that, which is no broken promise without
    ``--durability full``."""

    plan: Plan
    hash: str
    problems: list[str]
    virtual: float
    real: float
    cpu: float
    calls: list[Call]
    acknowledged: int
    faults: int
    hits: int
    messages: int
    trace: Trace
    lost_updates: int = 0
    gone: int = 0
    log: list[tuple[int, bytes]] = field(default_factory=list)
    lost: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def line(self) -> str:
        state = "ok" if self.ok else "FAILED"
        return (
            f"seed={self.plan.seed} hash={self.hash} virtual={self.virtual:.0f}s"
            f" ops={self.acknowledged} faults={self.faults} hits={self.hits}"
            f" messages={self.messages} real={self.real:.1f}s {state}"
        )


def run_plan(plan: Plan, *, keep_trace: bool = False) -> Outcome:
    """Run a plan to its end. What breaks a promise is in the outcome; nothing is raised."""
    begun, used = time.perf_counter(), time.process_time()
    world = World(plan.seed, keep_trace=keep_trace)
    cluster = Cluster(world, plan)
    logger = logging.getLogger("ha")
    before = logger.level, logger.propagate, logger.handlers[:]
    logger.handlers[:] = [QuietLogs(world)]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    problems: list[str] = []
    judge = _Judge(cluster)
    try:
        world.run(lambda: _main(cluster, judge))
    except BaseException as error:
        problems += _reasons(error)
    finally:
        logger.level, logger.propagate = before[0], before[1]
        logger.handlers[:] = before[2]
    try:
        problems += judge.verdict()
    finally:
        cluster.destroy()
    history = cluster.history
    return Outcome(
        plan=plan,
        hash=world.trace.digest(),
        problems=problems,
        virtual=world.clock.now,
        real=time.perf_counter() - begun,
        cpu=time.process_time() - used,
        calls=history.calls,
        acknowledged=history.acknowledged,
        faults=cluster.strikes,
        hits=cluster.struck,
        messages=len(cluster.server.stored),
        trace=world.trace,
        lost_updates=judge.lost_updates,
        gone=judge.gone,
        log=[(e.sequence, e.payload) for _, e in cluster.server.stored],
        lost=[(e.sequence, e.payload) for x in cluster.server.losses for _, e in x.lost],
    )


def _reasons(error: BaseException) -> list[str]:
    """What a run that ended by itself died of."""
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    if isinstance(error, Broken):
        cause = "" if error.__cause__ is None else f": {_traceback(error.__cause__)}"
        return [str(error) + cause]
    if isinstance(error.__cause__, Deadlock):
        return [str(error.__cause__)]
    return [f"an error that nobody expected: {_traceback(error)}"]


def _traceback(error: BaseException) -> str:
    """Where it came from, in a line: the frames of the product and of the simulator."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    frames = [
        f"{os.path.relpath(f.filename)}:{f.lineno} {f.name}"
        for f in traceback.extract_tb(leaf.__traceback__)
        if "site-packages" not in f.filename
    ]
    return f"{leaf!r} in " + " > ".join(frames[-8:])


async def _main(cluster: Cluster, judge: _Judge) -> None:
    plan = cluster.plan
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.timeline.run)
        nursery.start_soon(cluster.server.keep_house)
        nursery.start_soon(_watch, cluster)
        for node in cluster.nodes.values():
            nursery.start_soon(node.live)
        workloads = [ALL[name]() for name in plan.workloads]
        nursery.start_soon(operate, cluster)
        cast = [w for w in workloads if w.name not in plan.mute]
        await _set_up(cluster, cast)
        cluster.server.sync()
        await _stress(cluster, workloads)
        heal_all(cluster)
        await _recover(cluster)
        judge.look()
        nursery.cancel_scope.cancel()


async def _watch(cluster: Cluster) -> None:
    """A call that hangs cannot always be cancelled: then the world ends with it."""
    while True:
        await trio.sleep(10)
        now = trio.current_time()
        for call in cluster.open_calls.values():
            if now - call.begun > HANG:
                cluster.world.clock.abort = f"a call did not return within {HANG:g} s: {call}"


async def _set_up(cluster: Cluster, workloads: list[Workload]) -> None:
    """All nodes up, all tables made, nothing goes wrong yet."""
    link = cluster.link_faults
    spikes, link.spike_rate = link.spike_rate, 0.0
    first = next(iter(cluster.nodes.values()))
    with trio.move_on_after(SETUP_BOUND) as scope:
        await _until_ready(cluster)
        for workload in workloads:
            for sql in workload.schema:
                await _execute(cluster, first.name, sql)
        await _until_caught_up(cluster)
    link.spike_rate = spikes
    if scope.cancelled_caught:
        raise Broken(f"a healthy cluster was not ready after {SETUP_BOUND:g} s: {_state(cluster)}")


async def _execute(cluster: Cluster, name: str, sql: str) -> None:
    """On this node, or on the leader if the nodes elect one."""
    while True:
        process = cluster.writer(name)
        if process is None or process.databases is None:
            await trio.sleep(0.1)
            continue
        session = process.databases.session(protocol="sim")
        try:
            await session.execute(sql)
        except HaError as error:
            if error.code not in (Code.NOT_LEADER, Code.NO_LEADER):
                raise
            await trio.sleep(0.1)
        else:
            return
        finally:
            await session.aclose()


async def _stress(cluster: Cluster, workloads: list[Workload]) -> None:
    plan = cluster.plan
    cluster.server.faults = replace(plan.broker)
    home = plan.names[0] if plan.writers == "one" else None
    clients = {i: Client(cluster, f"c{i}", workloads, home) for i in range(1, plan.clients + 1)}

    def more() -> bool:
        return plan.acts is None and cluster.wants_operations

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_probe, cluster)
        nursery.start_soon(_call_time, cluster, list(clients.values()), plan.duration + 60)
        async with trio.open_nursery() as working:
            working.start_soon(run_faults, cluster)
            for number, client in clients.items():
                working.start_soon(client.run, _steps(plan, number), plan.pace, more)
        nursery.cancel_scope.cancel()


def _steps(plan: Plan, client: int) -> Sequence[int]:
    if plan.acts is None:
        return range(plan.steps)
    return sorted(step for number, step in plan.acts if number == client)


async def _call_time(cluster: Cluster, clients: list[Client], seconds: float) -> None:
    """Who is still at it then finishes the operation at hand."""
    await trio.sleep(seconds)
    with trio.move_on_after(OVERTIME):
        while True:
            if cluster.plan.acts is not None or not cluster.wants_operations:
                break
            await trio.sleep(1)
    for client in clients:
        client.stopped = True
    cluster.tell_news()


async def _probe(cluster: Cluster) -> None:
    """Look into the files from time to time."""
    chance = cluster.world.chance("probe")
    while True:
        await trio.sleep(chance.expovariate(1 / 3))
        serving = cluster.serving()
        if serving:
            cluster.history.probes.append(chance.choice(serving).probe())


async def _recover(cluster: Cluster) -> None:
    """Liveness: without faults, everything is well again in bounded time."""
    with trio.move_on_after(LIVENESS_BOUND) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_all_pass, cluster)
            await _until_ready(cluster)
            for node in cluster.nodes.values():
                await _write_on(cluster, node.name)
            await _until_caught_up(cluster)
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise Broken(
            f"{LIVENESS_BOUND:g} s after the last fault the cluster is not well: {_state(cluster)}"
        )


async def _write_on(cluster: Cluster, name: str) -> None:
    """A write must work on every node; on the leader, if the nodes elect one."""
    while True:
        process = cluster.writer(name)
        if process is None or process.databases is None:
            await trio.sleep(0.1)
            continue
        session = process.databases.session(protocol="sim")
        try:
            await process.call(
                lambda: session.execute("CREATE TABLE IF NOT EXISTS last(node)")  # noqa: B023
            )
            await process.call(
                lambda: session.execute("INSERT INTO last VALUES (?)", [name])  # noqa: B023
            )
        except (HaError, Gone):
            await trio.sleep(0.5)
        else:
            return
        finally:
            await session.aclose()


def _state(cluster: Cluster) -> str:
    parts = [f"the log is at {cluster.server.last}"]
    for node in cluster.nodes.values():
        process = node.process
        if process is None or process.databases is None:
            parts.append(f"{node.name} is down")
        else:
            database = process.database
            parts.append(
                f"{process.label} is at {database.committer.applied}"
                f" ({process.databases.not_ready() or 'ready'})"
            )
    return "; ".join(parts)


async def _until_ready(cluster: Cluster) -> None:
    while True:
        processes = [n.process for n in cluster.nodes.values()]
        if all(
            p is not None and p.databases is not None and p.databases.not_ready() is None
            for p in processes
        ):
            return
        await trio.sleep(0.1)


async def _until_caught_up(cluster: Cluster) -> None:
    while True:
        processes = [n.process for n in cluster.nodes.values()]
        if all(
            p is not None
            and p.serving
            and p.database.committer.applied >= cluster.server.last
            and (p.database.relay is None or not p.database.relay.outbox.depth)
            for p in processes
        ):
            return
        await trio.sleep(0.1)


class _Judge:
    """Looks at the files while they are there, and judges when all is over."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._final: list[Probe] = []
        self.lost_updates = 0
        self.gone = 0

    def look(self) -> None:
        """At the end, when all nodes must be equal."""
        import apsw

        contents = {}
        for process in self._cluster.serving():
            self._final.append(process.probe())
            path = process.mount.path("ha.db")
            db = apsw.Connection(path, vfs="unix")
            contents[process.label] = read_content(db)
            db.close(True)
        self._contents = contents

    _contents: dict[str, dict[str, tuple[tuple[object, ...], ...]]] = {}  # noqa: RUF012

    def verdict(self) -> list[str]:
        cluster = self._cluster
        history = cluster.history
        probes = [*history.probes, *self._final]
        watches = [w for name in cluster.plan.workloads for w in ALL[name].watches]
        entries = [(e.sequence, e.payload) for _, e in cluster.server.stored]
        wanted = {p.state for p in probes}
        identify, bases = cluster.plan.identify, history.bases
        skips = lost_skips(cluster.server)
        fold = fold_log(entries, watches, wanted, identify, bases, skips)
        past = Past(cluster.server, watches, wanted, identify, bases)
        probes = past.unexplained_probes(probes)
        calls = past.unexplained_calls(history.calls)
        self.gone = past.gone
        problems = check_probes(fold, probes, entries, identify, bases)
        for label, content in self._contents.items():
            if content != fold.content:
                problems.append(
                    f"{label} does not hold the fold of its log at the end (first: the node,"
                    f" second: the oracle):\n{difference(content, fold.content)}"
                )
        first = 0 if cluster.server.stream is None else cluster.server.stream.first
        problems += check_letters(fold, probes, entries, first)
        problems += check_answers(fold, calls, history.losses)
        problems += check_reads(fold, calls)
        alone = cluster.plan.writers == "one" or bool(cluster.plan.lease)
        problems += self._without_losses(past, fold, alone)
        # What waited in an outbox had run on what the broker has lost.
        if alone and not (cluster.server.losses and cluster.plan.asynchronous):
            problems += self._invariants(fold, calls)
        return problems

    def _without_losses(self, past: Past, fold: FoldHistory, alone: bool) -> list[str]:
        """What is promised of a log that loses nothing, judged as long as it had not."""
        plan, calls = self._cluster.plan, self._cluster.history.calls
        problems: list[str] = []
        if "undo" in plan.workloads and not (self._cluster.server.losses and plan.asynchronous):
            for era in past.eras(fold, calls):
                problems += check_undos(era.fold, era.calls, complete=not plan.max_age)
        rebased = min(self._cluster.history.rebases, default=float("inf"))
        first = past.first_era(fold, calls, rebased)
        if plan.lease:
            problems += check_reads(first.fold, with_latest(first.calls))
            problems += check_registers(first.calls, range(Registers.keys))
        if "counters" in plan.workloads:
            lost = lost_updates(first.fold, first.calls)
            if not alone:
                self.lost_updates = len(lost)
                return problems
            problems += [
                f"with one writing node, {update}"
                for update in lost
                if not self._may_race(update.winner, update.loser)
            ]
        return problems

    def _may_race(self, winner: Call, loser: Call) -> bool:
        """Processes of one node may; who led before is fenced."""
        if self._cluster.plan.lease:
            return False
        return may_race(winner, loser, self._cluster.history.losses)

    def _invariants(self, fold: FoldHistory, calls: Sequence[Call]) -> list[str]:
        problems: list[str] = []
        for name in self._cluster.plan.workloads:
            workload = ALL[name]
            if workload.watches:
                watch = workload.watches[0].name
                problems += check_invariant(
                    fold, calls, name, watch, workload.holds, self._may_race
                )
        return problems
