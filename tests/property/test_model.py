"""Convergence without any I/O: nodes as plain values over ``ha.core``, one log, and any schedule.

A state machine drives them: batches, published whole or with holes, in any order, doubled, late;
lost acknowledgements and ids that the broker forgets; redelivery; crashes and restarts; void
messages; transactions in parts; messages of existing nodes and of other databases. After every
step each node's file is ``fold(n)`` of the log, as a few lines here compute it by docs/spec.md,
and what clients were told is true.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ha.core.changeset import ChangeSet, Origin, decode, encode
from tests.support.model import UUID, Message, Node, Op, Rows, Unit

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "500"))

tables = st.sampled_from(["t", "t", "u"])
numbers = st.integers(0, 3)
verbs = st.sampled_from(["INSERT", "REPLACE", "REPLACE", "ADD", "ADD", "MOVE", "UNIQUE", "DELETE"])
ops = st.tuples(verbs | verbs | verbs | st.just("LONG"), tables, numbers, numbers)
schema_ops = st.tuples(st.sampled_from(["CREATE", "DROP"]), tables, st.just(0), st.just(0))
transactions = st.lists(ops, min_size=1, max_size=3)
picks = st.integers(0, 30)


@dataclass
class Expected:
    """The fold of the log so far, once more: from the JSON, by the rules in docs/spec.md."""

    rows: Rows = field(default_factory=Rows)
    seen: dict[Any, int] = field(default_factory=dict)
    counted: dict[Any, int] = field(default_factory=dict)
    parts: dict[Any, dict[int, bytes]] = field(default_factory=dict)
    units: list[int] = field(default_factory=list)

    def add(self, payload: bytes) -> Expected:
        """The state after one more message; this one stays as it is."""
        new = Expected(
            self.rows,
            dict(self.seen),
            dict(self.counted),
            {key: dict(kept) for key, kept in self.parts.items()},
            list(self.units),
        )
        new._fold(payload)
        return new

    def _fold(self, payload: bytes) -> None:
        message = json.loads(payload)
        ours = message.get("ha", {})
        process = message["node"], message["process_id"]
        number = ours.get("n", 0)
        index, count = ours.get("part", [0, 1])
        foreign = ours.get("uuid", UUID) != UUID
        repeated = number > 0 and number <= self.seen.get(process, 0)
        counts = not foreign and not repeated
        if "after" in ours and ours["after"] != self.counted.get(process, 0):
            counts = False
        if index < count - 1:
            if not foreign and not repeated:
                self.parts.setdefault((*process, number), {}).setdefault(index, payload)
            return
        kept = self.parts.get((*process, number), {})
        if len(kept) < count - 1 and count > 1:
            counts = False
        if not foreign and number:
            self.seen[process] = max(number, self.seen.get(process, 0))
        if counts and ours.get("kind", "tx") == "tx":
            if number:
                self.counted[process] = number
            changes: list[Any] = []
            text = ""
            for piece in [kept[i] for i in sorted(kept)] * (count > 1) + [payload]:
                one = json.loads(piece)
                changes += decode(piece).changes
                text += one["ha"].get("piece", "") if "ha" in one else ""
                if text and not one["ha"].get("more"):
                    whole = {"node": "", "process_id": 0, "filename": "", "changes": []}
                    whole["changes"] = [json.loads(text)]
                    changes += decode(json.dumps(whole).encode()).changes
                    text = ""
            self.rows = self.rows.copy()
            self.rows.apply(changes)
            if "unit" in ours:
                self.units.append(ours["unit"])
        for node, process_id, n in list(self.parts):
            if node == process[0] and (process_id != process[1] or n <= number):
                del self.parts[node, process_id, n]


class Cluster(RuleBasedStateMachine):
    """``way`` holds what is on its way to the log, by its node's name."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.log: list[Message] = []
        self.expected = [Expected()]
        self.way: list[Message] = []
        self.known: set[str] = set()
        self.units: list[Unit] = []
        self.processes = 1

    @initialize(modes=st.lists(st.booleans(), min_size=2, max_size=3))
    def open(self, modes: list[bool]) -> None:
        self.nodes = [Node(f"n{i}", asynchronous) for i, asynchronous in enumerate(modes)]
        changes = Rows().execute(("CREATE", "t", 0, 0)) + Rows().execute(("CREATE", "u", 0, 0))
        opening = ChangeSet("n", 1, "ha.db", tuple(changes), origin=Origin("n", 1, 1), uuid=UUID)
        self.append(Message("opening", encode(opening)))
        for node in self.nodes:
            self.deliver(node, 9, 0)

    # --- what happens ----------------------------------------------------------------

    def append(self, message: Message) -> None:
        if message.id in self.known:
            return
        self.known.add(message.id)
        self.log.append(message)
        self.expected.append(self.expected[-1].add(message.payload))

    def deliver(self, node: Node, count: int, again: int) -> None:
        start = max(0, node.delivered - again)
        end = min(len(self.log), node.delivered + count)
        node.delivered = end
        node.receive([(i + 1, self.log[i]) for i in range(start, end)])
        if node.suffix.misplaced and not node.inbox:
            event("numbered anew")
            node.renumber()

    def node(self, pick: int) -> Node:
        return self.nodes[pick % len(self.nodes)]

    @rule(pick=picks, work=st.lists(transactions, min_size=1, max_size=3))
    def execute(self, pick: int, work: list[list[Op]]) -> None:
        node = self.node(pick)
        if node.flight is None and not node.under_way:
            units = [Unit(len(self.units) + i, node.name) for i in range(len(work))]
            self.units += units
            self.way += node.execute(list(zip(units, work, strict=True)))

    @rule(pick=picks, op=schema_ops)
    def change_schema(self, pick: int, op: Op) -> None:
        """Published right behind the state that it ran on, or not at all."""
        node = self.node(pick)
        at_end = node.disk.position == len(self.log)
        if not at_end or node.disk.outbox or node.flight or node.under_way:
            return
        unit = Unit(len(self.units), node.name)
        self.units.append(unit)
        mode, node.asynchronous = node.asynchronous, False
        for message in node.execute([(unit, [op])]):
            self.append(message)
        node.asynchronous = mode

    @rule(pick=picks, count=st.integers(1, 5))
    def publish(self, pick: int, count: int) -> None:
        """An outbox is relayed; what was sent before may be sent again."""
        self.way += self.node(pick).to_publish()[:count]

    @precondition(lambda self: self.way)
    @rule(count=st.integers(1, 4))
    def arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.way))):
            self.append(self.way.pop(0))

    @precondition(lambda self: self.way)
    @rule(pick=picks, doubled=st.booleans())
    def arrive_out_of_order(self, pick: int, doubled: bool) -> None:
        at = pick % len(self.way)
        self.append(self.way[at] if doubled else self.way.pop(at))

    @precondition(lambda self: self.way)
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        self.way.pop(pick % len(self.way))

    @rule()
    def forget_ids(self) -> None:
        """The broker's window has passed."""
        self.known.clear()

    @rule(pick=picks, count=st.integers(1, 4), again=st.integers(0, 2))
    def receive(self, pick: int, count: int, again: int) -> None:
        self.deliver(self.node(pick), count, again)

    @rule(pick=picks)
    def receive_all(self, pick: int) -> None:
        self.deliver(self.node(pick), len(self.log), 0)

    @rule(pick=picks)
    def time_out(self, pick: int) -> None:
        """Nothing was heard: the batch is given up, then its messages are made void."""
        node = self.node(pick)
        if node.flight is not None:
            node.give_up()
        else:
            self.way += [node.void(id_) for id_ in node.under_way]

    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        self.processes += 1
        self.node(pick).start(self.processes)

    @rule(table=tables, key=numbers, n=numbers)
    def existing_node_writes(self, table: str, key: int, n: int) -> None:
        rows = self.expected[-1].rows.copy()
        changes = tuple(rows.execute(("REPLACE", table, key, n)))
        if changes:
            self.append(Message(f"old-{len(self.log)}", encode(ChangeSet("o", 1, "", changes))))

    @rule(pick=picks)
    def other_database_writes(self, pick: int) -> None:
        """With the name and the number of a node of ours."""
        node = self.node(pick)
        changes = tuple(Rows({"t": {}}).execute(("REPLACE", "t", 1, 1)))
        origin = Origin(node.name, node.process_id, node.number + 1)
        cs = ChangeSet(node.name, node.process_id, "", changes, origin=origin, uuid="another")
        self.append(Message(f"other-{len(self.log)}", encode(cs)))

    # --- what holds ------------------------------------------------------------------

    @invariant()
    def every_file_is_the_fold(self) -> None:
        for node in self.nodes:
            expected = self.expected[node.disk.position]
            assert node.committed().tables == expected.rows.tables, node.name
            for process, seen in node.disk.origins.items():
                assert seen.number == expected.seen.get(process, 0)
                assert seen.applied == expected.counted.get(process, 0)

    @invariant()
    def every_effect_is_there_once(self) -> None:
        units = self.expected[-1].units
        assert len(units) == len(set(units))

    def teardown(self) -> None:
        """When all heals, all nodes come to the same, and clients were told the truth."""
        for _ in range(100):
            self.known.clear()
            for message in self.way:
                self.append(message)
            self.way = []
            for node in self.nodes:
                self.deliver(node, len(self.log), 0)
                if node.flight is not None:
                    node.give_up()
                self.way += [node.void(id_) for id_ in node.under_way]
                self.way += node.to_publish()
            if not self.way and all(n.disk.position == len(self.log) for n in self.nodes):
                break
        else:
            raise AssertionError("it does not come to rest")
        self.every_file_is_the_fold()
        self.every_effect_is_there_once()
        written = self.expected[-1].units
        for node in self.nodes:
            assert node.disk.rows.tables == self.expected[-1].rows.tables
            if node.asynchronous:
                own = [key for key in written if self.units[key].node == node.name]
                assert own == sorted(own), "its writes are not in their order"
        effective = set(written)
        for unit in self.units:
            if unit.told == "not written":
                assert unit.key not in effective
            elif unit.told == "success":
                assert (unit.key in effective) == unit.changes
            event(f"told: {unit.told}")


Cluster.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestModel = Cluster.TestCase
