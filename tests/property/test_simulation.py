"""Whole clusters under faults that hypothesis draws, so that a failure shrinks by its hands.

The runner is that of `python -m sim`; here the plan is drawn piece by piece, not from a seed.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from sim.broker import BrokerFaults
from sim.network import LinkFaults
from sim.plan import WORKLOADS, Fault, Plan
from sim.run import run_plan
from sim.timeline import history_of

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "100")) // 4
DURATION = 8.0

rates = st.sampled_from((0.0, 0.0, 0.01, 0.1))
moments = st.floats(0, DURATION, allow_nan=False).map(lambda t: round(t, 3))
lengths = st.floats(0.05, 6, allow_nan=False).map(lambda t: round(t, 3))


def _fault(node: str) -> st.SearchStrategy[Fault]:
    """The simplest come first: hypothesis shrinks towards them."""
    aimed = st.booleans()
    crash = st.sampled_from(
        ("time", "time power", "io", "io power", "write", "write power", "step")
    )
    return st.one_of(
        st.builds(Fault, moments, st.just("restart"), st.just(node), aimed=aimed),
        st.builds(Fault, moments, st.just("reset"), st.just(node), aimed=aimed),
        st.builds(
            Fault,
            moments,
            st.just("crash"),
            st.just(node),
            lengths,
            st.integers(1, 40),
            crash,
            aimed,
        ),
        st.builds(
            Fault,
            moments,
            st.just("cut"),
            st.just(node),
            lengths,
            how=st.sampled_from(("both", "up", "down")),
            aimed=aimed,
        ),
        st.builds(Fault, moments, st.just("stall"), st.just(node), lengths, aimed=aimed),
        st.builds(Fault, moments, st.just("wipe"), st.just(node), aimed=aimed),
        st.builds(
            Fault,
            moments,
            st.just("clock"),
            st.just(node),
            amount=st.floats(-1e5, 1e5),
            aimed=aimed,
        ),
        st.builds(
            Fault,
            moments,
            st.just("disk errors"),
            st.just(node),
            lengths,
            st.just(0.05),
            st.just("all"),
        ),
        st.builds(Fault, moments, st.just("disk full"), st.just(node), lengths, aimed=aimed),
        st.builds(Fault, moments, st.just("broker restart"), duration=lengths),
        st.builds(Fault, moments, st.just("broker power"), duration=lengths),
        st.builds(Fault, moments, st.just("leader"), duration=lengths, amount=st.floats(-10, 10)),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes = draw(st.integers(1, 3))
    node = st.integers(1, nodes).map(lambda i: f"n{i}")
    faults = draw(st.lists(node.flatmap(_fault), max_size=6))
    steps = draw(st.integers(1, 25))
    return Plan(
        seed=draw(st.integers(0, 10_000)),
        level="property",
        nodes=nodes,
        writers=draw(st.sampled_from(("many", "one"))),
        clients=draw(st.integers(1, 4)),
        steps=steps,
        duration=DURATION,
        pace=DURATION / steps,
        workloads=tuple(sorted(draw(st.sets(st.sampled_from(WORKLOADS), min_size=1, max_size=3)))),
        faults=tuple(sorted(faults, key=lambda f: f.at)),
        link=LinkFaults(latency=draw(st.sampled_from((0.0001, 0.001, 0.02)))),
        broker=BrokerFaults(
            refuse=draw(rates),
            drop=draw(rates),
            lose_ack=draw(rates),
            late_ack=draw(rates),
            repeat=draw(rates),
            replay=draw(rates),
        ),
        durable_broker=draw(st.booleans()),
        synchronous=draw(st.sampled_from(("NORMAL", "FULL", "OFF"))),
        publish_timeout=draw(st.sampled_from((5.0, 1.0))),
        batch_units=draw(st.sampled_from((256, 1))),
        dedupe_window=draw(st.sampled_from((120.0, 1.0))),
        max_payload=draw(st.sampled_from((1 << 20, 4_096))),
    )


@pytest.mark.timeout(300)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(plans())
def test_every_promise_holds_under_faults(plan: Plan) -> None:
    outcome = run_plan(plan)
    for kind in {f.kind for f in plan.faults}:
        event(kind)
    if not outcome.ok:
        for line in history_of(outcome):
            note(line)
    assert outcome.ok, outcome.problems[0]
