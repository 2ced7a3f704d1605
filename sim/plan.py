"""What a run will do, drawn from its seed before it begins: size, options, workloads, faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from sim.broker import SERVERS, BrokerFaults
from sim.network import LinkFaults

KINDS_OF_POISON = (
    "not JSON", "not an object", "a version from the future", "no such operation",
    "a row that does not fit",
)  # fmt: skip
OPERATIONS = 500
HITS = 20
"""What a run must have, acknowledged and struck under way, unless its size was given."""
LEVELS = ("calm", "default", "hell")
WORKLOADS = (
    "registers", "counters", "lists", "bank", "users", "family", "odd", "schema", "big",
    "search", "failing", "undo",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a time. ``target`` is a node, or empty; ``amount`` and ``how``
    mean what the kind says (:mod:`sim.faults`). ``aimed``: it strikes when the target publishes
    next. ``reserve``: only if the run has not had its share by then."""

    at: float
    kind: str
    target: str = ""
    duration: float = 0.0
    amount: float = 0.0
    how: str = ""
    aimed: bool = False
    reserve: bool = False

    def __str__(self) -> str:
        words = [f"{self.at:.2f} {self.kind}", self.target, self.how]
        if self.amount:
            words.append(f"{self.amount:.3g}")
        if self.duration:
            words.append(f"for {self.duration:.2f} s")
        return " ".join(w for w in words if w)


@dataclass(frozen=True, slots=True)
class Plan:
    """``writers``: "many" nodes, or only "one"; ``steps``: operations of each client, more if
    after them fewer than ``operations`` were acknowledged, or fewer than ``hits`` faults struck
    something under way.

    For shrinking, which must not shift what else chance gives: ``acts``: of all operations only
    these are done, (client, step), None for all; ``mute``: workloads that make no tables and do
    nothing.
    """

    seed: int
    level: str
    nodes: int
    writers: str
    clients: int
    steps: int
    duration: float
    pace: float
    workloads: tuple[str, ...]
    faults: tuple[Fault, ...]
    link: LinkFaults
    broker: BrokerFaults
    durable_broker: bool = True
    clustered_broker: bool = False
    synchronous: str = "NORMAL"
    checkpoint: int = 1000
    identify: str = "pk"
    publish_timeout: float = 5.0
    hold: float = 2.0
    batch_units: int = 256
    dedupe_window: float = 120.0
    max_payload: int = 1 << 20
    max_age: float = 0.0
    """Seconds after which the log lets go of a message (:mod:`sim.ageing`); 0: never."""
    nats_version: str = "2.15.1"
    """Before 2.14 a node's durable consumer is moved by pulling and acknowledging."""
    drift: dict[str, float] = field(default_factory=dict)
    skew: dict[str, float] = field(default_factory=dict)
    asynchronous: tuple[str, ...] = ()
    """Nodes that answer before the log has what was written."""
    lease: float = 0.0
    """Seconds of the lease of a leader that the nodes elect; 0: all nodes take writes."""
    from_snapshot: bool = False
    """Nodes begin with the newest snapshot, where it is further on than their file."""
    snapshot_interval: float = 0.0
    operations: int = 0
    hits: int = 0
    acts: frozenset[tuple[int, int]] | None = None
    mute: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    def without(self, faults: frozenset[int]) -> Plan:
        """Leave out faults, by their place in the list."""
        kept = tuple(f for i, f in enumerate(self.faults) if i not in faults)
        return replace(self, faults=kept)


def draw(seed: int, level: str = "default", steps: int | None = None) -> Plan:
    """The plan of a seed."""
    chance = random.Random(f"{seed}/plan")
    heat = {"calm": 0.0, "hell": 3.0}.get(level, chance.choice((0.0, 0.3, 1.0, 1.0, 2.0)))
    nodes = chance.choice((1, 2, 2, 3, 3, 3, 5))
    clients = chance.randint(4, 10)
    duration = chance.uniform(20, 60)
    each = max(1100 // clients, 1)
    if steps is not None:  # as dense as ever, and so a shorter run
        duration = max(duration * min(steps / each, 1), 4)
        each = steps
    mixed = chance.random() < 0.6
    count = len(WORKLOADS) if mixed else chance.randint(1, 4)
    plan = Plan(
        seed=seed,
        level=level,
        nodes=nodes,
        writers=chance.choice(("many", "many", "many", "one")),
        clients=clients,
        steps=each,
        duration=duration,
        pace=duration / max(each, 1),
        workloads=tuple(sorted(chance.sample(WORKLOADS, count))),
        faults=(),
        link=_link(chance, heat),
        broker=_broker(chance, heat),
        durable_broker=chance.random() < 0.7,
        clustered_broker=chance.random() < 0.5,
        synchronous=chance.choice(("NORMAL", "NORMAL", "FULL", "OFF")),
        checkpoint=chance.choice((10, 50, 1000)),
        identify=chance.choice(("pk", "pk", "pk", "rowid", "full")),
        publish_timeout=chance.choice((1.0, 5.0, 15.0)),
        hold=chance.choice((0.5, 2.0, 5.0)),
        batch_units=chance.choice((1, 3, 256)),
        dedupe_window=chance.choice((1.0, 2.0, 30.0, 120.0)),
        max_payload=chance.choice((4_096, 16_384, 1 << 20)),
        drift={f"n{i}": chance.gauss(0, 0.001) for i in range(1, nodes + 1)},
        skew={
            f"n{i}": chance.gauss(0, 1) * 10 ** chance.uniform(-3, 3) for i in range(1, nodes + 1)
        },
    )
    other = random.Random(f"{seed}/snapshots")
    plan = replace(
        plan,
        asynchronous=_asynchronous(plan),
        lease=_lease(plan),
        max_age=_max_age(plan),
        nats_version=random.Random(f"{seed}/version").choice(("2.15.1", "2.15.1", "2.10.29")),
        from_snapshot=other.random() < 0.5,
        snapshot_interval=other.choice((0.0, 4.0, 15.0)),
    )
    faults = [*_faults(chance, plan, heat), *_poison(plan, heat), *_of_servers(plan, heat)]
    if steps is None:
        plan = replace(plan, operations=OPERATIONS, hits=HITS if heat else 0)
        faults += _reserve(plan)
    return replace(plan, faults=tuple(sorted(faults, key=lambda f: f.at)))


def _reserve(plan: Plan) -> list[Fault]:
    """For runs whose faults find little to strike. None loses what others rely on: a run that
    was drawn without losses is judged more strictly."""
    if not plan.hits:
        return []
    chance = random.Random(f"{plan.seed}/reserve")
    at = plan.duration
    out: list[Fault] = []
    for _ in range(2 * plan.hits):
        at += chance.expovariate(1)
        fault = _fault(chance, chance.choice(_RESERVE), plan)
        duration = min(fault.duration, 4.0)
        out.append(replace(fault, at=at, duration=duration, aimed=True, reserve=True))
    return out


def _poison(plan: Plan, heat: float) -> list[Fault]:
    """In some runs somebody writes broken messages into the log."""
    chance = random.Random(f"{plan.seed}/poison")
    count = chance.choice((0, 0, 0, 1, 2)) if heat else 0
    return [
        Fault(
            chance.uniform(0, plan.duration),
            "poison",
            duration=chance.expovariate(1 / 2),
            how=chance.choice(KINDS_OF_POISON),
        )
        for _ in range(count)
    ]


def _of_servers(plan: Plan, heat: float) -> list[Fault]:
    """One server of a cluster is behind the others, or dies; of those that led, ``amount`` is how
    long the others take to elect."""
    if not heat or not plan.clustered_broker:
        return []
    chance = random.Random(f"{plan.seed}/servers")
    return [
        Fault(
            chance.uniform(0, plan.duration),
            kind,
            duration=chance.expovariate(1 / 5),
            amount=chance.expovariate(1 / 2) if kind == "server" else 0.0,
            how=chance.choice(SERVERS),
        )
        for kind in ("lag", "server")
        for _ in range(chance.choice((0, 1, 3)))
    ]


def _max_age(plan: Plan) -> float:
    """Only where age alone does not take the last copy: a node that stands alone may lose its disk,
    or its memory, before the broker has a snapshot."""
    chance = random.Random(f"{plan.seed}/age")
    alone = plan.nodes == 1 or plan.synchronous == "OFF"
    if alone or not plan.durable_broker or chance.random() >= 0.25:
        return 0.0
    return chance.uniform(15, 60)


def _lease(plan: Plan) -> float:
    chance = random.Random(f"{plan.seed}/lease")
    if chance.random() >= 0.3 or plan.writers == "one" or _asynchronous(plan):
        return 0.0
    return chance.choice((0.5, 2.0, 5.0))


def _asynchronous(plan: Plan) -> tuple[str, ...]:
    chance = random.Random(f"{plan.seed}/asynchronous")
    if chance.random() >= 0.2:
        return ()
    return tuple(n for n in plan.names if chance.random() < 0.7)


def _link(chance: random.Random, heat: float) -> LinkFaults:
    return LinkFaults(
        latency=10 ** chance.uniform(-4, -1.3),
        spike_rate=min(chance.choice((0.0, 0.001, 0.02)) * heat, 0.2),
        spike=chance.uniform(0.1, 2.0),
        detect=chance.uniform(2, 10),
        reconnect=chance.uniform(0.1, 2),
        late=chance.choice((0.0, 1.0, 30.0, 60.0)) if heat else 0.0,
    )


def _broker(chance: random.Random, heat: float) -> BrokerFaults:
    def rate(*choices: float) -> float:
        return min(chance.choice(choices) * heat, 0.3)

    return BrokerFaults(
        refuse=rate(0, 0, 0.002, 0.02),
        drop=rate(0, 0, 0.001, 0.01),
        lose_ack=rate(0, 0.002, 0.02),
        late_ack=rate(0, 0.01, 0.1),
        late_ack_delay=chance.uniform(0.1, 10),
        stall=rate(0, 0.002, 0.02),
        stall_delay=chance.uniform(0.1, 3),
        repeat=rate(0, 0, 0.01),
        replay=rate(0, 0.003, 0.01),
        replay_delay=10 ** chance.uniform(0, 2),
        gap=rate(0, 0, 0.01),
    )


_KINDS = {
    "cut": 5, "reset": 4, "crash": 6, "restart": 1, "wipe": 0.5, "clock": 2, "disk full": 1.5,
    "disk errors": 1.5, "slow disk": 1, "stall": 2, "broker restart": 1.5, "leader": 2,
    "storm": 2, "broker power": 0.7,
}  # fmt: skip
_STORMS = ("refuse", "drop", "lose_ack", "late_ack", "stall", "repeat", "gap", "replay")
_RESERVE = ("cut", "reset", "crash", "restart", "stall", "broker restart", "leader", "storm")


def _faults(chance: random.Random, plan: Plan, heat: float) -> tuple[Fault, ...]:
    if not heat:
        return ()
    count = int(chance.uniform(8, 24) * min(heat, 2))
    kinds = {k: w for k, w in _KINDS.items() if chance.random() < 0.8}
    if not kinds:
        return ()
    out: list[Fault] = []
    for _ in range(count):
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        out.append(_fault(chance, kind, plan))
    return tuple(sorted(out, key=lambda f: f.at))


def _fault(chance: random.Random, kind: str, plan: Plan) -> Fault:
    at = chance.uniform(0, plan.duration)
    target = chance.choice(plan.names)
    duration = chance.expovariate(1 / 4) + 0.05
    amount = 0.0
    how = ""
    if kind == "cut":
        how = chance.choice(("both", "both", "up", "down"))
        duration = min(chance.expovariate(1 / 8), 40)
    elif kind == "crash":
        how = chance.choice(("time", "step", "write", "io")) + chance.choice(("", "", " power"))
        amount = chance.randint(1, 60)
        duration = chance.expovariate(1 / 2)
    elif kind == "clock":
        amount = chance.gauss(0, 1) * 10 ** chance.uniform(-2, 5)
    elif kind == "disk errors":
        how = chance.choice(("read", "write", "sync", "all"))
        amount = 10 ** chance.uniform(-3, -0.5)
    elif kind == "slow disk":
        amount = 10 ** chance.uniform(-3, -1)
    elif kind == "leader":
        amount = chance.gauss(0, 5) if chance.random() < 0.5 else 0.0
        duration = chance.expovariate(1 / 1.5)
    elif kind == "storm":
        how = chance.choice(
            ("refuse", "drop", "lose_ack", "late_ack", "stall", "repeat", "gap", "replay")
        )
        amount = chance.uniform(0.1, 0.9)
    elif kind in ("reset", "restart", "wipe"):
        duration = 0.0
    return Fault(at, kind, target, duration, amount, how, aimed=chance.random() < 0.6)
