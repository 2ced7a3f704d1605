"""The election, under delays, losses, repetitions, crashes and clocks that run unevenly.

The world below is the bucket and the network; it does to messages what a network may do. Its
clocks differ in rate by no more than the bound that the election is made for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ha.core.election import CLOCK_BOUND, Effect, Election, Read, Record, Write

NODES = 3
LEASE = 2.0


@dataclass
class Process:
    """``rate``: how fast its clock runs."""

    election: Election
    rate: float
    offset: float
    outstanding: Effect | None = None
    alive: bool = True


@dataclass
class Message:
    process: Process
    effect: Effect
    deliver: Callable[[], None] = field(repr=False, default=lambda: None)


class World:
    """``rates``: how fast each node's clock runs."""

    def __init__(self, rates: list[float], make: type[Election] = Election) -> None:
        self.time = 0.0
        self.revision = 0
        self.record: Record | None = None
        self.changes: list[tuple[Record, int]] = []
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self.owners: dict[int, str] = {}
        self._born = 0
        self._make = make
        self._rates = rates
        self.processes = [self._process(node, 0.0) for node in range(NODES)]

    def _process(self, node: int, offset: float) -> Process:
        self._born += 1
        name = f"n{node}"
        election = self._make(f"{name}-{self._born}", name, f"{name}:8080", lease=LEASE)
        return Process(election, self._rates[node], offset)

    def now(self, process: Process) -> float:
        return process.offset + process.rate * self.time

    # --- what may happen ---

    def tick(self, node: int) -> None:
        process = self.processes[node]
        if process.outstanding is None:
            effect = process.election.tick(self.now(process))
            if effect is not None:
                process.outstanding = effect
                self.requests.append(Message(process, effect))

    def give_up(self, node: int) -> None:
        """No answer came in time."""
        process = self.processes[node]
        effect, process.outstanding = process.outstanding, None
        now = self.now(process)
        if isinstance(effect, Write):
            process.election.unclear(now, effect.record.beat)
        elif isinstance(effect, Read):
            process.election.unread(now)

    def arrive(self, index: int, again: bool) -> None:
        self._serve(self.requests[index] if again else self.requests.pop(index))

    def reply(self, index: int, again: bool) -> None:
        message = self.replies[index] if again else self.replies.pop(index)
        if message.process.alive:
            message.deliver()

    def _serve(self, message: Message) -> None:
        process, effect = message.process, message.effect
        if isinstance(effect, Read):
            deliver = self._read(process, effect)
        else:
            deliver = self._write(process, effect)
        self.replies.append(Message(process, effect, deliver))

    def _read(self, process: Process, effect: Read) -> Callable[[], None]:
        record, revision = self.record, self.revision

        def deliver() -> None:
            if process.outstanding is effect:
                process.outstanding = None
                process.election.read(self.now(process), record, revision)

        return deliver

    def _write(self, process: Process, effect: Write) -> Callable[[], None]:
        beat = effect.record.beat
        taken = effect.revision == self.revision
        if taken:
            self.revision += 1
            self.record = effect.record
            self.changes.append((effect.record, self.revision))
        revision = self.revision

        def deliver() -> None:
            if process.outstanding is effect:
                process.outstanding = None
            if taken:
                process.election.wrote(self.now(process), beat, revision)
            else:
                process.election.refused(self.now(process), beat)

        return deliver

    def see(self, node: int, index: int) -> None:
        """A watch brings some change, maybe an old one."""
        process = self.processes[node]
        process.election.heard(self.now(process), *self.changes[index])

    def turn(self, node: int) -> None:
        """All goes well for one effect: it is sent, arrives, and is answered."""
        before = len(self.requests)
        self.tick(node)
        if len(self.requests) > before:
            self._serve(self.requests.pop())
            self.replies.pop().deliver()

    def restart(self, node: int, offset: float) -> None:
        """A crash, and a new process, whose clock begins anew."""
        self.processes[node].alive = False
        self.processes[node] = self._process(node, offset)

    # --- what must be so ---

    def check(self) -> None:
        holders = [p.election for p in self.processes if p.election.holds(self.now(p))]
        assert len(holders) <= 1, [h.holder for h in holders]
        for holder in holders:
            assert holder.record is not None
            known = self.owners.setdefault(holder.record.term, holder.holder)
            assert known == holder.holder, f"two holders in term {holder.record.term}"
        terms = [record.term for record, _ in self.changes[-2:]]
        assert terms == sorted(terms)


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses what happens."""

    make: type[Election] = Election
    node = st.integers(0, NODES - 1)
    index = st.integers(0, 1_000_000)

    @initialize(rates=st.lists(st.floats(1.0, 1.0 + CLOCK_BOUND), min_size=NODES, max_size=NODES))
    def start(self, rates: list[float]) -> None:
        self.world = World(rates, self.make)

    @rule(seconds=st.floats(0.01, 3.0))
    def wait(self, seconds: float) -> None:
        self.world.time += seconds

    @rule(node=node)
    def tick(self, node: int) -> None:
        self.world.tick(node)

    @rule(node=node)
    def give_up(self, node: int) -> None:
        self.world.give_up(node)

    @precondition(lambda self: self.world.requests)
    @rule(index=index, again=st.booleans())
    def arrive(self, index: int, again: bool) -> None:
        self.world.arrive(index % len(self.world.requests), again)

    @precondition(lambda self: self.world.replies)
    @rule(index=index, again=st.booleans())
    def reply(self, index: int, again: bool) -> None:
        self.world.reply(index % len(self.world.replies), again)

    @precondition(lambda self: self.world.requests)
    @rule(index=index)
    def lose_request(self, index: int) -> None:
        self.world.requests.pop(index % len(self.world.requests))

    @precondition(lambda self: self.world.replies)
    @rule(index=index)
    def lose_reply(self, index: int) -> None:
        self.world.replies.pop(index % len(self.world.replies))

    @precondition(lambda self: self.world.changes)
    @rule(node=node, index=index)
    def see(self, node: int, index: int) -> None:
        self.world.see(node, index % len(self.world.changes))

    @rule(node=node)
    def turn(self, node: int) -> None:
        self.world.turn(node)

    @rule(node=node, offset=st.floats(-100, 100))
    def restart(self, node: int, offset: float) -> None:
        self.world.restart(node, offset)

    @rule(node=node)
    def resign(self, node: int) -> None:
        self.world.processes[node].election.resign()

    @rule(node=node)
    def step_down(self, node: int) -> None:
        self.world.processes[node].election.step_down()

    @rule(node=node, term=st.integers(0, 20))
    def learn(self, node: int, term: int) -> None:
        self.world.processes[node].election.learned(term)

    @invariant()
    def one_holder(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


def walk(seed: int, make: type[Election] = Election, steps: int = 1_500) -> int:
    """A long life with some trouble; how many terms it had."""
    rng = random.Random(seed)
    world = World([rng.uniform(1.0, 1.0 + CLOCK_BOUND) for _ in range(NODES)], make)
    rare = rng.choice((0.0, 0.01, 0.03))
    for _ in range(steps):
        node = rng.randrange(NODES)
        what = rng.random()
        if what < rare:
            if rng.random() < 0.5:
                world.restart(node, rng.uniform(-100, 100))
            elif rng.random() < 0.5:
                world.processes[node].election.step_down()
            else:
                world.processes[node].election.resign()
        elif what < 0.25:
            world.time += rng.choice((0.01, 0.05, 0.2, 0.6))
        elif what < 0.5:
            world.turn(node)
        elif what < 0.65:
            world.tick(node)
        elif what < 0.75 and world.requests:
            world.arrive(rng.randrange(len(world.requests)), rng.random() < 0.1)
        elif what < 0.85 and world.replies:
            world.reply(rng.randrange(len(world.replies)), rng.random() < 0.1)
        elif what < 0.95 and world.changes:
            newest = rng.random() < 0.8
            world.see(node, -1 if newest else rng.randrange(len(world.changes)))
        elif what < 0.98:
            world.give_up(node)
        elif world.replies:
            world.replies.pop(rng.randrange(len(world.replies)))
        world.check()
    return len(world.owners)


_SETTINGS = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_at_most_one_holds_the_lease() -> None:
    run_state_machine_as_test(Machine, settings=_SETTINGS)


def test_at_most_one_holds_the_lease_in_long_lives() -> None:
    terms = [walk(seed) for seed in range(100)]
    assert sum(terms) > 300, "the walks must see many leaders"


class CountsFromTheReply(Election):
    """A planted bug: the holder counts from when the answer came."""

    def wrote(self, now: float, beat: int, revision: int) -> None:
        super().wrote(now, beat, revision)
        if self._is_mine:
            self.lease_until = now + LEASE


class TrustsOtherClocks(Election):
    """A planted bug: others count no longer than the holder does."""

    @property
    def free_at(self) -> float:
        return self.seen_at + LEASE / 1.1 if self.record is not None else super().free_at


class KeepsItsTerm(Election):
    """A planted bug: who takes the lease goes on with the term that there was."""

    def _write(self, now: float, term: int, holder: str | None = None) -> Write:
        return super()._write(now, 1, holder)


@pytest.mark.parametrize("planted", [CountsFromTheReply, TrustsOtherClocks, KeepsItsTerm])
def test_planted_bugs_are_found(planted: type[Election]) -> None:
    def hunt() -> None:
        for seed in range(500):
            walk(seed, planted)

    with pytest.raises(AssertionError):
        hunt()


# --- liveness: when all goes well ----------------------------------------------------------


class Fair:
    """A bucket that answers at once, and clocks that run alike."""

    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 0
        self.record: Record | None = None
        self.elections = {n: Election(f"{n}-1", n, f"{n}:8080", lease=LEASE) for n in "abc"}

    def run(self, seconds: float, *, without: str = "") -> None:
        end = self.now + seconds
        while self.now < end:
            for name, election in self.elections.items():
                if name not in without:
                    self._serve(election)
            self.now += 0.05

    def _serve(self, election: Election) -> None:
        effect = election.tick(self.now)
        if isinstance(effect, Read):
            election.read(self.now, self.record, self.revision)
        elif isinstance(effect, Write) and effect.revision == self.revision:
            self.revision += 1
            self.record = effect.record
            election.wrote(self.now, effect.record.beat, self.revision)
        elif isinstance(effect, Write):
            election.refused(self.now, effect.record.beat)
        if self.record is not None:
            election.heard(self.now, self.record, self.revision)

    def leaders(self) -> str:
        return "".join(n for n, e in self.elections.items() if e.holds(self.now))


def test_a_leader_is_found_at_once_and_stays() -> None:
    world = Fair()
    world.run(0.2)
    first = world.leaders()
    assert len(first) == 1
    world.run(60)
    assert world.leaders() == first
    assert {e.term for e in world.elections.values()} == {1}


def test_another_leads_within_two_leases_of_a_death() -> None:
    world = Fair()
    world.run(1)
    dead = world.leaders()
    world.run(2 * LEASE, without=dead)
    leader = world.leaders()
    assert leader != dead
    assert world.elections[leader].term == 2
    record = world.elections[leader].leader(world.now)
    assert record is not None
    assert record.address == f"{leader}:8080"


def test_a_lease_that_is_given_back_is_taken_at_once() -> None:
    world = Fair()
    world.run(1)
    first = world.leaders()
    world.elections[first].resign()
    assert world.leaders() == ""
    world.run(0.3)
    assert len(world.leaders()) == 1
    assert world.leaders() != first


def test_who_steps_down_takes_part_again() -> None:
    world = Fair()
    world.run(1)
    first = world.leaders()
    world.elections[first].step_down()
    world.elections[first].reluctance = LEASE
    world.run(0.3)
    second = world.leaders()
    assert second != first
    world.elections[first].reluctance = 0.0
    world.run(2 * LEASE, without="abc".replace(first, ""))
    assert first in world.leaders()


def test_a_term_that_a_log_knows_is_surpassed() -> None:
    world = Fair()
    for election in world.elections.values():
        election.learned(41)
    world.run(5)
    leader = world.leaders()
    assert world.elections[leader].term == 42
    world.elections[leader].learned(42)
    world.run(0.2)
    assert world.elections[leader].term == 43
    world.elections[leader].learned(50)
    world.run(0.2)
    assert world.leaders() == leader
    assert world.elections[leader].term == 51


def test_who_is_reluctant_lets_others_come_first() -> None:
    world = Fair()
    world.elections["a"].reluctance = 1.0
    world.run(0.5)
    assert world.leaders() == "b"


def test_a_record_survives_its_way_through_the_bucket() -> None:
    record = Record(3, "a-1", "a", "https://ä.example:8080", 2.0, 17)
    assert Record.from_bytes(record.to_bytes()) == record
    for broken in (b"", b"[]", b"{}", b"1", b"\xff", b'{"term": "x"}'):
        with pytest.raises(ValueError):
            Record.from_bytes(broken)
