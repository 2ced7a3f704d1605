"""The log, folded by the oracle; and what files held, compared with it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sim.content import Content, difference, digest
from sim.history import Probe
from sim.oracle import Broken, Meaning, Oracle, skips_in
from sim.workloads import Watch

Rows = tuple[tuple[object, ...], ...]
State = tuple[int, tuple[bytes, ...]]
"""A sequence, and messages that wait for the log and show already."""


@dataclass(slots=True)
class FoldHistory:
    """``digests`` of the states that were asked for; ``versions``: a watch's answer from a
    sequence on; ``by_token``: the messages that bring a token in, in order. ``closed``: by where
    a message stands that no rule takes, and that nothing lets nodes pass over, the place of the
    next file that was made the base, from which the log goes on; infinity: none. ``rebased``:
    where that happened first; infinity: nowhere."""

    meanings: dict[int, Meaning] = field(default_factory=dict)
    digests: dict[State, str] = field(default_factory=dict)
    versions: dict[str, list[tuple[int, Rows]]] = field(default_factory=dict)
    by_token: dict[str, list[Meaning]] = field(default_factory=dict)
    content: Content = field(default_factory=dict)
    last: int = 0
    closed: dict[int, float] = field(default_factory=dict)
    rebased: float = math.inf

    def before(self, sequence: int) -> int | None:
        """The message that no file at this sequence can be beyond; None: there is none."""
        return next((s for s, until in self.closed.items() if s <= sequence < until), None)

    def counted(self, token: str) -> list[int]:
        """Where in the log the token's write took effect."""
        return [m.sequence for m in self.by_token.get(token, ()) if m.counts and m.kind == "tx"]

    def answer(self, watch: str, sequence: int) -> Rows:
        versions = self.versions[watch]
        index = bisect_right(versions, sequence, key=lambda v: v[0]) - 1
        return versions[index][1] if index >= 0 else ()


def fold_log(
    entries: Sequence[tuple[int, bytes]],
    watches: Iterable[Watch],
    wanted: set[State],
    identify: str,
    bases: Mapping[str, bytes],
    skips: frozenset[int] = frozenset(),
) -> FoldHistory:
    """Fold the messages; remember digests of the states at ``wanted`` and all watched answers.

    ``bases``: see :class:`sim.oracle.Oracle`; ``skips``: what was passed over by a word that is
    not in this log.
    """
    history = FoldHistory()
    oracle = Oracle(identify)
    oracle.bases = bases
    oracle.skipped = skips_in(entries) | skips
    watched = {w.name: w for w in watches}
    history.versions = {name: [] for name in watched}
    try:
        states = deque(sorted(wanted))
        # States between two messages of this log are the one before.
        following = [*(sequence for sequence, _ in entries), math.inf]
        _settle(oracle, history, states, following[0])
        for (sequence, meaning), until in zip(_play(oracle, entries), following[1:], strict=True):
            if meaning is None:
                if not history.closed or max(history.closed.values()) < math.inf:
                    history.closed[sequence] = math.inf
            else:
                if history.closed:
                    last = max(history.closed)
                    history.closed[last] = min(history.closed[last], sequence)
                history.meanings[sequence] = meaning
                if meaning.kind == "base" and meaning.tables:
                    history.rebased = min(history.rebased, sequence)
                for token in sorted(meaning.tokens):
                    history.by_token.setdefault(token, []).append(meaning)
                if meaning.tables:
                    for name, watch in watched.items():
                        if watch.table in meaning.tables or "(schema)" in meaning.tables:
                            _look(oracle, history, name, watch, sequence)
                history.last = sequence
            _settle(oracle, history, states, until)
        history.content = oracle.content()
    finally:
        oracle.close()
    return history


def _play(
    oracle: Oracle, entries: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, Meaning | None]]:
    """What each message means; None from one that no rule takes to the next base."""
    stands = False
    for sequence, payload in entries:
        if not stands or oracle.is_new_base(payload):
            try:
                yield sequence, oracle.apply(sequence, payload)
                stands = False
                continue
            except Broken:
                stands = True
        yield sequence, None


def _settle(oracle: Oracle, history: FoldHistory, states: deque[State], until: float) -> None:
    """Take the digests of the states before ``until`` that a file can be in."""
    while states and states[0][0] < until:
        state = states.popleft()
        if history.before(state[0]) is None:
            history.digests[state] = digest(oracle.content_with(state[1]))


def _look(oracle: Oracle, history: FoldHistory, name: str, watch: Watch, sequence: int) -> None:
    try:
        found = oracle.db.execute(watch.whole()).fetchall()
    except Exception:  # the table is not there yet
        return
    rows = tuple(tuple(_plain(v) for v in row) for row in found)
    versions = history.versions[name]
    if not versions or versions[-1][1] != rows:
        versions.append((sequence, rows))


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def check_probes(
    history: FoldHistory,
    probes: Sequence[Probe],
    entries: Sequence[tuple[int, bytes]],
    identify: str,
    bases: Mapping[str, bytes],
) -> list[str]:
    """Every file, whenever it was looked at, held exactly the fold of what it says it holds."""
    problems: list[str] = []
    for probe in probes:
        closed = history.before(probe.sequence)
        if closed is not None:
            problems.append(
                f"at {probe.time:.3f} s the file of {probe.process} was at {probe.sequence}, beyond"
                f" the message at {closed} that nobody lets it pass over"
            )
            continue
        expected = history.digests.get(probe.state)
        if expected is None or expected == probe.digest:
            continue
        shown = ""
        if not problems:
            oracle = Oracle(identify)
            oracle.bases = bases
            oracle.skipped = skips_in(entries)
            for _ in _play(oracle, [e for e in entries if e[0] <= probe.sequence]):
                pass
            shown = " (first: the file, second: the fold):\n" + difference(
                probe.content, oracle.content_with(probe.waiting)
            )
            oracle.close()
        problems.append(
            f"at {probe.time:.3f} s the file of {probe.process} said that it was at"
            f" {probe.sequence}, and did not hold fold({probe.sequence}){_suffix(probe)}{shown}"
        )
    return problems


def _suffix(probe: Probe) -> str:
    return f" and the {len(probe.waiting)} messages of its outbox" if probe.waiting else ""
