"""Fencing: what counts in a log that several leaders wrote to, in whatever order it came.

The log decides alone: no lease and no clock is part of this.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from ha.core.changeset import ChangeSet, Kind, Origin, decode, encode
from ha.core.fold import NO_TERM, Seen, Term, Verdict, judge
from ha.engine.mandate import Rule

PROCESSES = 4


def _message(process: int, number: int, term: int | None, kind: Kind) -> ChangeSet:
    node = f"n{process % 2}"  # two processes of one node: before and after its restart
    return ChangeSet(
        node=node,
        process_id=process,
        database_id="ha.db",
        changes=(),
        kind=kind,
        origin=Origin(node, process, number),
        term=term,
    )


@dataclass(frozen=True)
class Sent:
    process: int
    term: int | None
    kind: Kind


sent = st.builds(
    Sent,
    st.integers(0, PROCESSES - 1),
    st.one_of(st.none(), st.integers(1, 6)),
    st.sampled_from([Kind.TRANSACTION, Kind.TRANSACTION, Kind.TERM, Kind.VOID]),
)


def _fold(log: list[Sent]) -> list[tuple[ChangeSet, Verdict, Term]]:
    """Each message, what becomes of it, and the term that stands before it."""
    term = NO_TERM
    out: list[tuple[ChangeSet, Verdict, Term]] = []
    for number, one in enumerate(log, 1):
        cs = decode(encode(_message(one.process, number, one.term, one.kind)))
        verdict = judge(cs, None, Seen(0, 0), [], term)
        out.append((cs, verdict, term))
        if verdict is not Verdict.FENCED:
            term = term.after(cs)
    return out


@settings(max_examples=300, deadline=None)
@given(st.lists(sent, max_size=30))
def test_no_write_counts_behind_a_higher_term(log: list[Sent]) -> None:
    highest = 0
    owner: dict[int, int] = {}
    for cs, verdict, _ in _fold(log):
        if verdict is Verdict.FENCED:
            continue
        assert (cs.term or 0) >= highest
        highest = max(highest, cs.term or 0)
        if cs.term is not None:
            assert owner.setdefault(cs.term, cs.process_id) == cs.process_id


@settings(max_examples=300, deadline=None)
@given(st.lists(sent, max_size=30))
def test_only_what_another_leader_came_before_is_fenced(log: list[Sent]) -> None:
    for cs, verdict, term in _fold(log):
        if verdict is Verdict.FENCED:
            lower = (cs.term or 0) < term.number
            other = cs.term == term.number and cs.process_id != term.process_id
            assert lower or other


@settings(max_examples=200, deadline=None)
@given(st.lists(sent, max_size=30), sent)
def test_what_is_overtaken_can_never_count(log: list[Sent], late: Sent) -> None:
    """So a leader may tell its client at once: ``late`` may come at any place from here on."""
    outcomes = _fold(log)
    term = outcomes[-1][2] if outcomes else NO_TERM
    if not term.fences(_message(late.process, 99, late.term, late.kind)):
        return
    for place in range(len(log) - 1, len(log) + 1):
        _, verdict, _ = _fold([*log[:place], late])[-1]
        assert verdict is Verdict.FENCED


class Lease:
    """A mandate that a test gives and takes."""

    def __init__(self) -> None:
        self.held: int | None = None
        self.heard: list[int] = []

    def learned(self, term: int, *, lost: bool) -> None:
        self.heard.append(term)


@settings(max_examples=200, deadline=None)
@given(st.lists(sent, max_size=20), st.integers(1, 6))
def test_who_may_write_is_who_opened_the_highest_term(log: list[Sent], held: int) -> None:
    outcomes = _fold(log)
    term = outcomes[-1][2] if outcomes else NO_TERM
    writers = []
    for process in range(PROCESSES):
        lease = Lease()
        lease.held = held
        rule = Rule(lease, f"n{process % 2}", process)  # type: ignore[arg-type]
        if rule.is_open(term):
            writers.append(process)
            assert term.number == held
            assert not term.fences(_message(process, 99, held, Kind.TRANSACTION))
        wanted = rule.to_open(term, 0.0)
        if wanted is not None:
            assert not term.fences(_message(process, 99, wanted, Kind.TERM))
        elif not rule.is_open(term) and not rule.is_ours(term):
            assert lease.heard == [term.number], "it must be told to take a higher term"
    assert len(writers) <= 1
