"""The log, folded by the oracle; and what files held, compared with it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
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
    sequence on; ``by_token``: the messages that bring a token in, in order. ``broken``: where a
    message stands that no rule takes, and that nothing lets nodes pass over; ``rebased``: where an
    operator first put another file into the log's place; 0: nowhere."""

    meanings: dict[int, Meaning] = field(default_factory=dict)
    digests: dict[State, str] = field(default_factory=dict)
    versions: dict[str, list[tuple[int, Rows]]] = field(default_factory=dict)
    by_token: dict[str, list[Meaning]] = field(default_factory=dict)
    content: Content = field(default_factory=dict)
    last: int = 0
    broken: int = 0
    rebased: int = 0

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
        for sequence, payload in entries:
            # States between two messages of this log are the one before.
            while states and states[0][0] < sequence:
                _digest(oracle, history, states.popleft())
            try:
                meaning = oracle.apply(sequence, payload)
            except Broken:
                history.broken = sequence
                states.clear()
                break
            history.meanings[sequence] = meaning
            if meaning.kind == "base" and meaning.tables and not history.rebased:
                history.rebased = sequence
            for token in sorted(meaning.tokens):
                history.by_token.setdefault(token, []).append(meaning)
            if meaning.tables:
                for name, watch in watched.items():
                    if watch.table in meaning.tables or "(schema)" in meaning.tables:
                        _look(oracle, history, name, watch, sequence)
            history.last = sequence
        for state in states:
            _digest(oracle, history, state)
        history.content = oracle.content()
    finally:
        oracle.close()
    return history


def _digest(oracle: Oracle, history: FoldHistory, state: State) -> None:
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
        if history.broken and probe.sequence >= history.broken:
            problems.append(
                f"at {probe.time:.3f} s the file of {probe.process} was at {probe.sequence}, beyond"
                f" the message at {history.broken} that nobody lets it pass over"
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
            for sequence, payload in entries:
                if sequence <= probe.sequence:
                    oracle.apply(sequence, payload)
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
